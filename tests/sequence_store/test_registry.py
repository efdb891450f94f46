"""Layouts and dictionaries that change while stores are live: every entry is read by what it was written under."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any

import pytest
import redis
from hypothesis import example, given
from hypothesis import strategies as st

from contracts.errors import StoreUnavailable
from sequence_store import Append, AppendOutcome, FloatGroup, Layout, RedisRingStore, registry
from sequence_store.codec import Codec, dictionary_fingerprint
from sequence_store.keys import Keys
from sequence_store.sealing import changes_of
from sequence_store.wire import Command, Wire
from tests.sequence_store.samples import LAYOUT, NOW_MS, append_one, grow, layouts, make_entry, read_one

KEYS = Keys("demo")
CODECS = KEYS.codecs.decode()
OLDER = Layout((FloatGroup("state", ("b", "a"), "float32"),), ("none", "push"))
FIRST, SECOND = b"cycle-notification-" * 10, b"utility-v1notification/1" * 10


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def open_store(redis_url: str) -> Iterator[Callable[..., RedisRingStore]]:
    """Open stores of one tenant, as so many processes would."""
    opened = []

    def open_one(layout: Layout = LAYOUT, capacity: int = 16) -> RedisRingStore:
        opened.append(RedisRingStore(redis_url, "demo", layout, capacity, 14, timeout_s=30.0))
        return opened[-1]

    yield open_one
    for store in opened:
        store.close()


@pytest.fixture
def exchanges(monkeypatch: pytest.MonkeyPatch) -> list[list[Command]]:
    """What goes over the wire: one list of commands a round trip."""
    seen: list[list[Command]] = []
    exchange = Wire.exchange

    def counting(wire: Wire, commands: list[Command], *, writes: bool) -> list[Any]:
        seen.append(list(commands))
        return exchange(wire, commands, writes=writes)

    monkeypatch.setattr(Wire, "exchange", counting)
    return seen


def fields_of(client: redis.Redis) -> dict[bytes, bytes]:
    fields: Any = client.hgetall(CODECS)
    return dict(fields)


def use(client: redis.Redis, dictionary: bytes) -> None:
    Wire(client).exchange([registry.use_command(KEYS, dictionary)], writes=True)


def codec_of(client: redis.Redis) -> set[bytes]:
    return {name for name in fields_of(client) if name.startswith(b"codec:")}


@pytest.mark.integration
def test_reads_and_appends_take_one_round_trip_each_once_the_codec_is_known(
    open_store: Callable[..., RedisRingStore], exchanges: list[list[Command]]
) -> None:
    store = open_store()
    append_one(store)
    read_one(store)
    members = [f"m{number}" for number in range(100)]
    for _ in range(3):
        exchanges.clear()
        rings = store.read(members, [NOW_MS] * 100)
        assert len(exchanges) == 1
        exchanges.clear()
        appends = [Append(r.member_id, r.version, make_entry(r.version.count), b"r") for r in rings]  # type: ignore[union-attr]
        assert store.append(appends) == [AppendOutcome.APPENDED] * 100
        assert [len(commands) for commands in exchanges] == [100]


@pytest.mark.integration
def test_a_layout_is_registered_before_its_first_entry_and_learned_with_the_read_that_meets_it(
    open_store: Callable[..., RedisRingStore], client: redis.Redis, exchanges: list[list[Command]]
) -> None:
    newer, older = open_store(), open_store(OLDER)
    first = append_one(newer)
    assert codec_of(client) == {b"codec:" + Codec(LAYOUT).fingerprint.hex().encode()}
    read_one(newer)
    second = append_one(older, layout=OLDER)
    exchanges.clear()
    assert read_one(newer).entries == (first, second)
    assert len(exchanges) == 2
    assert read_one(newer).entries == (first, second)
    assert len(exchanges) == 3


@pytest.mark.integration
def test_a_dictionary_is_rolled_over_under_two_live_stores(
    open_store: Callable[..., RedisRingStore], client: redis.Redis
) -> None:
    one, other = open_store(), open_store()
    entries = [append_one(one), append_one(other)]
    for number, dictionary in enumerate((FIRST, SECOND, FIRST, b"")):
        under_way = read_one(other).version
        use(client, dictionary)
        entries.append(append_one(one, member_id="another"))
        # Read before the dictionary was in use, and written after: under the codec of before.
        entry = make_entry(under_way.count, cycle_id=f"under way {number}")
        assert other.append([Append("m", under_way, entry, None)]) == [AppendOutcome.APPENDED]
        mine = [read_one(store) for store in (one, other, open_store())]
        assert [ring.skipped for ring in mine] == [{}] * 3
        assert len({tuple(longs.sequence for longs in ring.longs) for ring in mine}) == 1
        assert all(ring.cycle(f"under way {number}") == entry for ring in mine)
        append_one(other)
    assert len(codec_of(client)) == 3
    assert read_one(one).version.count == 10
    assert len(read_one(one).entries) == 10


@pytest.mark.integration
def test_a_new_dictionary_makes_the_next_entries_smaller(
    open_store: Callable[..., RedisRingStore], client: redis.Redis
) -> None:
    store = open_store(OLDER)
    append_one(store, "plain", layout=OLDER)
    use(client, FIRST + SECOND)
    append_one(store, "trained", layout=OLDER)
    plain, trained = (len(client.get(KEYS.ring(member))) for member in ("plain", "trained"))  # type: ignore[arg-type]
    assert trained < plain


@pytest.mark.integration
@pytest.mark.parametrize(
    "registered",
    [
        None,
        b"not JSON",
        b"\xff",
        b'{"actions":["none"],"groups":[{"columns":["a"],"name":"state","storage":"uint4"}]}',
        LAYOUT.to_json().encode(),
    ],
)
def test_a_layout_that_is_lost_or_not_understood_hides_its_entries_alone_until_it_is_back(
    open_store: Callable[..., RedisRingStore],
    client: redis.Redis,
    exchanges: list[list[Command]],
    registered: bytes | None,
) -> None:
    name = f"layout:{OLDER.fingerprint.hex()}"
    store = open_store(OLDER)
    entries = [append_one(store, layout=OLDER) for _ in range(2)]
    client.hdel(CODECS, name)
    if registered is not None:
        client.hset(CODECS, name, registered)  # type: ignore[arg-type]
    store = open_store()
    entries.append(append_one(store))
    read_one(store)
    exchanges.clear()
    for _ in range(3):
        ring = read_one(store)
        assert ring.entries == tuple(entries[2:])
        assert ring.skipped == {"foreign_codec": 2}
        assert ring.version.count == 3
    assert len(exchanges) == 3, "what is not known is not asked for again and again"
    client.hset(CODECS, mapping={name: OLDER.to_json(), "epoch": "another"})
    entries.append(append_one(store))
    assert read_one(store).entries == tuple(entries)


@pytest.mark.integration
@pytest.mark.parametrize("put_in_place", [b"", b"another dictionary", None])
def test_a_dictionary_that_is_lost_or_not_the_one_is_not_used(
    open_store: Callable[..., RedisRingStore], client: redis.Redis, put_in_place: bytes | None
) -> None:
    name = f"dictionary:{dictionary_fingerprint(FIRST).hex()}"
    use(client, FIRST)
    first = append_one(open_store())
    client.hdel(CODECS, name)
    if put_in_place is not None:
        client.hset(CODECS, name, put_in_place)  # type: ignore[arg-type]
    store = open_store()
    assert read_one(store).skipped == {"foreign_codec": 1}
    second = append_one(store)
    assert read_one(store).entries == (second,)
    client.hset(CODECS, name, FIRST)  # type: ignore[arg-type]
    assert read_one(open_store()).entries == (first, second)


@pytest.mark.integration
def test_a_store_goes_on_after_everything_is_lost(
    open_store: Callable[..., RedisRingStore], client: redis.Redis
) -> None:
    use(client, FIRST)
    store = open_store()
    grow(store, 3)
    client.flushdb()
    assert read_one(store).version.count == 0
    entry = append_one(store)
    assert read_one(open_store()).entries == (entry,)
    assert b"current" not in fields_of(client)


@pytest.mark.integration
def test_an_entry_whose_codec_was_lost_while_it_was_under_way_is_read_after_the_next_append(
    open_store: Callable[..., RedisRingStore], client: redis.Redis
) -> None:
    store = open_store()
    append_one(store)
    version = read_one(store, "new").version
    client.flushdb()
    entry = make_entry(0)
    assert store.append([Append("new", version, entry, None)]) == [AppendOutcome.APPENDED]
    assert read_one(open_store(), "new").skipped == {"foreign_codec": 1}
    assert read_one(store, "new").skipped == {"foreign_codec": 1}
    append_one(store, "another member")
    assert read_one(store, "new").entries == (entry,)


@pytest.mark.integration
def test_an_entry_is_not_written_before_its_own_codec_is_registered(
    open_store: Callable[..., RedisRingStore], client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store()
    version = read_one(store).version

    def overtaken(*arguments: Any) -> Any:
        """Let another thread notice a new dictionary, and append, in the middle of this thread's append."""
        change = changes_of(*arguments)
        monkeypatch.setattr("sequence_store.redis_ring.changes_of", changes_of)
        use(client, FIRST)
        append_one(store, "of another thread")
        return change

    monkeypatch.setattr("sequence_store.redis_ring.changes_of", overtaken)
    assert store.append([Append("m", version, make_entry(0), None)]) == [AppendOutcome.APPENDED]
    assert read_one(store).entries == (make_entry(0),)


