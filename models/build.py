"""Trajectories from what a researcher has: a table's columns in any order, or a list of episodes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from models.checks import STEP_MS, all_eligible, as_bools, as_floats, as_indices, as_times_ms
from models.steps import Bools, Floats, Ints
from models.trajectories import Trajectories

Columns = ArrayLike | Mapping[str, ArrayLike]
"""[N, C], [N], or a mapping of name to column [N]."""


def from_columns(
    *,
    member: ArrayLike,
    state: Columns,
    action: ArrayLike,
    reward: Columns,
    time: ArrayLike | None = None,
    eligible: ArrayLike | None = None,
    terminated: ArrayLike | None = None,
    n_actions: int | None = None,
) -> Trajectories:
    """Build trajectories of N decisions, one a row, in any order; they are sorted, stably, by member and time.

    Parameters
    ----------
    member : [N] whose decision it is (a person, an episode): numbers or text
    state : [N, S], [N], or name -> [N]; finite. S may be 0
    action : [N] index of the action taken, 0 to A - 1
    reward : [N, R], [N], or name -> [N], whose names prompts may use; earned from this decision to the member's next.
        NaN where not known: a return-to-go that would need it is no training target
    time : [N] of the decision: datetimes (datetime64 counts as UTC), or seconds; None: rows are in order, a second
        apart
    eligible : [N, A] True = could be chosen; None: all actions
    terminated : [N] True at a member's last row, if it ended for good and all later rewards are 0; None: no member did,
        and its log was merely cut off
    n_actions : A; None: as ``eligible`` says, else one more than the highest action taken

    Raises ValueError naming the argument, the row as given, and the way out.
    """
    codes = _codes(member)
    n = len(codes)
    states, rewards = _matrix("state", state), _matrix("reward", reward, unknown=True)
    actions = as_indices("action", action, n_actions)
    times_ms = np.zeros(n, np.int64) if time is None else as_times_ms("time", time)
    flags = np.zeros(n, np.bool_) if terminated is None else as_bools("terminated", terminated)
    rows: dict[str, NDArray[Any]] = {
        "state": states[:, :0],
        "reward": rewards[:, :0],
        "action": actions,
        "time": times_ms,
        "terminated": flags,
    }
    for name, values in rows.items():
        if len(values) != n or values.shape[1:] not in ((), (0,)):
            raise ValueError(f"{name} has shape {values.shape}, expected {n} rows, as member has")
    allowed = _eligible("eligible", eligible, actions, n_actions)
    all_eligible("action", actions, allowed)
    order = np.lexsort((times_ms, codes))  # stable
    starts = np.append(0, np.cumsum(np.bincount(codes))).astype(np.int64)
    ended = None if terminated is None else _ended(flags[order], starts, order)
    times_ms = _by_index(starts) if time is None else times_ms[order]
    names = tuple(map(str, reward)) if isinstance(reward, Mapping) else ()
    return Trajectories(states[order], actions[order], allowed[order], rewards[order], times_ms, starts, ended, names)


def from_episodes(
    *,
    states: Sequence[ArrayLike],
    actions: Sequence[ArrayLike],
    rewards: Sequence[ArrayLike],
    eligible: Sequence[ArrayLike] | None = None,
    times: Sequence[ArrayLike] | None = None,
    terminated: Sequence[ArrayLike] | None = None,
    n_actions: int | None = None,
    reward_names: Sequence[str] = (),
) -> Trajectories:
    """Build trajectories of M episodes, each one entry of every list, as Gymnasium and Minari record them.

    Parameters
    ----------
    states : M arrays [L, S] or [L]; a last row more than there are actions is the final observation, and left out
    actions : M arrays [L]
    rewards : M arrays [L, R] or [L]
    eligible : M arrays [L, A]; None: all actions
    times : M arrays [L]: datetimes, or seconds; None: a second apart
    terminated : M flags, or M arrays [L] whose last one counts: True if the episode ended for good and all later
        rewards are 0, False if it was cut off (truncated); None: all were cut off
    n_actions : A; None: as for ``from_columns``
    reward_names : of the R rewards; prompts may use them

    Raises ValueError naming the argument, the episode and the way out.
    """
    lists = {"states": states, "rewards": rewards, "eligible": eligible, "times": times, "terminated": terminated}
    for name, given in lists.items():
        if given is not None and len(given) != len(actions):
            raise ValueError(f"{name} holds {len(given)} episodes, actions holds {len(actions)}; give one entry each")
    lengths = [len(np.atleast_1d(episode)) for episode in actions]
    starts = np.append(0, np.cumsum(lengths)).astype(np.int64)
    taken = _joined("actions", actions, lengths, lambda name, value: as_indices(name, value, n_actions))
    allowed = None if eligible is None else _joined("eligible", eligible, lengths, as_bools)
    allowed = _eligible("eligible", allowed, taken, n_actions)
    all_eligible("actions, joined,", taken, allowed)
    ended = None
    if terminated is not None:
        last = [np.atleast_1d(as_bools(f"terminated[{i}]", value)) for i, value in enumerate(terminated)]
        ended = np.asarray([bool(flags[-1]) if len(flags) else False for flags in last], np.bool_)
    return Trajectories(
        _joined("states", states, lengths, _matrix, spare=1),
        taken,
        allowed,
        _joined("rewards", rewards, lengths, lambda name, value: _matrix(name, value, unknown=True)),
        _by_index(starts) if times is None else _joined("times", times, lengths, as_times_ms),
        starts,
        ended,
        tuple(reward_names),
    )


def _codes(member: ArrayLike) -> Ints:
    """Return the rank of each row's member among all members: [N]."""
    ids = np.asarray(member)
    if ids.ndim != 1:
        raise ValueError(f"member has shape {ids.shape}, expected [N]")
    absent = [item is None or item != item for item in ids] if ids.dtype.kind in "Of" else []
    if any(absent):
        raise ValueError(f"member[{absent.index(True)}] is missing; drop the row or name its member")
    try:
        codes: Ints = np.unique(ids, return_inverse=True)[1].astype(np.int64)
    except TypeError:
        raise ValueError("member holds values that cannot be sorted together; give all numbers or all text") from None
    return codes


