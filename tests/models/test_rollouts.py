"""Rollouts: every episode whole and as the environment played it, whatever the kind of vector environment."""

from __future__ import annotations

import itertools
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import TimeLimit

from contracts.spec import Absolute
from models.decision_transformer import DecisionTransformer
from models.policy import Policy
from models.prompts import make_prompts
from models.rollouts import Rollout, collect, rollout
from models.steps import Bools, Floats, Ints
from models.trajectories import Trajectories
from tests.models.problems import normalization, small_config
from tests.models.worlds import Stairs

pytestmark = pytest.mark.unit

SEED = 5


def policy_of(**changes: object) -> Policy:
    torch.manual_seed(0)
    config = small_config(**{"state_dim": 4, "n_actions": 2, "n_rewards": 1} | changes)
    names = ("gain", "cost")[: config.n_rewards]
    return Policy(DecisionTransformer(config).eval(), normalization(config.state_dim, config.n_rewards), names)


def climb(states: Floats, eligible: Bools, _: np.random.Generator) -> Ints:
    """Whatever is eligible and highest."""
    return np.asarray(eligible[:, 1] & (states[:, 0] != 3), np.int64)


def vector(mode: AutoresetMode, worlds: int = 3) -> SyncVectorEnv:
    return SyncVectorEnv([Stairs] * worlds, autoreset_mode=mode)


def played_alone(worlds: int, each: int) -> list[Rollout]:
    return [collect(Stairs(), climb, each, SEED + b, reward="pair") for b in range(worlds)]


def assert_as_the_environment_says(result: Rollout) -> None:
    log = result.trajectories
    assert log.starts.tolist() == [0, *np.cumsum(result.lengths)]
    for i, (first, end) in enumerate(itertools.pairwise(log.starts.tolist())):
        assert log.states[first:end, 0].tolist() == list(range(end - first))
        assert set(log.states[first:end, 1].tolist()) == {float(end - first)}
        assert result.terminated[i] == ((end - first) % 2 == 0)
        assert log.eligible[first:end, 1].tolist() == [k % 2 == 1 for k in range(end - first)]
        gains = log.actions[first:end] + 0.1 * np.arange(end - first)
        np.testing.assert_allclose(log.rewards[first:end, 0], gains, rtol=1e-6)
        np.testing.assert_allclose(result.returns[i, 0], gains.sum(), rtol=1e-6)
    assert log.ended is not None
    assert log.ended.tolist() == result.terminated.tolist()


@pytest.mark.parametrize("mode", list(AutoresetMode))
@pytest.mark.parametrize("episodes", [2, 3, 8])
def test_each_kind_of_vector_environment_gives_the_episodes_of_its_worlds(mode: AutoresetMode, episodes: int) -> None:
    result = collect(vector(mode), climb, episodes, SEED, reward="pair")
    assert_as_the_environment_says(result)
    shares = [len(range(b, episodes, 3)) for b in range(3)]
    alone = [collect(Stairs(), climb, share, SEED + b, reward="pair") for b, share in enumerate(shares) if share]
    for name in ("returns", "lengths", "terminated"):
        expected = np.concatenate([getattr(one, name) for one in alone])
        np.testing.assert_array_equal(getattr(result, name), expected)
    for name in ("states", "actions", "eligible", "rewards", "times_ms"):
        expected = np.concatenate([getattr(one.trajectories, name) for one in alone])
        np.testing.assert_array_equal(getattr(result.trajectories, name), expected)


@pytest.mark.parametrize("mode", list(AutoresetMode))
@pytest.mark.parametrize("sample", [False, True])
def test_a_policy_acts_on_the_history_of_its_own_episode(mode: AutoresetMode, sample: bool) -> None:
    policy = policy_of()
    result = rollout(policy, vector(mode), {"gain": 0.7}, 9, SEED, sample=sample)
    assert_as_the_environment_says(result)
    if not sample:
        log = result.trajectories
        windows = log.windows(np.arange(len(log)), policy.model.config.context_length)
        decided = policy.decide(windows, make_prompts(["gain"], [{"gain": 0.7}] * len(log)))
        assert decided.actions.tolist() == log.actions.tolist()


def test_the_same_seed_gives_the_same_rollout() -> None:
    one, other = (rollout(policy_of(), vector(AutoresetMode.NEXT_STEP), 0.5, 6, SEED, sample=True) for _ in range(2))
    np.testing.assert_array_equal(one.trajectories.actions, other.trajectories.actions)
    np.testing.assert_array_equal(one.returns, other.returns)


class Recorder(Policy):
    """Notes the returns that it was asked for."""

    asked: list[Any]

    def act(self, *args: Any, **kwargs: Any) -> Any:
        decisions = super().act(*args, **kwargs)
        self.asked.append(decisions.prompted[:, 0].tolist())
        return decisions


def recorder() -> Recorder:
    policy = policy_of()
    made = Recorder(policy.model, policy.normalization, policy.reward_names)
    object.__setattr__(made, "asked", [])
    return made


def test_an_absolute_prompt_is_decremented_by_what_was_earned() -> None:
    policy = recorder()
    result = rollout(policy, Stairs(), Absolute(5.0), 3, SEED, decrement=True)
    expected: list[float] = []
    for first, end in itertools.pairwise(result.trajectories.starts.tolist()):
        earned = result.trajectories.rewards[first:end, 0]
        expected += (5.0 - np.concatenate([[0.0], np.cumsum(earned)[:-1]])).tolist()
    np.testing.assert_allclose([asked[0] for asked in policy.asked], expected, rtol=1e-6)


