"""Clustered ratios against their formula spelled out, and against the textbook where the two must agree."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from models.clustered import means, member_sums, ratios, within

pytestmark = pytest.mark.unit

finite = st.floats(-100, 100, width=32)


@settings(deadline=None)
@given(values=st.lists(finite, min_size=2, max_size=30).filter(lambda v: np.std(v) > 1e-3 and np.min(np.abs(v)) > 0))
def test_with_one_row_a_member_it_is_the_textbook_interval_of_a_mean(values: list[float]) -> None:
    found = means(np.array(values)[:, None], np.arange(len(values))).at(0)
    expected = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
    assert found.value == pytest.approx(np.mean(values), rel=1e-9, abs=1e-9)
    assert found.interval == pytest.approx(expected, rel=1e-6, abs=1e-9)


@settings(deadline=None)
@given(
    rows=st.lists(st.tuples(finite, st.floats(0.5, 10), st.integers(0, 5)), min_size=3, max_size=40).filter(
        lambda rows: len({member for *_, member in rows}) > 1
    )
)
def test_it_is_the_formula_spelled_out(rows: list[tuple[float, float, int]]) -> None:
    y, x, members = (np.array(column) for column in zip(*rows, strict=True))
    theta = y.sum() / x.sum()
    groups = sorted(set(members.tolist()))
    squares = sum((y[members == g].sum() - theta * x[members == g].sum()) ** 2 for g in groups)
    error = math.sqrt(len(groups) / (len(groups) - 1) * squares) / x.sum()
    half = stats.t.ppf(0.975, len(groups) - 1) * error
    found = ratios(y[:, None], x[:, None], members).at(0)
    assert found.value == pytest.approx(theta, abs=1e-9)
    assert found.interval == pytest.approx((theta - half, theta + half), rel=1e-6, abs=1e-6)


@given(
    members=st.lists(st.integers(0, 6), min_size=1, max_size=40),
    seed=st.integers(0, 100),
)
def test_member_sums_are_those_of_a_loop_in_any_order(members: list[int], seed: int) -> None:
    values = np.random.default_rng(seed).normal(size=(len(members), 2))
    codes = np.array(members)
    expected = np.stack([values[codes == member].sum(axis=0) for member in sorted(set(members))])
    np.testing.assert_allclose(member_sums(values, codes), expected, atol=1e-12)


def test_copies_of_a_members_rows_narrow_nothing() -> None:
    rng = np.random.default_rng(1)
    values = rng.normal(size=(50, 1))
    once = means(values, np.arange(50)).at(0)
    often = means(np.repeat(values, 20, axis=0), np.repeat(np.arange(50), 20)).at(0)
    assert often.interval == pytest.approx(once.interval)


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    rng = np.random.default_rng(2)
    hits = 0
    for _ in range(400):
        habits = rng.beta(2, 2, 40)
        members = np.repeat(np.arange(40), rng.integers(1, 30, 40))
        found = means((rng.random(len(members)) < habits[members])[:, None], members).at(0)
        assert found.interval is not None
        hits += found.interval[0] <= 0.5 <= found.interval[1]
    assert 0.91 <= hits / 400 <= 0.98


def test_what_is_not_defined_is_none_and_strict_json() -> None:
    one_member = means(np.ones((5, 1)), np.zeros(5, np.int64)).at(0)
    assert (one_member.value, one_member.interval) == (1.0, None)
    nothing_to_divide_by = ratios(np.zeros((4, 1)), np.zeros((4, 1)), np.arange(4)).at(0)
    assert (nothing_to_divide_by.value, nothing_to_divide_by.interval) == (None, None)
    json.dumps([one_member.to_json(), nothing_to_divide_by.to_json()], allow_nan=False)


def test_members_without_a_share_in_a_ratio_do_not_count() -> None:
    y, x = np.array([1.0, 2.0, 0.0]), np.array([1.0, 1.0, 0.0])
    with_idle = ratios(y[:, None], x[:, None], np.arange(3)).at(0)
    without = ratios(y[:2, None], x[:2, None], np.arange(2)).at(0)
    assert with_idle == without


def test_shares_end_at_0_and_1() -> None:
    few = np.array([1.0, 1.0, 1.0, 0.0])[:, None]
    found = within(means(few, np.arange(4)), 0.0, 1.0).at(0)
    assert found.interval is not None
    assert found.interval[1] == 1.0
    assert found.interval[0] >= 0.0
