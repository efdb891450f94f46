"""A real cluster whose slots move and whose servers die: what is served, what is refused, and what may be lost."""

from __future__ import annotations

import itertools
import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from redis.crc import key_slot

from benchmarks.redis_cluster import RedisCluster
from contracts.errors import NotReplicated, OutcomeUnknown, StoreUnavailable
from sequence_store import Append, AppendOutcome, RedisRingStore
from sequence_store.wire import Wire, connect
from tests.sequence_store.samples import LAYOUT, make_entry, read_one

pytestmark = pytest.mark.integration
_numbers = itertools.count()


@pytest.fixture
def cluster(redis_cluster: RedisCluster) -> Iterator[RedisCluster]:
    """The session's cluster, whole before and after the test."""
    redis_cluster.heal()
    yield redis_cluster
    redis_cluster.heal()


@pytest.fixture
def wire(cluster: RedisCluster) -> Iterator[Wire]:
    wire = Wire(connect(cluster.url, 30, 30))
    yield wire
    wire.close()


@pytest.fixture
def keys(cluster: RedisCluster) -> list[bytes]:
    """One key of this test's own on each master."""
    prefix = b"cluster%d" % next(_numbers)
    return [cluster.key_on(master, prefix) for master in cluster.masters()]


def increments(keys: list[bytes]) -> list[tuple[Any, ...]]:
    return [("INCR", key) for key in keys]


def values(wire: Wire, keys: list[bytes]) -> list[Any]:
    return wire.exchange([("GET", key) for key in keys], writes=False)


def siblings(key: bytes, count: int) -> list[bytes]:
    """Return keys of the same slot."""
    return [b"{%s}:%d" % (key, number) for number in range(count)]


def redirected(cluster: RedisCluster) -> int:
    """Return how many commands the servers have sent elsewhere."""
    stats = [cluster.call(server, "INFO", "errorstats") for server in cluster.masters()]
    return sum(
        int(stat[name]["count"]) for stat in stats for name in stat if name in {"errorstat_MOVED", "errorstat_ASK"}
    )


def test_every_command_goes_straight_to_the_server_of_its_key(cluster: RedisCluster, wire: Wire) -> None:
    tagged = [b"{tenant:%d}:%d" % (number % 64, number) for number in range(500)]
    script = "redis.call('SET', KEYS[1], ARGV[1]) redis.call('SET', KEYS[2], ARGV[1]) return 1"
    (digest,) = set(wire.broadcast(("SCRIPT", "LOAD", script), writes=False).values())
    before = redirected(cluster)
    wire.exchange([("EVALSHA", digest, 2, key, key + b":2", "x") for key in tagged], writes=True)
    wire.exchange([("EVAL", script, 2, key, key + b":2", "x") for key in tagged], writes=True)
    assert wire.exchange([("MGET", key, key + b":2") for key in tagged], writes=False) == [[b"x", b"x"]] * 500
    sizes = wire.exchange([("MEMORY", "USAGE", key, "SAMPLES", 0) for key in tagged], writes=False)
    assert all(isinstance(size, int) for size in sizes)
    assert wire.exchange([("UNLINK", key, key + b":2") for key in tagged], writes=True) == [2] * 500
    assert redirected(cluster) == before


@pytest.mark.parametrize("command", [("PING",), ("DBSIZE",), ("SCRIPT", "LOAD", "return 1"), ("EVALSHA", "0" * 40, 0)])
def test_a_command_without_a_key_must_say_where_it_goes(
    wire: Wire, keys: list[bytes], command: tuple[Any, ...]
) -> None:
    with pytest.raises(ValueError, match=rf"{command[0]} names no key.*Wire\.broadcast"):
        wire.exchange([("INCR", keys[0]), command], writes=True)
    assert values(wire, keys[:1]) == [None]


def test_a_broadcast_reaches_each_master_once(cluster: RedisCluster, wire: Wire) -> None:
    replies = wire.broadcast(("CONFIG", "GET", "port"), writes=False)
    assert replies == {f"127.0.0.1:{m.port}": [b"port", b"%d" % m.port] for m in cluster.masters()}


