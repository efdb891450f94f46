"""Trajectories: each member's decisions in order, their returns-to-go, and windows over them (paper, 4.1 and 6.1)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.checks import as_bools, as_floats, as_indices
from models.steps import Bools, Floats, Ints, Steps

Values = NDArray[np.float64]

VALUES_AT_ONCE: Final = 16_777_216
"""Values looked at together: bounds memory where the arrays are files mapped into it."""
ROWS_AT_ONCE: Final = 65_536
"""Rows whose returns are summed together: they stay in the processor's cache."""


_FIELDS: tuple[tuple[str, type[np.generic], Callable[[str, Any], NDArray[Any]]], ...] = (
    ("states", np.float32, as_floats),
    ("actions", np.int64, as_indices),
    ("eligible", np.bool_, as_bools),
    ("rewards", np.float32, lambda name, value: as_floats(name, value, unknown=True)),
    ("times_ms", np.int64, lambda _, value: np.asarray(value, np.int64)),
    ("starts", np.int64, lambda _, value: np.asarray(value, np.int64)),
    ("ended", np.bool_, as_bools),
)
"""Type of every field, and what turns another numeric type into it."""


@dataclass(frozen=True)
class Trajectories:
    """N decisions of M members, members one after the other, each in order of time.

    Arrays of another numeric type are converted; ``from_columns`` and ``from_episodes`` do more. Raises ValueError
    naming the field if lengths disagree, a state is not finite, an action is out of range or not eligible, or a
    reward is infinite.
    """

    states: Floats  # [N, S]
    actions: Ints  # [N]
    eligible: Bools  # [N, A]
    rewards: Floats  # [N, R]  NaN where not known
    times_ms: Ints  # [N]
    starts: Ints  # [M + 1] row where each member begins; the last is N
    ended: Bools | None = None  # [M] True: ended for good, so that all later rewards are 0; None: no member did
    reward_names: tuple[str, ...] = ()
    """Of the R rewards, if they have any: prompts may use them."""

    def __post_init__(self) -> None:
        for name, dtype, read in _FIELDS:
            value = getattr(self, name)
            if value is not None and not (isinstance(value, np.ndarray) and value.dtype == dtype):
                object.__setattr__(self, name, read(name, value))
        n = len(self.actions)
        for name in ("states", "eligible", "rewards"):
            value = getattr(self, name)
            if value.ndim != 2 or len(value) != n:
                raise ValueError(f"{name} has shape {value.shape}, expected [N, n] with N={n}")
        if self.times_ms.shape != (n,):
            raise ValueError(f"times_ms has shape {self.times_ms.shape}, expected [N] with N={n}")
        if (
            len(self.starts) < 1
            or self.starts[0] != 0
            or self.starts[-1] != n
            or bool(np.any(np.diff(self.starts) < 0))
        ):
            raise ValueError(f"starts must rise from 0 to N={n}")
        if self.ended is not None and self.ended.shape != (len(self.starts) - 1,):
            raise ValueError(f"ended has shape {self.ended.shape}, expected [M] with M={len(self.starts) - 1}")
        if self.reward_names and len(set(self.reward_names)) != self.rewards.shape[1]:
            raise ValueError(f"reward_names {self.reward_names} must name each of {self.rewards.shape[1]} rewards once")
        together = max(1, VALUES_AT_ONCE // max(self.states.shape[1], 1))
        for first in range(0, n, together):
            self._check_rows(first, min(first + together, n))

    def _check_rows(self, first: int, end: int) -> None:
        states, rewards = self.states[first:end], self.rewards[first:end]
        actions, eligible = self.actions[first:end], self.eligible[first:end]
        bad = ~np.isfinite(states)
        if bool(bad.any()):
            row, column = np.argwhere(bad)[0]
            raise ValueError(f"states[{first + row}, {column}] is {states[row, column]}; fill missing values first")
        infinite = np.isinf(rewards)
        if bool(infinite.any()):
            row, column = np.argwhere(infinite)[0]
            raise ValueError(f"rewards[{first + row}, {column}] is infinite; use NaN for a reward that is not known")
        count = eligible.shape[1]
        if actions.min() < 0 or actions.max() >= count:
            row = int(np.flatnonzero((actions < 0) | (actions >= count))[0])
            raise ValueError(f"actions[{first + row}] is {actions[row]}; actions must lie in 0..{count - 1}")
        wrong = np.flatnonzero(~eligible[np.arange(end - first), actions])
        if len(wrong):
            raise ValueError(f"actions[{first + wrong[0]}] = {actions[wrong[0]]} is not eligible in that row")

    def __len__(self) -> int:
        """Return the number of decisions N."""
        return len(self.actions)

    @property
    def members(self) -> int:
        """Number of members M."""
        return len(self.starts) - 1

    @property
    def has_ended(self) -> Bools:
        """Whether each member ended for good: [M]."""
        return np.zeros(self.members, np.bool_) if self.ended is None else self.ended

    def first_rows(self, rows: Ints) -> Ints:
        """First row of the member that each of ``rows`` [B] belongs to: [B]."""
        first: Ints = self.starts[np.searchsorted(self.starts, rows, side="right") - 1]
        return first

    def windows(self, ends: Ints, context_length: int) -> Steps:
        """Return the windows of ``context_length`` steps that end at rows ``ends`` [B], left-padded.

        Padded places repeat nothing: their states, rewards and times are zero, their only eligible action is 0.
        """
        rows = ends[:, None] - np.arange(context_length - 1, -1, -1)  # [B, T]
        padded = rows < self.first_rows(ends)[:, None]
        rows[padded] = 0
        found = {name: getattr(self, name)[rows] for name in ("states", "actions", "rewards", "eligible", "times_ms")}
        for values in found.values():
            values[padded] = 0
        found["eligible"][padded, 0] = True
        return Steps(**found, valid=~padded)

    def returns_to_go(self, horizon: int, discount: float) -> tuple[Floats, Bools]:
        """Return-to-go of every row [N, R], and whether it is a training target [N]: ``returns_to_go``."""
        return returns_to_go(self.rewards, self.starts, horizon, discount, self.ended)

    def why_no_target(self, members: Ints, horizon: int) -> str:
        """Say why no decision of ``members`` is a training target, and what to do."""
        known = np.isfinite(self.rewards[self.rows_of(members)])
        if len(known) and not known.any(axis=0).all():
            never = int(known.any(axis=0).argmin())
            name = repr(self.reward_names[never]) if self.reward_names else never
            return f"reward {name} is not known in any row of the training members: leave it out, or bring its values"
        longest = int(np.diff(self.starts)[members].max(initial=0))
        return (
            f"no decision has a full look-ahead of {horizon} further decisions with known rewards (the longest log of "
            f"a training member has {longest} rows): shorten the horizon, bring a longer log, or say which members "
            "ended for good"
        )

    def rows_of(self, members: Ints) -> Ints:
        """Return the rows of the given member positions (0..M-1), in order."""
        parts = [np.arange(self.starts[m], self.starts[m + 1]) for m in members]
        return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)

    @staticmethod
    def from_columns(**columns: Any) -> Trajectories:
        """Build trajectories from a table's columns, rows in any order: ``models.build.from_columns``."""
        from models.build import from_columns

        return from_columns(**columns)

    @staticmethod
    def from_episodes(**episodes: Any) -> Trajectories:
        """Build trajectories from lists of arrays, one an episode: ``models.build.from_episodes``."""
        from models.build import from_episodes

        return from_episodes(**episodes)


