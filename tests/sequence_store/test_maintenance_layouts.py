"""Layouts that nobody writes any more are forgotten, and never one that an entry needs, whoever writes meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from sequence_store import Append, AppendOutcome, Layout, RedisRingStore, Ring, packed, registry
from sequence_store.codec import Codec
from sequence_store.maintenance import Pace, repush
from sequence_store.registry import Registered
from sequence_store.retirement import Retirement, retire
from sequence_store.wire import Command, Wire
from tests.sequence_store.samples import DAY_MS, LAYOUT, NOW_MS, append_one, grow, make_entry, read_one
from tests.sequence_store.tenants import TIMEOUT_S, Tenant, url_of

pytestmark = pytest.mark.integration

HOUR_MS = DAY_MS // 24
OLDER = Layout((), ("none", "push"))
OLDER_NAME = OLDER.fingerprint.hex()


@pytest.fixture(params=["redis", "cluster"])
def tenant(request: pytest.FixtureRequest) -> Iterator[Tenant]:
    """A tenant on each kind of server in turn."""
    tenant = Tenant(url_of(request))
    yield tenant
    tenant.close()


def fields_of(tenant: Tenant) -> dict[bytes, bytes]:
    reply = tenant.call("HGETALL", tenant.keys.codecs)
    return dict(reply) if isinstance(reply, dict) else dict(zip(reply[::2], reply[1::2], strict=True))


def registered(tenant: Tenant) -> Registered:
    return registry.parse(fields_of(tenant))


def is_marked(tenant: Tenant) -> bool:
    return OLDER_NAME.encode() in registered(tenant).unused


def pass_at(tenant: Tenant, now_ms: int, *, recode: bool = True) -> None:
    repush(tenant.wire, tenant.keys, 14 * DAY_MS, recode=recode, pace=Pace(0), now_ms=now_ms)


def retired(tenant: Tenant, now_ms: int) -> Retirement:
    return retire(tenant.wire, tenant.keys, grace_ms=HOUR_MS, now_ms=now_ms)


def drop(tenant: Tenant, member_id: str = "m") -> None:
    """Let a ring go, as if it had expired."""
    tenant.call("DEL", tenant.keys.ring(member_id))


def silent_writer(tenant: Tenant) -> RedisRingStore:
    """Return a store of the older layout that has registered and knows it, and no entry of which is left."""
    store = tenant.open(layout=OLDER)
    append_one(store, layout=OLDER)
    read_one(store)
    drop(tenant)
    return store


def mark(tenant: Tenant, at_ms: int = NOW_MS) -> None:
    """Have the older layout marked as unused."""
    pass_at(tenant, at_ms)
    assert OLDER_NAME in retired(tenant, at_ms).layouts_unused
    assert is_marked(tenant)


def forget(tenant: Tenant, after_ms: int = NOW_MS) -> None:
    """Have the older layout, marked before, forgotten."""
    pass_at(tenant, after_ms + HOUR_MS)
    assert OLDER_NAME in retired(tenant, after_ms + HOUR_MS).layouts_forgotten


def test_a_layout_is_marked_after_a_pass_and_forgotten_with_its_codecs_after_another(tenant: Tenant) -> None:
    for seed in (1, 2):
        tenant.use_dictionary(seed, NOW_MS - DAY_MS)
        silent_writer(tenant)
    entry = append_one(tenant.open())
    assert retired(tenant, NOW_MS) == Retirement(
        waiting=retired(tenant, NOW_MS).waiting, reason=retired(tenant, NOW_MS).reason
    ), "there was no pass that could be evidence"
    pass_at(tenant, NOW_MS)
    assert retired(tenant, NOW_MS).layouts_unused == (OLDER_NAME,)
    # Neither the same pass nor one that begins too early says anything about writers that had not seen the mark.
    for too_early_ms in (0, HOUR_MS - 1):
        pass_at(tenant, NOW_MS + too_early_ms)
        assert retired(tenant, NOW_MS + DAY_MS) == Retirement(layouts_unused=(OLDER_NAME,))
    assert OLDER_NAME.encode() in registered(tenant).layouts
    pass_at(tenant, NOW_MS + HOUR_MS)
    epoch = registered(tenant).epoch
    assert retired(tenant, NOW_MS + HOUR_MS) == Retirement(layouts_forgotten=(OLDER_NAME,))
    assert registered(tenant).epoch != epoch
    assert registered(tenant).layouts == {LAYOUT.fingerprint.hex().encode()}
    assert not [field for field in fields_of(tenant).items() if OLDER_NAME.encode() in b"".join(field)]
    assert retired(tenant, NOW_MS + DAY_MS) == Retirement()
    assert read_one(tenant.open()).entries == (entry,)


def test_a_layout_that_an_entry_has_stays(tenant: Tenant) -> None:
    entry = append_one(tenant.open(layout=OLDER), "of the older", layout=OLDER)
    append_one(tenant.open())
    for hours in range(4):
        pass_at(tenant, NOW_MS + hours * HOUR_MS)
        assert retired(tenant, NOW_MS + hours * HOUR_MS) == Retirement()
    assert read_one(tenant.open(), "of the older").entries == (entry,)


def test_a_ring_of_a_later_release_may_use_any_layout(tenant: Tenant) -> None:
    silent_writer(tenant)
    tenant.call("SET", tenant.keys.ring("m"), bytes((packed.VERSION + 1,)) + b" of a later release")
    pass_at(tenant, NOW_MS)
    assert retired(tenant, NOW_MS) == Retirement()
    drop(tenant)
    mark(tenant)
    tenant.call("SET", tenant.keys.ring("m"), bytes((packed.VERSION + 1,)) + b" of a later release")
    pass_at(tenant, NOW_MS + HOUR_MS)
    assert retired(tenant, NOW_MS + HOUR_MS) == Retirement()


def test_a_writer_that_comes_back_after_the_mark_keeps_its_layout(tenant: Tenant) -> None:
    store = silent_writer(tenant)
    mark(tenant)
    pass_at(tenant, NOW_MS + HOUR_MS)
    # Right before the layout would be forgotten, and after the pass has gone by.
    entry = append_one(store, layout=OLDER)
    assert not is_marked(tenant)
    assert retired(tenant, NOW_MS + HOUR_MS).layouts_forgotten == ()
    assert read_one(tenant.open()).entries == (entry,)
    pass_at(tenant, NOW_MS + 2 * HOUR_MS)
    assert retired(tenant, NOW_MS + 2 * HOUR_MS) == Retirement()


def test_an_append_that_was_under_way_at_the_mark_is_seen_by_the_pass_that_counts(tenant: Tenant) -> None:
    store = silent_writer(tenant)
    version = read_one(store).version
    mark(tenant)
    entry = make_entry(version.count, layout=OLDER)
    assert store.append([Append("m", version, entry, None)]) == [AppendOutcome.APPENDED]
    pass_at(tenant, NOW_MS + HOUR_MS, recode=False)
    assert is_marked(tenant)
    assert retired(tenant, NOW_MS + HOUR_MS) == Retirement()
    assert read_one(tenant.open()).entries == (entry,)


def test_a_registration_between_the_look_and_the_forgetting_wins(tenant: Tenant) -> None:
    store = silent_writer(tenant)
    mark(tenant)
    pass_at(tenant, NOW_MS + HOUR_MS)
    stale = registered(tenant)
    entry = append_one(store, layout=OLDER)
    assert tenant.call(*registry.retire_command(tenant.keys, stale, layouts={OLDER_NAME.encode()})) == 0
    assert read_one(tenant.open()).entries == (entry,)


def test_a_writer_whose_layout_is_forgotten_registers_it_again(tenant: Tenant) -> None:
    store = silent_writer(tenant)
    mark(tenant)
    forget(tenant)
    entry = append_one(store, layout=OLDER)
    assert OLDER_NAME.encode() in registered(tenant).layouts
    assert read_one(tenant.open()).entries == (entry,)


def test_a_writer_that_stood_still_for_too_long_hides_its_entry_until_its_next_append(tenant: Tenant) -> None:
    store = silent_writer(tenant)
    version = read_one(store).version
    mark(tenant)
    forget(tenant)
    entry = make_entry(version.count, layout=OLDER)
    assert store.append([Append("m", version, entry, None)]) == [AppendOutcome.APPENDED]
    assert read_one(tenant.open()).skipped == {"foreign_codec": 1}
    pass_at(tenant, NOW_MS + 2 * HOUR_MS)
    append_one(store, "another member", layout=OLDER)
    assert read_one(tenant.open()).entries == (entry,)


def test_a_pass_that_recodes_entries_of_a_marked_layout_registers_it_again(tenant: Tenant) -> None:
    store = silent_writer(tenant)
    version = read_one(store).version
    mark(tenant)
    entry = make_entry(version.count, layout=OLDER)
    assert store.append([Append("m", version, entry, None)]) == [AppendOutcome.APPENDED]
    current = tenant.use_dictionary(1, NOW_MS)
    pass_at(tenant, NOW_MS + 1)
    assert not is_marked(tenant)
    assert registered(tenant).has(Codec(OLDER, current))
    assert read_one(tenant.open()).entries == (entry,)


def test_a_layout_of_a_later_release_is_kept_and_forgotten_like_any_other(tenant: Tenant) -> None:
    entry = append_one(tenant.open(layout=OLDER), layout=OLDER)
    tenant.call("HSET", tenant.keys.codecs, f"layout:{OLDER_NAME}", '{"later": 1}', "epoch", "another")
    for hours in range(2):
        pass_at(tenant, NOW_MS + hours * HOUR_MS)
        assert retired(tenant, NOW_MS + hours * HOUR_MS) == Retirement()
    tenant.call("HSET", tenant.keys.codecs, f"layout:{OLDER_NAME}", OLDER.to_json(), "epoch", "and another")
    assert read_one(tenant.open()).entries == (entry,)
    tenant.call("HSET", tenant.keys.codecs, f"layout:{OLDER_NAME}", '{"later": 1}', "epoch", "a third")
    drop(tenant)
    mark(tenant)
    forget(tenant)
    assert registered(tenant).layouts == set()


def test_what_a_thread_registers_does_not_hide_a_later_mark(tenant: Tenant, monkeypatch: pytest.MonkeyPatch) -> None:
    store = tenant.open(layout=OLDER)
    version = read_one(store).version
    exchange = Wire.exchange

    def overtaken(wire: Wire, commands: list[Command], *, writes: bool) -> list[Any]:
        """Let the layout be marked, and another thread read so, right after this thread has registered it."""
        replies = exchange(wire, commands, writes=writes)
        if any(command[0] == "HSET" for command in commands):
            monkeypatch.setattr(Wire, "exchange", exchange)
            mark(tenant)
            read_one(store, "of another thread")
        return replies

    monkeypatch.setattr(Wire, "exchange", overtaken)
    assert store.append([Append("m", version, make_entry(0, layout=OLDER), None)]) == [AppendOutcome.APPENDED]
    assert is_marked(tenant)
    append_one(store, layout=OLDER)
    assert not is_marked(tenant)


@pytest.mark.parametrize("is_first", [True, False])
def test_a_registration_that_a_failover_lost_is_made_again(tenant: Tenant, is_first: bool) -> None:
    if not is_first:
        append_one(tenant.open(), "of another layout")
    before = fields_of(tenant)
    store = tenant.open(layout=OLDER)
    entries = [append_one(store, layout=OLDER)]
    # The registry of before, with the epoch that the writer had read.
    tenant.call("DEL", tenant.keys.codecs)
    if before:
        tenant.call("HSET", tenant.keys.codecs, *(part for field in before.items() for part in field))
    assert read_one(tenant.open()).skipped == {"foreign_codec": 1}
    version = read_one(store).version
    entries.append(make_entry(version.count, layout=OLDER))
    assert store.append([Append("m", version, entries[-1], None)]) == [AppendOutcome.APPENDED]
    assert read_one(tenant.open()).entries == tuple(entries)


def test_a_layout_a_day_leaves_no_more_in_the_registry_than_the_rings_need(tenant: Tenant) -> None:
    capacity, sizes = 3, []
    for day in range(12):
        layout = Layout((), ("none", f"as of day {day}"))
        tenant.use_dictionary(day % 3, NOW_MS + day * DAY_MS)
        grow(tenant.open(layout=layout, capacity=capacity), 1, layout=layout)
        pass_at(tenant, NOW_MS + day * DAY_MS + 2 * HOUR_MS)
        retired(tenant, NOW_MS + day * DAY_MS + 2 * HOUR_MS)
        sizes.append((len(registered(tenant).layouts), len(registered(tenant).pairs)))
        assert read_one(tenant.open()).skipped == {}
    # Those of the ring, and one that is marked today; before a pass has recoded it, an entry has two codecs.
    assert all(layouts <= capacity + 1 for layouts, _ in sizes)
    assert sizes[-1] == sizes[-4] == sizes[-7]


@dataclass
class Writer:
    """A store, and what it has read of the one ring it writes to, and when."""

    store: RedisRingStore
    layout: Layout
    member_id: str
    ring: Ring | None = None
    read_at_ms: int = 0


STEPS = ["read", "append", "drop", "pass", "recode", "retire", "wait"]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.tuples(st.sampled_from(STEPS), st.sampled_from([0, 0, 0, 1])), min_size=10, max_size=40))
# A writer that stands still for as long as it may.
@example([("drop", 0), ("read", 0), ("pass", 0), ("retire", 0), ("pass", 0), ("append", 0), ("retire", 0)])
# One that comes back when the pass that counts has gone by, and is silent again.
@example([("drop", 0), ("pass", 0), ("retire", 0), ("wait", 0), ("pass", 0), ("read", 0), ("append", 0), ("retire", 0)])
def test_no_order_of_reads_appends_passes_and_retirements_hides_an_entry(
    redis_url: str, steps: list[tuple[str, int]]
) -> None:
    tenant = Tenant(redis_url)
    try:
        follow(tenant, steps)
    finally:
        tenant.close()


def follow(tenant: Tenant, steps: list[tuple[str, int]]) -> None:
    """Do as the steps say, on a clock of their own; after each, a reader who knows nothing yet can read every entry."""
    now_ms = NOW_MS
    writers = [Writer(tenant.open(layout=layout), layout, name) for layout, name in ((OLDER, "a"), (LAYOUT, "b"))]
    for writer in writers:
        append_one(writer.store, writer.member_id, layout=writer.layout)
    for what, number in steps:
        writer = writers[number]
        if what == "read":
            writer.ring, writer.read_at_ms = read_one(writer.store, writer.member_id), now_ms
        elif what == "append" and writer.ring is not None and now_ms - writer.read_at_ms < HOUR_MS:
            entry = make_entry(writer.ring.version.count, layout=writer.layout)
            writer.store.append([Append(writer.member_id, writer.ring.version, entry, None)])
        elif what == "drop":
            drop(tenant, writer.member_id)
        elif what in {"pass", "recode"}:
            pass_at(tenant, now_ms, recode=what == "recode")
        elif what == "retire":
            retired(tenant, now_ms)
        elif what == "wait":
            now_ms += HOUR_MS
        with RedisRingStore(tenant.url, tenant.name, LAYOUT, 16, 36_500.0, timeout_s=TIMEOUT_S) as reader:
            assert [read_one(reader, one.member_id).skipped for one in writers] == [{}, {}], what


def test_forgetting_has_no_bound_on_how_much_goes_at_once(tenant: Tenant) -> None:
    names = [f"{number:016x}" for number in range(9_000)]
    tenant.call(
        "HSET", tenant.keys.codecs, "epoch", "some", *(part for name in names for part in (f"layout:{name}", "{"))
    )
    pass_at(tenant, NOW_MS)
    assert len(retired(tenant, NOW_MS).layouts_unused) == len(names)
    pass_at(tenant, NOW_MS + HOUR_MS)
    assert len(retired(tenant, NOW_MS + HOUR_MS).layouts_forgotten) == len(names)
    assert set(fields_of(tenant)) == {b"epoch"}
