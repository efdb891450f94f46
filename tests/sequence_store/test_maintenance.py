"""Passes over all rings: what leaves, what stays, and that live traffic in between loses nothing."""

from __future__ import annotations

import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.crc import key_slot

from benchmarks.redis_cluster import RedisCluster
from benchmarks.redis_server import RedisServer
from contracts.errors import StoreError
from sequence_store import Append, AppendOutcome, Entry, RedisRingStore, packed, registry
from sequence_store.maintenance import OnPage, Pace, repush, sweep
from sequence_store.plan import Report
from sequence_store.walk import Place
from tests.sequence_store.samples import (
    DAY_MS,
    LAYOUT,
    NOW_MS,
    OTHER_LAYOUTS,
    append_one,
    layout_with,
    make_entry,
    read_one,
)
from tests.sequence_store.tenants import Tenant, some_dictionary, url_of

pytestmark = pytest.mark.integration

TTL_MS = 14 * DAY_MS
OLD_MS = NOW_MS - 15 * DAY_MS
FAST = 0.0


@pytest.fixture(params=["redis", "cluster"])
def tenant(request: pytest.FixtureRequest) -> Iterator[Tenant]:
    """A tenant on each kind of server in turn."""
    tenant = Tenant(url_of(request))
    yield tenant
    tenant.close()


def fast_repush(tenant: Tenant, *, recode: bool = False, restart: bool = False) -> Report:
    return repush(tenant.wire, tenant.keys, TTL_MS, recode=recode, pace=Pace(FAST), restart=restart, now_ms=NOW_MS)


def fast_sweep(tenant: Tenant) -> Report:
    return sweep(tenant.wire, tenant.keys, pace=Pace(FAST))


def append_at(store: RedisRingStore, times_ms: list[int], member_id: str = "m") -> list[Entry]:
    return [append_one(store, member_id, at_ms=at_ms) for at_ms in times_ms]


def test_aged_entries_leave_wherever_they_stand_and_the_rest_keeps_order_and_numbers(tenant: Tenant) -> None:
    store = tenant.open()
    first, *_, last = entries = append_at(store, [NOW_MS, OLD_MS, NOW_MS - TTL_MS, OLD_MS, NOW_MS + DAY_MS])
    before = len(tenant.value())
    report = fast_repush(tenant)
    assert (report.rings, report.rewritten, report.entries_aged) == (1, 1, 2)
    assert report.bytes_freed == before - len(tenant.value())
    ring = read_one(store)
    assert ring.entries == (first, entries[2], last)
    assert [entry.sequence for entry in ring.entries] == [0, 2, 4]
    assert (ring.version.count, ring.skipped) == (5, {})
    assert append_one(store).sequence == 5
    assert len(read_one(store).entries) == 4


def test_a_ring_without_entries_left_is_deleted_and_the_member_begins_anew(tenant: Tenant) -> None:
    store = tenant.open()
    append_at(store, [OLD_MS] * 3)
    report = fast_repush(tenant)
    assert (report.deleted, report.entries_aged) == (1, 3)
    assert tenant.value() == b""
    assert append_one(store).sequence == 0


def test_a_pass_that_needs_no_change_writes_nothing(tenant: Tenant) -> None:
    store = tenant.open()
    for number in range(30):
        append_one(store, f"member-{number}")
    values = [tenant.value(f"member-{number}") for number in range(30)]
    for _ in range(2):
        assert fast_repush(tenant, recode=True).rings == 30
    assert tenant.wire.changes == 0
    assert [tenant.value(f"member-{number}") for number in range(30)] == values


def test_what_a_pass_changes_does_not_live_longer(tenant: Tenant) -> None:
    store = tenant.open()
    append_at(store, [OLD_MS, NOW_MS])
    tenant.call("PEXPIRE", tenant.keys.ring("m"), 60_000)
    assert fast_repush(tenant).rewritten == 1
    assert 0 < tenant.expires_in_ms() <= 60_000
    append_one(store)
    assert tenant.expires_in_ms() > 60_000