def returns_to_go(
    rewards: NDArray[np.floating], starts: Ints, horizon: int, discount: float, ended: Bools | None = None
) -> tuple[Floats, Bools]:
    """Return-to-go of every row and whether it is a training target.

    R_t = sum over l = 0..H of discount^l r_{t+l}, per reward (paper, 4.1). A row whose look-ahead is cut off by
    the end of its member's log, or meets a reward that is not known, has no full return: its R_t is NaN and
    it is no target. Where the member ended for good nothing is cut off: all later rewards are 0.

    Parameters
    ----------
    rewards : [N, R], NaN where not known
    starts : [M + 1] row where each member begins
    horizon : H, in decisions
    discount : gamma, in (0, 1]
    ended : [M] True where the member ended for good; None: nowhere

    Returns
    -------
    returns : float32 [N, R]
    is_target : bool [N]
    """
    returns = np.empty(rewards.shape, np.float32)
    is_target = np.empty(len(rewards), np.bool_)
    for first, last in _blocks_of_members(starts):
        rows = slice(starts[first], starts[last])
        of_block = None if ended is None else ended[first:last]
        returns[rows], is_target[rows] = _returns_of(
            rewards[rows], starts[first : last + 1] - starts[first], horizon, discount, of_block
        )
    return returns, is_target


