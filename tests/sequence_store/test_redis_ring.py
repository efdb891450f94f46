"""What only a ring on Redis can show: keys, slots, damage done behind its back, layouts and capacities of the past."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import redis

from contracts.errors import StoreError, StoreUnavailable
from sequence_store import Append, AppendOutcome, FloatGroup, Layout, RedisRingStore
from sequence_store.frame import owner, seal
from tests.sequence_store.samples import DAY_MS, LAYOUT, NOW_MS, append_one, grow, make_entry, read_one

pytestmark = pytest.mark.integration

RING_M = b"{demo:40}:r:m"


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


def open_store(url: str, *, layout: Layout = LAYOUT, capacity: int = 16, **changes: Any) -> RedisRingStore:
    return RedisRingStore(url, "demo", layout, capacity, 14, timeout_s=30.0, **changes)


def fields_of(client: redis.Redis) -> dict[bytes, bytes]:
    fields: Any = client.hgetall(RING_M.decode())
    return dict(fields)


def test_the_keys_are_these_and_only_these(redis_url: str, client: redis.Redis) -> None:
    store = open_store(redis_url)
    append_one(store, log_row=b"row")
    assert set(client.keys()) == {RING_M, b"{demo:40}:o", b"{demo}:layouts"}  # type: ignore[arg-type]
    assert set(fields_of(client)) == {b"0", b"n", b"c", b"g", b"i"}
    assert client.hgetall("{demo}:layouts") == {LAYOUT.fingerprint.hex().encode(): LAYOUT.to_json().encode()}
    assert 13 * DAY_MS < int(client.pttl(RING_M.decode())) <= 14 * DAY_MS  # type: ignore[arg-type]
    store.empty()
    assert client.get("{demo:40}:g") == b"1"


def test_an_append_prolongs_the_rings_life(redis_url: str, client: redis.Redis) -> None:
    store = open_store(redis_url)
    append_one(store)
    client.pexpire(RING_M.decode(), 60_000)
    append_one(store)
    assert int(client.pttl(RING_M.decode())) > 13 * DAY_MS  # type: ignore[arg-type]


def test_an_append_writes_one_slot_and_the_pointer(redis_url: str, client: redis.Redis) -> None:
    store = open_store(redis_url, capacity=12)
    grow(store, 20)
    before = fields_of(client)
    append_one(store)
    after = fields_of(client)
    assert {name for name in after if after[name] != before.get(name)} == {b"8", b"n"}
    assert before.keys() == after.keys()


def test_a_damaged_value_is_skipped_and_counted_and_the_rest_is_served(redis_url: str, client: redis.Redis) -> None:
    store = open_store(redis_url)
    grow(store, 10)
    key, values = RING_M.decode(), fields_of(client)
    flipped = bytearray(values[b"1"])
    flipped[40] ^= 1
    damage: dict[str, bytes] = {
        "1": bytes(flipped),
        "2": values[b"2"][:20],
        "3": b"",
        "4": b"\xf9" + values[b"4"][1:],
        "5": seal(make_entry(5), owner("demo", "another member")),
        "6": values[b"7"],
    }
    for slot, value in damage.items():
        client.hset(key, slot, value)  # type: ignore[arg-type]
    client.hdel(key, "8")
    ring = read_one(store)
    assert [entry.sequence for entry in ring.entries] == [0, 7, 9]
    assert ring.skipped == {"checksum": 2, "truncated": 2, "foreign_version": 1, "misplaced": 1}
    assert ring.version.count == 10
    grow(store, 16)
    assert read_one(store).skipped == {}


def test_a_key_of_another_type_harms_its_own_member_alone(redis_url: str, client: redis.Redis) -> None:
    store = open_store(redis_url)
    client.set(RING_M.decode(), "no ring")
    append_one(store, "healthy")
    bad, good = store.read(["m", "healthy"], [NOW_MS] * 2)
    assert (bad.entries, bad.skipped) == ((), {"wrong_type": 1})
    assert len(good.entries) == 1
    outcomes = store.append(
        [Append("m", bad.version, make_entry(0), b"lost"), Append("healthy", good.version, make_entry(1), b"kept")]
    )
    assert isinstance(outcomes[0], StoreError)
    assert "WRONGTYPE" in str(outcomes[0])
    assert outcomes[1] is AppendOutcome.APPENDED
    assert [row for _, row in store.drain(10)] == [b"kept"]


def test_an_outbox_that_cannot_be_written_lets_nothing_be_written(redis_url: str, client: redis.Redis) -> None:
    store = open_store(redis_url)
    client.set("{demo:40}:o", "no stream")
    (outcome,) = store.append([Append("m", read_one(store).version, make_entry(0), b"row")])
    assert isinstance(outcome, StoreError)
    assert read_one(store).version.count == 0


@pytest.mark.parametrize("field", ["n", "c", "g", "i"])
def test_a_ring_without_one_of_its_numbers_starts_anew(redis_url: str, client: redis.Redis, field: str) -> None:
    store = open_store(redis_url)
    grow(store, 3)
    client.hset(RING_M.decode(), field, "nonsense")
    assert read_one(store).entries == ()
    grow(store, 2)
    assert [entry.sequence for entry in read_one(store).entries] == [0, 1]


OLDER = Layout((FloatGroup("state", ("b", "a"), "float32"),), ("none", "push"))


def test_entries_under_an_older_layout_keep_their_meaning(redis_url: str) -> None:
    entry = append_one(open_store(redis_url, layout=OLDER), layout=OLDER)
    store = open_store(redis_url)
    newer = append_one(store)
    ring = read_one(store)
    assert ring.entries == (entry, newer)
    assert ring.entries[0].layout == OLDER
    assert ring.skipped == {}


@pytest.mark.parametrize(
    "registered",
    [
        None,
        b"not JSON",
        b'{"actions":["none"],"groups":[{"columns":["a"],"name":"state","storage":"uint8"}]}',
        LAYOUT.to_json().encode(),
    ],
)
def test_a_layout_that_is_lost_or_not_understood_hides_its_entries_alone(
    redis_url: str, client: redis.Redis, registered: bytes | None
) -> None:
    grow(open_store(redis_url, layout=OLDER), 2, layout=OLDER)
    client.hdel("{demo}:layouts", OLDER.fingerprint.hex())
    if registered is not None:
        client.hset("{demo}:layouts", OLDER.fingerprint.hex(), registered)  # type: ignore[arg-type]
    store = open_store(redis_url)
    newer = append_one(store)
    for _ in range(2):
        ring = read_one(store)
        assert ring.entries == (newer,)
        assert ring.skipped == {"foreign_layout": 2}


@pytest.mark.parametrize("count", [0, 5, 11, 12, 30])
@pytest.mark.parametrize(("before", "after"), [(12, 20), (20, 12), (12, 1), (1, 12), (12, 13)])
def test_a_changed_capacity_keeps_the_newest_entries(redis_url: str, before: int, after: int, count: int) -> None:
    grow(open_store(redis_url, capacity=before), count)
    store = open_store(redis_url, capacity=after)
    for appended in range(count, count + 25):
        kept = min(appended, after, min(count, before) + appended - count)
        expected = tuple(make_entry(sequence) for sequence in range(appended - kept, appended))
        assert read_one(store).entries == expected
        append_one(store)


def test_a_ring_of_a_large_capacity_can_change_it(redis_url: str) -> None:
    grow(open_store(redis_url, capacity=1024), 1100)
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
        with pytest.raises(StoreUnavailable, match="hgetall"):
            read_one(open_store(redis_url.replace("redis://", "redis://limited:right@")))
    finally:
        client.acl_deluser("limited")


def test_rows_of_many_buckets_are_drained_oldest_first(redis_url: str) -> None:
    store = open_store(redis_url)
    members = [str(number) for number in range(200)]
    versions = [ring.version for ring in store.read(members, [NOW_MS] * len(members))]
    for member_id, version in zip(members, versions, strict=True):
        store.append([Append(member_id, version, make_entry(0), member_id.encode())])
    seen: list[bytes] = []
    while drained := store.drain(3):
        store.trim([cursor for cursor, _ in drained])
        seen += [row for _, row in drained]
    assert sorted(seen) == sorted(member_id.encode() for member_id in members)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("c", "1000000000"),
        ("c", "0"),
        ("c", "1_6"),
        ("n", "-5"),
        ("n", "5.5"),
        ("n", "1e3"),
        ("n", "9999999999"),
        ("n", "100000000000000"),
        ("i", ""),
    ],
)
def test_wild_numbers_in_a_ring_are_no_ring_and_the_next_append_heals_it(
    redis_url: str, client: redis.Redis, field: str, value: str
) -> None:
    store = open_store(redis_url)
    append_one(store)
    client.hset(RING_M.decode(), field, value)
    assert read_one(store).entries == ()
    append_one(store)
    assert len(read_one(store).entries) == 1


def test_a_layout_lost_with_everything_else_is_registered_again(redis_url: str, client: redis.Redis) -> None:
    store = open_store(redis_url)
    append_one(store)
    client.flushdb()
    append_one(store)
    assert client.exists("{demo}:layouts")
