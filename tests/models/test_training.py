"""Fitting: the model learns a process whose best prompt is known, and the same seed gives the same model."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from contracts.spec import EarlyStopping, Model, Training
from models import training
from models.config import FitConfig
from models.evaluation import evaluate
from models.policy import Policy
from models.prompts import make_prompts
from models.training import CHECKPOINT, Progress, fit
from models.trajectories import Trajectories, split_members
from models.trajectory_files import TrajectoryWriter, open_trajectories
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


def test_a_fit_starts_from_the_marginal_quantiles(trajectories: Trajectories) -> None:
    hardly = fit(trajectories, config_of(learning_rate=1e-9), members=np.arange(200))
    returns, is_target = trajectories.returns_to_go(4, 0.9)
    rows = trajectories.rows_of(np.arange(200))
    marginal = np.quantile(returns[rows[is_target[rows]]], LEVELS, axis=0).T
    steps = trajectories.windows(rows[:50], 4)
    asked = make_prompts(["gain", "cost"], [{"gain": 0.5, "cost": 0.5}] * 50)
    np.testing.assert_allclose(hardly.decide(steps, asked).quantiles, np.broadcast_to(marginal, (50, 2, 5)), atol=1e-3)


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


def test_a_run_of_another_fit_is_refused(trajectories: Trajectories, tmp_path: Path) -> None:
    fit(trajectories, config_of(), members=np.arange(20), checkpoints=tmp_path)
    with pytest.raises(ValueError, match="another fit"):
        fit(trajectories, config_of(seed=1), members=np.arange(20), checkpoints=tmp_path)
    with pytest.raises(ValueError, match="another fit"):
        fit(trajectories, config_of(), members=np.arange(21), checkpoints=tmp_path)
    checkpoint = tmp_path / CHECKPOINT
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    with pytest.raises(ValueError, match="no whole checkpoint"):
        fit(trajectories, config_of(), members=np.arange(20), checkpoints=tmp_path)


def test_a_checkpoint_that_is_none_or_of_another_release_is_named(trajectories: Trajectories, tmp_path: Path) -> None:
    fit(trajectories, config_of(), members=np.arange(20), checkpoints=tmp_path)
    checkpoint = tmp_path / CHECKPOINT
    with safe_open(checkpoint, framework="pt") as file:
        about = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    del tensors["model.norm.weight"]
    save_file(tensors, checkpoint, about)
    with pytest.raises(ValueError, match="another release"):
        fit(trajectories, config_of(), members=np.arange(20), checkpoints=tmp_path)
    save_file(tensors, checkpoint)
    with pytest.raises(ValueError, match="another fit"):
        fit(trajectories, config_of(), members=np.arange(20), checkpoints=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [CHECKPOINT]


def test_early_stopping_with_nothing_to_watch_says_so(trajectories: Trajectories) -> None:
    rewards = trajectories.rewards.copy()
    stopping = EarlyStopping(share=0.1)
    apart = split_members(20, stopping.share, 0)[1]
    rewards[trajectories.rows_of(apart)] = np.nan
    with pytest.raises(ValueError, match="early stopping keeps 2 members apart"):
        fit(
            dataclasses.replace(trajectories, rewards=rewards),
            config_of(early_stopping=stopping),
            members=np.arange(20),
        )


class StoppedError(Exception):
    """Ends a fit in its middle."""


@pytest.mark.parametrize("stop", [1, 7, 12, 20])
def test_a_fit_that_was_stopped_goes_on_to_the_same_weights(
    trajectories: Trajectories, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    monkeypatch.setattr(training, "STEPS_PER_CHECKPOINT", 5)
    config = FitConfig(
        4,
        0.9,
        LEVELS,
        model=Model(dropout=0.2, width=16, layers=1, heads=2),
        training=Training(epochs=3, batch_size=32, predicted_returns=0.3, early_stopping=EarlyStopping(patience=1)),
    )
    members = np.arange(60)
    steps: list[int] = []

    def count(progress: Progress) -> None:
        steps.append(progress.step)

    def stops(progress: Progress) -> None:
        if progress.step == stop:
            raise StoppedError

    whole = fit(trajectories, config, members=members, on_progress=count).model.state_dict()
    assert stop <= len(steps)
    with pytest.raises(StoppedError):
        fit(trajectories, config, members=members, on_progress=stops, checkpoints=tmp_path)
    again: list[int] = []
    resumed = fit(
        trajectories,
        config,
        members=members,
        on_progress=lambda progress: again.append(progress.step),
        checkpoints=tmp_path,
    )
    assert all(torch.equal(whole[name], tensor) for name, tensor in resumed.model.state_dict().items())
    assert again == steps[len(steps) - len(again) :]
    assert again[0] <= stop
    # A finished fit is not done again.
    fit(trajectories, config, members=members, on_progress=stops, checkpoints=tmp_path)


def copied(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_early_stopping_keeps_the_best_epoch(
    trajectories: Trajectories, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {"epochs": 30, "learning_rate": 0.03, "batch_size": 32}
    losses: list[float] = []
    at_epoch: list[int] = []

    def watch(progress: Progress) -> None:
        if progress.watched_loss is not None:
            losses.append(progress.watched_loss)
            at_epoch.append(progress.epoch)

    stopping = EarlyStopping(patience=2, share=0.25)
    policy = fit(trajectories, config_of(early_stopping=stopping, **settings), members=np.arange(16), on_progress=watch)
    best = int(np.argmin(losses))
    assert at_epoch == list(range(1, len(losses) + 1))
    assert len(losses) == min(best + 1 + stopping.patience, 30) < 30
    # The weights are those of the best epoch: a fit of the same schedule that ends there has them.
    kept: list[dict[str, torch.Tensor]] = []
    monkeypatch.setattr(training, "save_checkpoint", lambda path, state, model, *_: kept.append(copied(model)))
    fit(
        trajectories,
        config_of(early_stopping=stopping, **settings),
        members=np.arange(16),
        checkpoints=tmp_path,
    )
    of_epoch = kept[best]
    assert all(torch.equal(of_epoch[name], tensor) for name, tensor in policy.model.state_dict().items())
    assert not all(torch.equal(kept[-1][name], tensor) for name, tensor in policy.model.state_dict().items())


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_either_precision_learns_and_leaves_float32_weights(trajectories: Trajectories, precision: str) -> None:
    losses: list[float] = []
    policy = fit(
        trajectories,
        config_of(epochs=20, learning_rate=3e-3, precision=precision),
        members=np.arange(100),
        on_progress=lambda progress: losses.append(progress.action_loss + progress.rtg_loss),
    )
    assert {tensor.dtype for tensor in policy.model.state_dict().values()} == {torch.float32}
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:5])


def test_mapped_trajectories_give_the_same_model(trajectories: Trajectories, tmp_path: Path) -> None:
    with TrajectoryWriter(tmp_path / "mapped") as writer:
        writer.append(trajectories)
    mapped = open_trajectories(tmp_path / "mapped")
    assert isinstance(mapped.states, np.memmap)
    one, two = (fit(data, config_of(), members=np.arange(50)).model.state_dict() for data in (trajectories, mapped))
    assert all(torch.equal(one[name], two[name]) for name in one)