def _returns_of(
    rewards: NDArray[np.floating], starts: Ints, horizon: int, discount: float, ended: Bools | None
) -> tuple[Floats, Bools]:
    """Sum by doubling: P_2k(t) = P_k(t) + gamma^k P_k(t + k) holds 2k terms, and H + 1 is a sum of powers of two.

    What lies behind the member's end counts as 0.
    """
    lengths = np.diff(starts)
    n, longest = len(rewards), int(lengths.max(initial=0))
    left = np.repeat(starts[1:], lengths) - np.arange(n)  # [N] rows of the member from this one on

    def plus(values: Values, added: Values, ahead: int) -> None:
        reaches = left[: n - ahead] > ahead
        values[: n - ahead][reaches] += discount**ahead * added[ahead:][reaches]

    total, power = np.zeros(rewards.shape), rewards.astype(np.float64)
    terms, size = 0, 1  # in ``total``, in ``power``
    while size <= horizon + 1 and terms < longest:
        if (horizon + 1) & size:
            plus(total, power, terms)
            terms += size
        if size < longest:
            longer = power.copy()
            plus(longer, power, size)
            power = longer
        size *= 2
    complete = left > horizon
    if ended is not None:
        complete |= np.repeat(ended, lengths)
    is_target = complete & np.isfinite(total).all(axis=1)
    total[~is_target] = np.nan
    return total.astype(np.float32), is_target


def _blocks_of_members(starts: Ints) -> Iterator[tuple[int, int]]:
    """Yield (first, last) of runs of whole members that hold about ``ROWS_AT_ONCE`` rows each."""
    first, members = 0, len(starts) - 1
    while first < members:
        last = int(np.searchsorted(starts, starts[first] + ROWS_AT_ONCE, side="right")) - 1
        last = min(max(last, first + 1), members)
        yield first, last
        first = last


def concatenate(parts: Sequence[Trajectories]) -> Trajectories:
    """Put the members of at least one part one after the other."""
    columns = {
        name: np.concatenate([getattr(part, name) for part in parts])
        for name in ("states", "actions", "eligible", "rewards", "times_ms")
    }
    lengths = np.concatenate([np.diff(part.starts) for part in parts])
    return Trajectories(
        **columns,
        starts=np.append(0, np.cumsum(lengths)),
        ended=np.concatenate([part.has_ended for part in parts]),
        reward_names=parts[0].reward_names,
    )


def split_members(members: int, validation_share: float, seed: int) -> tuple[Ints, Ints]:
    """Split member positions at random into training and validation (members, not windows: paper, 6.1).

    With two members or more, both parts hold at least one. Raises ValueError with fewer than two.
    """
    if members < 2:
        raise ValueError(f"{members} member(s): at least 2 are needed to keep some apart for validation")
    order = np.random.default_rng(seed).permutation(members)
    held_out = min(max(round(members * validation_share), 1), members - 1)
    return np.sort(order[held_out:]), np.sort(order[:held_out])