def test_an_append_between_read_and_write_is_kept(tenant: Tenant) -> None:
    store = tenant.open()
    append_at(store, [OLD_MS, NOW_MS])

    def append_once() -> None:
        tenant.wire.before_changes = lambda: None
        append_one(store)

    tenant.wire.before_changes = append_once
    assert fast_repush(tenant).rewritten == 1
    assert [entry.sequence for entry in read_one(store).entries] == [1, 2]
    assert tenant.wire.changes == 2


def test_a_ring_that_changes_every_time_is_left_to_the_next_pass(tenant: Tenant) -> None:
    store = tenant.open(capacity=64)
    append_at(store, [OLD_MS, NOW_MS])
    tenant.wire.before_changes = lambda: append_one(store)
    report = fast_repush(tenant)
    assert (report.rings, report.left, report.rewritten, report.entries_aged) == (1, 1, 0, 0)
    tenant.wire.before_changes = lambda: None
    before = read_one(store).entries
    report = fast_repush(tenant)
    assert (report.left, report.rewritten, report.entries_aged) == (0, 1, 1)
    assert read_one(store).entries == before[1:]


@pytest.mark.parametrize("all_aged", [False, True])
def test_a_ring_that_is_emptied_and_begins_anew_between_read_and_write_is_kept(tenant: Tenant, all_aged: bool) -> None:
    store = tenant.open()
    append_at(store, [OLD_MS] if all_aged else [OLD_MS, NOW_MS])

    def empty() -> None:
        tenant.wire.before_changes = lambda: None
        store.empty()
        append_one(store)

    tenant.wire.before_changes = empty
    report = fast_repush(tenant)
    assert (report.rings, report.rewritten, report.deleted) == (1, 0, 0)
    assert [entry.sequence for entry in read_one(store).entries] == [0]


def test_a_ring_that_expires_between_read_and_write_does_not_come_back(tenant: Tenant) -> None:
    append_at(tenant.open(), [OLD_MS, NOW_MS])
    tenant.wire.before_changes = lambda: tenant.call("UNLINK", tenant.keys.ring("m"))
    fast_repush(tenant)
    assert tenant.value() == b""


def test_emptied_rings_are_freed_and_those_begun_since_stay(tenant: Tenant) -> None:
    store = tenant.open()
    for number in range(30):
        append_at(store, [OLD_MS, NOW_MS], f"member-{number}")
    store.empty()
    kept = append_at(store, [OLD_MS, NOW_MS], "member-7")
    report = fast_sweep(tenant)
    assert (report.rings, report.freed, report.rewritten, report.entries_aged) == (30, 29, 0, 0)
    assert report.bytes_freed > 0
    assert read_one(store, "member-7").entries == tuple(kept)
    assert [number for number in range(30) if tenant.value(f"member-{number}")] == [7]
    assert fast_sweep(tenant).freed == 0


def test_a_ring_begun_anew_between_read_and_write_is_not_freed(tenant: Tenant) -> None:
    store = tenant.open()
    append_one(store)
    store.empty()

    def append_once() -> None:
        tenant.wire.before_changes = lambda: None
        append_one(store)

    tenant.wire.before_changes = append_once
    assert fast_repush(tenant).freed == 0
    assert len(read_one(store).entries) == 1


def test_recoding_brings_entries_under_the_current_dictionary_and_changes_no_value(tenant: Tenant) -> None:
    older = layout_with(OTHER_LAYOUTS["another storage type"])
    entries = [append_one(tenant.open(layout=older), layout=older)]
    tenant.use_dictionary(1, NOW_MS)
    store = tenant.open()
    entries += append_at(store, [NOW_MS] * 3)
    dictionary = tenant.use_dictionary(2, NOW_MS)
    entries += append_at(store, [NOW_MS])
    assert len(set(tenant.codecs())) == 3
    assert fast_repush(tenant).rewritten == 0
    report = fast_repush(tenant, recode=True)
    assert (report.rewritten, report.entries_recoded, report.entries_aged) == (1, 4, 0)
    assert {codec.dictionary for codec in tenant.codecs()} == {dictionary}
    assert [codec.layout for codec in tenant.codecs()] == [older, *[LAYOUT] * 4]
    ring = read_one(tenant.open())
    assert (ring.entries, ring.version.count, ring.skipped) == (tuple(entries), 5, {})
    assert fast_repush(tenant, recode=True).entries_recoded == 0


