"""What every store promises, checked on each: the tests know only the RingStore interface."""

from __future__ import annotations

import random
import threading
from typing import Any

import numpy as np
import pytest

from contracts.errors import StoreError
from sequence_store import Append, AppendOutcome, FloatGroup, Layout, RingStore, Version
from sequence_store.layout import SCALED, Storage
from tests.sequence_store.samples import (
    DAY_MS,
    LAYOUT,
    NOW_MS,
    OTHER_LAYOUTS,
    append_one,
    grow,
    layout_with,
    make_entry,
    read_many,
    read_one,
)
from tests.sequence_store.stores import Harness

STRANGE = (
    "NUL \0, \N{ROCKET}, \N{WOMAN}\N{ZERO WIDTH JOINER}\N{PERSONAL COMPUTER}, \r\n, e\N{COMBINING ACUTE ACCENT}, \uffff"
)
SMALL = Layout((), ("none",))
TEXTS = ("mask_key", "cycle_id", "notification_id", "model")


def test_a_member_never_seen_has_an_empty_ring(harness: Harness) -> None:
    ring = read_one(harness.open(), "nobody")
    assert (ring.member_id, ring.entries, ring.version.count, ring.skipped) == ("nobody", (), 0, {})


def test_an_entry_reads_back_equal_and_as_a_read_only_view(harness: Harness) -> None:
    store = harness.open()
    entry = append_one(store)
    ring = read_one(store)
    assert ring.entries == (entry,)
    assert ring.version.count == 1
    assert not any(array.flags.writeable for array in ring.entries[0].floats.values())


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
    backwards, from_the_future, equal = NOW_MS - DAY_MS, NOW_MS + 500 * DAY_MS, [NOW_MS] * 5
    times = [NOW_MS - 3, from_the_future, *equal, backwards, 2**48 - 1, NOW_MS - 14 * DAY_MS]
    for at_ms in times:
        append_one(store, at_ms=at_ms)
    ring = read_one(store)
    assert [entry.at_ms for entry in ring.entries] == [longs.at_ms for longs in ring.longs] == times
    assert [entry.at_ms for entry in ring.newest()] == times[::-1]
    assert ring.skipped == {}


def test_a_clock_that_goes_backwards_makes_no_entry_older_than_it_is(harness: Harness) -> None:
    store = harness.open(ttl_days=14)
    for at_ms in (NOW_MS, NOW_MS - 20 * DAY_MS, NOW_MS):
        append_one(store, at_ms=at_ms)
    early, late = (read_one(store, now_ms=NOW_MS + days * DAY_MS) for days in (-20, 1))
    assert [entry.sequence for entry in early.entries] == [0, 1, 2]
    assert [entry.sequence for entry in late.entries] == [0, 2]
    assert [entry.sequence for entry in late.aged] == [1]


def test_a_ring_says_what_it_has_without_decoding_it(harness: Harness) -> None:
    store = harness.open()
    entries = [append_one(store, at_ms=NOW_MS - days * DAY_MS, action=days % 3) for days in (20, 3, 0)]
    ring = read_one(store)
    assert [longs._asdict() for longs in ring.longs] == [
        {name: getattr(entry, name) for name in ("sequence", "at_ms", "action", "eligible")} for entry in entries[1:]
    ]
    assert [ring.at(sequence) for sequence in range(-1, 4)] == [None, None, *entries[1:], None]
    assert ring.entries == tuple(entries[1:])
    assert ring.aged == (entries[0],)
    assert next(ring.newest()) == entries[2]


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
    assert [len(ring.entries) for ring in read_many(store, ["a", "b", "c"])] == [1, 0, 1]
    assert store.drain(10) == []


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        *(({name: "x" * 16 * 1024 * 1024}, name) for name in TEXTS),
        ({"model": "x" * (64 * 1024 + 1)}, "65537 bytes"),
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
        ({"floats": {**make_entry().floats, "state": np.zeros((1, 45))}}, "'state' has shape"),
        ({"floats": {**make_entry().floats, "more": np.zeros(1)}}, "'more'"),
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
    entry = append_one(store, member_id)
    assert read_one(store, member_id).entries == (entry,)
    assert read_one(store, member_id + "x" if len(member_id) < 100 else "x").entries == ()


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("text", ["", STRANGE, "x" * 64 * 1024, "é" * 32 * 1024])
def test_any_text_of_up_to_64_kib_comes_back(harness: Harness, name: str, text: str) -> None:
    store = harness.open()
    changes: dict[str, Any] = {name: text}
    entry = append_one(store, **changes)
    ring = read_one(store)
    assert ring.entries == (entry,)
    assert ring.cycle(entry.cycle_id) == entry


