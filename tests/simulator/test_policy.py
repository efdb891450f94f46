"""Policies: exact propensities, and nothing that is not eligible."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from contracts.spec import Spec
from simulator.arrays import FloatArray
from simulator.candidates import ACTIONS, BADGE, NONE, PUSH
from simulator.env import NotificationEnv
from simulator.features import FEATURES
from simulator.observation import Observation
from simulator.policy import ConstantPolicy, Policy, ThresholdPolicy, sample
from simulator.rollout import rollout

pytestmark = pytest.mark.unit

ELIGIBLE = np.array([[1, 0, 0], [1, 1, 0], [1, 0, 1], [1, 1, 1]], dtype=np.int8)


def seen(relevance: float, sends_24h: float = 0.0, hours_since_send: float = 168.0) -> Observation:
    """Return the same view of four members, one for each set of eligible actions."""
    member = np.zeros((4, len(FEATURES)), dtype=np.float32)
    member[:, FEATURES.index("sends_24h")] = sends_24h
    member[:, FEATURES.index("hours_since_send")] = hours_since_send
    return Observation(
        decided_at_ms=np.zeros(4, dtype=np.int64),
        member=member,
        type=np.zeros(4, dtype=np.int64),
        relevance=np.full(4, relevance, dtype=np.float32),
        age_hours=np.zeros(4, dtype=np.float32),
        eligible=ELIGIBLE,
    )


@settings(deadline=None)
@given(
    relevance=st.floats(0, 1),
    sends=st.integers(0, 20),
    hours=st.floats(0, 168),
    epsilon=st.floats(0, 1),
    action=st.sampled_from(range(len(ACTIONS))),
)
def test_probabilities_sum_to_one_over_the_eligible_actions(
    relevance: float, sends: int, hours: float, epsilon: float, action: int
) -> None:
    policies: tuple[Policy, ...] = (ThresholdPolicy(epsilon=epsilon), ConstantPolicy(action))
    for policy in policies:
        probabilities = policy.probabilities(seen(relevance, sends, hours))
        np.testing.assert_allclose(probabilities.sum(axis=1), 1.0)
        assert (probabilities >= 0).all()
        assert (probabilities[ELIGIBLE == 0] == 0).all()


def test_thresholds_choose_among_push_badge_and_none() -> None:
    policy = ThresholdPolicy(epsilon=0.0, swing=0.0)
    assert policy.probabilities(seen(0.9)).argmax(axis=1).tolist() == [NONE, BADGE, PUSH, PUSH]
    assert policy.probabilities(seen(0.58)).argmax(axis=1).tolist() == [NONE, BADGE, NONE, BADGE]
    assert policy.probabilities(seen(0.3)).argmax(axis=1).tolist() == [NONE, NONE, NONE, NONE]
    assert policy.probabilities(seen(0.9, sends_24h=20)).argmax(axis=1).tolist() == [NONE] * 4


def test_thresholds_swing_about_their_mean_each_member_at_its_own_pace(spec: Spec) -> None:
    policy = ThresholdPolicy(swing=0.05)
    env = NotificationEnv(spec, members=400, days=21)
    raised = np.stack([policy.raised(step.observation) for step in rollout(env, policy, seed=1)])  # [cycles, members]
    assert np.abs(raised).max() <= 0.05
    assert (raised.max(axis=0) > 0.03).all()
    assert (raised.min(axis=0) < -0.03).all()
    assert np.abs(raised.mean(axis=1)).max() < 0.01, "what one member is spared another gets"
    assert np.abs(np.diff(raised, axis=0)).max() < 0.01, "recent decisions tell where the threshold stands"


def test_raised_thresholds_send_less() -> None:
    high, low = ThresholdPolicy(epsilon=0.0, swing=0.05), ThresholdPolicy(epsilon=0.0, swing=-0.05)
    close = seen(0.58)
    sent = [policy.probabilities(close)[3, NONE] == 0.0 for policy in (high, low)]
    raised = [policy.raised(close)[3] for policy in (high, low)]
    assert sorted(zip(raised, sent, strict=True)) == [(min(raised), True), (max(raised), False)]


def test_exploration_is_uniform_over_the_eligible_actions() -> None:
    probabilities = ThresholdPolicy(epsilon=0.3).probabilities(seen(0.9))
    expected = np.array([[1.0, 0.0, 0.0], [0.15, 0.85, 0.0], [0.15, 0.0, 0.85], [0.1, 0.1, 0.8]])
    np.testing.assert_allclose(probabilities, expected)


@settings(deadline=None)
@given(
    arrays.arrays(np.float64, (8, 3), elements=st.floats(0, 1)).filter(
        lambda drawn: bool((drawn.sum(axis=1) > 0).all())
    ),
    st.integers(0, 2**32 - 1),
)
def test_sampling_never_draws_an_action_of_probability_zero(weights: FloatArray, seed: int) -> None:
    probabilities = weights / weights.sum(axis=1, keepdims=True)
    actions = sample(probabilities, np.random.default_rng(seed))
    assert (probabilities[np.arange(8), actions] > 0).all()


def test_logged_propensities_match_frequencies_and_eligibility_always_holds(spec: Spec) -> None:
    env, policy = NotificationEnv(spec, members=500, days=7), ThresholdPolicy()
    expected, taken, variance = np.zeros(3), np.zeros(3), np.zeros(3)
    by_propensity: dict[float, int] = {}
    for step in rollout(env, policy, seed=9):
        rows = np.arange(env.num_envs)
        assert (step.observation["eligible"][rows, step.actions] == 1).all()
        probabilities = policy.probabilities(step.observation)
        np.testing.assert_array_equal(step.propensities, probabilities[rows, step.actions])
        expected += probabilities.sum(axis=0)
        variance += (probabilities * (1 - probabilities)).sum(axis=0)
        taken += np.bincount(step.actions, minlength=3)
        for value, count in zip(*np.unique(step.propensities.round(6), return_counts=True), strict=True):
            by_propensity[float(value)] = by_propensity.get(float(value), 0) + int(count)
    assert (np.abs(taken - expected) < 4 * np.sqrt(variance)).all()
    # Two eligible actions: 0.95 or 0.05; three: 0.933 or 0.033; only none: 1.
    assert set(by_propensity) <= {1.0, 0.95, 0.05, 0.933333, 0.033333}
    for greedy, explored, others in ((0.95, 0.05, 1), (0.933333, 0.033333, 2)):
        trials = by_propensity[greedy] + by_propensity[explored]
        share = others * explored
        off = by_propensity[explored] / trials - share
        assert abs(off) < 4 * np.sqrt(share * (1 - share) / trials)


def test_the_logging_policy_takes_every_action_and_mostly_stays_silent(spec: Spec) -> None:
    steps = list(rollout(NotificationEnv(spec, members=500, days=7), ThresholdPolicy(), seed=0))
    shares = np.bincount(np.concatenate([step.actions for step in steps]), minlength=3) / (500 * 56)
    assert 0.5 < shares[NONE] < 0.7
    assert shares[BADGE] > 0.1
    assert shares[PUSH] > 0.1