@cache
def namesakes() -> tuple[Layout, Layout]:
    """Return two layouts whose codecs' fingerprints begin alike."""
    by_tag: dict[int, Layout] = {}
    number = 0
    while True:
        layout = Layout((), (f"action {number}",))
        if Codec(layout).tag in by_tag:
            return by_tag[Codec(layout).tag], layout
        by_tag[Codec(layout).tag] = layout
        number += 1


@pytest.mark.integration
def test_two_layouts_whose_codecs_have_one_tag_are_told_apart(open_store: Callable[..., RedisRingStore]) -> None:
    one, other = namesakes()
    entries = []
    for layout in (one, other, one, other, other):
        store = open_store(layout)
        entries.append(append_one(store, layout=layout))
        assert read_one(store).entries == tuple(entries)
    assert [entry.layout for entry in read_one(open_store()).entries] == [one, other, one, other, other]


@pytest.mark.integration
def test_an_entry_of_a_later_release_stays_even_if_its_codec_has_the_tag_of_a_known_one(
    open_store: Callable[..., RedisRingStore], client: redis.Redis
) -> None:
    one, other = namesakes()
    entries = [append_one(open_store(layout), layout=layout) for layout in (one, other)]
    name = f"layout:{other.fingerprint.hex()}"
    client.hset(CODECS, name, b"of a later release")  # type: ignore[arg-type]
    entries.append(append_one(open_store(one), layout=one))
    client.hset(CODECS, name, other.to_json())
    assert read_one(open_store()).entries == tuple(entries)