def test_recoding_meets_appends_under_both_dictionaries(tenant: Tenant) -> None:
    store = tenant.open()
    entries = append_at(store, [NOW_MS] * 2)
    version = read_one(store).version
    tenant.use_dictionary(1, NOW_MS)

    def append_once() -> None:
        # From a read before the dictionary was there.
        tenant.wire.before_changes = lambda: None
        entry = make_entry(version.count)
        assert store.append([Append("m", version, entry, None)]) == [AppendOutcome.APPENDED]
        entries.append(entry)

    tenant.wire.before_changes = append_once
    assert fast_repush(tenant, recode=True).entries_recoded == 3
    assert read_one(store).entries == tuple(entries)


def test_what_is_of_a_later_release_stays_as_it_is(tenant: Tenant) -> None:
    later = layout_with(OTHER_LAYOUTS["feature added"])
    append_at(tenant.open(), [OLD_MS, NOW_MS])
    append_one(tenant.open(layout=later), layout=later)
    fingerprint = later.fingerprint.hex()
    tenant.call("HSET", tenant.keys.codecs, f"layout:{fingerprint}", '{"later": 1}', "epoch", "another")
    tenant.use_dictionary(1, NOW_MS)
    report = fast_repush(tenant, recode=True)
    assert (report.entries_aged, report.entries_recoded, report.foreign) == (1, 1, 1)
    tenant.call("HSET", tenant.keys.codecs, f"layout:{fingerprint}", later.to_json(), "epoch", "and another")
    ring = read_one(tenant.open())
    assert [(entry.sequence, entry.layout) for entry in ring.entries] == [(1, LAYOUT), (2, later)]
    foreign = bytes([packed.VERSION + 1]) + tenant.value()[1:]
    tenant.call("SET", tenant.keys.ring("m"), foreign)
    assert fast_repush(tenant, recode=True).foreign == 1
    assert tenant.value() == foreign


def test_rings_of_a_generation_that_was_lost_stay_as_they_are(tenant: Tenant) -> None:
    store = tenant.open()
    store.empty()
    append_one(store)
    value = tenant.value()
    tenant.call("DEL", tenant.keys.generation(tenant.keys.bucket("m")))
    assert fast_repush(tenant).foreign == 1
    assert tenant.value() == value


def test_a_damaged_ring_stays_as_it_is_unless_an_aged_entry_is_in_it(tenant: Tenant) -> None:
    store = tenant.open()
    for member_id, first_ms in (("fresh", NOW_MS), ("m", OLD_MS)):
        append_at(store, [first_ms, NOW_MS], member_id)
        value = bytearray(tenant.value(member_id))
        value[5] ^= 1
        tenant.call("SET", tenant.keys.ring(member_id), bytes(value), "KEEPTTL")
    fresh = tenant.value("fresh")
    report = fast_repush(tenant)
    assert (report.damaged, report.rewritten, report.entries_aged) == (2, 1, 1)
    assert tenant.value("fresh") == fresh
    assert [entry.sequence for entry in read_one(store).entries] == [1]
    assert read_one(store).skipped == {}
    append_one(store)
    append_one(store, "fresh")


def test_keys_of_another_number_of_buckets_are_counted_and_left(tenant: Tenant) -> None:
    append_one(tenant.open())
    stray = f"{{{tenant.name}:99}}:m:m".encode()
    tenant.call("SET", stray, "anything")
    tenant.call("SET", stray + b"\xff", "anything")
    report = fast_repush(tenant)
    assert (report.rings, report.misplaced) == (1, 2)
    assert tenant.call("GET", stray) == b"anything"


