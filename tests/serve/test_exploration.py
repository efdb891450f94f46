"""Exploration: propensities are those of the draws, stable a member and cycle, and never an ineligible action."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve.exploration import choose_action, draw
from tests.serve.deployment import spec_with

pytestmark = pytest.mark.unit

EXPLORING = spec_with(("epsilon: 0.0, share: 0.0", "epsilon: 0.5, share: 1.0"))
HALF = spec_with(("epsilon: 0.0, share: 0.0", "epsilon: 0.5, share: 0.5"))


@settings(max_examples=200)
@given(member=st.text(max_size=20), cycle=st.text(max_size=20), mask=st.integers(0, 3), seed=st.integers(0, 99))
def test_the_action_is_eligible_and_its_propensity_a_probability(member: str, cycle: str, mask: int, seed: int) -> None:
    eligible = np.array([True, bool(mask & 1), bool(mask & 2)])
    p = np.where(eligible, np.random.default_rng(seed).random(3) + 0.01, 0.0)
    probabilities = (p / p.sum()).astype(np.float32)
    action, propensity = choose_action(EXPLORING, member, cycle, probabilities, eligible)
    assert eligible[action]
    assert 0.5 / eligible.sum() <= propensity <= 1.0
    assert choose_action(EXPLORING, member, cycle, probabilities, eligible) == (action, propensity)


def test_a_member_is_in_the_share_or_out_of_it_for_good() -> None:
    probabilities, eligible = np.array([0.1, 0.2, 0.7], np.float32), np.ones(3, np.bool_)
    explored = {
        member: {choose_action(HALF, f"m{member}", f"c{cycle}", probabilities, eligible)[1] for cycle in range(20)}
        for member in range(400)
    }
    outside = sum(propensities == {1.0} for propensities in explored.values())
    assert 150 < outside < 250
    assert all(1.0 not in propensities or propensities == {1.0} for propensities in explored.values())


def test_draws_do_not_run_into_each_other() -> None:
    assert draw("ab", "c") != draw("a", "bc")
    values = [draw("x", str(i)) for i in range(4000)]
    assert abs(float(np.mean(values)) - 0.5) < 0.02
    assert min(values) >= 0.0
    assert max(values) < 1.0