@pytest.mark.integration
def test_a_registry_that_cannot_be_read_stops_those_alone_who_know_nothing_yet(
    open_store: Callable[..., RedisRingStore], client: redis.Redis
) -> None:
    store = open_store()
    entry = append_one(store)
    read_one(store)
    client.rename(CODECS, "aside")
    client.set(CODECS, "no hash")
    assert read_one(store).entries == (entry,)
    with pytest.raises(StoreUnavailable, match="registered codecs cannot be read"):
        read_one(open_store())
    client.rename("aside", CODECS)
    assert read_one(open_store()).entries == (entry,)


@pytest.mark.integration
def test_rings_that_were_read_are_returned_where_the_registry_cannot_be_asked_again(
    open_store: Callable[..., RedisRingStore], client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    append_one(open_store(OLDER), layout=OLDER)
    entry = append_one(open_store(), "another")
    client.hdel(CODECS, f"layout:{OLDER.fingerprint.hex()}")
    store, exchange = open_store(), Wire.exchange

    def failing(wire: Wire, commands: list[Command], *, writes: bool) -> list[Any]:
        if commands == [registry.epoch_command(KEYS)]:
            raise StoreUnavailable("the server of the registry is away")
        return exchange(wire, commands, writes=writes)

    monkeypatch.setattr(Wire, "exchange", failing)
    assert read_one(store, "another").entries == (entry,)
    assert [ring.skipped for ring in store.read(["m", "another"], [NOW_MS] * 2)] == [{"foreign_codec": 1}, {}]  # type: ignore[union-attr]


@pytest.mark.integration
def test_a_layout_given_whole_numbers_as_scales_is_read_back(open_store: Callable[..., RedisRingStore]) -> None:
    layout = Layout((FloatGroup("state", ("a",), "uint8", ((0, 1),)),), ("none",))
    store = open_store(layout)
    entry = append_one(store, layout=layout)
    assert read_one(store).entries == (entry,)


@pytest.mark.unit
@given(st.lists(st.tuples(layouts(), st.binary(max_size=20)), max_size=6))
def test_what_was_registered_is_what_is_found(pairs: list[tuple[Layout, bytes]]) -> None:
    fields: dict[bytes, bytes] = {}
    codecs = [Codec(layout, dictionary) for layout, dictionary in pairs]
    for codec in codecs:
        run(registry.register_command(KEYS, codec), fields)
    registered = registry.parse(fields)
    assert {codec for found in registered.codecs.values() for codec in found} == set(codecs)
    assert all(registered.has(codec) for codec in codecs)
    assert all(codec.tag == tag for tag, found in registered.codecs.items() for codec in found)
    assert registry.parse([part for field in fields.items() for part in field]) == registered
    assert registered.current == b""
    run(registry.use_command(KEYS, FIRST), fields)
    again = registry.parse(fields)
    assert again.epoch != registered.epoch
    assert again.writing(LAYOUT) == Codec(LAYOUT, FIRST)
    assert not again.has(Codec(LAYOUT, FIRST))


def run(command: Command, fields: dict[bytes, bytes]) -> None:
    """Do to ``fields`` what an HSET of them does."""
    name, key, *parts = command
    assert (name, key) == ("HSET", KEYS.codecs)
    texts = [part if isinstance(part, bytes) else str(part).encode() for part in parts]
    fields.update(zip(texts[::2], texts[1::2], strict=True))


@pytest.mark.unit
@example({b"layout:aa": b"[" * 100_000})
@example(
    {b"layout:aa": b'{"actions":["a"],"groups":[{"columns":["c"],"name":"s","scales":[[1' + b"0" * 400 + b",1]]}]}"}
)
@example({b"since:aa": b"1" * 5000})
@given(
    st.dictionaries(
        st.builds(
            lambda kind, rest: kind + rest,
            st.sampled_from([b"layout:", b"dictionary:", b"codec:", b"since:", b"unused:", b"current", b"epoch", b""]),
            st.binary(max_size=9),
        ),
        st.binary(max_size=60),
    )
)
def test_a_registry_with_anything_in_it_is_read_as_far_as_it_is_understood(fields: Mapping[bytes, bytes]) -> None:
    registered = registry.parse(fields)
    assert registered.codecs == {}
    assert registered.current == b""