def test_a_version_that_was_not_read_is_refused(harness: Harness) -> None:
    store = harness.open()
    (outcome,) = store.append([Append("m", Version(0, 0), make_entry(0), b"row")])
    assert "read the ring first" in str(outcome)
    assert store.drain(10) == []


@pytest.mark.parametrize("member_id", ["", "x" * 513, "é" * 257, "\ud800"])
def test_another_member_id_is_refused(harness: Harness, member_id: str) -> None:
    with pytest.raises(StoreError, match="member_id"):
        harness.open().read([member_id], [NOW_MS])


def test_a_batch_is_read_in_the_order_asked_repeats_included(harness: Harness) -> None:
    store = harness.open()
    for member_id in ("a", "b"):
        append_one(store, member_id, cycle_id=member_id)
    rings = read_many(store, ["b", "nobody", "a", "b"])
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
    grown, absent = (ring.version for ring in read_many(store, ["m", "new"]))
    store.empty()
    assert [ring.entries for ring in read_many(store, ["m", "new"])] == [(), ()]
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


@pytest.mark.parametrize("kind", ["float64", "float32", "float16", "uint16", "uint8"])
@pytest.mark.parametrize("columns", [0, 10_000])
def test_no_columns_and_ten_thousand_are_possible(harness: Harness, columns: int, kind: Storage) -> None:
    scales = ((0.0, 0.125),) * columns if kind in SCALED else ()
    layout = Layout((FloatGroup("state", tuple(map(str, range(columns))), kind, scales),), ("none",))
    store = harness.open(layout=layout, capacity=3)
    entries = [append_one(store, layout=layout) for _ in range(4)]
    assert list(read_one(store).entries) == entries[1:]


def test_no_groups_at_all_are_possible(harness: Harness) -> None:
    layout = Layout((), ("none",))
    store = harness.open(layout=layout)
    entry = append_one(store, layout=layout)
    assert read_one(store).entries == (entry,)


@pytest.mark.parametrize("bounds", [{"capacity": 0}, {"capacity": 1025}, {"ttl_days": 0.0}, {"ttl_days": float("inf")}])
def test_a_bound_out_of_range_is_refused(harness: Harness, bounds: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="ring"):
        harness.open(**bounds)  # type: ignore[arg-type]


@pytest.mark.parametrize("change", OTHER_LAYOUTS)
def test_entries_under_an_older_layout_keep_their_meaning(harness: Harness, change: str) -> None:
    older, newer = layout_with(OTHER_LAYOUTS[change]), LAYOUT
    store = harness.open(layout=older)
    entries = [append_one(store, layout=older) for _ in range(3)]
    store = harness.restart(store, layout=newer)
    entries += [append_one(store, layout=newer) for _ in range(2)]
    for current in (newer, older):
        store = harness.restart(store, layout=current)
        ring = read_one(store)
        assert list(ring.entries) == entries
        assert [entry.layout for entry in ring.entries] == [older] * 3 + [newer] * 2
        assert ring.skipped == {}


@pytest.mark.parametrize("count", [0, 5, 11, 12, 30])
@pytest.mark.parametrize(("before", "after"), [(12, 20), (20, 12), (12, 1), (1, 12), (12, 13)])
def test_a_changed_capacity_keeps_the_newest_entries(harness: Harness, before: int, after: int, count: int) -> None:
    store = harness.open(capacity=before)
    grow(store, count)
    store = harness.restart(store, capacity=after)
    for appended in range(count, count + 25):
        kept = min(appended, after, min(count, before) + appended - count)
        assert [entry.sequence for entry in read_one(store).entries] == list(range(appended - kept, appended))
        append_one(store)
    entries = read_one(store).entries
    assert entries == tuple(make_entry(entry.sequence) for entry in entries)


def test_a_capacity_read_with_and_not_written_with_costs_nothing(harness: Harness) -> None:
    store = harness.open(capacity=16)
    grow(store, 20)
    store = harness.restart(store, capacity=2)
    assert [entry.sequence for entry in read_one(store).entries] == [18, 19]
    store = harness.restart(store, capacity=16)
    assert [entry.sequence for entry in read_one(store).entries] == list(range(4, 20))


def test_a_dictionary_is_rolled_over_and_entries_under_the_old_one_are_read(harness: Harness) -> None:
    store = harness.open(capacity=5)
    for dictionary in (b"", b"notification-" * 20, b"cycle-" * 20, b"notification-" * 20, b""):
        store = harness.restart(store, capacity=5, dictionary=dictionary)
        append_one(store)
        ring = read_one(store)
        assert ring.entries == tuple(make_entry(number) for number in range(ring.version.count))
        assert ring.skipped == {}


