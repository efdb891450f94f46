"""What prompts do: monotone at every level, exact at learned ones, and counted where it is not."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from contracts.errors import SpecError
from contracts.settings import CHECKOUT
from contracts.spec import Absolute, Model, load_spec
from models.config import FitConfig
from models.held_out import HeldOut
from models.page import Page
from models.prompt_effect import PromptEffect, count_falls, prompt_effect
from models.prompt_report import grids, sections
from models.prompts import cohort_prompts, constant_prompt, make_prompts, parse_prompt
from models.trajectories import Trajectories
from tests.models.problems import two_arm_trajectories
from tests.models.test_evaluation import CONFIG, untrained

pytestmark = pytest.mark.unit

LEVELS = (0.02, 0.3, 0.7, 0.99)


@pytest.fixture(scope="module")
def trajectories() -> Trajectories:
    return two_arm_trajectories(members=24, length=15)


def effect_on(trajectories: Trajectories, config: FitConfig = CONFIG, **more: Any) -> PromptEffect:
    held_out = HeldOut.of(trajectories, np.arange(16, 24), config)
    return prompt_effect(
        untrained(trajectories, config), trajectories, held_out, {"gain": 0.5, "cost": 0.5}, levels=LEVELS, **more
    )


@pytest.mark.parametrize("earlier_returns", ["hidden", "predicted"])
def test_every_level_is_monotone_between_and_beyond_the_learned_ones(
    trajectories: Trajectories, earlier_returns: str
) -> None:
    config = FitConfig(4, 0.9, (0.1, 0.5, 0.9), 2, model=Model(earlier_returns=earlier_returns))  # type: ignore[arg-type]
    effect = effect_on(trajectories, config)
    assert effect.monotone
    for reward in effect.rewards.values():
        assert [row.level for row in reward.levels] == [0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99]
        assert [row.learned for row in reward.levels] == [False, True, False, True, False, True, False]
        for figure in ("predicted", "distribution"):
            values = [getattr(row, figure) for row in reward.levels]
            values = [row["0.5"] for row in values] if figure == "distribution" else values
            assert values == sorted(values)
            assert (values[0], values[-1]) == (values[1], values[-2])  # clamped
        for row in reward.levels:
            assert sum(row.actions.values()) == pytest.approx(1.0)
            assert sum(row.histogram) == pytest.approx(1.0)


def test_figures_are_those_of_the_policy_asked_directly(trajectories: Trajectories) -> None:
    effect = effect_on(
        trajectories, action_names=("wait", "act"), prompts={"high": {"gain": 0.9, "cost": Absolute(-2.0)}}
    )
    held_out = HeldOut.of(trajectories, np.arange(16, 24), CONFIG)
    policy, steps = untrained(trajectories), trajectories.windows(held_out.ends, 2)
    asked = make_prompts(["gain", "cost"], [{"gain": 0.9, "cost": Absolute(-2.0)}] * len(held_out))
    answers = policy.decide(steps, asked)
    assert effect.prompts["high"].predicted["cost"] == pytest.approx(-2.0)
    assert effect.prompts["high"].predicted["gain"] == pytest.approx(answers.prompted[:, 0].mean(), rel=1e-5)
    assert effect.prompts["high"].actions["act"] == pytest.approx((answers.actions == 1).mean())
    level = next(row for row in effect.rewards["gain"].levels if row.level == 0.7)
    asked = make_prompts(["gain", "cost"], [{"gain": 0.7, "cost": 0.5}] * len(held_out))
    answers = policy.decide(steps, asked)
    agreeing = answers.actions == held_out.actions
    assert level.predicted == pytest.approx(answers.prompted[:, 0].mean(), rel=1e-5)
    assert level.actions["act"] == pytest.approx((answers.actions == 1).mean())
    assert level.agreeing == pytest.approx(agreeing.mean())
    assert level.realised_agreeing.value == pytest.approx(held_out.returns[agreeing, 0].mean(), rel=1e-5)
    assert list(effect.prompts) == ["deployment", "high"]
    realised = effect.rewards["gain"].realised.value
    assert realised == pytest.approx(held_out.returns[:, 0].mean(), rel=1e-5)


def test_a_return_that_falls_with_its_level_is_counted() -> None:
    quantiles = np.array([[0.0, 1.0, 2.0], [0.0, 2.0, 1.0]], np.float32)
    assert count_falls(quantiles[:1], (0.1, 0.5, 0.9)) == 0
    assert count_falls(quantiles, (0.1, 0.5, 0.9)) == 1


def test_the_page_has_its_figures_and_json_is_strict(trajectories: Trajectories) -> None:
    document = json.loads(json.dumps(effect_on(trajectories).to_json(), allow_nan=False))
    assert document["monotone"] is True
    html = Page("Prompts", ("lead",), sections(document)).html()
    assert html.count("<svg") == 8
    assert "Figure 3" in html
    assert [grid.headings[0] for grid in grids(document)] == ["level", "level", "prompt"]


def test_a_constant_prompt_is_the_quantile_of_known_returns() -> None:
    returns = np.array([[1.0, 0.0], [2.0, 5.0], [np.nan, np.nan], [3.0, 10.0]], np.float32)
    found = constant_prompt(returns, ("a", "b"), {"a": 0.5, "b": 0.75})
    assert found == {"a": Absolute(2.0), "b": Absolute(7.5)}


def test_prompts_of_requests_and_cohorts_go_over_the_specs() -> None:
    spec = load_spec(CHECKOUT / "specs" / "notification.yaml")
    assert parse_prompt('{"click": 0.9, "visit": {"value": 3.2}}', spec) == {
        "click": 0.9,
        "visit": Absolute(3.2),
        "volume": spec.prompt["volume"],
    }
    assert cohort_prompts(spec) == {}
    for wrong, said in (("{", "JSON"), ('{"click": 1.5}', "click"), ('{"clik": 0.5}', "did you mean 'click'")):
        with pytest.raises(SpecError, match=said):
            parse_prompt(wrong, spec)
