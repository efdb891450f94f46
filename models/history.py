"""What members or environments have lived through so far: the history that ``Policy.act`` reads."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from models.checks import STEP_MS, all_eligible, as_bools, as_floats, as_indices, as_times_ms, has_shape
from models.steps import Bools, Floats, Ints, Steps, check_windows


@dataclass(frozen=True)
class PastSteps:
    """Past steps of B members side by side, oldest first, left-padded where one has fewer than another.

    Immutable: ``append`` and ``cleared`` return a new history. ``Policy.new_history`` starts one.
    Raises ValueError naming the field if shapes disagree.
    """

    states: Floats  # [B, n, S]
    actions: Ints  # [B, n]
    rewards: Floats  # [B, n, R]  NaN where not known
    eligible: Bools  # [B, n, A]
    times_ms: Ints  # [B, n]
    valid: Bools  # [B, n]  True = real step
    keep: int | None = None
    """Newest steps that ``append`` keeps; None: all of them."""

    def __post_init__(self) -> None:
        check_windows(self)
        if self.keep is not None and self.keep < 0:
            raise ValueError(f"keep = {self.keep} must be at least 0, or None for all steps")

    @staticmethod
    def empty(members: int, state_dim: int, n_actions: int, n_rewards: int, keep: int | None = None) -> PastSteps:
        """Return the history of ``members`` members of whom nothing is known yet."""
        return PastSteps(
            states=np.zeros((members, 0, state_dim), np.float32),
            actions=np.zeros((members, 0), np.int64),
            rewards=np.zeros((members, 0, n_rewards), np.float32),
            eligible=np.zeros((members, 0, n_actions), np.bool_),
            times_ms=np.zeros((members, 0), np.int64),
            valid=np.zeros((members, 0), np.bool_),
            keep=keep,
        )

    def __len__(self) -> int:
        """Return the number of members B."""
        return len(self.valid)

    @property
    def lengths(self) -> Ints:
        """Number of steps known of each member: [B]."""
        lengths: Ints = self.valid.sum(axis=1)
        return lengths

    def append(
        self,
        state: ArrayLike,
        action: ArrayLike,
        reward: ArrayLike,
        eligible: ArrayLike | None = None,
        time: ArrayLike | None = None,
    ) -> PastSteps:
        """Return the history with one more step of every member.

        Parameters
        ----------
        state : [B, S], or [S] of a single member
        action : [B] index of the action taken, or a number
        reward : [B, R], NaN where not known; [B] or a number where R is 1; or [R] of a single member
        eligible : [B, A], or [A] of a single member; None: all actions were
        time : [B] or one for all, of the decision: datetime64, or seconds; None: a second after the last step

        Raises ValueError naming the argument: a wrong shape, a state that is not finite, an infinite reward, an action
        out of range or not eligible.
        """
        b, n_actions, n_rewards = len(self), self.eligible.shape[2], self.rewards.shape[2]
        states, allowed = self.read_state(state), self.read_eligible(eligible)
        actions = np.atleast_1d(as_indices("action", action, n_actions))
        has_shape("action", actions.shape, (b,), "B")
        all_eligible("action", actions, allowed)
        rewards = as_floats("reward", reward, unknown=True)
        if rewards.ndim < 2 and (b == 1 or n_rewards == 1):
            rewards = rewards.reshape(1, -1) if b == 1 else rewards.reshape(-1, 1)
        has_shape("reward", rewards.shape, (b, n_rewards), "B, R")
        return self._joined(states, actions, rewards, allowed, self.read_time(time))

    def cleared(self, where: ArrayLike) -> PastSteps:
        """Return the history with nothing known of the members ``where`` [B] is True: their episode ended."""
        gone = np.atleast_1d(as_bools("where", where))
        has_shape("where", gone.shape, (len(self),), "B")
        valid = self.valid & ~gone[:, None]
        return replace(self, valid=valid) if valid.any() else replace(self._newest(0), keep=self.keep)

    def window(
        self, state: ArrayLike, eligible: ArrayLike | None, time: ArrayLike | None, context_length: int
    ) -> Steps:
        """Return the newest ``context_length`` - 1 steps and the one to decide, as ``Trajectories.windows`` has them.

        ``state``, ``eligible`` and ``time`` are those of the step to decide, as for ``append``, with its errors; an
        eligible row that allows nothing is one more.
        """
        states, allowed, times = self.read_state(state), self.read_eligible(eligible), self.read_time(time)
        b, n_actions, n_rewards = len(self), self.eligible.shape[2], self.rewards.shape[2]
        nothing = np.zeros((b, n_rewards), np.float32)
        full = self._joined(states, np.zeros(b, np.int64), nothing, allowed, times, keep=context_length)
        missing = context_length - full.valid.shape[1]

        def padded(values: np.ndarray) -> np.ndarray:
            wide = np.zeros((b, context_length, *values.shape[2:]), values.dtype)
            wide[:, missing:][full.valid] = values[full.valid]
            return wide

        valid, eligible_steps = padded(full.valid), padded(full.eligible)
        eligible_steps[~valid] = np.arange(n_actions) == 0
        return Steps(
            states=padded(full.states),
            actions=padded(full.actions),
            rewards=padded(full.rewards),
            eligible=eligible_steps,
            times_ms=padded(full.times_ms),
            valid=valid,
        )

    def read_state(self, state: ArrayLike) -> Floats:
        """Return a state as [B, S]."""
        states = as_floats("state", state)
        if states.ndim == 1:
            states = states[None, :]
        has_shape("state", states.shape, (len(self), self.states.shape[2]), "B, S")
        return states

    def read_eligible(self, eligible: ArrayLike | None) -> Bools:
        """Return eligible actions as [B, A]: all of them if None, and never none."""
        shape = (len(self), self.eligible.shape[2])
        if eligible is None:
            return np.ones(shape, np.bool_)
        allowed = as_bools("eligible", eligible)
        if allowed.ndim == 1:
            allowed = allowed[None, :]
        has_shape("eligible", allowed.shape, shape, "B, A")
        none = np.flatnonzero(~allowed.any(axis=1))
        if len(none):
            raise ValueError(f"eligible[{none[0]}] allows no action; at least one must be eligible")
        return allowed

    def read_time(self, time: ArrayLike | None) -> Ints:
        """Return the times of a step in milliseconds: [B]; a second after each member's last step if None."""
        if time is not None:
            times = as_times_ms("time", time)
            times = np.full(len(self), times) if times.ndim == 0 else times
            has_shape("time", times.shape, (len(self),), "B")
            return times
        if self.valid.shape[1] == 0:
            return np.zeros(len(self), np.int64)
        return np.where(self.valid[:, -1], self.times_ms[:, -1] + STEP_MS, 0)

    def _joined(
        self, states: Floats, actions: Ints, rewards: Floats, eligible: Bools, times_ms: Ints, keep: int | None = None
    ) -> PastSteps:
        """Return the history with one more step, cut to its own ``keep``, or to the one given."""
        keep = self.keep if keep is None else keep
        old = self if keep is None else self._newest(max(keep - 1, 0))
        new = PastSteps(
            states=np.concatenate([old.states, states[:, None]], axis=1),
            actions=np.concatenate([old.actions, actions[:, None]], axis=1),
            rewards=np.concatenate([old.rewards, rewards[:, None]], axis=1),
            eligible=np.concatenate([old.eligible, eligible[:, None]], axis=1),
            times_ms=np.concatenate([old.times_ms, times_ms[:, None]], axis=1),
            valid=np.concatenate([old.valid, np.ones((len(self), 1), np.bool_)], axis=1),
            keep=self.keep,
        )
        return new._newest(0) if keep == 0 else new

    def _newest(self, steps: int) -> PastSteps:
        first = max(self.valid.shape[1] - steps, 0)
        return PastSteps(
            self.states[:, first:],
            self.actions[:, first:],
            self.rewards[:, first:],
            self.eligible[:, first:],
            self.times_ms[:, first:],
            self.valid[:, first:],
            self.keep,
        )