times = st.lists(st.integers(NOW_MS - 30 * DAY_MS, NOW_MS + DAY_MS), min_size=1, max_size=40)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(times_ms=times, capacity=st.integers(1, 20), recode=st.booleans())
def test_any_history_is_after_a_pass_what_it_was_without_the_aged_entries(
    redis_server: RedisServer, times_ms: list[int], capacity: int, recode: bool
) -> None:
    tenant = Tenant(redis_server.fresh_url())
    try:
        store = tenant.open(capacity=capacity, ttl_days=14)
        append_at(store, times_ms)
        before = read_one(store)
        if recode:
            tenant.use_dictionary(0, NOW_MS)
        report = fast_repush(tenant, recode=recode)
        after = read_one(store)
        assert after.entries == before.entries
        assert after.aged == ()
        assert report.entries_aged == len(before.aged)
        if before.entries:
            assert after.version.count == before.version.count
        appended = append_one(store)
        assert appended.sequence == (before.version.count if before.entries else 0)
        assert read_one(store).entries == (*before.entries, appended)[-capacity:]
        assert read_one(store).skipped == {}
    finally:
        tenant.close()


def test_writers_lose_nothing_while_passes_and_dictionaries_change(tenant: Tenant) -> None:
    capacity, passes = 64, 12
    members = [f"member-{number}" for number in range(100)]
    appended: dict[str, list[Entry]] = {member_id: [] for member_id in members}
    failures: list[BaseException] = []
    is_over = threading.Event()

    def write(share: list[str]) -> None:
        store = tenant.open(capacity=capacity)
        try:
            for number in itertools.count():
                if is_over.is_set():
                    return
                member_id = share[number % len(share)]
                version = read_one(store, member_id).version
                # Some are aged, so that every pass has something to write.
                entry = make_entry(version.count, at_ms=OLD_MS if version.count % 4 == 2 else NOW_MS)
                (outcome,) = store.append([Append(member_id, version, entry, None)])
                if outcome is AppendOutcome.APPENDED:
                    appended[member_id].append(entry)
                else:
                    assert outcome is AppendOutcome.CONFLICT
        except BaseException as failure:
            failures.append(failure)
            raise

    threads = [threading.Thread(target=write, args=(members[number::2],)) for number in range(2)]
    for thread in threads:
        thread.start()
    dictionaries = [some_dictionary(seed) for seed in range(3)]
    reports = []
    for number in range(passes):
        tenant.call(*registry.use_command(tenant.keys, dictionaries[number % 3]))
        reports.append(fast_repush(tenant, recode=True))
    is_over.set()
    for thread in threads:
        thread.join()
    assert not failures
    assert sum(report.rewritten for report in reports) > 0
    reports.append(fast_repush(tenant, recode=True))
    assert reports[-1].left == 0
    store = tenant.open(capacity=capacity)
    for member_id in members:
        ring, live = read_one(store, member_id), [entry for entry in appended[member_id] if entry.at_ms == NOW_MS]
        assert (ring.version.count, ring.skipped) == (len(appended[member_id]), {})
        assert [entry.sequence for entry in appended[member_id]] == list(range(ring.version.count))
        assert list(ring.entries) == live[len(live) - len(ring.entries) :]
        assert {entry.sequence for entry in live if entry.sequence >= ring.version.count - capacity} <= {
            entry.sequence for entry in ring.entries
        }


def test_a_pass_rests_so_that_it_keeps_to_its_rate(tenant: Tenant) -> None:
    store = tenant.open()
    for number in range(60):
        append_one(store, f"member-{number}")
    clock_s = 0.0

    def sleep(seconds: float) -> None:
        nonlocal clock_s
        clock_s += seconds

    report = repush(tenant.wire, tenant.keys, TTL_MS, pace=Pace(20.0, lambda: clock_s, sleep), now_ms=NOW_MS)
    assert report.rings == 60
    assert clock_s == pytest.approx(3.0)


