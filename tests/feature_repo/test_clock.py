"""The decision's local time as features."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from feast import OnDemandFeatureView
from hypothesis import given
from hypothesis import strategies as st

from feature_repo.notification import decision_clock

pytestmark = pytest.mark.unit


def clock(at_ms: list[int], offsets: list[float | None]) -> dict[str, Any]:
    # As read back from a registry: run from its source text, away from the module that defines it.
    view = OnDemandFeatureView.from_proto(decision_clock.to_proto())
    return dict(view.transform_dict({"decided_at_ms": at_ms, "utc_offset_hours": offsets}))


@given(st.integers(0, 4 * 10**12), st.sampled_from([-11.0, -8.0, -3.5, 0.0, 5.5, 5.75, 12.0]))
def test_clock_is_the_local_hour_and_weekday(at_ms: int, offset: float) -> None:
    local = datetime.fromtimestamp(at_ms / 1000, UTC) + timedelta(hours=offset)
    hour = local.hour + local.minute / 60 + (local.second + local.microsecond / 1e6) / 3600
    made = clock([at_ms], [offset])
    assert made["hour_sin"][0] == pytest.approx(math.sin(2 * math.pi * hour / 24), abs=1e-5)
    assert made["hour_cos"][0] == pytest.approx(math.cos(2 * math.pi * hour / 24), abs=1e-5)
    assert made["weekday_sin"][0] == pytest.approx(math.sin(2 * math.pi * local.weekday() / 7))
    assert made["weekday_cos"][0] == pytest.approx(math.cos(2 * math.pi * local.weekday() / 7))
    assert made["is_weekend"][0] == float(local.weekday() >= 5)


def test_clock_is_missing_where_the_offset_is() -> None:
    made = clock([0, 0], [None, 0.0])
    for name in ("hour_sin", "hour_cos", "weekday_sin", "weekday_cos", "is_weekend"):
        assert np.isnan(made[name][0])
        assert not np.isnan(made[name][1])
