"""The utility model: it learns which candidates are clicked, and its rewards and ranks follow the scores."""

from __future__ import annotations

import numpy as np
import pytest

from contracts.errors import LogError
from models.utility import Sent, UtilityModel, evaluate_utility, fit_utility, rank_candidates, rewards_of

pytestmark = pytest.mark.unit


def clicks(n: int = 4000, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features, actions and labels: a push is clicked where feature 0 is high, a badge rarely, column 1 is noise."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n, 2)).astype(np.float32)
    actions = rng.integers(0, 3, size=n)
    p = np.where(actions == 2, 1 / (1 + np.exp(-3 * features[:, 0])), 0.05)
    labels = (rng.random(n) < p).astype(np.float32)[:, None]
    labels[actions == 0] = np.nan
    return features, actions, labels


def test_it_learns_what_is_clicked_and_beats_the_base_rate() -> None:
    features, actions, labels = clicks()
    model = fit_utility(Sent.of(features, actions, labels), 3, ("click",), seed=1)
    report = evaluate_utility(model, Sent.of(features, actions, labels), Sent.of(*clicks(seed=9)))
    assert report.log_loss[0] < 0.85 * report.base_log_loss[0]
    high, low = model.score(np.array([[2.0, 0.0], [-2.0, 0.0]], np.float32))[:, 0, 1]
    assert high > 0.9
    assert low < 0.1
    assert report.rows == int((clicks(seed=9)[1] > 0).sum())


def test_the_same_seed_gives_the_same_model() -> None:
    features, actions, labels = clicks(500)
    one, two = (
        fit_utility(Sent.of(features, actions, labels), 3, ("click",), seed=3).score(features) for _ in range(2)
    )
    np.testing.assert_array_equal(one, two)


def test_a_label_that_is_no_probability_is_named() -> None:
    features, actions, labels = clicks(100)
    labels[3] = 2.0
    with pytest.raises(LogError, match="reward_click"):
        fit_utility(Sent.of(features, actions, labels), 3, ("click",), seed=0)


def test_nothing_ever_sent_leaves_a_model_that_scores() -> None:
    features, _, labels = clicks(100)
    actions = np.zeros(100, np.int64)
    model = fit_utility(Sent.of(features, actions, labels), 3, ("click",), seed=0)
    sent = Sent.of(features, actions, labels)
    assert evaluate_utility(model, sent, sent).rows == 0
    assert np.isfinite(model.score(features)).all()


def test_without_predicted_rewards_there_are_no_scores() -> None:
    assert UtilityModel(4, 0, 3).score(np.zeros((5, 4), np.float32)).shape == (5, 0, 2)


def test_rewards_are_the_scores_of_the_action_taken_and_zero_for_none() -> None:
    scores = np.array([[[0.2, 0.7]], [[0.3, 0.4]], [[0.5, 0.6]]], np.float32)
    np.testing.assert_array_equal(rewards_of(scores, np.array([0, 1, 2])), np.array([[0.0], [0.3], [0.6]], np.float32))


def test_the_rank_counts_eligible_sends_only() -> None:
    scores = np.array([[[0.2, 0.9]], [[0.3, 0.4]], [[0.9, 0.9]]], np.float32)
    eligible = np.array([[True, True, False], [True, True, True], [True, False, False]])
    np.testing.assert_array_equal(rank_candidates(scores, eligible), np.array([0.2, 0.4, 0.0], np.float32))


def test_a_feature_of_the_largest_numbers_leaves_finite_scores() -> None:
    features, actions, labels = clicks(500)
    features[:, 1] = np.where(features[:, 1] > 0, np.finfo(np.float32).max, -np.finfo(np.float32).max)
    assert np.isfinite(fit_utility(Sent.of(features, actions, labels), 3, ("click",), seed=0).score(features)).all()
