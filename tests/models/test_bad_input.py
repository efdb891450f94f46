"""What a researcher's data may hold: each case is a clear error, or a rule that docs/model.md states."""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any

import numpy as np
import pytest

from contracts.errors import ArtifactError
from contracts.spec import Absolute, Model, Training
from models.artifact import check_spec
from models.config import FitConfig
from models.policy import Decisions, Policy
from models.training import fit
from models.trajectories import Trajectories
from tests.serve.deployment import untrained_artifact

pytestmark = pytest.mark.unit


def config(**changes: Any) -> FitConfig:
    settings: dict[str, Any] = {"horizon": 2, "discount": 0.9, "quantiles": (0.25, 0.5, 0.75), "context_length": 3}
    training = Training(epochs=changes.pop("epochs", 2), batch_size=64, learning_rate=3e-3)
    return FitConfig(**settings | changes, model=Model(width=16, heads=2, layers=1), training=training)


def columns(members: int = 8, length: int = 10, seed: int = 0, **changes: Any) -> dict[str, Any]:
    """A table of which every column may be replaced."""
    rng = np.random.default_rng(seed)
    n = members * length
    return {
        "member": np.repeat(np.arange(members), length),
        "time": np.tile(np.arange(length) * 60.0, members),
        "state": rng.normal(size=(n, 2)),
        "action": rng.integers(0, 3, n),
        "reward": rng.normal(size=(n, 2)),
        "n_actions": 3,
    } | changes


def fitted(settings: FitConfig | None = None, **changes: Any) -> tuple[Policy, Trajectories]:
    log = Trajectories.from_columns(**columns(**changes))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return fit(log, settings or config()), log


def decide(policy: Policy, log: Trajectories, prompt: float = 0.5) -> Decisions:
    """Decide every row of the log; whatever is answered is finite, legal and in order."""
    steps = log.windows(np.arange(len(log)), policy.model.config.context_length)
    history = policy.new_history(len(log))
    for t in range(steps.valid.shape[1] - 1):
        history = history.append(steps.states[:, t], steps.actions[:, t], steps.rewards[:, t])
        history = history.cleared(~steps.valid[:, t])
    prompts = [prompt] * log.rewards.shape[1]
    answered = policy.act(history, log.states, log.eligible, prompts)
    for name in ("probabilities", "quantiles", "prompted"):
        assert np.isfinite(getattr(answered, name)).all(), name
    assert (np.diff(answered.quantiles, axis=2) >= 0).all()
    np.testing.assert_allclose(answered.probabilities.sum(axis=1), 1.0, rtol=1e-5)
    assert (answered.probabilities[~log.eligible] == 0.0).all()
    return answered


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e39])
def test_a_feature_that_is_no_finite_number_is_named(value: float) -> None:
    state = columns()["state"]
    state[7, 1] = value
    with pytest.raises(ValueError, match=r"state\[7, 1\] is "):
        Trajectories.from_columns(**columns(state=state))
    log = Trajectories.from_columns(**columns())
    with pytest.raises(ValueError, match=r"states\[7, 1\] is "):
        dataclasses.replace(log, states=state)


def test_an_infinite_reward_is_named() -> None:
    reward = columns()["reward"]
    reward[7, 1] = np.inf
    with pytest.raises(ValueError, match=r"reward\[7, 1\] is inf; use NaN for what is not known"):
        Trajectories.from_columns(**columns(reward=reward))


def test_a_return_that_needs_an_unknown_reward_is_no_target() -> None:
    reward = columns()["reward"]
    reward[5, 1] = np.nan
    policy, log = fitted(reward=reward)
    assert (~log.returns_to_go(2, 0.9)[1][:10]).nonzero()[0].tolist() == [3, 4, 5, 8, 9]
    decide(policy, log)


def test_a_constant_feature_says_nothing_and_another_value_in_service_does_no_harm() -> None:
    policy, log = fitted(state=np.tile([7.0, 0.0], (80, 1)))
    decide(policy, log)
    odd = policy.act(policy.new_history(), [1e30, -1e30], None, [0.5, 0.5])
    assert np.isfinite(odd.probabilities).all()


@pytest.mark.parametrize("names", [(), ("gain", "cost")])
def test_a_reward_never_seen_is_named(names: tuple[str, ...]) -> None:
    log = Trajectories.from_columns(**columns(reward=np.tile([1.0, np.nan], (80, 1))))
    with pytest.raises(ValueError, match="reward 'cost' is not known in any row" if names else "reward 1 is not known"):
        fit(dataclasses.replace(log, reward_names=names), config())


def test_an_action_never_taken_becomes_unlikely() -> None:
    policy, log = fitted(config(epochs=40), action=np.random.default_rng(0).integers(0, 2, 80))
    assert decide(policy, log).probabilities[:, 2].mean() < 0.1


