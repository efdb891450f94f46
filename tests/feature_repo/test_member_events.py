"""A member's counters are the same whatever order events come in, how often, and in how many portions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from feast import FeatureView, Field
from feast.types import Int64
from hypothesis import given
from hypothesis import strategies as st

from contracts.errors import SpecError
from contracts.send_hours import COLUMNS, pack_hours, unpack_hours
from feature_repo.event_lines import parse_event
from feature_repo.event_rules import HOUR_US, EventRules
from feature_repo.heartsteps import heartsteps_live
from feature_repo.member_events import KEEP_US, NEVER_US, Event, MemberEvents
from feature_repo.notification import member_live

pytestmark = pytest.mark.unit

RULES = EventRules.of(member_live)
FEATURES = tuple(feature.name for feature in member_live.features)
START_US = 490_000 * HOUR_US
KINDS = ("visit", "click", "push", "badge")


def base_row(**values: int) -> dict[str, Any]:
    return {**dict.fromkeys(FEATURES, 0), **values}


events = st.lists(
    st.builds(
        Event,
        member_id=st.just("m"),
        kind=st.sampled_from(KINDS),
        event_id=st.integers(0, 40).map(str),
        at_us=st.integers(-2 * HOUR_US, KEEP_US - 1).map(START_US.__add__),
    ),
    max_size=40,
    # One id is one event, in all its deliveries.
    unique_by=lambda event: event.event_id,
)


def counts_of(state: MemberEvents) -> tuple[int, int]:
    row = state.row(RULES)
    return int(row["visits_total"] or 0), int(row["clicks_total"] or 0)


def plain(base: dict[str, Any], happened: list[Event]) -> dict[str, Any]:
    """The features by their descriptions, counted one by one."""
    row = dict(base)
    after = [event for event in happened if event.at_us > START_US]
    of = {kind: [event.at_us for event in after if event.kind == kind] for kind in KINDS}
    row["visits_total"] += len(of["visit"])
    row["clicks_total"] += len(of["click"])
    if of["visit"]:
        row["badge_count"] = sum(at_us > max(of["visit"]) for at_us in of["badge"])
    else:
        row["badge_count"] += len(of["badge"])
    for kind in KINDS:
        row[f"last_{kind}_ms"] = max([base[f"last_{kind}_ms"], *(at_us // 1000 for at_us in of[kind])])
    row["last_send_ms"] = max(base["last_send_ms"], row["last_push_ms"], row["last_badge_ms"])
    sends = of["push"] + of["badge"]
    # The base's sends were in the hour of its last one.
    old_hour = base["last_send_ms"] // 3_600_000
    old = int(unpack_hours(np.array([[base[name] for name in COLUMNS]]))[0].sum())
    counts = np.zeros((1, 24), dtype=np.int64)
    last_hour = row["last_send_ms"] // 3_600_000
    for hour, count in [(old_hour, old), *((at_us // HOUR_US, 1) for at_us in sends)]:
        if hour > last_hour - 24:
            counts[0, hour % 24] += count
    return row | dict(zip(COLUMNS, pack_hours(counts)[0].tolist(), strict=True))


@given(happened=events, base_sends=st.integers(0, 3), data=st.data())
def test_any_order_repetition_and_split_give_what_counting_gives(
    happened: list[Event], base_sends: int, data: st.DataObject
) -> None:
    last_ms = (START_US - 5 * HOUR_US) // 1000
    counts = np.zeros((1, 24), dtype=np.int64)
    counts[0, last_ms // 3_600_000 % 24] = base_sends
    hours = dict(zip(COLUMNS, pack_hours(counts)[0].tolist(), strict=True))
    base = base_row(visits_total=7, clicks_total=2, badge_count=1, last_push_ms=last_ms, last_send_ms=last_ms, **hours)
    deliveries = data.draw(
        st.permutations(happened + data.draw(st.lists(st.sampled_from(happened)) if happened else st.just([])))
    )
    state = MemberEvents.begin(START_US, base)
    verdicts: dict[str, int] = {}
    counters = counts_of(state)
    while deliveries:
        size = data.draw(st.integers(1, len(deliveries)))
        before = state
        state, found = MemberEvents.load(state.dump(), FEATURES).with_events(deliveries[:size], RULES)
        deliveries = deliveries[size:]
        assert (state.pushed_us > before.pushed_us) == (found["counted"] > 0)
        now = counts_of(state)
        assert all(old <= new for old, new in zip(counters, now, strict=True))
        counters = now
        for verdict, count in found.items():
            verdicts[verdict] = verdicts.get(verdict, 0) + count
    assert state.row(RULES) == plain(base, happened)
    assert verdicts.get("counted", 0) == sum(event.at_us > START_US for event in happened)


@given(st.lists(st.tuples(st.sampled_from(KINDS), st.integers(0, 5 * KEEP_US)), max_size=60))
def test_ids_are_forgotten_and_nothing_is_counted_twice_or_taken_back(drawn: list[tuple[str, int]]) -> None:
    happened = [Event("m", kind, str(i), START_US + after) for i, (kind, after) in enumerate(drawn)]
    state, visits, counted = MemberEvents.begin(NEVER_US, base_row()), 0, 0
    for event in [*happened, *happened, *reversed(happened)]:
        state, found = state.with_events([event], RULES)
        counted += found["counted"] * (event.kind == "visit")
        assert counts_of(state)[0] == counted >= visits
        visits = counted
    assert counted <= sum(event.kind == "visit" for event in happened)
    assert all(at_us > state.events[-1][0] - KEEP_US for at_us, _, _ in state.events)


def test_an_old_event_folded_into_the_base_changes_no_feature() -> None:
    old = [Event("m", kind, f"old {kind}", START_US + i) for i, kind in enumerate(KINDS)]
    new = [Event("m", kind, f"new {kind}", START_US + KEEP_US + 10 + i) for i, kind in enumerate(KINDS)]
    state, _ = MemberEvents.begin(START_US - 1, base_row()).with_events([*old, *new], RULES)
    assert len(state.events) == len(new)
    assert state.row(RULES) == RULES.fold(base_row(), [(event.at_us, event.kind) for event in (*old, *new)])


def test_a_newer_row_of_a_table_speaks_for_the_events_up_to_its_time() -> None:
    first, second = Event("m", "visit", "1", START_US + 10), Event("m", "visit", "2", START_US + 30)
    state, _ = MemberEvents.begin(START_US, base_row(visits_total=5)).with_events([first, second], RULES)
    assert state.row(RULES)["visits_total"] == 7
    state = state.rebased(START_US + 20, base_row(visits_total=8))
    assert state.row(RULES)["visits_total"] == 9
    assert state.pushed_us == START_US + 21
    state, found = state.with_events([first, second], RULES)
    assert (found["too_late"], found["duplicates"]) == (1, 1)


def test_features_without_a_rule_stay_as_the_table_has_them() -> None:
    view = FeatureView(
        name="v",
        entities=[],
        schema=[Field(name="seen", dtype=Int64, tags={"events": "count visit"}), Field(name="age", dtype=Int64)],
    )
    assert EventRules.of(view).fold({"seen": None, "age": 3}, [(1, "visit")]) == {"seen": 1, "age": 3}


@pytest.mark.parametrize("rule", ["", "sum visit", "count", "count since visit", "count a since", "hours push"])
def test_a_tag_that_is_no_rule_names_view_feature_and_rule(rule: str) -> None:
    view = FeatureView(name="v", entities=[], schema=[Field(name="seen", dtype=Int64, tags={"events": rule})])
    with pytest.raises(SpecError, match=r"feature view 'v': seen: "):
        EventRules.of(view)


def test_heartsteps_counts_sessions_and_dates_suggestions() -> None:
    rules = EventRules.of(heartsteps_live)
    assert rules.kinds == {"session", "stand", "walk"}
    row = rules.fold({"app_sessions_total": 3.0, "last_send_ms": None}, [(5_000, "walk"), (2_000, "session")])
    assert row == {"app_sessions_total": 4.0, "last_send_ms": 5}
    assert not any(isinstance(value, float) and math.isnan(value) for value in row.values())


def test_a_line_is_an_event() -> None:
    line = '{"member_id": 7, "kind": "visit", "event_id": "e", "at": "2026-01-05T01:00:00+01:00", "page": "home"}'
    assert parse_event(line) == Event("7", "visit", "e", 1_767_571_200_000_000)
    assert parse_event(line.replace('"2026-01-05T01:00:00+01:00"', "1767571200000")) == parse_event(line)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("visit", "no JSON"),
        ("[1]", "an event is an object"),
        ('{"kind": "visit", "event_id": "e", "at": 1}', "member_id = None: must be text"),
        ('{"member_id": "a", "kind": "visit", "event_id": "", "at": 1}', "event_id = ''"),
        ('{"member_id": "\\ud800", "kind": "visit", "event_id": "e", "at": 1}', "no valid text"),
        ('{"member_id": "a", "kind": "visit", "event_id": "e", "at": "2026-01-05"}', "RFC 3339 with an offset"),
        ('{"member_id": "a", "kind": "visit", "event_id": "e", "at": 1e3}', "at = 1000.0"),
        ('{"member_id": "a", "kind": "visit", "event_id": "e", "at": 99999999999999999}', "Unix time in ms"),
        ('{"member_id": "a", "kind": "visit", "event_id": "e", "at": -1}', "before 1970"),
    ],
)
def test_a_line_that_is_no_event_says_why(line: str, says: str) -> None:
    with pytest.raises(ValueError, match="(?s)" + says.replace("[", r"\[")):
        parse_event(line)
