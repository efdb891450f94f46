"""A server that dies, hangs, restarts or forgets: what was acknowledged stays, what is unknown is said to be."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from benchmarks.redis_server import RedisServer
from contracts.errors import NotReplicated, OutcomeUnknown, StoreError, StoreUnavailable
from sequence_store import Append, AppendOutcome, RedisRingStore
from tests.sequence_store.samples import LAYOUT, append_one, grow, make_entry, read_many, read_one

pytestmark = pytest.mark.integration


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path, "--appendfsync", "always")
    server.start()
    yield server
    server.stop()


def open_store(url: str, timeout_s: float = 30.0, **changes: int) -> RedisRingStore:
    return RedisRingStore(url, "demo", LAYOUT, 1024, 14, timeout_s=timeout_s, connect_timeout_s=timeout_s, **changes)


def test_a_killed_server_loses_no_acknowledged_append_and_doubles_none(server: RedisServer) -> None:
    acknowledged: dict[str, list[str]] = {member: [] for member in "abcd"}
    attempted: dict[str, set[str]] = {member: set() for member in "abcd"}
    enough = threading.Event()

    def write(member_id: str) -> None:
        store = open_store(server.url)
        try:
            for number in range(1000):
                cycle = f"{member_id}{number}"
                version = read_one(store, member_id).version
                attempted[member_id].add(cycle)
                append = Append(member_id, version, make_entry(version.count, cycle_id=cycle), cycle.encode())
                assert store.append([append]) == [AppendOutcome.APPENDED]
                acknowledged[member_id].append(cycle)
                if number == 20:
                    enough.set()
        except (StoreUnavailable, OutcomeUnknown):
            return

    threads = [threading.Thread(target=write, args=(member_id,)) for member_id in acknowledged]
    for thread in threads:
        thread.start()
    assert enough.wait(60)
    server.kill()
    for thread in threads:
        thread.join()
    server.start()

    store = open_store(server.url)
    rings = read_many(store, list(acknowledged))
    rows = [row.decode() for _, row in store.drain(64_000)]
    for ring in rings:
        cycles = [entry.cycle_id for entry in ring.entries]
        assert cycles[: len(acknowledged[ring.member_id])] == acknowledged[ring.member_id]
        assert len(cycles) - len(acknowledged[ring.member_id]) in {0, 1}
        assert set(cycles) <= attempted[ring.member_id]
        assert len(set(cycles)) == len(cycles) == ring.version.count
        assert ring.skipped == {}
        assert [row for row in rows if row[0] == ring.member_id] == cycles


def test_a_server_that_hangs_leaves_the_outcome_unknown_until_it_is_read_back(server: RedisServer) -> None:
    hasty = open_store(server.url, timeout_s=1.0)
    append_one(hasty)
    version = read_one(hasty).version
    append = Append("m", version, make_entry(1, cycle_id="unknown"), b"row")
    server.send(signal.SIGSTOP)
    try:
        with pytest.raises(OutcomeUnknown, match="read the ring again"):
            hasty.append([append])
        with pytest.raises(StoreUnavailable):
            read_one(hasty)
    finally:
        server.send(signal.SIGCONT)
    patient = open_store(server.url)
    # What was sent lies in the server's socket: once it goes on, the append may come before or after this read. Another
    # append from the same read settles it, whichever was first.
    patient.append([append])
    ring = read_one(patient)
    assert ring.cycle("unknown") is not None
    assert ring.version.count == 2
    assert [row for _, row in patient.drain(10)] == [b"row"]


def test_an_append_that_no_replica_has_is_there_but_not_acknowledged(server: RedisServer) -> None:
    store = open_store(server.url, replicas=1, wait_ms=1)
    appends = [Append(member, read_one(store, member).version, make_entry(0), b"row") for member in "ab"]
    for outcome in store.append(appends):
        assert isinstance(outcome, NotReplicated)
        assert "reached 0 of 1 replicas in 1 ms" in str(outcome)
    assert store.append(appends) == [AppendOutcome.CONFLICT] * 2
    assert [ring.entries for ring in read_many(store, ["a", "b"])] == [(make_entry(0),)] * 2
    assert len(store.drain(10)) == 2


def test_a_master_lost_with_its_append_does_not_tell_what_replicas_have(server: RedisServer) -> None:
    store = open_store(server.url, timeout_s=1.0, replicas=1, wait_ms=1)
    version = read_one(store).version
    store.append([Append("another", read_one(store, "another").version, make_entry(0), None)])
    server.send(signal.SIGSTOP)
    try:
        with pytest.raises(NotReplicated, match="does not tell what replicas have"):
            store.append([Append("m", version, make_entry(0), None)])
    finally:
        server.send(signal.SIGCONT)


def test_a_wait_for_replicas_ends_before_the_client_s_patience_does(server: RedisServer) -> None:
    with pytest.raises(ValueError, match=r"wait_ms = 500: must be less than the client's timeout, 500 ms"):
        open_store(server.url, timeout_s=0.5, replicas=1, wait_ms=500)


def test_a_server_that_is_not_there_is_unavailable_and_back_after_its_restart(server: RedisServer) -> None:
    store = open_store(server.url)
    append_one(store)
    ring = read_one(store)
    server.kill()
    with pytest.raises(StoreUnavailable, match=str(server.port)):
        read_one(store)
    append = Append("m", ring.version, make_entry(1), b"row")
    with pytest.raises(StoreUnavailable):
        store.append([append])
    with pytest.raises(StoreUnavailable):
        store.drain(1)
    server.start()
    assert store.append([append]) == [AppendOutcome.APPENDED]
    assert read_one(store).entries == (*ring.entries, make_entry(1))


def test_a_restart_between_two_batches_goes_unnoticed(server: RedisServer) -> None:
    store = open_store(server.url)
    entry = append_one(store)
    ring = read_one(store)
    server.kill()
    server.start()
    assert store.append([Append("m", ring.version, make_entry(1), None)]) == [AppendOutcome.APPENDED]
    assert read_one(store).entries == (entry, make_entry(1))


def test_a_server_that_lost_everything_learns_script_and_codec_again(server: RedisServer) -> None:
    store = open_store(server.url)
    append_one(store)
    with redis.Redis.from_url(server.url) as client:
        client.flushall()
        client.script_flush()
        entry = append_one(store)
        assert client.hexists("{demo}:codecs", f"layout:{LAYOUT.fingerprint.hex()}")
    assert read_one(store).entries == (entry,)
    assert read_one(open_store(server.url)).entries == (entry,)


def test_a_server_that_lost_its_scripts_alone_learns_them_again_within_one_append(server: RedisServer) -> None:
    store = open_store(server.url)
    entries = [append_one(store)]
    with redis.Redis.from_url(server.url) as client:
        for number in (1, 2):
            version = read_one(store).version
            client.script_flush()
            appends = [
                Append("m", version, make_entry(number), b"row"),
                Append("m", version, make_entry(number), b"no"),
            ]
            assert store.append(appends) == [AppendOutcome.APPENDED, AppendOutcome.CONFLICT]
            entries.append(make_entry(number))
    assert read_one(store).entries == tuple(entries)
    assert [row for _, row in store.drain(1000)] == [b"row", b"row"]


def test_an_append_sent_twice_because_its_outcome_is_unknown_is_in_the_ring_once(server: RedisServer) -> None:
    store, hasty = open_store(server.url), open_store(server.url, timeout_s=1.0)
    grow(store, 19)
    append_one(hasty)
    version = read_one(store).version
    append = Append("m", version, make_entry(20, cycle_id="once"), b"row")
    with redis.Redis.from_url(server.url) as client:
        client.client_pause(60_000, all=False)
        with pytest.raises(OutcomeUnknown):
            hasty.append([append])
        client.client_unpause()
    store.append([append])
    ring = read_one(store)
    assert ring.version.count == 21
    assert [entry.cycle_id for entry in ring.entries].count("once") == 1
    assert [row for _, row in store.drain(10)] == [b"row"]


def test_a_server_out_of_memory_refuses_whole_appends(server: RedisServer) -> None:
    store = open_store(server.url)
    entry = append_one(store, log_row=b"kept")
    ring = read_one(store)
    with redis.Redis.from_url(server.url) as client:
        client.config_set("maxmemory", "1")
        for row in (b"refused", None):
            (outcome,) = store.append([Append("m", ring.version, make_entry(1), row)])
            assert isinstance(outcome, StoreError)
            assert "maxmemory" in str(outcome)
        assert read_one(store).entries == (entry,)
        client.config_set("maxmemory", "0")
    assert read_one(store).entries == (entry,)
    assert [row for _, row in store.drain(10)] == [b"kept"]
