"""The state encoder: order, missing values, categories, and numbers beyond float32."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from contracts.errors import LogError
from contracts.settings import CHECKOUT
from contracts.spec import parse_spec
from models.encoding import StateEncoder

pytestmark = pytest.mark.unit

TEXT = (CHECKOUT / "specs" / "notification.yaml").read_text(encoding="utf-8")
SERVICE = ("tenure_days", "visits_total", "sends_24h", "clicks_total")
COLUMNS = {
    "type": np.array(["news", "job", None, "job"], dtype=object),
    "relevance": np.array([0.1, np.nan, 0.3, 0.4]),
    "age_hours": np.array([1.0, 2.0, 3.0, 4.0]),
}


def encoder(*changes: tuple[str, str]) -> StateEncoder:
    text = TEXT
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return StateEncoder.fit(parse_spec(text, "test.yaml"), SERVICE, COLUMNS)


def test_columns_are_features_without_counters_then_candidate_then_scores() -> None:
    assert encoder().columns == (
        "tenure_days",
        "sends_24h",
        "type=job",
        "type=news",
        "relevance",
        "age_hours",
        "click:badge",
        "click:push",
    )


def test_missing_values_follow_the_spec() -> None:
    made = encoder(("missing: {default: 0.0}", "missing: {default: -1.0, tenure_days: 30}"))
    values = np.array([[np.nan, 1.0, np.nan, 1.0], [5.0, 1.0, np.inf, 1.0]])
    features = made.encode_features(SERVICE, values)
    np.testing.assert_array_equal(features[0], [30.0, -1.0])
    assert features[1, 0] == 5.0
    candidates = made.encode_candidates(COLUMNS, 4)
    np.testing.assert_array_equal(candidates[:, 2], np.array([0.1, -1.0, 0.3, 0.4], np.float32))


def test_a_category_never_seen_and_a_missing_one_are_all_zeros() -> None:
    columns = COLUMNS | {"type": np.array(["job", "a new type", None, ""], dtype=object)}
    np.testing.assert_array_equal(encoder().encode_candidates(columns, 4)[:, :2], [[1, 0], [0, 0], [0, 0], [0, 0]])


def test_declared_categories_keep_their_order_and_must_be_text() -> None:
    declared = encoder(("missing: {default: 0.0}", "categories: {type: [news, digest]}"))
    assert declared.candidate_columns[:2] == ("type=news", "type=digest")
    with pytest.raises(LogError, match="relevance"):
        encoder(("missing: {default: 0.0}", "categories: {relevance: [low, high]}"))


def test_a_feature_that_is_not_read_is_named() -> None:
    with pytest.raises(LogError, match="tenure_days"):
        encoder().encode_features(("sends_24h",), np.zeros((1, 1)))


@given(values=hnp.arrays(np.float64, (3, 4), elements=st.floats(allow_nan=True, allow_infinity=True)))
def test_every_number_becomes_a_finite_one(values: np.ndarray) -> None:
    features = encoder().encode_features(SERVICE, values)
    assert features.dtype == np.float32
    assert np.isfinite(features).all()


def test_json_round_trip() -> None:
    assert StateEncoder.from_json(json.loads(json.dumps(encoder().to_json()))) == encoder()