def test_every_server_gets_its_share_before_the_first_reply_is_read(
    cluster: RedisCluster, wire: Wire, keys: list[bytes]
) -> None:
    slow = cluster.owner(keys[0])
    cluster.call(slow, "CLIENT", "PAUSE", 600_000, "WRITE")
    exchange = threading.Thread(target=wire.exchange, args=(increments(keys),), kwargs={"writes": True})
    exchange.start()
    try:
        while exchange.is_alive() and any(cluster.call(cluster.owner(key), "GET", key) is None for key in keys[1:]):
            pass
        assert exchange.is_alive()
    finally:
        cluster.call(slow, "CLIENT", "UNPAUSE")
        exchange.join()
    assert values(wire, keys) == [b"1"] * len(keys)


def test_a_slot_that_moved_is_followed_and_nothing_runs_twice(
    cluster: RedisCluster, wire: Wire, keys: list[bytes]
) -> None:
    moving = siblings(keys[0], 5)
    batch = [*moving, *keys]
    assert wire.exchange(increments(batch), writes=True) == [1] * len(batch)
    source, target = cluster.masters()[:2]
    cluster.begin_move(key_slot(keys[0]), source, target)
    cluster.move_keys(source, target, keys[0], *moving)
    cluster.end_move(key_slot(keys[0]), target)
    before = redirected(cluster)
    assert wire.exchange(increments(batch), writes=True) == [2] * len(batch)
    assert redirected(cluster) == before + len(moving) + 1
    assert wire.exchange(increments(batch), writes=True) == [3] * len(batch)
    assert redirected(cluster) == before + len(moving) + 1


def test_keys_of_a_slot_on_the_move_are_served_wherever_they_are(
    cluster: RedisCluster, wire: Wire, keys: list[bytes]
) -> None:
    old = siblings(keys[0], 10)
    wire.exchange(increments(old + keys), writes=True)
    source, target = cluster.masters()[:2]
    slot = key_slot(keys[0])
    cluster.begin_move(slot, source, target)
    cluster.move_keys(source, target, *old[:5])
    new = siblings(keys[0], 12)[10:]
    assert wire.exchange(increments(old + new + keys), writes=True) == [2] * 10 + [1] * 2 + [2] * len(keys)
    assert [cluster.call(target, "CLUSTER", "COUNTKEYSINSLOT", slot)] == [5 + 2]
    cluster.move_keys(source, target, keys[0], *old[5:])
    cluster.end_move(slot, target)
    assert values(wire, old + new + keys) == [b"2"] * 10 + [b"1"] * 2 + [b"2"] * len(keys)


def test_a_command_whose_keys_are_torn_apart_is_refused_until_the_slot_has_moved(
    cluster: RedisCluster, wire: Wire, keys: list[bytes]
) -> None:
    first, second = siblings(keys[0], 2)
    wire.exchange([("MSET", first, 1, second, 1)], writes=True)
    source, target = cluster.masters()[:2]
    slot = key_slot(keys[0])
    cluster.begin_move(slot, source, target)
    cluster.move_keys(source, target, first)
    torn, *served = wire.exchange([("MSET", first, 2, second, 2), *increments(keys[1:])], writes=True)
    assert isinstance(torn, StoreUnavailable)
    assert f"slot {slot}" in str(torn)
    assert "ask again" in str(torn)
    assert served == [1] * len(keys[1:])
    assert values(wire, [first, second]) == [b"1", b"1"]
    cluster.move_keys(source, target, second)
    cluster.end_move(slot, target)
    assert wire.exchange([("MSET", first, 2, second, 2)], writes=True) == [b"OK"]


def test_writers_go_on_while_a_slot_moves_to_and_fro(cluster: RedisCluster, keys: list[bytes]) -> None:
    moving = siblings(keys[0], 200)
    stop = threading.Event()
    acknowledged = [0] * 4

    def write(number: int) -> None:
        own = Wire(connect(cluster.url, 30, 30))
        while not stop.is_set():
            replies = own.exchange(increments(moving), writes=True)
            assert all(isinstance(reply, int) for reply in replies), replies
            acknowledged[number] += 1
        own.close()

    threads = [threading.Thread(target=write, args=(number,)) for number in range(len(acknowledged))]
    for thread in threads:
        thread.start()
    source, target = cluster.masters()[:2]
    slot = key_slot(keys[0])
    try:
        for _ in range(2):
            cluster.begin_move(slot, source, target)
            for start in range(0, len(moving), 10):
                cluster.move_keys(source, target, *moving[start : start + 10])
            cluster.end_move(slot, target)
            source, target = target, source
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert all(acknowledged)
    with redis.RedisCluster.from_url(cluster.url) as client:
        assert [int(str(client.get(key).decode())) for key in moving] == [sum(acknowledged)] * len(moving)