def test_without_decrement_it_is_asked_for_every_time() -> None:
    policy = recorder()
    rollout(policy, Stairs(), Absolute(5.0), 3, SEED)
    assert {asked[0] for asked in policy.asked} == {5.0}


@pytest.mark.parametrize(
    ("env", "reward"),
    [
        (Stairs(), "pair"),
        (Stairs(), lambda reward, info: [info["gain"], info["cost"]]),
        (Stairs(), lambda reward, info: {"gain": reward, "cost": info["cost"]}),
        (Stairs(vector_reward=True), None),
    ],
)
def test_a_vector_reward_is_read_in_any_of_its_forms(env: Any, reward: Any) -> None:
    result = rollout(policy_of(n_rewards=2), env, [0.5, 0.5], 4, SEED, reward=reward)
    assert_as_the_environment_says(result)
    np.testing.assert_allclose(result.trajectories.rewards[:, 1], -0.5 * result.trajectories.actions)
    assert result.returns.shape == (4, 2)


def test_eligible_actions_and_times_are_read_as_said() -> None:
    def never_up(_: Any, info: dict[str, Any]) -> list[bool]:
        return [True, False]

    result = collect(Stairs(), None, 4, SEED, eligible=never_up, time="clock")
    assert not result.trajectories.actions.any()
    first = result.trajectories.starts[:-1]
    steps = np.arange(len(result.trajectories)) - np.repeat(first, result.lengths)
    assert result.trajectories.times_ms.tolist() == (60_000 * steps).tolist()


def test_observations_that_are_no_box_become_numbers() -> None:
    frozen = gymnasium.make("FrozenLake-v1")
    log = collect(frozen, None, 3, SEED).trajectories
    assert log.states.shape[1] == 16
    assert (log.states.sum(axis=1) == 1.0).all()
    several = collect(gymnasium.make_vec("FrozenLake-v1", 2), None, 3, SEED).trajectories
    assert (several.states.sum(axis=1) == 1.0).all()
    taxi = collect(TimeLimit(gymnasium.make("Taxi-v4"), 5), None, 2, SEED).trajectories  # brings an action mask
    assert not taxi.eligible.all()


def test_cart_pole_of_gymnasium_is_played_alone_and_side_by_side() -> None:
    alone = collect(gymnasium.make("CartPole-v1"), None, 4, SEED)
    assert alone.returns[:, 0].tolist() == alone.lengths.tolist()
    several = collect(gymnasium.make_vec("CartPole-v1", 3), None, 7, SEED)
    assert several.returns[:, 0].tolist() == several.lengths.tolist()
    assert several.terminated.all()


class Continuous(Stairs):
    action_space = spaces.Box(-1, 1)  # type: ignore[assignment]


class Unbounded(Stairs):
    observation_space = spaces.Sequence(spaces.Box(-1, 1))  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("env", "changes", "named"),
    [
        (Continuous(), {}, "action_space is Box"),
        (Unbounded(), {}, "pass state="),
        (Stairs(), {"reward": "joy"}, "info has no 'joy'; it has"),
        (Stairs(), {"episodes": 0}, "episodes = 0"),
        (Stairs(), {"prompt": [0.5, 0.5]}, r"asks for 2 reward\(s\), the policy was trained with 1"),
        (Stairs(), {"decrement": True}, "decrement needs an absolute prompt"),
        (Stairs(), {"reward": "pair"}, "reward has shape"),
        (Stairs(), {"state": lambda observation: [np.nan] * 4}, "observation.* is nan"),
        (Stairs(), {"state": lambda observation: [1.0]}, r"state has shape \(1, 1\), expected"),
        (Stairs(), {"eligible": lambda observation, info: [1, 1, 1]}, "eligible has shape"),
        (Stairs(), {"eligible": lambda observation, info: [0, 0]}, r"eligible\[0\] allows no action"),
        (gymnasium.make("FrozenLake-v1"), {}, "env has 4 actions, the policy was trained with 2"),
    ],
)
def test_what_does_not_fit_is_named(env: Any, changes: dict[str, Any], named: str) -> None:
    arguments = {"prompt": 0.5, "episodes": 1, "seed": SEED} | changes
    with pytest.raises(ValueError, match=named):
        rollout(policy_of(), env, **arguments)


def test_a_behaviour_that_takes_what_is_not_eligible_is_stopped() -> None:
    with pytest.raises(ValueError, match=r"behaviour's action\[0\] = 1 is not eligible"):
        collect(Stairs(), lambda states, eligible, rng: np.ones(len(states), np.int64), 1, SEED)


def test_what_was_collected_can_be_learned_from() -> None:
    log = collect(vector(AutoresetMode.SAME_STEP), None, 20, SEED).trajectories
    again = Trajectories.from_episodes(
        states=np.split(log.states, log.starts[1:-1]),
        actions=np.split(log.actions, log.starts[1:-1]),
        rewards=np.split(log.rewards, log.starts[1:-1]),
        eligible=np.split(log.eligible, log.starts[1:-1]),
        terminated=list(log.ended if log.ended is not None else []),
    )
    for name in ("states", "actions", "rewards", "eligible", "times_ms", "starts", "ended"):
        np.testing.assert_array_equal(getattr(log, name), getattr(again, name))