def test_pace_makes_up_for_time_that_was_spent_and_for_no_more() -> None:
    clock_s = 0.0
    pace = Pace(10.0, lambda: clock_s)
    assert pace.pause_s(10) == pytest.approx(1.0)
    clock_s = 1.5
    assert pace.pause_s(10) == pytest.approx(0.5)
    clock_s = 9.0
    assert pace.pause_s(10) == 0.0
    assert pace.pause_s(10) == pytest.approx(1.0)
    with pytest.raises(ValueError, match="-1"):
        Pace(-1)


class Stopped(Exception):
    """As a kill, at a place of the test's choosing."""


def rings_of(tenant: Tenant, number: int) -> set[bytes]:
    """Let that many members have an aged entry and another; return the keys of their rings."""
    store, members = tenant.open(), [f"member-{one}" for one in range(number)]
    for member_id in members:
        append_at(store, [OLD_MS, NOW_MS], member_id)
    return set(map(tenant.keys.ring, members))


def looked_at(tenant: Tenant) -> set[bytes]:
    """Return the rings that were read since this was last asked for."""
    found = {command[2] for command in tenant.wire.sent if command[0] == "MGET"}
    tenant.wire.sent.clear()
    return found


def paged_repush(
    tenant: Tenant,
    *,
    stop_after: int = -1,
    recode: bool = False,
    restart: bool = False,
    after_page: OnPage | None = None,
) -> Report:
    """Make a pass with the smallest pages; stop it once so many that had rings were dealt with."""
    pages = rings = 0

    def on_page(place: Place, report: Report) -> None:
        nonlocal pages, rings
        # On a cluster the first pages may have none of the tenant's rings.
        pages, rings = pages + (report.rings > rings), report.rings
        if after_page is not None:
            after_page(place, report)
        if pages == stop_after:
            raise Stopped

    pace = Pace(1.0, sleep=lambda _: None)
    return repush(
        tenant.wire, tenant.keys, TTL_MS, recode=recode, pace=pace, restart=restart, on_page=on_page, now_ms=NOW_MS
    )


def test_a_pass_that_was_stopped_goes_on_where_it_was(tenant: Tenant) -> None:
    rings = rings_of(tenant, 120)
    with pytest.raises(Stopped):
        paged_repush(tenant, stop_after=6)
    first = looked_at(tenant)
    report = paged_repush(tenant)
    second = looked_at(tenant)
    assert report.resumed
    assert first | second == rings
    assert first - second
    assert report.rings >= 120
    # The page that was dealt with, but not noted, is dealt with twice, which changes nothing.
    assert report.entries_aged == 120 - len(first & second)
    assert not paged_repush(tenant).resumed
    assert looked_at(tenant) == rings


def test_a_pass_of_another_kind_or_told_to_begins_anew(tenant: Tenant) -> None:
    rings = rings_of(tenant, 60)
    for recode, restart in ((True, False), (False, True)):
        with pytest.raises(Stopped):
            paged_repush(tenant, stop_after=4)
        looked_at(tenant)
        assert not paged_repush(tenant, recode=recode, restart=restart).resumed
        assert looked_at(tenant) == rings


def test_notes_of_another_release_are_not_gone_by(tenant: Tenant) -> None:
    rings = rings_of(tenant, 60)
    with pytest.raises(Stopped):
        paged_repush(tenant, stop_after=4)
    note = json.loads(tenant.call("HGET", tenant.keys.notes, "under_way"))
    note["place"] = {"page": 7}
    tenant.call("HSET", tenant.keys.notes, "under_way", json.dumps(note))
    looked_at(tenant)
    assert not paged_repush(tenant).resumed
    assert looked_at(tenant) == rings