def test_when_a_master_dies_the_others_serve_and_its_replica_is_found(
    cluster: RedisCluster, wire: Wire, keys: list[bytes]
) -> None:
    assert wire.exchange_replicated(increments(keys), 1, 10_000) == ([1] * len(keys), [1] * len(keys))
    master = cluster.owner(keys[0])
    replica = cluster.replica(master)
    cluster.kill(master)
    dead, *served = wire.exchange(increments(keys), writes=True)
    assert isinstance(dead, StoreUnavailable)
    assert f"127.0.0.1:{master.port} cannot be reached" in str(dead)
    assert served == [2] * len(keys[1:])
    with pytest.raises(StoreUnavailable, match=str(master.port)):
        values(wire, keys[:1])
    cluster.promote(replica)
    assert wire.exchange(increments(keys), writes=True) == [2] + [3] * len(keys[1:])


def test_the_cluster_s_own_vote_is_found(cluster: RedisCluster, wire: Wire, keys: list[bytes]) -> None:
    wire.exchange_replicated(increments(keys), 1, 10_000)
    master = cluster.owner(keys[0])
    replica = cluster.replica(master)
    cluster.kill(master)
    cluster.until_master(replica)
    assert wire.exchange(increments(keys), writes=True) == [2] * len(keys)


def test_only_what_went_to_a_broken_connection_is_unknown(cluster: RedisCluster, wire: Wire, keys: list[bytes]) -> None:
    # The server of this key ends all connections but its cluster's, this one's too. KILL is taken for the key.
    suicide = ("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "no")
    victim = cluster.owner(b"KILL")
    batch = [("INCR", key) for key in keys]
    replies = wire.exchange([*batch, suicide, *batch], writes=True)
    n = len(keys)
    assert replies[:n] == [1] * n
    assert isinstance(replies[n], int)
    for key, reply in zip(keys, replies[n + 1 :], strict=True):
        if cluster.owner(key) is victim:
            assert isinstance(reply, OutcomeUnknown)
            assert f"127.0.0.1:{victim.port}" in str(reply)
        else:
            assert reply == 2
    assert wire.exchange(batch, writes=True) == [2 if cluster.owner(key) is victim else 3 for key in keys]


def test_a_server_that_hangs_leaves_only_its_own_commands_unknown(cluster: RedisCluster, keys: list[bytes]) -> None:
    wire = Wire(connect(cluster.url, 1.0, 30))
    values(wire, keys)
    hanging = cluster.owner(keys[1])
    hanging.send(signal.SIGSTOP)
    try:
        replies = wire.exchange(increments(keys), writes=True)
    finally:
        hanging.send(signal.SIGCONT)
    assert [type(reply) for reply in replies] == [int, OutcomeUnknown, int]
    # What the server says later is no reply to what comes next.
    assert set(wire.exchange([("TYPE", key) for key in keys], writes=False)) <= {b"string", b"none"}


def test_the_first_server_may_go_once_the_others_are_known(cluster: RedisCluster, keys: list[bytes]) -> None:
    seed, *_ = cluster.masters()
    wire = Wire(connect(seed.url, 30, 30))
    wire.exchange_replicated(increments(keys), 1, 10_000)
    replica = cluster.replica(seed)
    cluster.kill(seed)
    cluster.promote(replica)
    assert values(wire, keys) == [b"1"] * len(keys)
    late = Wire(connect(seed.url, 30, 30))
    with pytest.raises(StoreUnavailable, match=f"127.0.0.1:{seed.port} cannot be reached"):
        values(late, keys)


def test_any_server_will_do_as_the_first(cluster: RedisCluster, keys: list[bytes]) -> None:
    for server in cluster.servers:
        assert values(Wire(connect(server.url, 30, 30)), keys) == [None] * len(keys)


def test_a_slot_that_nobody_serves_is_unavailable_and_back(
    cluster: RedisCluster, wire: Wire, keys: list[bytes]
) -> None:
    wire.exchange(increments(keys), writes=True)
    owner, slot = cluster.owner(keys[0]), key_slot(keys[0])
    late = Wire(connect(owner.url, 30, 30))
    cluster.call(owner, "CLUSTER", "DELSLOTS", slot)
    try:
        for any_wire in (wire, late):
            nobody, *served = any_wire.exchange(increments(keys), writes=True)
            assert isinstance(nobody, StoreUnavailable)
            assert f"slot {slot}" in str(nobody)
            assert not any(isinstance(reply, Exception) for reply in served)
    finally:
        cluster.call(owner, "CLUSTER", "ADDSLOTS", slot)
    assert wire.exchange(increments(keys[:1]), writes=True) == [2]


def test_a_scan_does_not_hide_that_servers_or_slots_changed(
    cluster: RedisCluster, wire: Wire, keys: list[bytes]
) -> None:
    mine = [key for one in keys for key in siblings(one, 50)]
    wire.exchange_replicated(increments(mine), 1, 10_000)
    source, target = cluster.masters()[:2]
    pages = wire.scan(b"{" + keys[0].split(b"-")[0] + b"-*", 10)
    next(pages)
    slot = key_slot(keys[0])
    cluster.begin_move(slot, source, target)
    cluster.move_keys(source, target, *siblings(keys[0], 50), keys[0])
    cluster.end_move(slot, target)
    with pytest.raises(StoreUnavailable, match="list them again"):
        list(pages)
    pages = wire.scan(b"{" + keys[0].split(b"-")[0] + b"-*", 10)
    next(pages)
    last = cluster.masters()[-1]
    replica = cluster.replica(last)
    cluster.kill(last)
    with pytest.raises(StoreUnavailable, match=f"127.0.0.1:{last.port}"):
        list(pages)
    cluster.promote(replica)
    pages = wire.scan(b"{" + keys[0].split(b"-")[0] + b"-*", 10)
    assert set(itertools.chain(*pages)) == set(mine)


@pytest.mark.parametrize("waited", [False, True])
def test_a_failover_loses_what_no_replica_acknowledged(
    cluster: RedisCluster, wire: Wire, keys: list[bytes], waited: bool
) -> None:
    assert values(wire, keys) == [None] * len(keys)
    master = cluster.owner(keys[0])
    replica = cluster.replica(master)
    if waited:
        assert wire.exchange_replicated([("SET", keys[0], "x")], 1, 10_000) == ([b"OK"], [1])
    else:
        cluster.kill(replica)
        assert wire.exchange_replicated([("SET", keys[0], "x")], 1, 1) == ([b"OK"], [0])
    cluster.kill(master)
    if not waited:
        cluster.revive(replica)
    cluster.promote(replica)
    assert values(wire, keys[:1]) == [b"x" if waited else None]


def test_appends_are_acknowledged_by_the_replicas_of_their_own_masters(cluster: RedisCluster) -> None:
    tenant, members = f"replicated-{next(_numbers)}", [f"m{number}" for number in range(30)]
    with RedisRingStore(cluster.url, tenant, LAYOUT, 4, 14, timeout_s=30, replicas=1, wait_ms=10_000) as store:
        appends = [Append(member, read_one(store, member).version, make_entry(0), None) for member in members]
        assert store.append(appends) == [AppendOutcome.APPENDED] * len(members)
    cluster.kill(cluster.replica(cluster.masters()[0]))
    with RedisRingStore(cluster.url, tenant, LAYOUT, 4, 14, timeout_s=30, replicas=1, wait_ms=3_000) as store:
        appends = [Append(member, read_one(store, member).version, make_entry(1), None) for member in members]
        outcomes = store.append(appends)
    doubted = [outcome for outcome in outcomes if isinstance(outcome, NotReplicated)]
    assert 0 < len(doubted) < len(members)
    assert all(outcome is AppendOutcome.APPENDED for outcome in outcomes if outcome not in doubted)
