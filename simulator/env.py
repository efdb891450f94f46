"""The environment: a population of members as one Gymnasium vector environment, a cycle a step."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.error import InvalidAction, ResetNeeded
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from contracts.spec import Spec
from simulator.arrays import BoolArray, FloatArray, IntArray
from simulator.candidates import (
    ACTIONS,
    NONE,
    Candidates,
    Rank,
    draw_candidates,
    most_relevant,
    notification_ids,
)
from simulator.clock import DAY_S, START_MS, WEEK_S, decision_times
from simulator.dynamics import Dynamics
from simulator.features import FEATURES, Activity
from simulator.members import Profile, draw_members
from simulator.observation import Observation, single_observation_space
from simulator.rewards import check_spec, reward_vector

MAX_MEMBERS = 1_000_000
MAX_DAYS = 3_650
_WARM_UP_DAYS = 7


class NotificationEnv(VectorEnv[Observation, IntArray, Any]):
    """Members who live, visit and tire; every step decides one notification for each of them.

    A sub-environment is a member. The task has no end of its own: nothing terminates, and all members are truncated
    together after ``days``. There is no autoreset; ``reset`` starts a new population. Members visit for a week before
    the first decision, so that features start warm; nothing is sent to them in that week.

    The reward is the sum of the reward vector; the vector itself is ``infos["rewards"]``, an array (N,) for each
    reward in the spec's order: weigh it there for any other trade-off.

    Parameters
    ----------
    spec
        Gives rewards and limits; ``limits.sends_per_day`` is applied as eligibility.
    members
        Number of members N, 1 to MAX_MEMBERS.
    days
        Length of an episode, 1 to MAX_DAYS.
    cycles_per_day
        Decisions a member a day: 1, 2, 3, 4, 6, 8, 12 or 24.
    rank
        Chooses the top-1 candidate: the one that the observation shows and the action is about.

    Raises
    ------
    SpecError
        The spec asks for what the simulator has not.
    ValueError
        A size is out of range.
    """

    metadata: dict[str, Any] = {"autoreset_mode": AutoresetMode.DISABLED, "render_modes": []}  # noqa: RUF012

    def __init__(
        self,
        spec: Spec,
        members: int = 2_000,
        days: int = 21,
        *,
        cycles_per_day: int = 8,
        rank: Rank = most_relevant,
    ) -> None:
        check_spec(spec)
        for name, value, most in (("members", members, MAX_MEMBERS), ("days", days, MAX_DAYS)):
            if not 1 <= value <= most:
                raise ValueError(f"{name} = {value}: must be from 1 to {most}")
        if cycles_per_day < 1 or 24 % cycles_per_day:
            raise ValueError(f"cycles_per_day = {cycles_per_day}: must be 1, 2, 3, 4, 6, 8, 12 or 24")
        self.deployment = spec
        self.num_envs = members
        self.cycles = days * cycles_per_day
        self.weeks = -(-days // 7)
        self.member_ids = tuple(f"m{index:06d}" for index in range(members))
        self.single_observation_space = single_observation_space()
        self.observation_space = batch_space(self.single_observation_space, members)
        self.single_action_space = spaces.Discrete(len(ACTIONS))
        self.action_space = batch_space(self.single_action_space, members)
        self._interval_s = DAY_S // cycles_per_day
        self._rank = rank
        self._observation: Observation | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Draw a new population, let it live for a week, and observe its first cycle.

        The same seed gives the same population, decision times and candidates, whatever is sent to them. Raises
        ValueError for a ``reset_mask`` that leaves members out: all live on one clock.
        """
        mask = (options or {}).get("reset_mask")
        if mask is not None and not np.all(mask):
            raise ValueError(f"reset_mask leaves out {np.sum(~np.asarray(mask))} members; all are reset together")
        super().reset(seed=seed)
        people, self._clock_rng, self._candidate_rng, responses = self.np_random.spawn(4)
        self.profile, self._traits = draw_members(self.num_envs, people)
        self.dynamics = Dynamics(self._traits, responses)
        self._activity = Activity(self.profile.utc_offset_hours)
        self.cycle = -_WARM_UP_DAYS * DAY_S // self._interval_s
        self._now_s = self._draw_times()
        silence, no_type = np.full(self.num_envs, NONE), np.zeros(self.num_envs, dtype=np.int64)
        nothing = np.zeros(self.num_envs)
        while self.cycle < 0:
            self._pass_time(silence, no_type, nothing)
        return self._observe(), {}

    def step(self, actions: IntArray) -> tuple[Observation, FloatArray, BoolArray, BoolArray, dict[str, Any]]:
        """Act on the top-1 candidate of every member, let time pass until the next cycle, and observe it.

        Raises InvalidAction for an action that is not eligible, ResetNeeded before ``reset`` and after truncation.
        """
        before = self._observation
        if before is None or self.cycle >= self.cycles:
            raise ResetNeeded("call reset() first: no episode is under way")
        actions = self._checked(actions, before)
        self._pass_time(actions, before["type"], self._appeal[np.arange(self.num_envs), self.top])
        after = self._observe()
        rewards = reward_vector(self.deployment, actions, before["member"], after["member"])
        total = np.sum(list(rewards.values()), axis=0)
        truncated = np.full(self.num_envs, self.cycle >= self.cycles)
        return after, total, np.zeros(self.num_envs, dtype=np.bool_), truncated, {"rewards": rewards}

    @property
    def candidates(self) -> Candidates:
        """The visible side of all candidates of this cycle; there is one once ``reset`` was called."""
        return self._candidates

    @property
    def notification_ids(self) -> list[str]:
        """The id of each member's top-1 candidate."""
        return notification_ids(self.cycle, self.top)

    @property
    def live(self) -> IntArray:
        """What every member's events left behind as of this cycle, shape (N, len(simulator.features.LIVE))."""
        return self._activity.live()

    def _checked(self, actions: IntArray, observation: Observation) -> IntArray:
        actions = np.asarray(actions)
        if not self.action_space.contains(actions):
            raise InvalidAction(f"actions must be {self.num_envs} whole numbers from 0 to {len(ACTIONS) - 1}")
        allowed = observation["eligible"][np.arange(self.num_envs), actions] == 1
        if not allowed.all():
            member = int(np.argmin(allowed))
            raise InvalidAction(
                f"action {ACTIONS[actions[member]]!r} is not eligible for member {self.member_ids[member]} in cycle "
                f"{self.cycle} (and {np.sum(~allowed) - 1} more); take only actions that observation['eligible'] allows"
            )
        return actions.astype(np.int64)

    def _draw_times(self) -> IntArray:
        return decision_times(self.cycle, self._interval_s, self.num_envs, self._clock_rng)

    def _pass_time(self, actions: IntArray, types: IntArray, appeal: FloatArray) -> None:
        start_s = self._now_s
        self.cycle += 1
        self._now_s = self._draw_times()
        events = self.dynamics.advance(actions, appeal, start_s, self._now_s)
        self._activity.record(actions, types, start_s, events)

    def _observe(self) -> Observation:
        profile: Profile = self.profile
        # A cycle never straddles midnight UTC, so all members share the week.
        week = int(self._now_s[0]) // WEEK_S
        member = np.hstack([profile.features(week), self._activity.features(self._now_s)]).astype(np.float32)
        self._candidates, self._appeal = draw_candidates(
            self._traits.interests, profile.push_opt_in, self._now_s, profile.utc_offset_hours, self._candidate_rng
        )
        self.top = self._rank(self._candidates, member)
        rows = np.arange(self.num_envs)
        if not self._candidates.present[rows, self.top].all():
            raise ValueError("rank chose a slot that holds no candidate; see Candidates.present")
        eligible = self._candidates.eligible[rows, self.top]
        cap = self.deployment.limits.sends_per_day
        if cap is not None:
            spent = member[:, FEATURES.index("sends_24h")] >= cap
            eligible = eligible & (~spent[:, None] | (np.arange(len(ACTIONS)) == NONE))
        self._observation = Observation(
            decided_at_ms=START_MS + 1000 * self._now_s,
            member=member,
            type=self._candidates.type[rows, self.top],
            relevance=self._candidates.relevance[rows, self.top],
            age_hours=self._candidates.age_hours[rows, self.top],
            eligible=eligible.astype(np.int8),
        )
        # The caller's copy is the caller's to write to.
        return deepcopy(self._observation)