def test_members_with_fewer_steps_than_the_context_are_padded() -> None:
    policy, log = fitted(config(context_length=8, horizon=1), members=40, length=3)
    decide(policy, log)


def test_one_member_is_enough() -> None:
    policy, log = fitted(members=1, length=12)
    decide(policy, log)


def test_members_too_short_for_any_look_ahead_are_said_so() -> None:
    with pytest.raises(ValueError, match=r"full look-ahead of 2 .*longest.* 2 rows.*shorten the horizon"):
        fitted(members=8, length=2)


def test_episodes_that_ended_need_no_look_ahead() -> None:
    terminated = np.tile([False, True], 8)
    policy, log = fitted(members=8, length=2, terminated=terminated)
    decide(policy, log)


def test_horizon_zero_is_the_reward_itself() -> None:
    policy, log = fitted(config(horizon=0, epochs=60), reward=np.tile([3.0, -2.0], (80, 1)))
    returns, is_target = log.returns_to_go(0, 0.9)
    np.testing.assert_array_equal(returns, log.rewards)
    assert is_target.all()
    quantiles = decide(policy, log).quantiles
    np.testing.assert_allclose(quantiles.mean(axis=(0, 2)), [3.0, -2.0], atol=0.5)


def test_a_single_reward_may_be_one_column_and_its_prompt_one_number() -> None:
    policy, log = fitted(reward=columns()["reward"][:, 0])
    decide(policy, log)
    answered = policy.act(policy.new_history(2), np.zeros((2, 2)), None, Absolute(1.5))
    assert answered.prompted.tolist() == [[1.5], [1.5]]


def test_fifty_actions_each_eligible_somewhere() -> None:
    rng = np.random.default_rng(0)
    action = rng.integers(0, 50, 200)
    eligible = rng.random((200, 50)) < 0.1
    eligible[np.arange(200), action] = True
    policy, log = fitted(members=20, action=action, eligible=eligible, n_actions=50)
    decide(policy, log)


def test_there_may_be_no_feature_at_all() -> None:
    policy, log = fitted(state=np.zeros((80, 0)))
    decide(policy, log)
    assert policy.act(policy.new_history(), [], None, [0.5, 0.5]).probabilities.shape == (1, 3)


@pytest.mark.parametrize("scale", [1e-12, 1e-6, 1e6])
def test_the_scale_of_rewards_and_features_does_not_matter(scale: float) -> None:
    rng = np.random.default_rng(1)
    signal = rng.normal(size=400)
    settings, shape = config(horizon=0, epochs=60, context_length=1), {"members": 40, "length": 10}
    answers = []
    for factor in (1.0, scale):
        table = columns(**shape, state=signal[:, None] * factor, reward=signal * factor)
        policy = fit(Trajectories.from_columns(**table), settings)
        log = Trajectories.from_columns(**table)
        answers.append(decide(policy, log).quantiles[:, 0, 1] / factor)
    # What is learned is the same but for rounding, and it is the reward.
    np.testing.assert_allclose(answers[1], answers[0], atol=0.1)
    assert np.corrcoef(answers[1], signal)[0, 1] > 0.95


def test_decisions_at_one_time_keep_their_order_and_have_no_gap() -> None:
    policy, log = fitted(time=np.zeros(80))
    np.testing.assert_array_equal(log.rewards[:, 0], np.asarray(columns()["reward"][:, 0], np.float32))
    decide(policy, log)


def test_any_numeric_type_and_arrays_not_to_be_written_to_are_read() -> None:
    given = columns(
        state=np.arange(160, dtype=np.int32).reshape(80, 2),
        action=np.tile([0, 1, 2, 1], 20).astype(np.uint8),
        reward=np.arange(160).reshape(80, 2) % 7,
    )
    for value in given.values():
        if isinstance(value, np.ndarray):
            value.setflags(write=False)
    policy, log = fitted(**given)
    expected = decide(policy, log)
    by_hand = Trajectories(
        states=log.states.astype(np.float64),
        actions=log.actions.astype(np.int32),
        eligible=log.eligible.astype(np.int64),
        rewards=log.rewards.astype(np.int64),
        times_ms=log.times_ms.astype(np.float64),
        starts=log.starts.astype(np.int32),
    )
    for field in dataclasses.fields(by_hand):
        value = getattr(by_hand, field.name)
        if isinstance(value, np.ndarray):
            value.setflags(write=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = fit(by_hand, config())
        np.testing.assert_array_equal(decide(again, by_hand).probabilities, expected.probabilities)


def test_a_spec_that_changed_since_the_artifact_is_named() -> None:
    artifact = untrained_artifact()
    check_spec(artifact, artifact.spec)
    changed = dataclasses.replace(artifact.spec, context_length=7, discount=0.5)
    with pytest.raises(ArtifactError, match=r"discount is 0\.5, was .*; context_length is 7|context_length is 7, was"):
        check_spec(artifact, changed)