def test_a_damaged_ring_is_read_as_far_as_it_is_sound_and_the_next_append_makes_it_whole(harness: Harness) -> None:
    store = harness.open(capacity=4)
    for bit in range(0, 8 * 400, 97):
        grow(store, 5)
        before = read_one(store)
        harness.rewrite(store, "m", lambda value, bit=bit: flipped(value, bit))  # type: ignore[misc]
        after = read_one(store)
        assert set(map(id_of, after.entries)) <= set(map(id_of, before.entries))
        assert len(after.entries) >= 3
        assert (len(after.entries) < 4) <= bool(after.skipped)
        entry = append_one(store)
        assert read_one(store).entries[-1] == entry
        grow(store, 4)
        ring = read_one(store)
        assert (len(ring.entries), ring.skipped) == (4, {})


def flipped(value: bytes, bit: int) -> bytes:
    changed = bytearray(value)
    changed[bit // 8 % len(value)] ^= 1 << bit % 8
    return bytes(changed)


def id_of(entry: Any) -> tuple[int, str]:
    return entry.sequence, entry.cycle_id


def test_another_members_ring_is_no_ring_here_and_the_next_append_starts_anew(harness: Harness) -> None:
    store = harness.open()
    copies: list[bytes] = []
    for member_id in ("theirs", "mine"):
        grow(store, 3, member_id)
    harness.rewrite(store, "theirs", lambda value: copies.append(value) or value)  # type: ignore[func-returns-value]
    harness.rewrite(store, "mine", lambda _: copies[0])
    ring = read_one(store, "mine")
    assert (ring.entries, ring.version.count, ring.skipped) == ((), 0, {"header": 1})
    entry = append_one(store, "mine")
    assert read_one(store, "mine").entries == (entry,)


@pytest.mark.parametrize("size", [1, 3, 5, 6, 22, 23])
def test_of_two_appends_from_one_read_of_a_cut_ring_one_wins(harness: Harness, size: int) -> None:
    store = harness.open()
    grow(store, 3)
    harness.rewrite(store, "m", lambda value: value[:size])
    version = read_one(store).version
    appends = [Append("m", version, make_entry(version.count, cycle_id=cycle), cycle.encode()) for cycle in "ab"]
    assert store.append(appends) == [AppendOutcome.APPENDED, AppendOutcome.CONFLICT]
    assert [entry.cycle_id for entry in read_one(store).entries][-1] == "a"


def write_at_once(store: RingStore, members: list[str], each: int, attempts: int) -> None:
    """Let 64 writers attempt appends to ``each`` members at a time, and check that every one was taken or refused."""
    outcomes: list[AppendOutcome | StoreError] = []
    start = threading.Barrier(64)

    def write(writer: int) -> None:
        dice = random.Random(writer)
        start.wait()
        for attempt in range(attempts):
            chosen = dice.sample(members, each)
            appends = [
                Append(
                    ring.member_id,
                    ring.version,
                    make_entry(ring.version.count, layout=SMALL, cycle_id=name),
                    name.encode(),
                )
                for ring, name in ((ring, f"{ring.member_id} {writer} {attempt}") for ring in read_many(store, chosen))
            ]
            outcomes.extend(store.append(appends))

    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    appended = outcomes.count(AppendOutcome.APPENDED)
    assert appended + outcomes.count(AppendOutcome.CONFLICT) == len(outcomes) == 64 * each * attempts
    rings = read_many(store, members)
    assert sum(ring.version.count for ring in rings) == appended
    cycles: dict[str, list[str]] = {member_id: [] for member_id in members}
    for _, row in store.drain(64_000):
        cycles[row.decode().split()[0]].append(row.decode())
    assert sum(map(len, cycles.values())) == appended
    for ring in rings:
        wrote = cycles[ring.member_id]
        assert len(set(wrote)) == len(wrote) == ring.version.count
        assert [entry.cycle_id for entry in ring.entries] == wrote[-16:]
        assert [entry.sequence for entry in ring.entries] == list(range(len(wrote)))[-16:]
        assert ring.skipped == {}


def test_64_writers_on_one_member_append_or_are_refused_and_never_both_or_neither(harness: Harness) -> None:
    write_at_once(harness.open(layout=SMALL), ["m"], each=1, attempts=6)


def test_64_writers_on_1000_members_append_or_are_refused_and_never_both_or_neither(harness: Harness) -> None:
    write_at_once(harness.open(layout=SMALL), [f"m{number}" for number in range(1000)], each=50, attempts=2)
