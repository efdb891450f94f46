"""Dictionaries: trained on what is stored, taken up by live writers, retired when nothing is left under them."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from contracts.errors import StoreError
from sequence_store import Append, AppendOutcome, Entry, Layout, RedisRingStore, packed, registry, storage
from sequence_store.codec import Codec
from sequence_store.dictionaries import train
from sequence_store.maintenance import Pace, repush
from sequence_store.registry import Registered, name_of
from sequence_store.retirement import Retirement, retire
from sequence_store.walk import draw
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
from tests.sequence_store.tenants import Tenant, url_of

HOUR_MS = DAY_MS // 24


@pytest.fixture(params=["redis", "cluster"])
def tenant(request: pytest.FixtureRequest) -> Iterator[Tenant]:
    """A tenant on each kind of server in turn."""
    tenant = Tenant(url_of(request))
    yield tenant
    tenant.close()


def usual_entry(sequence: int, member: int, **changes: Any) -> Entry:
    """Return an entry of a state that mostly has usual values, as real ones do."""
    rng = np.random.default_rng(1000 * member + sequence)
    floats = {}
    for group in LAYOUT.groups:
        values = np.where(rng.random(len(group.columns)) < 0.8, 0.5, rng.normal(size=len(group.columns)))
        floats[group.name] = storage.rounded(values, group)
    return make_entry(sequence, **({"floats": floats, "cycle_id": f"cycle-{member}-{sequence}"} | changes))


def fill(store: RedisRingStore, members: int, entries: int) -> dict[str, tuple[Entry, ...]]:
    """Append entries for every member; return them by member."""
    names = [f"member-{member}" for member in range(members)]
    appended: dict[str, tuple[Entry, ...]] = {}
    for sequence in range(entries):
        rings = store.read(names, [NOW_MS] * members)
        batch = []
        for member, ring in enumerate(rings):
            assert not isinstance(ring, StoreError)
            entry = usual_entry(sequence, member)
            batch.append(Append(names[member], ring.version, entry, None))
            appended[names[member]] = (*appended.get(names[member], ()), entry)
        assert set(store.append(batch)) == {AppendOutcome.APPENDED}
    return appended


def registered(tenant: Tenant) -> Registered:
    return registry.parse(tenant.call("HGETALL", tenant.keys.codecs))


def pass_at(tenant: Tenant, now_ms: int, *, recode: bool = True) -> None:
    repush(tenant.wire, tenant.keys, 14 * DAY_MS, recode=recode, pace=Pace(0), now_ms=now_ms)


def retired(tenant: Tenant) -> Retirement:
    return retire(tenant.wire, tenant.keys, grace_ms=HOUR_MS)


@pytest.mark.integration
def test_a_dictionary_is_trained_and_taken_up_at_the_next_read(tenant: Tenant) -> None:
    store = tenant.open()
    appended = fill(store, 60, 8)
    trained = train(tenant.wire, tenant.keys)
    assert trained.ratio_after > 1.5 * trained.ratio_before
    assert (trained.layout, trained.previous, trained.is_current) == (LAYOUT.fingerprint.hex(), "", True)
    assert (trained.members, trained.entries + trained.held_out_entries) == (60, 480)
    assert trained.held_out_entries == 12 * 8
    current = registered(tenant).current
    assert (name_of(current), len(current)) == (trained.dictionary, trained.bytes)
    entry = append_one(store, "member-0")
    assert [codec.dictionary for codec in tenant.codecs("member-0")] == [b""] * 8 + [current]
    assert read_one(store, "member-0").entries == (*appended["member-0"], entry)


@pytest.mark.integration
def test_a_dictionary_that_is_no_better_is_not_used_unless_forced(tenant: Tenant) -> None:
    fill(tenant.open(), 60, 8)
    good = train(tenant.wire, tenant.keys)
    worse = train(tenant.wire, tenant.keys, size=256)
    assert worse.ratio_after < worse.ratio_before
    assert worse.bytes <= 256
    assert (worse.previous, worse.is_current) == (good.dictionary, False)
    assert name_of(registered(tenant).current) == good.dictionary
    forced = train(tenant.wire, tenant.keys, size=256, force=True)
    assert forced.is_current
    assert name_of(registered(tenant).current) == forced.dictionary


@pytest.mark.integration
def test_training_is_on_the_layout_of_the_latest_decisions(tenant: Tenant) -> None:
    older = layout_with(OTHER_LAYOUTS["feature added"])
    store = tenant.open(layout=older)
    for member in range(40):
        for sequence in range(8):
            append_one(store, f"member-{member}", layout=older, at_ms=NOW_MS + sequence)
    store = tenant.open()
    for member in range(30):
        for sequence in range(8):
            append_one(store, f"new-{member}", at_ms=NOW_MS + DAY_MS + sequence)
    trained = train(tenant.wire, tenant.keys)
    assert trained.layout == LAYOUT.fingerprint.hex()
    assert trained.entries + trained.held_out_entries == 240


@pytest.mark.integration
def test_a_sample_is_of_as_many_members_as_it_has_entries(tenant: Tenant) -> None:
    fill(tenant.open(), 250, 2)
    trained = train(tenant.wire, tenant.keys, sample=220)
    assert (trained.members, trained.entries + trained.held_out_entries) == (220, 220)


@pytest.mark.integration
def test_too_few_entries_are_an_error_that_counts_them(tenant: Tenant) -> None:
    with pytest.raises(StoreError, match="0 entries of 0 members"):
        train(tenant.wire, tenant.keys)
    fill(tenant.open(), 10, 3)
    with pytest.raises(StoreError, match=r"30 entries of 10 members.*at least 200"):
        train(tenant.wire, tenant.keys)


@pytest.mark.integration
def test_a_superseded_dictionary_goes_once_a_later_pass_saw_nothing_under_it(tenant: Tenant) -> None:
    first = tenant.use_dictionary(1, NOW_MS)
    store = tenant.open()
    entry = append_one(store)
    second = tenant.use_dictionary(2, NOW_MS + 1)
    entries = (entry, append_one(store))
    assert retired(tenant).waiting == (name_of(first),)
    pass_at(tenant, NOW_MS + HOUR_MS)
    assert (retired(tenant).waiting, retired(tenant).forgotten) == ((name_of(first),), ())
    assert "begun more than 60 minutes after" in retired(tenant).reason
    pass_at(tenant, NOW_MS + 1 + HOUR_MS)
    epoch = registered(tenant).epoch
    assert retired(tenant) == Retirement(forgotten=(name_of(first),))
    assert registered(tenant).epoch != epoch
    assert set(registered(tenant).dictionaries.values()) == {b"", second}
    assert set(registered(tenant).since) == {name_of(second).encode()}
    assert {dictionary for _, dictionary in registered(tenant).pairs.values()} == {name_of(second).encode()}
    for reader in (store, tenant.open()):
        assert read_one(reader).entries == entries
    assert retired(tenant) == Retirement()


@pytest.mark.integration
def test_a_dictionary_in_use_stays_until_its_entries_were_recoded_and_that_was_seen(tenant: Tenant) -> None:
    first = tenant.use_dictionary(1, NOW_MS)
    entry = append_one(tenant.open())
    tenant.use_dictionary(2, NOW_MS)
    pass_at(tenant, NOW_MS + HOUR_MS, recode=False)
    assert retired(tenant) == Retirement(in_use=(name_of(first),))
    # The pass that recodes has seen the entries under it: the writes of a cluster's master may yet be lost.
    pass_at(tenant, NOW_MS + 2 * HOUR_MS)
    assert retired(tenant) == Retirement(in_use=(name_of(first),))
    assert read_one(tenant.open()).entries == (entry,)
    pass_at(tenant, NOW_MS + 3 * HOUR_MS)
    assert retired(tenant) == Retirement(forgotten=(name_of(first),))
    assert read_one(tenant.open()).entries == (entry,)


@pytest.mark.integration
def test_a_dictionary_whose_entries_are_emptied_or_aged_goes(tenant: Tenant) -> None:
    first = tenant.use_dictionary(1, NOW_MS)
    store = tenant.open()
    append_one(store, "aged", at_ms=NOW_MS - 15 * DAY_MS)
    append_one(store, "emptied")
    tenant.call("INCR", tenant.keys.generation(tenant.keys.bucket("emptied")))
    tenant.use_dictionary(2, NOW_MS)
    pass_at(tenant, NOW_MS + HOUR_MS)
    assert retired(tenant).forgotten == (name_of(first),)


@pytest.mark.integration
@pytest.mark.parametrize("same_tag", [False, True])
def test_a_dictionary_that_entries_of_a_later_release_may_use_stays(tenant: Tenant, same_tag: bool) -> None:
    first = tenant.use_dictionary(1, NOW_MS)
    known = Codec(LAYOUT, first)
    later = next(
        codec.layout
        for codec in (Codec(Layout((), ("none", str(number))), first) for number in itertools.count())
        if (codec.tag == known.tag) is same_tag
    )
    append_one(tenant.open())
    entry = append_one(tenant.open(layout=later), layout=later)
    tenant.call("HSET", tenant.keys.codecs, f"layout:{later.fingerprint.hex()}", '{"later": 1}', "epoch", "another")
    tenant.use_dictionary(2, NOW_MS)
    for later_ms in (HOUR_MS, 2 * HOUR_MS):
        pass_at(tenant, NOW_MS + later_ms)
        assert retired(tenant) == Retirement(in_use=(name_of(first),))
    tenant.call(
        "HSET", tenant.keys.codecs, f"layout:{later.fingerprint.hex()}", later.to_json(), "epoch", "and another"
    )
    assert read_one(tenant.open()).at(1) == entry


@pytest.mark.integration
def test_a_ring_of_a_later_release_may_use_any_dictionary(tenant: Tenant) -> None:
    first = tenant.use_dictionary(1, NOW_MS)
    append_one(tenant.open())
    tenant.call("SET", tenant.keys.ring("m"), bytes((packed.VERSION + 1,)) + b" of a later release")
    tenant.use_dictionary(2, NOW_MS)
    pass_at(tenant, NOW_MS + HOUR_MS)
    assert retired(tenant) == Retirement(in_use=(name_of(first),))
    tenant.call("DEL", tenant.keys.ring("m"))
    pass_at(tenant, NOW_MS + HOUR_MS)
    assert retired(tenant).forgotten == (name_of(first),)


@pytest.mark.integration
def test_a_registry_that_changes_in_between_is_read_again(tenant: Tenant) -> None:
    first = tenant.use_dictionary(1, NOW_MS)
    append_one(tenant.open())
    tenant.use_dictionary(2, NOW_MS)
    pass_at(tenant, NOW_MS + HOUR_MS)
    pass_at(tenant, NOW_MS + 2 * HOUR_MS)
    stale = registered(tenant)
    # The first is made the current one again, right before it would be forgotten.
    tenant.use_dictionary(1, NOW_MS)
    assert tenant.call(*registry.retire_command(tenant.keys, stale, dictionaries={name_of(first).encode()})) == 0
    assert registered(tenant).current == first
    assert name_of(first) not in retired(tenant).forgotten
    assert read_one(tenant.open()).skipped == {}


@pytest.mark.integration
def test_writers_that_are_told_to_use_none_supersede_a_dictionary_as_well(tenant: Tenant) -> None:
    first = tenant.use_dictionary(1, NOW_MS)
    entry = append_one(tenant.open())
    tenant.call(*registry.use_command(tenant.keys, b"", NOW_MS))
    pass_at(tenant, NOW_MS + HOUR_MS)
    pass_at(tenant, NOW_MS + 2 * HOUR_MS)
    assert retired(tenant) == Retirement(forgotten=(name_of(first),))
    assert [codec.dictionary for codec in tenant.codecs()] == [b""]
    assert read_one(tenant.open()).entries == (entry,)


@pytest.mark.integration
def test_a_dictionary_of_unknown_date_waits(tenant: Tenant) -> None:
    first = tenant.use_dictionary(1, NOW_MS)
    second = tenant.use_dictionary(2, NOW_MS)
    tenant.call("HDEL", tenant.keys.codecs, f"since:{name_of(second)}")
    pass_at(tenant, NOW_MS + HOUR_MS)
    assert retired(tenant).waiting == (name_of(first),)


@pytest.mark.unit
def test_every_member_is_drawn_equally_often() -> None:
    rng = random.Random(7)
    pages = [[f"{page}-{place}" for place in range(5)] for page in range(10)]
    times = Counter(member for _ in range(2_000) for member in draw(pages, 10, rng))
    assert len(times) == 50
    # 400 each, with a standard deviation of 18.
    assert all(290 < number < 510 for number in times.values())
    assert sorted(draw(pages, 60, rng)) == sorted(member for page in pages for member in page)
    assert draw([], 5, rng) == []
