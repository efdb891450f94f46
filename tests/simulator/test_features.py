"""Features: the running record against the plain definition of each count."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.candidates import BADGE, NONE, PUSH
from simulator.clock import DAY_S, HOUR_S, WEEK_S
from simulator.dynamics import Events
from simulator.features import ACTIVITY, FEATURES, MAX_HOURS_SINCE, Activity, History

pytestmark = pytest.mark.unit

NOTHING = np.zeros(0, dtype=np.int64)


@settings(deadline=None)
@given(
    # Whole hours, so that events often lie exactly on a window's edge.
    events=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 335).map(HOUR_S.__mul__)), max_size=60),
    now_s=st.integers(336, 400).map(HOUR_S.__mul__),
    window_s=st.sampled_from([HOUR_S, DAY_S, WEEK_S]),
)
def test_a_window_counts_exactly_the_events_inside_it(events: list[tuple[int, int]], now_s: int, window_s: int) -> None:
    history = History(4)
    for member, at_s in events:
        history.add(np.array([member]), np.array([at_s]))
    history.forget(now_s - WEEK_S)
    counts = history.count(np.full(4, now_s), window_s)
    waits = history.hours_since(np.full(4, now_s))
    for member in range(4):
        times = [at_s for who, at_s in events if who == member]
        assert counts[member] == sum(at_s > now_s - window_s for at_s in times)
        assert history.total[member] == len(times)
        assert waits[member] == min((now_s - max(times)) / HOUR_S if times else np.inf, MAX_HOURS_SINCE)


def features_of(activity: Activity, now_s: int) -> dict[str, float]:
    return dict(zip(ACTIVITY, activity.features(np.array([now_s]))[0].tolist(), strict=True))


def test_before_anything_happened_counts_are_zero_and_waits_are_a_week() -> None:
    known = features_of(Activity(1), 0)
    for name, value in known.items():
        assert value == (MAX_HOURS_SINCE if name.startswith("hours_since_") else 0.0), name


def test_sends_visits_and_clicks_reach_their_features() -> None:
    activity = Activity(1)
    activity.record(np.array([BADGE]), np.array([0]), Events(NOTHING, NOTHING, NOTHING, NOTHING))
    assert features_of(activity, 3 * HOUR_S)["badge_count"] == 1
    click = np.array([0]), np.array([4 * HOUR_S])
    activity.record(np.array([PUSH]), np.array([3 * HOUR_S]), Events(*click, *click))
    known = features_of(activity, 6 * HOUR_S)
    assert (known["visits_total"], known["clicks_total"], known["badge_count"]) == (1, 1, 0)
    assert (known["sends_24h"], known["pushes_24h"], known["badges_24h"], known["ctr_7d"]) == (2, 1, 1, 0.5)
    assert (known["hours_since_push"], known["hours_since_badge"], known["hours_since_send"]) == (3, 6, 3)
    assert (known["hours_since_visit"], known["hours_since_click"]) == (2, 2)
    activity.record(np.array([NONE]), np.array([WEEK_S]), Events(NOTHING, NOTHING, NOTHING, NOTHING))
    known = features_of(activity, WEEK_S + 5 * HOUR_S)
    assert (known["visits_total"], known["visits_7d"], known["sends_7d"], known["sends_24h"]) == (1, 0, 0, 0)


def test_feature_names_are_distinct() -> None:
    assert len(set(FEATURES)) == len(FEATURES) == 24
