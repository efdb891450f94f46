"""What every store promises, checked on each: the tests know only the RingStore interface."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from contracts.errors import StoreError
from sequence_store import Append, AppendOutcome, FloatGroup, Layout
from tests.sequence_store.samples import DAY_MS, LAYOUT, NOW_MS, append_one, grow, make_entry, read_one
from tests.sequence_store.stores import Harness


def test_a_member_never_seen_has_an_empty_ring(harness: Harness) -> None:
    ring = read_one(harness.open(), "nobody")
    assert (ring.member_id, ring.entries, ring.version.count, ring.skipped) == ("nobody", (), 0, {})


def test_an_entry_reads_back_equal_and_as_a_read_only_view(harness: Harness) -> None:
    store = harness.open()
    entry = append_one(store)
    ring = read_one(store)
    assert ring.entries == (entry,)
    assert ring.version.count == 1
    assert not ring.entries[0].floats["state"].flags.writeable


@pytest.mark.parametrize("capacity", [1, 2, 11, 16])
@pytest.mark.parametrize("laps", [0, 1, 2])
@pytest.mark.parametrize("beyond", [-1, 0, 1])
def test_order_is_true_whatever_the_physical_order(harness: Harness, capacity: int, laps: int, beyond: int) -> None:
    count = max(0, laps * capacity + beyond)
    store = harness.open(capacity=capacity)
    grow(store, count)
    ring = read_one(store)
    assert [entry.sequence for entry in ring.entries] == list(range(max(0, count - capacity), count))
    assert ring.version.count == count
    assert ring.entries == tuple(make_entry(entry.sequence) for entry in ring.entries)


def test_order_is_by_sequence_and_never_by_clock(harness: Harness) -> None:
    store = harness.open(capacity=12)
    times = [NOW_MS - 3, NOW_MS + 500 * DAY_MS, NOW_MS, NOW_MS, NOW_MS - DAY_MS]
    for at_ms in times:
        append_one(store, at_ms=at_ms)
    assert [entry.at_ms for entry in read_one(store).entries] == times


def test_of_two_appends_from_one_read_one_wins_and_the_other_is_told(harness: Harness) -> None:
    store = harness.open()
    version = read_one(store).version
    first, second = (Append("m", version, make_entry(0, cycle_id=cycle), cycle.encode()) for cycle in ("a", "b"))
    assert store.append([first, second]) == [AppendOutcome.APPENDED, AppendOutcome.CONFLICT]
    assert store.append([second]) == [AppendOutcome.CONFLICT]
    assert [entry.cycle_id for entry in read_one(store).entries] == ["a"]
    assert [row for _, row in store.drain(10)] == [b"a"]


def test_an_item_that_is_wrong_leaves_the_others_of_its_batch_unharmed(harness: Harness) -> None:
    store = harness.open()
    version = read_one(store).version
    outcomes = store.append(
        [
            Append("a", version, make_entry(0), None),
            Append("b", version, make_entry(7), b"row"),
            Append("", version, make_entry(0), None),
            Append("c", version, make_entry(0), None),
        ]
    )
    assert [outcomes[0], outcomes[3]] == [AppendOutcome.APPENDED] * 2
    assert "'b'" in str(outcomes[1])
    assert "sequence 7" in str(outcomes[1])
    assert isinstance(outcomes[2], StoreError)
    assert [len(ring.entries) for ring in store.read(["a", "b", "c"], [NOW_MS] * 3)] == [1, 0, 1]
    assert store.drain(10) == []


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"cycle_id": "x" * 16 * 1024 * 1024}, "cycle_id"),
        ({"model": "é" * 40_000}, "80000 bytes"),
        ({"notification_id": "\ud800"}, "notification_id"),
        ({"mask_key": 5}, "mask_key"),
        ({"action": 3}, "action = 3"),
        ({"action": -1}, "action = -1"),
        ({"eligible": 8}, "eligible = 8"),
        ({"at_ms": -1}, "at_ms = -1"),
        ({"at_ms": 2**48}, "at_ms"),
        ({"at_ms": 0.5}, "at_ms = 0.5"),
        ({"floats": {}}, "float groups"),
        ({"floats": {**make_entry().floats, "scores": np.zeros(2, np.float32)}}, "'scores' has shape"),
        ({"floats": {**make_entry().floats, "scores": np.zeros(1, np.int64)}}, "'scores' is int64"),
    ],
)
def test_an_entry_beyond_the_limits_is_refused_by_name(
    harness: Harness, changes: dict[str, Any], complaint: str
) -> None:
    store = harness.open()
    (outcome,) = store.append([Append("m", read_one(store).version, make_entry(0, **changes), None)])
    assert isinstance(outcome, StoreError)
    assert complaint in str(outcome)
    assert len(str(outcome)) < 500
    assert read_one(store).version.count == 0


def test_a_log_row_beyond_the_limit_is_refused(harness: Harness) -> None:
    store = harness.open()
    (outcome,) = store.append([Append("m", read_one(store).version, make_entry(), bytes(2 * 1024 * 1024))])
    assert "log_row" in str(outcome)


def test_an_entry_under_another_layout_than_the_stores_is_refused(harness: Harness) -> None:
    store = harness.open()
    other = Layout((), ("none",))
    (outcome,) = store.append([Append("m", read_one(store).version, make_entry(0, layout=other), None)])
    assert other.fingerprint.hex() in str(outcome)


@pytest.mark.parametrize("member_id", ["\0", "a\0b", "😀" * 128, "{x}:r:y", "0", "x" * 512, "-", " "])
def test_any_member_id_of_up_to_512_bytes_has_its_own_ring(harness: Harness, member_id: str) -> None:
    store = harness.open()
    strange = "NUL \0 and \N{ROCKET}"
    entry = append_one(store, member_id, cycle_id=strange, mask_key=strange)
    assert read_one(store, member_id).entries == (entry,)
    assert read_one(store, member_id + "x" if len(member_id) < 100 else "x").entries == ()


@pytest.mark.parametrize("member_id", ["", "x" * 513, "é" * 257, "\ud800"])
def test_another_member_id_is_refused(harness: Harness, member_id: str) -> None:
    with pytest.raises(StoreError, match="member_id"):
        harness.open().read([member_id], [NOW_MS])


def test_a_batch_is_read_in_the_order_asked_repeats_included(harness: Harness) -> None:
    store = harness.open()
    for member_id in ("a", "b"):
        append_one(store, member_id, cycle_id=member_id)
    rings = store.read(["b", "nobody", "a", "b"], [NOW_MS] * 4)
    assert [ring.member_id for ring in rings] == ["b", "nobody", "a", "b"]
    assert [ring.cycle("b") is not None for ring in rings] == [True, False, False, True]
    assert store.read([], []) == []
    assert store.append([]) == []
    with pytest.raises(ValueError, match="now_ms"):
        store.read(["a"], [])


def test_aged_entries_are_left_out_and_counted_and_future_ones_are_not(harness: Harness) -> None:
    store = harness.open(ttl_days=14)
    for at_ms in (NOW_MS - 14 * DAY_MS - 1, NOW_MS - 14 * DAY_MS, NOW_MS + 900 * DAY_MS):
        append_one(store, at_ms=at_ms)
    ring = read_one(store)
    assert [entry.sequence for entry in ring.entries] == [1, 2]
    assert ring.skipped == {"expired": 1}
    assert ring.version.count == 3


def test_a_ring_that_expired_after_the_read_is_noticed(harness: Harness) -> None:
    store = harness.open()
    grow(store, 2)
    version = read_one(store).version
    harness.expire_rings()
    assert store.append([Append("m", version, make_entry(2), None)]) == [AppendOutcome.CONFLICT]
    assert read_one(store).version.count == 0


def test_a_ring_that_expired_and_grew_to_the_same_count_is_noticed(harness: Harness) -> None:
    store = harness.open()
    grow(store, 2)
    version = read_one(store).version
    harness.expire_rings()
    grow(store, 2)
    assert store.append([Append("m", version, make_entry(2), None)]) == [AppendOutcome.CONFLICT]
    assert [entry.sequence for entry in read_one(store).entries] == [0, 1]


def test_emptying_is_noticed_by_an_append_on_its_way_and_rings_start_anew(harness: Harness) -> None:
    store = harness.open()
    grow(store, 20)
    grown, absent = (ring.version for ring in store.read(["m", "new"], [NOW_MS] * 2))
    store.empty()
    assert [ring.entries for ring in store.read(["m", "new"], [NOW_MS] * 2)] == [(), ()]
    late = [Append("m", grown, make_entry(20), None), Append("new", absent, make_entry(0), None)]
    assert store.append(late) == [AppendOutcome.CONFLICT] * 2
    entry = append_one(store)
    assert read_one(store).entries == (entry,)


def test_a_cycle_is_found_again_whatever_its_mask_key(harness: Harness) -> None:
    store = harness.open()
    append_one(store, mask_key="retired", cycle_id="morning")
    entry = append_one(store, mask_key="live", cycle_id="noon")
    ring = read_one(store)
    assert ring.cycle("noon") == entry
    assert ring.cycle("morning") is not None
    assert ring.cycle("evening") is None


def test_history_holds_the_accepted_mask_keys(harness: Harness) -> None:
    store = harness.open()
    for mask_key in ("utility-v1", "utility-v2", "other", "a[b]"):
        append_one(store, mask_key=mask_key)
    ring = read_one(store)

    def kept(*accept: str) -> list[str]:
        return [entry.mask_key for entry in ring.history(accept)]

    assert kept("utility-v1") == ["utility-v1"]
    assert kept("utility-*") == ["utility-v1", "utility-v2"]
    assert kept("other", "*v1") == ["utility-v1", "other"]
    assert kept("a[b]") == ["a[b]"]
    assert kept("*") == ["utility-v1", "utility-v2", "other", "a[b]"]
    assert kept() == []


def test_log_rows_wait_in_the_outbox_until_they_are_confirmed(harness: Harness) -> None:
    store = harness.open()
    rows = [f"{member}-{number}".encode() for number in range(3) for member in "abcde"]
    for row in rows:
        append_one(store, row.decode()[0], log_row=row)
    append_one(store, "a", log_row=None)
    seen: list[bytes] = []
    while drained := store.drain(4):
        assert store.drain(4) == drained
        assert len(drained) <= 4
        assert store.trim([cursor for cursor, _ in drained]) == len(drained)
        assert store.trim([cursor for cursor, _ in drained]) == 0
        seen += [row for _, row in drained]
    assert sorted(seen) == sorted(rows)
    for member in b"abcde":
        assert [row for row in seen if row[0] == member] == [row for row in rows if row[0] == member]
    assert store.trim([]) == 0
    with pytest.raises(ValueError, match="limit"):
        store.drain(0)


def test_trimming_keeps_rows_that_came_after_the_drain(harness: Harness) -> None:
    store = harness.open()
    append_one(store, log_row=b"first")
    drained = store.drain(10)
    append_one(store, log_row=b"second")
    assert store.trim([cursor for cursor, _ in drained]) == 1
    assert [row for _, row in store.drain(10)] == [b"second"]


def test_emptying_keeps_the_outbox(harness: Harness) -> None:
    store = harness.open()
    append_one(store, log_row=b"row")
    store.empty()
    assert [row for _, row in store.drain(10)] == [b"row"]


def test_tenants_see_nothing_of_each_other(harness: Harness) -> None:
    one, other = harness.open(), harness.open()
    append_one(one, log_row=b"row")
    assert read_one(other).entries == ()
    assert other.drain(10) == []


@pytest.mark.parametrize("columns", [0, 10_000])
def test_no_columns_and_ten_thousand_are_possible(harness: Harness, columns: int) -> None:
    group = FloatGroup("state", tuple(map(str, range(columns))), "float64")
    layout = replace(LAYOUT, groups=(group,))
    store = harness.open(layout=layout)
    entry = append_one(store, layout=layout)
    assert read_one(store).entries == (entry,)


def test_no_groups_at_all_are_possible(harness: Harness) -> None:
    layout = Layout((), ("none",))
    store = harness.open(layout=layout)
    entry = append_one(store, layout=layout)
    assert read_one(store).entries == (entry,)


@pytest.mark.parametrize("bounds", [{"capacity": 0}, {"capacity": 1025}, {"ttl_days": 0.0}, {"ttl_days": float("inf")}])
def test_a_bound_out_of_range_is_refused(harness: Harness, bounds: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="ring"):
        harness.open(**bounds)  # type: ignore[arg-type]


def test_concurrent_writers_append_or_are_refused_and_never_both_or_neither(harness: Harness) -> None:
    store = harness.open(capacity=1000)
    outcomes: list[AppendOutcome | StoreError] = []
    start = threading.Barrier(8)

    def write(writer: int) -> None:
        start.wait()
        for attempt in range(20):
            version = read_one(store).version
            cycle = f"{writer}-{attempt}"
            outcomes.extend(
                store.append([Append("m", version, make_entry(version.count, cycle_id=cycle), cycle.encode())])
            )

    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    ring = read_one(store)
    appended = outcomes.count(AppendOutcome.APPENDED)
    assert appended + outcomes.count(AppendOutcome.CONFLICT) == len(outcomes) == 160
    assert ring.version.count == len(ring.entries) == appended
    assert [entry.sequence for entry in ring.entries] == list(range(appended))
    cycles = [entry.cycle_id for entry in ring.entries]
    assert len(set(cycles)) == appended
    assert [row.decode() for _, row in store.drain(64_000)] == cycles
