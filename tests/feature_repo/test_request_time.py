"""The age of a member's last events, and the sends of the last day, at the time of a decision."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from feast import OnDemandFeatureView
from hypothesis import given
from hypothesis import strategies as st

from contracts.send_hours import COLUMNS, pack_hours
from feature_repo.heartsteps import heartsteps_recency
from feature_repo.notification import member_recency

pytestmark = pytest.mark.unit

HOUR_MS = 3_600_000
EVENTS = ("visit", "click", "send", "push", "badge")


def recency(view: OnDemandFeatureView, **columns: Any) -> dict[str, Any]:
    # As read back from a registry: run from its source text, away from the module that defines it.
    return dict(OnDemandFeatureView.from_proto(view.to_proto()).transform_dict(columns))


@given(st.lists(st.integers(0, 60 * HOUR_MS), max_size=12), st.integers(0, 80 * HOUR_MS))
def test_sends_are_those_of_the_hour_and_the_23_before_it(ages_ms: list[int], later_ms: int) -> None:
    start_ms = 490_000 * HOUR_MS
    sends = [start_ms + age for age in ages_ms]
    last_ms = max(sends, default=0)
    counts = np.zeros((1, 24), dtype=np.int64)
    for sent in sends:
        if sent // HOUR_MS > last_ms // HOUR_MS - 24:
            counts[0, sent // HOUR_MS % 24] += 1
    now_ms = max(last_ms, start_ms) + later_ms
    columns = {f"last_{event}_ms": [last_ms] for event in EVENTS}
    columns |= {name: [int(packed)] for name, packed in zip(COLUMNS, pack_hours(counts)[0], strict=True)}
    made = recency(member_recency, decided_at_ms=[now_ms], **columns)
    assert made["sends_24h"] == [sum(sent // HOUR_MS > now_ms // HOUR_MS - 24 for sent in sends)]
    assert made["hours_since_send"] == [pytest.approx(min((now_ms - last_ms) / HOUR_MS, 168.0))]


def test_missing_stays_missing_and_never_is_a_week() -> None:
    columns = {name: [0, None] for name in (*(f"last_{event}_ms" for event in EVENTS), *COLUMNS)}
    made = recency(member_recency, decided_at_ms=[490_000 * HOUR_MS] * 2, **columns)
    for name in (f"hours_since_{event}" for event in EVENTS):
        assert made[name][0] == 168.0
        assert np.isnan(made[name][1])
    assert made["sends_24h"][0] == 0.0
    assert np.isnan(made["sends_24h"][1])


def test_an_event_after_the_decision_is_no_hours_ago() -> None:
    made = recency(heartsteps_recency, decided_at_ms=[HOUR_MS, HOUR_MS], last_send_ms=[3 * HOUR_MS, None])
    assert made["hours_since_send"][0] == 0.0
    assert np.isnan(made["hours_since_send"][1])
    assert "sends_24h" not in made
