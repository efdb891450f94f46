"""The environment: Gymnasium's vector API, reproducibility, eligibility, and rewards that the counters confirm."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from gymnasium.error import InvalidAction, ResetNeeded
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import iterate
from gymnasium.wrappers.vector import RecordEpisodeStatistics

from contracts.errors import SpecError
from contracts.spec import Limits, Reward, Spec
from simulator.arrays import Float32Array, IntArray
from simulator.candidates import ACTIONS, BADGE, NONE, PUSH, Candidates
from simulator.clock import HOUR_S, START_MS
from simulator.env import NotificationEnv
from simulator.features import FEATURES
from simulator.observation import Observation, feature
from simulator.policy import ConstantPolicy, ThresholdPolicy
from simulator.rollout import Step, rollout

pytestmark = pytest.mark.unit


def small(spec: Spec, members: int = 30, days: int = 2, **others: Any) -> NotificationEnv:
    return NotificationEnv(spec, members, days, **others)


def assert_same(one: Observation, other: Observation) -> None:
    for name in Observation.__annotations__:
        np.testing.assert_array_equal(one[name], other[name])  # type: ignore[literal-required]


@pytest.mark.filterwarnings("ignore:.*Casting input x:UserWarning")  # of a scalar, as Gymnasium's own envs give
def test_observations_rewards_and_ends_conform_to_the_vector_api(spec: Spec) -> None:
    env = small(spec)
    assert isinstance(env, VectorEnv)
    assert env.metadata["autoreset_mode"] is AutoresetMode.DISABLED
    observation, infos = env.reset(seed=1)
    assert infos == {}
    silence = np.full(env.num_envs, NONE)
    for cycle in range(env.cycles):
        assert env.observation_space.contains(observation)
        assert all(env.single_observation_space.contains(one) for one in iterate(env.observation_space, observation))
        observation, reward, terminated, truncated, infos = env.step(silence)
        assert reward.shape == terminated.shape == truncated.shape == (env.num_envs,)
        assert not terminated.any()
        assert (truncated == (cycle == env.cycles - 1)).all()
        assert tuple(infos["rewards"]) == spec.reward_names
        np.testing.assert_allclose(reward, sum(infos["rewards"].values()))
    assert env.observation_space.contains(observation)
    env.close()


def test_a_gymnasium_wrapper_works_on_it(spec: Spec) -> None:
    env = RecordEpisodeStatistics(small(spec))
    observation, _ = env.reset(seed=0)
    returns = np.zeros(30)
    for _ in range(16):
        observation, reward, _, _, infos = env.step(np.where(observation["eligible"][:, BADGE] == 1, BADGE, NONE))
        returns += reward
    np.testing.assert_allclose(infos["episode"]["r"], returns, rtol=1e-5)
    assert (infos["episode"]["l"] == 16).all()


def test_stepping_needs_a_reset_before_and_after_an_episode(spec: Spec) -> None:
    env, silence = small(spec, days=1), np.full(30, NONE)
    with pytest.raises(ResetNeeded):
        env.step(silence)
    env.reset(seed=0)
    for _ in range(8):
        env.step(silence)
    with pytest.raises(ResetNeeded):
        env.step(silence)
    env.reset()
    env.step(silence)


def test_members_are_reset_together_or_not_at_all(spec: Spec) -> None:
    env = small(spec)
    env.reset(seed=0, options={"reset_mask": np.ones(30, dtype=np.bool_)})
    with pytest.raises(ValueError, match="reset_mask leaves out 29 members"):
        env.reset(options={"reset_mask": np.arange(30) == 0})


def test_the_same_seed_plays_the_same_episode_and_another_seed_another(spec: Spec) -> None:
    def play(seed: int) -> list[Step]:
        return list(rollout(small(spec), ThresholdPolicy(), seed))

    first, again, other = play(5), play(5), play(6)
    for one, two in zip(first, again, strict=True):
        assert_same(one.observation, two.observation)
        np.testing.assert_array_equal(one.actions, two.actions)
        for name in spec.rewards:
            np.testing.assert_array_equal(one.rewards[name], two.rewards[name])
    assert (first[0].observation["member"] != other[0].observation["member"]).any()


def test_resetting_with_a_seed_replays_and_without_one_moves_on(spec: Spec) -> None:
    env = small(spec)
    first, _ = env.reset(seed=3)
    env.step(np.full(30, BADGE))
    again, _ = env.reset(seed=3)
    assert_same(first, again)
    following, _ = env.reset()
    assert (following["member"] != first["member"]).any()


def test_what_a_policy_sends_changes_neither_members_nor_candidates(spec: Spec) -> None:
    silent = rollout(small(spec), ConstantPolicy(NONE), seed=2)
    loud = rollout(small(spec), ConstantPolicy(PUSH), seed=2)
    for quiet, sent in zip(silent, loud, strict=True):
        for name in ("decided_at_ms", "type", "relevance", "age_hours"):
            np.testing.assert_array_equal(quiet.observation[name], sent.observation[name])


def test_a_caller_may_write_to_an_observation(spec: Spec) -> None:
    env = small(spec)
    observation, _ = env.reset(seed=0)
    for values in observation.values():
        values[:] = 0  # type: ignore[index]
    after, *_ = env.step(np.full(30, BADGE))
    assert (feature(after, "badges_24h") == 1).all()


def test_decisions_are_unevenly_spaced_whole_seconds_in_order(spec: Spec) -> None:
    times = np.array([step.observation["decided_at_ms"] for step in rollout(small(spec), ThresholdPolicy(), 0)])
    gaps_s = np.diff(times, axis=0) / 1000
    assert (times % 1000 == 0).all()
    assert times.min() > START_MS
    assert gaps_s.min() >= 2 * HOUR_S
    assert gaps_s.max() <= 4 * HOUR_S
    assert len(np.unique(gaps_s)) > 200
    assert times[:-1].max(axis=1).tolist() < times[1:].min(axis=1).tolist()


def test_rewards_are_the_differences_of_counters_and_the_penalty_rule(spec: Spec) -> None:
    steps = list(rollout(small(spec, members=200, days=4), ThresholdPolicy(), seed=4))
    for step, following in pairwise(steps):
        now, then = step.observation, following.observation
        for reward, counter in (("visit", "visits_total"), ("click", "clicks_total")):
            earned = feature(then, counter) - feature(now, counter)
            np.testing.assert_array_equal(step.rewards[reward], earned)
            assert (earned >= 0).all()
        assert set(np.unique(step.rewards["click"])) <= {0.0, 1.0}
        assert (step.rewards["click"][step.actions == NONE] == 0).all()
        cost = np.array([0.0, -0.3, -1.0])[step.actions]
        np.testing.assert_allclose(step.rewards["volume"], cost * (1 + feature(now, "sends_24h")))


def test_sends_are_known_at_the_next_decision_and_not_before(spec: Spec) -> None:
    steps = list(rollout(small(spec, days=1), ConstantPolicy(BADGE), seed=0))
    assert (feature(steps[0].observation, "sends_24h") == 0).all()
    assert (feature(steps[1].observation, "sends_24h") == 1).all()
    assert (feature(steps[1].observation, "hours_since_send") <= 4).all()


def test_features_start_warm(spec: Spec) -> None:
    observation, _ = small(spec, members=300).reset(seed=0)
    assert 5 < feature(observation, "visits_7d").mean() < 25
    assert (feature(observation, "visits_7d") <= feature(observation, "visits_total")).all()
    assert (feature(observation, "sends_7d") == 0).all()


@pytest.mark.parametrize("cap", [0, 2])
def test_the_cap_on_sends_a_day_is_eligibility(spec: Spec, cap: int) -> None:
    capped = replace(spec, limits=Limits(sends_per_day=cap))
    seen = set()
    for step in rollout(small(capped), ConstantPolicy(BADGE), seed=0):
        sends = feature(step.observation, "sends_24h")
        seen |= set(sends.tolist())
        assert (step.observation["eligible"][sends >= cap] == [1, 0, 0]).all()
    assert seen == set(range(cap + 1))


def test_an_action_that_is_not_eligible_is_refused_and_named(spec: Spec) -> None:
    env = small(spec, members=200)
    observation, _ = env.reset(seed=0)
    forbidden = observation["eligible"][:, PUSH] == 0
    member = int(np.argmax(forbidden))
    actions = np.where(np.arange(200) == member, PUSH, NONE)
    with pytest.raises(InvalidAction, match=rf"'push' is not eligible for member m{member:06d} in cycle 0"):
        env.step(actions)
    assert_same(observation, env.reset(seed=0)[0])


@pytest.mark.parametrize("actions", [np.zeros(29, dtype=np.int64), np.full(30, 3), np.full(30, -1), np.zeros(30)])
def test_actions_of_a_wrong_shape_type_or_range_are_refused(spec: Spec, actions: IntArray) -> None:
    env = small(spec)
    env.reset(seed=0)
    with pytest.raises(InvalidAction, match="30 whole numbers from 0 to 2"):
        env.step(actions)


def test_another_ranking_shows_another_top_candidate(spec: Spec) -> None:
    def freshest(candidates: Candidates, features: Float32Array) -> IntArray:
        assert features.shape == (30, len(FEATURES))
        youngest: IntArray = np.argmin(np.where(candidates.present, candidates.age_hours, np.inf), axis=1)
        return youngest

    env = small(spec, rank=freshest)
    observation, _ = env.reset(seed=0)
    ages = np.where(env.candidates.present, env.candidates.age_hours, np.inf)
    np.testing.assert_array_equal(observation["age_hours"], ages.min(axis=1))
    assert (observation["relevance"] != small(spec).reset(seed=0)[0]["relevance"]).any()


def test_a_ranking_that_picks_an_empty_slot_is_refused(spec: Spec) -> None:
    env = small(spec, rank=lambda candidates, _: np.full(len(candidates.count), 4))
    with pytest.raises(ValueError, match="rank chose a slot that holds no candidate"):
        env.reset(seed=0)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"members": 0}, "members = 0: must be from 1"),
        ({"members": -3}, "members = -3"),
        ({"days": 0}, "days = 0: must be from 1"),
        ({"cycles_per_day": 0}, "cycles_per_day = 0"),
        ({"cycles_per_day": 7}, "cycles_per_day = 7: must be 1, 2, 3, 4, 6, 8, 12 or 24"),
    ],
)
def test_sizes_out_of_range_are_refused(spec: Spec, sizes: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(spec, **sizes)


@pytest.mark.parametrize("cycles_per_day", [1, 4, 24])
def test_other_rhythms_of_decision_work(spec: Spec, cycles_per_day: int) -> None:
    steps = list(rollout(small(spec, members=20, days=8, cycles_per_day=cycles_per_day), ThresholdPolicy(), 0))
    assert len(steps) == 8 * cycles_per_day
    times = np.array([step.observation["decided_at_ms"] for step in steps])
    assert (np.diff(times, axis=0) > 0).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"actions": ("none", "email", "push")}, "actions = .* they must be none, badge, push"),
        ({"actions": ("push", "badge", "none")}, "with 'none' first"),
        ({"rewards": {"seen": Reward(kind="counter", feature="impressions_total")}}, "rewards.seen.feature"),
        ({"rewards": {"click": Reward(kind="predicted")}}, "rewards.click.feature = None"),
        (
            {"rewards": {"cost": Reward(kind="penalty", per_action={"push": -1.0}, grows_with="send_24h")}},
            "grows_with = 'send_24h': no such feature; did you mean 'sends_24h'",
        ),
    ],
)
def test_a_spec_that_the_simulator_cannot_play_is_refused(spec: Spec, change: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        small(replace(spec, **change))


def test_the_order_of_sending_actions_is_the_specs_own(spec: Spec) -> None:
    env = small(replace(spec, actions=("none", "push", "badge")))
    observation, _ = env.reset(seed=0)
    assert ACTIONS.index("push") == PUSH
    allowed = observation["eligible"][:, PUSH] == 1
    *_, infos = env.step(np.where(allowed, PUSH, NONE))
    np.testing.assert_array_equal(infos["rewards"]["volume"], np.where(allowed, -1.0, 0.0))