def test_two_passes_at_once_are_refused_by_name_until_the_lock_expires(tenant: Tenant) -> None:
    rings_of(tenant, 60)
    refusals: list[str] = []

    def try_another(_: Place, __: Report) -> None:
        if not refusals:
            with pytest.raises(StoreError) as refused:
                fast_sweep(tenant)
            refusals.append(str(refused.value))

    assert paged_repush(tenant, after_page=try_another).rewritten == 60
    assert f"process {os.getpid()} on {socket.gethostname()}" in refusals[0]
    assert "expires in" in refusals[0]
    fast_sweep(tenant)


def test_a_pass_whose_lock_another_took_over_stops(tenant: Tenant) -> None:
    rings_of(tenant, 60)

    def lose_the_lock(_: Place, __: Report) -> None:
        tenant.call("SET", tenant.keys.lock, "somebody else", "PX", 60_000)

    with pytest.raises(StoreError, match="somebody else"):
        paged_repush(tenant, after_page=lose_the_lock)
    assert tenant.call("GET", tenant.keys.lock) == b"somebody else"


def test_the_lock_expires_by_itself_after_the_longest_rest(tenant: Tenant) -> None:
    append_one(tenant.open())
    rests: list[tuple[float, int]] = []

    def sleep(seconds: float) -> None:
        rests.append((seconds, int(tenant.call("PTTL", tenant.keys.lock))))

    repush(tenant.wire, tenant.keys, TTL_MS, pace=Pace(0.01, lambda: 0.0, sleep), now_ms=NOW_MS)
    longest_s, lock_ms = max(rests)
    assert longest_s == pytest.approx(100.0)
    assert 100_000 < lock_ms <= 160_000
    assert tenant.call("GET", tenant.keys.lock) is None


def test_a_pass_begins_a_server_anew_that_restarted(tmp_path: Path) -> None:
    server = RedisServer(tmp_path)
    server.start()
    tenant = Tenant(server.url)
    try:
        rings = rings_of(tenant, 120)
        with pytest.raises(Stopped):
            paged_repush(tenant, stop_after=6)
        server.stop()
        server.start()
        looked_at(tenant)
        report = paged_repush(tenant)
        assert report.resumed
        assert looked_at(tenant) == rings
        assert fast_repush(tenant).entries_aged == 0
    finally:
        tenant.close()
        server.stop()


def test_a_full_redis_is_made_room_in(tmp_path: Path) -> None:
    server = RedisServer(tmp_path)
    server.start()
    tenant = Tenant(server.url)
    try:
        store = tenant.open()
        for number in range(30):
            append_at(store, [OLD_MS], f"aged-{number}")
            append_at(store, [OLD_MS, NOW_MS], f"member-{number}")
        with redis.Redis.from_url(server.url) as client:
            client.config_set("maxmemory", "1")
            report = fast_repush(tenant)
            assert (report.deleted, report.rewritten, report.left) == (30, 0, 30)
            client.config_set("maxmemory", "0")
        assert fast_repush(tenant).rewritten == 30
        store.empty()
        with redis.Redis.from_url(server.url) as client:
            client.config_set("maxmemory", "1")
        assert fast_sweep(tenant).freed == 30
    finally:
        tenant.close()
        server.stop()


def test_a_server_that_restarts_during_a_pass_is_listed_anew(tmp_path: Path) -> None:
    server = RedisServer(tmp_path)
    server.start()
    tenant = Tenant(server.url)
    pages = 0

    def restart(_: Place, __: Report) -> None:
        nonlocal pages
        pages += 1
        if pages == 6:
            server.stop()
            server.start()

    try:
        rings = rings_of(tenant, 120)
        # The connection is replaced unnoticed, and the new process lists its keys in another order.
        assert paged_repush(tenant, after_page=restart).entries_aged == 120
        assert looked_at(tenant) == rings
    finally:
        tenant.close()
        server.stop()


