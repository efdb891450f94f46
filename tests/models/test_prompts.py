"""Prompts: interpolation between learned levels (eq. 10), clamping beyond, absolute values."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.spec import Absolute
from models.prompts import Prompts, interpolate, level_weights, make_prompts, prompted_returns

pytestmark = pytest.mark.unit

LEARNED = (0.1, 0.25, 0.5, 0.7, 0.95)
rising = st.lists(st.floats(-1e6, 1e6, width=32), min_size=5, max_size=5).map(sorted)
QUANTILES = np.array([0.0, 1.0, 4.0, 4.0, 10.0], np.float32)


def at(level: float, quantiles: np.ndarray = QUANTILES) -> float:
    return float(interpolate(quantiles, LEARNED, np.asarray(level)))


@given(quantiles=rising)
def test_a_learned_level_is_returned_exactly(quantiles: list[float]) -> None:
    values = np.array(quantiles, np.float32)
    for level, value in zip(LEARNED, values, strict=True):
        assert at(level, values) == value


@given(quantiles=rising, level=st.floats(0.001, 0.999))
def test_between_learned_levels_it_is_linear_as_in_equation_10(quantiles: list[float], level: float) -> None:
    values = np.array(quantiles, np.float32)
    assert at(level, values) == pytest.approx(np.interp(level, LEARNED, values), rel=1e-5, abs=1e-5)


@given(quantiles=rising, levels=st.tuples(st.floats(0.001, 0.999), st.floats(0.001, 0.999)))
def test_a_higher_level_never_gives_less(quantiles: list[float], levels: tuple[float, float]) -> None:
    values = np.array(quantiles, np.float32)
    assert at(min(levels), values) <= at(max(levels), values)


@given(quantiles=rising, level=st.one_of(st.sampled_from(LEARNED), st.floats(0.001, 0.999)))
def test_weights_of_the_levels_interpolate_alike(quantiles: list[float], level: float) -> None:
    values, weights = np.array(quantiles, np.float32), level_weights(LEARNED, np.array([level]))[0]
    assert float(weights.sum()) == pytest.approx(1.0)
    within = 1e-5 * (1.0 + float(np.abs(values).max()))
    assert float(weights @ values) == pytest.approx(at(level, values), abs=within)
    if level in LEARNED:
        assert sorted(weights.tolist()) == [0.0, 0.0, 0.0, 0.0, 1.0]


def test_weights_of_a_single_level_are_one() -> None:
    np.testing.assert_array_equal(level_weights((0.5,), np.array([0.1, 0.5, 0.9])), [[1.0]] * 3)


def test_beyond_the_learned_levels_it_is_clamped() -> None:
    assert at(0.01) == 0.0
    assert at(0.99) == 10.0


def test_a_single_learned_level_answers_every_level() -> None:
    assert [float(interpolate(np.array([3.0], np.float32), (0.5,), np.asarray(x))) for x in (0.1, 0.5, 0.9)] == [
        3.0
    ] * 3


def test_levels_and_absolute_values_stand_side_by_side_per_reward_and_row() -> None:
    prompts = make_prompts(["a", "b"], [{"a": 0.5, "b": Absolute(3.25)}, {"a": Absolute(-1.0), "b": 0.95}])
    quantiles = np.broadcast_to(QUANTILES, (2, 2, 5))
    np.testing.assert_array_equal(prompted_returns(prompts, quantiles, LEARNED), [[4.0, 3.25], [-1.0, 10.0]])


def test_a_prompt_is_a_level_or_a_value_not_both() -> None:
    with pytest.raises(ValueError, match="either"):
        Prompts(np.array([[0.5]]), np.array([[1.0]]))
