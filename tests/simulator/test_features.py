"""Features: the running record against the plain definition of each count."""

from datetime import timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.spec import Spec
from simulator.arrays import IntArray
from simulator.candidates import BADGE, NONE, PUSH, PUSH_TYPES, TYPES
from simulator.clock import DAY_S, DAYPARTS, HOUR_S, START, WEEK_S, daypart
from simulator.dynamics import Dynamics, Events
from simulator.env import NotificationEnv
from simulator.features import ACTIVITY, FEATURES, MAX_HOURS_SINCE, Activity, History
from simulator.policy import ThresholdPolicy
from simulator.rollout import Step, rollout

pytestmark = pytest.mark.unit

NOTHING = np.zeros(0, dtype=np.int64)
SILENCE = Events(NOTHING, NOTHING, NOTHING, NOTHING)
SOCIAL, JOB, DIGEST = (np.array([TYPES.index(name)]) for name in ("social", "job", "digest"))
GREENWICH = np.zeros(1)


@settings(deadline=None)
@given(
    # Whole hours, so that events often lie exactly on a window's edge.
    events=st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 1), st.integers(0, 335).map(HOUR_S.__mul__)), max_size=60
    ),
    now_s=st.integers(336, 400).map(HOUR_S.__mul__),
    window_s=st.sampled_from([HOUR_S, DAY_S, WEEK_S]),
)
def test_a_window_counts_exactly_the_events_inside_it(
    events: list[tuple[int, int, int]], now_s: int, window_s: int
) -> None:
    history = History(4, kinds=2)
    for member, kind, at_s in events:
        history.add(np.array([member]), np.array([kind]), np.array([at_s]))
    history.forget(now_s - WEEK_S)
    counts = history.count(np.full(4, now_s), window_s)
    waits = history.hours_since(np.full(4, now_s))
    for member in range(4):
        times = [at_s for who, _, at_s in events if who == member]
        for kind in range(2):
            of_kind = [at_s for who, what, at_s in events if (who, what) == (member, kind)]
            assert counts[member, kind] == sum(at_s > now_s - window_s for at_s in of_kind)
        assert history.total[member] == len(times)
        assert waits[member] == min((now_s - max(times)) / HOUR_S if times else np.inf, MAX_HOURS_SINCE)


def features_of(activity: Activity, now_s: int) -> dict[str, float]:
    return dict(zip(ACTIVITY, activity.features(np.array([now_s]))[0].tolist(), strict=True))


def test_before_anything_happened_counts_are_zero_and_waits_are_a_week() -> None:
    known = features_of(Activity(GREENWICH), 0)
    for name, value in known.items():
        assert value == (MAX_HOURS_SINCE if name.startswith("hours_since_") else 0.0), name


def test_sends_visits_and_clicks_reach_their_features() -> None:
    activity = Activity(GREENWICH)
    activity.record(np.array([BADGE]), DIGEST, np.array([0]), SILENCE)
    assert features_of(activity, 3 * HOUR_S)["badge_count"] == 1
    click = np.array([0]), np.array([4 * HOUR_S])
    activity.record(np.array([PUSH]), JOB, np.array([3 * HOUR_S]), Events(*click, *click))
    known = features_of(activity, 6 * HOUR_S)
    assert (known["visits_total"], known["clicks_total"], known["badge_count"]) == (1, 1, 0)
    assert (known["sends_24h"], known["pushes_24h"], known["badges_24h"], known["ctr_7d"]) == (2, 1, 1, 0.5)
    assert (known["hours_since_push"], known["hours_since_badge"], known["hours_since_send"]) == (3, 6, 3)
    assert (known["hours_since_visit"], known["hours_since_click"]) == (2, 2)
    assert (known["sends_24h_digest"], known["sends_24h_job"], known["sends_24h_social"]) == (1, 1, 0)
    assert (known["pushes_7d_job"], known["pushes_7d_social"], known["badges_7d"]) == (1, 0, 1)
    assert (known["clicks_24h_job"], known["clicks_7d_job"], known["clicks_7d_digest"]) == (1, 1, 0)
    assert (known["visits_7d_night"], known["visits_7d_morning"]) == (1, 0)
    activity.record(np.array([NONE]), SOCIAL, np.array([WEEK_S]), SILENCE)
    known = features_of(activity, WEEK_S + 5 * HOUR_S)
    assert (known["visits_total"], known["visits_7d"], known["sends_7d"], known["sends_24h"]) == (1, 0, 0, 0)


def test_a_send_a_click_and_a_visit_leave_their_windows_at_the_edge_and_not_before() -> None:
    activity = Activity(GREENWICH)
    click = np.array([0]), np.array([HOUR_S])
    activity.record(np.array([PUSH]), JOB, np.array([HOUR_S]), Events(*click, *click))
    for window_s, names in (
        (DAY_S, ("sends_24h_job", "clicks_24h_job")),
        (WEEK_S, ("sends_7d_job", "pushes_7d_job", "clicks_7d_job", "visits_7d_night")),
    ):
        last, gone = features_of(activity, HOUR_S + window_s - 1), features_of(activity, HOUR_S + window_s)
        for name in names:
            assert (last[name], gone[name]) == (1.0, 0.0), name