def _matrix(name: str, value: Columns, *, unknown: bool = False) -> Floats:
    """Return [N, C]."""
    matrix = as_floats(name, value, unknown=unknown)
    if matrix.ndim == 1:
        matrix = matrix[:, None]
    if matrix.ndim != 2:
        raise ValueError(f"{name} has shape {matrix.shape}, expected [N, columns] or [N]; flatten what has more axes")
    return matrix


def _eligible(name: str, given: ArrayLike | None, actions: Ints, n_actions: int | None) -> Bools:
    """Return [N, A] for ``actions`` [N]."""
    if given is None:
        n_actions = int(actions.max(initial=0)) + 1 if n_actions is None else n_actions
        return np.ones((len(actions), n_actions), np.bool_)
    allowed = as_bools(name, given)
    if allowed.ndim != 2 or len(allowed) != len(actions):
        raise ValueError(f"{name} has shape {allowed.shape}, expected [N, A] with N={len(actions)}")
    if n_actions not in (None, allowed.shape[1]):
        raise ValueError(f"{name} has {allowed.shape[1]} columns, n_actions is {n_actions}; one must change")
    as_indices("action", actions, allowed.shape[1])
    return allowed


def _ended(flags: Bools, starts: Ints, order: Ints) -> Bools:
    """Return which members ended [M], from flags of sorted rows [N]; ``order`` gives the rows' numbers as given."""
    last = np.zeros(len(flags), np.bool_)
    last[starts[1:] - 1] = True
    early = np.flatnonzero(flags & ~last)
    if len(early):
        raise ValueError(
            f"terminated[{order[early[0]]}] is True, and its member goes on after that row; give each episode a member "
            "id of its own"
        )
    ended: Bools = flags[starts[1:] - 1]
    return ended


def _by_index(starts: Ints) -> Ints:
    """Return times [N] of steps that are a second apart, each member's first at 0."""
    steps: Ints = np.arange(starts[-1]) - np.repeat(starts[:-1], np.diff(starts))
    return steps * STEP_MS


def _joined(
    name: str,
    given: Sequence[ArrayLike],
    lengths: Sequence[int],
    read: Callable[[str, Any], NDArray[Any]],
    spare: int = 0,
) -> NDArray[Any]:
    """Read every episode and join them to [N, ...]; up to ``spare`` last rows more than its length are left out."""
    parts = []
    for i, (episode, length) in enumerate(zip(given, lengths, strict=True)):
        part = np.atleast_1d(read(f"{name}[{i}]", episode))
        if not length <= len(part) <= length + spare:
            raise ValueError(f"{name}[{i}] has {len(part)} rows, actions[{i}] has {length}; give each step one in both")
        parts.append(part[:length])
    if not parts:
        raise ValueError(f"{name} holds no episode")
    some = [part for part in parts if len(part)] or parts[:1]  # an empty episode does not know its width
    for i, part in enumerate(parts):
        if len(part) and part.shape[1:] != some[0].shape[1:]:
            raise ValueError(f"{name}[{i}] has rows of shape {part.shape[1:]}, others have {some[0].shape[1:]}")
    return np.concatenate(some)