def test_a_dictionary_that_becomes_current_during_a_pass_is_the_one_for_the_rest(tenant: Tenant) -> None:
    rings = rings_of(tenant, 120)
    tenant.use_dictionary(1, NOW_MS)
    dictionaries: list[bytes] = []
    done_before: set[bytes] = set()

    def use_another(_: Place, report: Report) -> None:
        if not dictionaries and report.rewritten:
            done_before.update(looked_at(tenant))
            dictionaries.append(tenant.use_dictionary(2, NOW_MS))

    assert paged_repush(tenant, recode=True, after_page=use_another).entries_recoded == 120
    assert 0 < len(done_before) < 120
    for member_id in map(tenant.keys.member_of, rings - done_before):
        assert [codec.dictionary for codec in tenant.codecs(member_id)] == dictionaries


@pytest.mark.parametrize("is_last", [True, False])
def test_a_slot_that_moves_during_a_pass_is_not_passed_over(redis_cluster: RedisCluster, is_last: bool) -> None:
    tenant = Tenant(redis_cluster.url)
    moved: list[tuple[bytes, RedisServer, RedisServer]] = []

    def move_a_slot(place: Place, _: Report) -> None:
        """Move a slot of the server that is being listed to one whose rings are all listed.

        Either the one that it would list last; or that of the key by which it is found.
        """
        if moved or not place.done or not place.server:
            return
        tags = list(map(tenant.keys.generation, place.buckets))
        tag = max(tags, key=key_slot) if is_last else tags[0]
        source, target = redis_cluster.owner(tag), redis_cluster.owner(tenant.keys.generation(place.done[0]))
        move(redis_cluster, tag, source, target)
        moved.append((tag, source, target))

    try:
        rings = rings_of(tenant, 300)
        report = paged_repush(tenant, after_page=move_a_slot)
        ((_, source, target),) = moved
        assert source is not target
        assert looked_at(tenant) == rings
        assert report.entries_aged == 300
    finally:
        for tag, source, target in moved:
            move(redis_cluster, tag, target, source)
        tenant.close()


def move(cluster: RedisCluster, key: bytes, source: RedisServer, target: RedisServer) -> None:
    """Move the slot of a key, with all that is in it."""
    slot = key_slot(key)
    cluster.begin_move(slot, source, target)
    while keys := cluster.call(source, "CLUSTER", "GETKEYSINSLOT", slot, 100):
        cluster.move_keys(source, target, *keys)
    cluster.end_move(slot, target)


def test_a_command_that_was_killed_goes_on_where_it_was(redis_url: str) -> None:
    tenant = Tenant(redis_url)
    try:
        rings = rings_of(tenant, 60)
        command = [sys.executable, "-m", "sequence_store", "repush", "--tenant", tenant.name, "--redis", redis_url]
        command += ["--ttl-days", str(_days_since(NOW_MS - TTL_MS))]
        # Ten members or more a page, one member a second: it rests when it is killed.
        process = subprocess.Popen([*command, "--rate", "1"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        try:
            while not (note := tenant.call("HGET", tenant.keys.notes, "under_way")):
                assert process.poll() is None
        finally:
            process.send_signal(signal.SIGKILL)
            process.communicate()
        done = json.loads(note)["report"]
        assert 0 < done["entries_aged"] == done["rings"] < 60
        refused = subprocess.run([*command, "--rate", "0"], capture_output=True, text=True)
        assert refused.returncode == 1
        assert f"process {process.pid}" in refused.stderr
        tenant.call("DEL", tenant.keys.lock)  # as its time to live does
        again = subprocess.run([*command, "--rate", "0"], capture_output=True, text=True, check=True)
        report = json.loads(again.stdout.splitlines()[-1])
        assert report["resumed"]
        assert report["entries_aged"] == report["rewritten"] == len(rings)
        assert fast_repush(tenant).entries_aged == 0
    finally:
        tenant.close()


def _days_since(at_ms: int) -> float:
    return (time.time() * 1000 - at_ms) / DAY_MS