@pytest.mark.parametrize(
    ("clock", "part"),
    [
        ("00:00:00", "night"),
        ("05:59:59", "night"),
        ("06:00:00", "morning"),
        ("11:59:59", "morning"),
        ("12:00:00", "afternoon"),
        ("17:59:59", "afternoon"),
        ("18:00:00", "evening"),
        ("23:59:59", "evening"),
    ],
)
@pytest.mark.parametrize("offset_hours", [-8.0, 0.0, 5.5])
def test_parts_of_the_day_turn_at_the_members_own_hours(clock: str, part: str, offset_hours: float) -> None:
    hours, minutes, seconds = (int(number) for number in clock.split(":"))
    local_s = 3 * DAY_S + hours * HOUR_S + minutes * 60 + seconds
    at_s = np.array([local_s - int(offset_hours * HOUR_S)])
    assert DAYPARTS[daypart(at_s, np.array([offset_hours]))[0]] == part


def test_feature_names_are_distinct() -> None:
    assert len(set(FEATURES)) == len(FEATURES) == 53


RUN_MEMBERS, RUN_DAYS = 60, 9


@pytest.fixture(scope="module")
def run(spec: Spec) -> tuple[NotificationEnv, list[Step], list[Events]]:
    """A run longer than the longest window, and what happened in each of its cycles, the week before it included."""
    happened: list[Events] = []

    class Witnessed(Dynamics):
        def advance(self, *args: Any) -> Events:
            happened.append(super().advance(*args))
            return happened[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("simulator.env.Dynamics", Witnessed)
        env = NotificationEnv(spec, RUN_MEMBERS, RUN_DAYS)
        return env, list(rollout(env, ThresholdPolicy(), seed=3)), happened


def test_counts_by_type_and_daypart_are_those_of_the_events_of_a_run(
    run: tuple[NotificationEnv, list[Step], list[Events]],
) -> None:
    env, steps, happened = run
    names = [name for name in ACTIVITY if name.endswith(tuple(f"_{kind}" for kind in (*TYPES, *DAYPARTS)))]
    assert len(names) == 28
    # (member, what, its kind, when)
    facts: list[tuple[int, str, str, int]] = []
    for events in happened:
        for member, at_s in zip(events.visit_members.tolist(), events.visit_times_s.tolist(), strict=True):
            offset = float(env.profile.utc_offset_hours[member])
            local = START + timedelta(seconds=at_s, hours=offset)
            facts.append((member, "visits", DAYPARTS[local.hour // 6], at_s))
    for step, events in zip(steps, happened[-len(steps) :], strict=True):
        now_s = seconds(step)
        for member, action in enumerate(step.actions.tolist()):
            kind = TYPES[step.observation["type"][member]]
            if action != NONE:
                facts.append((member, "sends", kind, int(now_s[member])))
            if action == PUSH:
                facts.append((member, "pushes", kind, int(now_s[member])))
        for member, at_s in zip(events.click_members.tolist(), events.click_times_s.tolist(), strict=True):
            facts.append((member, "clicks", TYPES[step.observation["type"][member]], at_s))

    for member in range(RUN_MEMBERS):
        mine = [fact for fact in facts if fact[0] == member]
        for name in names:
            what, window, kind = name.split("_")
            window_s = {"24h": DAY_S, "7d": WEEK_S}[window]
            times = np.array([at_s for _, fact, of, at_s in mine if (fact, of) == (what, kind)], dtype=np.int64)
            for step in steps:
                now_s = seconds(step)[member]
                expected = ((times > now_s - window_s) & (times < now_s)).sum()
                assert step.observation["member"][member, FEATURES.index(name)] == expected, (name, step.cycle)
    # A count that never moved would have proved nothing.
    seen = np.concatenate([step.observation["member"] for step in steps])
    assert [name for name in names if not seen[:, FEATURES.index(name)].any()] == []


def test_counts_of_all_types_and_dayparts_make_up_the_totals(
    run: tuple[NotificationEnv, list[Step], list[Events]],
) -> None:
    member = np.concatenate([step.observation["member"] for step in run[1]])
    known = dict(zip(FEATURES, member.T, strict=True))
    parts: dict[str, tuple[str, ...]] = dict.fromkeys(("sends_24h", "sends_7d", "clicks_24h", "clicks_7d"), TYPES)
    parts |= {"pushes_7d": PUSH_TYPES, "visits_7d": DAYPARTS}
    for name, kinds in parts.items():
        assert known[name].any()
        np.testing.assert_array_equal(sum(known[f"{name}_{kind}"] for kind in kinds), known[name])
    np.testing.assert_array_equal(known["pushes_7d"] + known["badges_7d"], known["sends_7d"])
    for kind in PUSH_TYPES:
        assert (known[f"pushes_7d_{kind}"] <= known[f"sends_7d_{kind}"]).all()
    for kind in TYPES:
        for what in ("sends", "clicks"):
            assert (known[f"{what}_24h_{kind}"] <= known[f"{what}_7d_{kind}"]).all()


def seconds(step: Step) -> IntArray:
    """Return when each member of ``step`` was decided on, in seconds since START."""
    since_ms: IntArray = step.observation["decided_at_ms"] - int(START.timestamp() * 1000)
    return since_ms // 1000
