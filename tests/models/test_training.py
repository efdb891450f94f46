"""Fitting: the model learns a process whose best prompt is known, and the same seed gives the same model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from contracts.spec import Training
from models.config import FitConfig
from models.evaluation import evaluate
from models.policy import Policy
from models.prompts import make_prompts
from models.training import fit
from models.trajectories import Trajectories
from tests.models.problems import two_arm_trajectories

pytestmark = pytest.mark.unit

LEVELS = (0.1, 0.3, 0.5, 0.7, 0.9)


def config_of(horizon: int = 4, context_length: int = 4, **training: Any) -> FitConfig:
    settings = {"epochs": 1, "batch_size": 256, "predicted_returns": 0.0, "masked_share": 0.0} | training
    return FitConfig(horizon, 0.9, LEVELS, context_length, training=Training(**settings))


CONFIG = config_of(epochs=20, learning_rate=3e-3)


@pytest.fixture(scope="module")
def trajectories() -> Trajectories:
    return two_arm_trajectories(members=300, length=20)


@pytest.fixture(scope="module")
def policy(trajectories: Trajectories) -> Policy:
    return fit(trajectories, CONFIG, members=np.arange(200))


def rollout(policy: Policy, prompt: float, members: int = 200, length: int = 12, seed: int = 7) -> float:
    """Mean reward 0 a step, earned when the policy itself acts in the process."""
    rng = np.random.default_rng(seed)
    states = rng.normal(size=(members, length, 2)).astype(np.float32)
    taken = np.zeros((members, length), np.int64)
    for t in range(length):
        world = Trajectories(
            states[:, : t + 1].reshape(-1, 2),
            taken[:, : t + 1].reshape(-1),
            np.ones((members * (t + 1), 2), np.bool_),
            np.stack([taken[:, : t + 1].reshape(-1), -0.5 * taken[:, : t + 1].reshape(-1)], axis=1).astype(np.float32),
            np.tile(np.arange(t + 1) * 3_600_000, members),
            np.arange(members + 1) * (t + 1),
        )
        steps = world.windows(world.starts[1:] - 1, policy.model.config.context_length)
        asked = make_prompts(["gain", "cost"], [{"gain": prompt, "cost": 1.0 - prompt}] * members)
        probabilities = policy.decide(steps, asked).probabilities
        taken[:, t] = rng.random(members) < probabilities[:, 1]
    return float(taken.mean())


def test_a_higher_prompt_yields_more_of_that_reward(policy: Policy) -> None:
    earned = [rollout(policy, level) for level in (0.1, 0.5, 0.9)]
    assert earned[0] < earned[1] < earned[2]
    # The best prompt is known: always act. The highest level comes near it, the lowest near never acting.
    assert earned[2] > 0.8
    assert earned[0] < 0.2


def test_quantiles_beat_the_marginal_and_cover(policy: Policy, trajectories: Trajectories) -> None:
    result = evaluate(
        policy,
        trajectories,
        np.arange(200),
        np.arange(200, 300),
        {"gain": 0.5, "cost": 0.5},
        CONFIG,
    )
    assert result.pinball["gain"] < 0.9 * result.pinball_marginal["gain"]
    assert result.accuracy > result.majority_accuracy
    assert result.illegal_action_rate == 0.0
    for level, covered in result.coverage["gain"].items():
        assert abs(covered - float(level)) < 0.1


def test_the_same_seed_gives_the_same_model(trajectories: Trajectories) -> None:
    quick = config_of(seed=3)
    first, second = (fit(trajectories, quick, members=np.arange(50)).model.state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_fitting_leaves_the_callers_random_state_alone(trajectories: Trajectories) -> None:
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    fit(trajectories, config_of(context_length=2), members=np.arange(20))
    assert torch.equal(torch.rand(3), expected)


def test_a_log_shorter_than_the_horizon_is_said_so(trajectories: Trajectories) -> None:
    with pytest.raises(ValueError, match="full look-ahead of 40"):
        fit(trajectories, config_of(horizon=40), members=np.arange(50))
