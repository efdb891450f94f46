"""The offline evaluation against figures taken by hand, on any log."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch

from contracts.spec import Absolute, Prompt
from models.batch import Normalization
from models.config import FitConfig
from models.decision_transformer import DecisionTransformer
from models.evaluation import evaluate
from models.policy import Policy
from models.prompts import make_prompts
from models.trajectories import Trajectories, returns_to_go
from tests.models.problems import two_arm_trajectories

pytestmark = pytest.mark.unit

CONFIG = FitConfig(horizon=4, discount=0.9, quantiles=(0.1, 0.5, 0.9), context_length=2)


def untrained(trajectories: Trajectories, config: FitConfig = CONFIG) -> Policy:
    shape = config.shape(trajectories.states.shape[1], trajectories.eligible.shape[1], trajectories.rewards.shape[1])
    returns, is_target = returns_to_go(trajectories.rewards, trajectories.starts, config.horizon, config.discount)
    fitted = Normalization.fit(trajectories.states, trajectories.rewards, returns[is_target])
    torch.manual_seed(0)
    return Policy(DecisionTransformer(shape).eval(), fitted)


@pytest.fixture(scope="module")
def trajectories() -> Trajectories:
    return two_arm_trajectories(members=24, length=15)


def test_figures_are_those_taken_by_hand(trajectories: Trajectories) -> None:
    policy, train, held_out = untrained(trajectories), np.arange(16), np.arange(16, 24)
    prompt: dict[str, Prompt] = {"gain": 0.5, "cost": Absolute(-1.0)}
    found = evaluate(policy, trajectories, train, held_out, prompt, CONFIG, action_names=("wait", "act"))
    returns, is_target = returns_to_go(trajectories.rewards, trajectories.starts, 4, 0.9)
    rows = np.arange(16 * 15, 24 * 15)[is_target[16 * 15 :]]
    answers = policy.decide(trajectories.windows(rows, 2), make_prompts(["gain", "cost"], [prompt] * len(rows)))
    logged = trajectories.actions[rows]
    majority = np.bincount(trajectories.actions[: 16 * 15]).argmax()
    assert (found.decisions, found.members) == (len(rows), 8)
    assert found.accuracy == pytest.approx((answers.actions == logged).mean())
    assert found.majority_accuracy == pytest.approx((logged == majority).mean())
    assert found.accuracy_gain.value == pytest.approx(found.accuracy - found.majority_accuracy)
    assert found.per_class["act"]["recall"] == pytest.approx((answers.actions[logged == 1] == 1).mean())
    train_returns = returns[: 16 * 15][is_target[: 16 * 15]]
    for j, name in enumerate(("gain", "cost")):
        for m, level in enumerate(CONFIG.quantiles):
            below = returns[rows, j] <= answers.quantiles[:, j, m]
            assert found.coverage[name][f"{level:g}"] == pytest.approx(below.mean())
            interval = found.coverage_interval[name][f"{level:g}"]
            assert interval is not None
            assert interval[0] <= below.mean() <= interval[1]
        losses = {}
        for kind, quantiles in (
            ("model", answers.quantiles[:, j]),
            ("marginal", np.quantile(train_returns[:, j], CONFIG.quantiles)[None].repeat(len(rows), axis=0)),
        ):
            error = returns[rows, j, None] - quantiles
            losses[kind] = np.where(
                error >= 0, np.array(CONFIG.quantiles) * error, (np.array(CONFIG.quantiles) - 1) * error
            ).mean()
        assert found.pinball[name] == pytest.approx(losses["model"], rel=1e-5)
        assert found.pinball_marginal[name] == pytest.approx(losses["marginal"], rel=1e-5)
        assert found.pinball_ratio[name].value == pytest.approx(losses["model"] / losses["marginal"], rel=1e-5)
        assert found.crossing_rate[name] == 0.0


def test_names_may_be_left_out_and_one_level_holds_for_all(trajectories: Trajectories) -> None:
    policy = untrained(trajectories)
    found = evaluate(policy, trajectories, np.arange(16), np.arange(16, 24), 0.5, CONFIG)
    named = evaluate(policy, trajectories, np.arange(16), np.arange(16, 24), {"a": 0.5, "b": 0.5}, CONFIG)
    assert list(found.pinball) == ["reward_0", "reward_1"]
    assert list(named.pinball) == ["a", "b"]
    assert list(found.per_class) == ["action_0", "action_1"]
    assert list(found.pinball.values()) == list(named.pinball.values())


def test_names_that_do_not_fit_are_said_so(trajectories: Trajectories) -> None:
    policy, train, held_out = untrained(trajectories), np.arange(16), np.arange(16, 24)
    with pytest.raises(ValueError, match=r"1 reward names \(gain\) for 2 rewards"):
        evaluate(policy, trajectories, train, held_out, {"gain": 0.5}, CONFIG)
    with pytest.raises(ValueError, match="the prompt is of"):
        evaluate(policy, trajectories, train, held_out, {"gain": 0.5}, CONFIG, reward_names=("gain", "cost"))
    with pytest.raises(ValueError, match="3 action names"):
        evaluate(policy, trajectories, train, held_out, 0.5, CONFIG, action_names=("a", "b", "c"))


def test_held_out_members_without_a_full_look_ahead_are_an_error(trajectories: Trajectories) -> None:
    with pytest.raises(ValueError, match="shorten the horizon"):
        evaluate(untrained(trajectories), trajectories, np.arange(16), np.arange(0), 0.5, CONFIG)


def awkward(name: str, made: Trajectories) -> tuple[Trajectories, np.ndarray]:
    held_out = np.arange(16, 24)
    match name:
        case "an action never taken":
            return dataclasses.replace(made, actions=np.zeros_like(made.actions)), held_out
        case "constant returns":
            return dataclasses.replace(made, rewards=np.ones_like(made.rewards)), held_out
        case "no returns at all":
            return dataclasses.replace(made, rewards=np.zeros_like(made.rewards)), held_out
        case "one held-out member":
            return made, np.array([20])
        case "one decision":
            lengths = np.diff(made.starts)
            keep = np.arange(len(made)) < made.starts[20] + 5
            return (
                Trajectories(
                    made.states[keep],
                    made.actions[keep],
                    made.eligible[keep],
                    made.rewards[keep],
                    made.times_ms[keep],
                    np.concatenate([[0], np.cumsum([*lengths[:20], 5])]),
                ),
                np.array([20]),
            )
    raise AssertionError(name)


@pytest.mark.parametrize(
    "name",
    ["an action never taken", "constant returns", "no returns at all", "one held-out member", "one decision"],
)
def test_any_log_gives_strict_json(name: str, trajectories: Trajectories) -> None:
    made, held_out = awkward(name, trajectories)
    found = evaluate(untrained(made), made, np.arange(16), held_out, 0.5, CONFIG)
    json.dumps(found.to_json(), allow_nan=False)
    if name == "an action never taken":
        assert found.per_class["action_1"]["recall"] is None
    if name in ("constant returns", "no returns at all"):
        assert found.pinball_ratio["reward_0"].value is None
    if name.startswith("one"):
        assert found.accuracy_interval is None
        assert found.coverage_interval["reward_0"]["0.5"] is None
