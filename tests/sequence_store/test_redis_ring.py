"""What only a ring on Redis can show: keys, bytes written, clients, servers that refuse, keys of other types."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import compress
from typing import Any

import pytest
import redis

from contracts.errors import StoreError, StoreUnavailable
from sequence_store import Append, AppendOutcome, Layout, RedisRingStore, Ring
from sequence_store.codec import Codec
from sequence_store.packed import CHANGES_FROM, HEADER_BYTES
from tests.sequence_store.golden_entries import FOLDER
from tests.sequence_store.samples import DAY_MS, LAYOUT, NOW_MS, append_one, grow, make_entry, read_many, read_one

pytestmark = pytest.mark.integration

RING_M, OUTBOX_M, GENERATION_M, CODECS = "{demo:40}:m:m", "{demo:40}:o", "{demo:40}:g", "{demo}:codecs"


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


def open_store(url: str, *, layout: Layout = LAYOUT, capacity: int = 16, **changes: Any) -> RedisRingStore:
    return RedisRingStore(url, "demo", layout, capacity, 14, timeout_s=30.0, **changes)


def value_of(client: redis.Redis) -> bytes:
    value = client.get(RING_M)
    assert isinstance(value, bytes)
    return value


def ttl_of(client: redis.Redis) -> int:
    return int(client.pttl(RING_M))  # type: ignore[arg-type]


def test_the_keys_are_these_and_only_these(redis_url: str, client: redis.Redis) -> None:
    store = open_store(redis_url)
    append_one(store, log_row=b"row")
    keys: Any = client.keys()
    assert set(keys) == {RING_M.encode(), OUTBOX_M.encode(), CODECS.encode()}
    fields: Any = client.hgetall(CODECS)
    layout, codec = LAYOUT.fingerprint.hex(), Codec(LAYOUT).fingerprint.hex()
    assert fields.pop(b"epoch")
    assert fields == {
        f"layout:{layout}".encode(): LAYOUT.to_json().encode(),
        f"unused:{layout}".encode(): b"",
        f"codec:{codec}".encode(): f"{layout}:".encode(),
    }
    ((_, row),) = client.xrange(OUTBOX_M)  # type: ignore[misc]
    assert row == {b"r": b"row"}
    assert client.object("encoding", RING_M) == b"raw"
    assert 13 * DAY_MS < ttl_of(client) <= 14 * DAY_MS
    store.empty()
    assert client.get(GENERATION_M) == b"1"
    assert client.mget([GENERATION_M.replace("40", str(bucket)) for bucket in range(64)]) == [b"1"] * 64


@pytest.mark.parametrize("before", [1, 30])
def test_an_append_prolongs_the_rings_life(redis_url: str, client: redis.Redis, before: int) -> None:
    store = open_store(redis_url, capacity=4)
    grow(store, before)
    client.pexpire(RING_M, 60_000)
    append_one(store)
    assert ttl_of(client) > 13 * DAY_MS


def test_an_append_changes_the_header_and_the_oldest_bytes_alone(redis_url: str, client: redis.Redis) -> None:
    store = open_store(redis_url, capacity=12)
    grow(store, 40)
    in_place = 0
    for _ in range(30):
        before = value_of(client)
        append_one(store)
        after = value_of(client)
        if before[5:7] == after[5:7]:  # the incarnation: not laid out anew
            in_place += 1
            assert len(after) == len(before)
            changed = list(compress(range(len(after)), map(int.__ne__, before, after)))
            assert min(changed) >= CHANGES_FROM
            room = len(after) - HEADER_BYTES
            of_frames = {place - HEADER_BYTES for place in changed if place >= HEADER_BYTES}
            pointers = [int.from_bytes(value[19:23], "big") for value in (before, after)]
            frame = (pointers[1] - pointers[0]) % room
            assert {(place - pointers[0]) % room for place in of_frames} <= set(range(frame))
            assert frame < len(after) / 9
    assert in_place > 20


def test_reads_change_nothing(redis_url: str, client: redis.Redis) -> None:
    store = open_store(redis_url)
    grow(store, 3)
    client.set(RING_M, b"\0" + value_of(client)[1:], px=60_000)
    value = value_of(client)
    assert read_one(store).skipped == {"header": 1}
    assert value_of(client) == value
    assert ttl_of(client) <= 60_000


@pytest.mark.parametrize("kind", ["hash", "list"])
def test_a_key_of_another_type_harms_its_own_member_alone(redis_url: str, client: redis.Redis, kind: str) -> None:
    store = open_store(redis_url)
    if kind == "hash":
        client.hset(RING_M, "0", (FOLDER / "v1_full.bin").read_bytes())  # type: ignore[arg-type]
    else:
        client.rpush(RING_M, "entry")
    append_one(store, "well")
    bad, good = store.read(["m", "well"], [NOW_MS] * 2)
    assert isinstance(bad, StoreError)
    assert "'m'" in str(bad)
    assert "WRONGTYPE" in str(bad)
    assert isinstance(good, Ring)
    assert len(good.entries) == 1
    absent = read_one(store, "absent").version
    outcomes = store.append(
        [Append("m", absent, make_entry(0), b"lost"), Append("well", good.version, make_entry(1), b"kept")]
    )
    assert isinstance(outcomes[0], StoreError)
    assert "WRONGTYPE" in str(outcomes[0])
    assert outcomes[1] is AppendOutcome.APPENDED
    assert [row for _, row in store.drain(10)] == [b"kept"]


def test_a_value_of_an_older_format_is_no_ring_and_the_next_append_replaces_it(
    redis_url: str, client: redis.Redis
) -> None:
    store = open_store(redis_url)
    client.set(RING_M, (FOLDER / "v1_full.bin").read_bytes())
    ring = read_one(store)
    assert (ring.entries, ring.version.count) == ((), 0)
    assert ring.skipped
    entry = append_one(store)
    assert read_one(store).entries == (entry,)


def test_an_outbox_that_cannot_be_written_lets_nothing_be_written(redis_url: str, client: redis.Redis) -> None:
    store = open_store(redis_url)
    client.set(OUTBOX_M, "no stream")
    for count in (0, 1):
        (outcome,) = store.append([Append("m", read_one(store).version, make_entry(count), b"row")])
        assert isinstance(outcome, StoreError)
        assert read_one(store).version.count == count
        append_one(store)


@pytest.mark.parametrize("generation", [b"", b"one", b"1.5", b"\xff"])
def test_a_generation_that_is_no_number_stops_its_own_bucket_alone(
    redis_url: str, client: redis.Redis, generation: bytes
) -> None:
    store = open_store(redis_url)
    append_one(store, "well")
    client.set(GENERATION_M, generation)
    bad, good = store.read(["m", "well"], [NOW_MS] * 2)
    assert isinstance(good, Ring)
    if generation:
        assert isinstance(bad, StoreError)
        assert "delete it" in str(bad)


def test_a_ring_of_a_large_capacity_can_change_it(redis_url: str) -> None:
    grow(open_store(redis_url, capacity=1024), 1100, layout=LAYOUT)
    store = open_store(redis_url, capacity=1000)
    append_one(store)
    assert [entry.sequence for entry in read_one(store).entries] == list(range(101, 1101))


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("decode_responses", [True, False])
def test_a_client_given_is_used_as_it_is(redis_url: str, protocol: int, decode_responses: bool) -> None:
    with redis.Redis.from_url(redis_url, protocol=protocol, decode_responses=decode_responses) as client:
        with RedisRingStore(client, "demo", LAYOUT, 16, 14) as store:
            entry = append_one(store, log_row=b"\xff")
            assert read_one(store).entries == (entry,)
            assert [row for _, row in store.drain(5)] == [b"\xff"]
            assert store.trim([cursor for cursor, _ in store.drain(5)]) == 1
        assert client.ping()


def test_a_tenant_with_braces_is_refused(redis_url: str) -> None:
    with pytest.raises(ValueError, match=r"tenant '\{x\}'"):
        RedisRingStore(redis_url, "{x}", LAYOUT, 16, 14)


def test_a_wrong_url_is_refused_without_repeating_its_password() -> None:
    with pytest.raises(StoreError) as caught:
        open_store("http://user:secret@localhost")
    assert "redis://" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_wrong_password_is_told_without_repeating_it(redis_url: str, client: redis.Redis) -> None:
    client.acl_setuser("limited", enabled=True, passwords=["+right"], keys=["*"], commands=["+@all"])
    try:
        append_one(open_store(redis_url.replace("redis://", "redis://limited:right@")))
        with pytest.raises(StoreUnavailable) as caught:
            read_one(open_store(redis_url.replace("redis://", "redis://limited:guessed@")))
        assert "guessed" not in str(caught.value)
        client.acl_setuser("limited", enabled=True, commands=["-hgetall"])
        with pytest.raises(StoreError, match="hgetall"):
            read_one(open_store(redis_url.replace("redis://", "redis://limited:right@")))
    finally:
        client.acl_deluser("limited")


def test_rows_of_many_buckets_are_drained_oldest_first(redis_url: str) -> None:
    store = open_store(redis_url)
    members = [str(number) for number in range(200)]
    for ring in read_many(store, members):
        store.append([Append(ring.member_id, ring.version, make_entry(0), ring.member_id.encode())])
    seen: list[bytes] = []
    while drained := store.drain(3):
        store.trim([cursor for cursor, _ in drained])
        seen += [row for _, row in drained]
    assert sorted(seen) == sorted(member_id.encode() for member_id in members)
