"""Erasure: nothing of one member is left, nothing of another is missing."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from contracts.errors import StoreError
from sequence_store import Append, AppendOutcome, RedisRingStore
from sequence_store.erasure import Erasure, erase, erase_everywhere, rows_with
from tests.sequence_store.samples import append_one, make_entry, read_one
from tests.sequence_store.tenants import Tenant, url_of

pytestmark = pytest.mark.integration


@pytest.fixture(params=["redis", "cluster"])
def tenants(request: pytest.FixtureRequest) -> Iterator[tuple[Tenant, Tenant]]:
    """Two tenants on each kind of server in turn."""
    url = url_of(request)
    both = Tenant(url), Tenant(url)
    yield both
    for tenant in both:
        tenant.close()


def row(member_id: object) -> bytes:
    return json.dumps({"member_id": member_id, "action": "push"}).encode()


def rows_left(store: RedisRingStore) -> list[bytes]:
    return [one for _, one in store.drain(10_000)]


def same_bucket(tenant: Tenant, member_id: str) -> str:
    """Return another member whose rows stand in the same outbox."""
    keys = tenant.keys
    return next(other for other in map(str, range(10_000)) if keys.bucket(other) == keys.bucket(member_id))


def test_a_members_ring_and_rows_go_and_no_others(tenants: tuple[Tenant, Tenant]) -> None:
    tenant, other_tenant = tenants
    store, neighbour = tenant.open(), same_bucket(tenant, "m")
    for _ in range(3):
        append_one(store, "m", log_row=row("m"))
        append_one(store, neighbour, log_row=row(neighbour))
    append_one(other_tenant.open(), "m", log_row=row("m"))
    done = erase(tenant.wire, tenant.keys, "m", rows_with("member_id", "m"))
    assert done == Erasure(rings=1, rows=3, rows_seen=6)
    assert tenant.value("m") == b""
    assert len(read_one(store, neighbour).entries) == 3
    assert rows_left(store) == [row(neighbour)] * 3
    assert len(read_one(other_tenant.open(), "m").entries) == 1
    assert erase(tenant.wire, tenant.keys, "m", rows_with("member_id", "m")).rings == 0


def test_an_emptied_ring_goes_as_well(tenants: tuple[Tenant, Tenant]) -> None:
    tenant, _ = tenants
    store = tenant.open()
    append_one(store)
    store.empty()
    assert erase(tenant.wire, tenant.keys, "m", rows_with("member_id", "m")).rings == 1
    assert tenant.value() == b""


def test_a_decision_under_way_is_refused_and_a_later_one_begins_anew(tenants: tuple[Tenant, Tenant]) -> None:
    tenant, _ = tenants
    store = tenant.open()
    append_one(store)
    version = read_one(store).version
    erase(tenant.wire, tenant.keys, "m", rows_with("member_id", "m"))
    assert store.append([Append("m", version, make_entry(1), row("m"))]) == [AppendOutcome.CONFLICT]
    assert rows_left(store) == []
    assert append_one(store).sequence == 0


def test_a_member_is_erased_from_all_tenants_whatever_the_id(tenants: tuple[Tenant, Tenant]) -> None:
    strange, lookalike = "*[a]?\\}:m:x", "*[a]?\\}:m:xx"
    for tenant in tenants:
        store = tenant.open()
        for member_id in (strange, lookalike, "x"):
            append_one(store, member_id, log_row=row(member_id))
    stray = f"{{{tenants[0].name}:99}}:m:{strange}".encode()
    tenants[0].call("SET", stray, "of another number of buckets")
    done = erase_everywhere(tenants[0].wire, strange, rows_with("member_id", strange))
    assert (done.rings, done.rows) == (3, 2)
    assert tenants[0].call("EXISTS", stray) == 0
    for tenant in tenants:
        assert tenant.value(strange) == b""
        store = tenant.open()
        assert [len(read_one(store, member_id).entries) for member_id in (lookalike, "x")] == [1, 1]
        assert sorted(rows_left(store)) == sorted([row(lookalike), row("x")])


def test_a_member_whose_id_ends_another_is_not_that_other(tenants: tuple[Tenant, Tenant]) -> None:
    tenant, _ = tenants
    store, longer = tenant.open(), "a}:m:short-one"
    for member_id in (longer, "short-one"):
        append_one(store, member_id)
    assert erase_everywhere(tenant.wire, "short-one", rows_with("member_id", "short-one")).rings == 1
    assert len(read_one(store, longer).entries) == 1


def test_more_rows_than_are_read_at_once(tenants: tuple[Tenant, Tenant]) -> None:
    tenant, _ = tenants
    outbox = tenant.keys.outbox(tenant.keys.bucket("m"))
    rows = [("XADD", outbox, "*", "r", row("m" if number % 3 else "other")) for number in range(2_500)]
    tenant.wire.exchange(rows, writes=True)
    done = erase(tenant.wire, tenant.keys, "m", rows_with("member_id", "m"))
    assert (done.rows, done.rows_seen) == (1_666, 2_500)
    assert tenant.call("XLEN", outbox) == 834


def test_rows_nobody_can_read_stay_and_are_counted(tenants: tuple[Tenant, Tenant]) -> None:
    tenant, _ = tenants
    store = tenant.open()
    unreadable = [b"\xff", b"[1]", b'{"member": "7"}', b"{"]
    for log_row in (*unreadable, row("7"), row(7)):
        append_one(store, "7", log_row=log_row)
    done = erase(tenant.wire, tenant.keys, "7", rows_with("member_id", "7"))
    assert (done.rows, done.rows_unreadable) == (2, 4)
    assert rows_left(store) == unreadable


def test_a_member_id_that_is_none_is_an_error(tenants: tuple[Tenant, Tenant]) -> None:
    for erasing in (erase_everywhere, lambda wire, member, test: erase(wire, tenants[0].keys, member, test)):
        with pytest.raises(StoreError, match="member_id ''"):
            erasing(tenants[0].wire, "", rows_with("member_id", ""))
