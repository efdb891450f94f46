"""Rings read together: a column at a time they say what each says by itself, whatever became of the stored values."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.errors import StoreError, StoreUnavailable
from sequence_store import Append, Entry, FloatGroup, Layout, Ring, avro, avro_columns, packed
from sequence_store.avro import MAX_AT_MS
from sequence_store.avro_columns import FEW
from sequence_store.codec import Codec, train_dictionary
from sequence_store.columns import EntryColumns
from sequence_store.frame import Codecs, Owner
from sequence_store.retention import Retention
from sequence_store.rings import Rings
from sequence_store.sealing import change_of, changes_of
from sequence_store.side_by_side import NewestEntries, RingValue
from tests.sequence_store.samples import DAY_MS, LAYOUT, NOW_MS, OTHER_LAYOUTS, layout_with, make_entry

pytestmark = pytest.mark.unit

TENANT, CAPACITY = "tenant", 11
RETENTION = Retention.of_days(CAPACITY, 14)
BARE = Layout((), ("none",))
MANY_ACTIONS = Layout((FloatGroup("state", ("a",), "float32"),), tuple(f"action {i}" for i in range(63)))
OTHER = layout_with(OTHER_LAYOUTS["features reordered"])
DICTIONARY = train_dictionary([avro.encode(make_entry(number))[1] for number in range(500)], 2048)
CODECS = [Codec(LAYOUT, DICTIONARY), Codec(LAYOUT), Codec(OTHER), Codec(BARE), Codec(MANY_ACTIONS)]
KNOWN: Codecs = {codec.tag: tuple(one for one in CODECS if one.tag == codec.tag) for codec in CODECS}
UNKNOWN = Codec(Layout((), ("of a later release",)))
TEXTS = ("", "utility-v1", "é" * 40, "NUL \0 and \N{ROCKET}", "long " * 60)


def drawn_entry(dice: random.Random, sequence: int, layout: Layout) -> Entry:
    """Return an entry with a time that may be aged, or in the future, and texts that may be anything."""
    changes: dict[str, Any] = {}
    if dice.random() < 0.2:
        changes = {name: dice.choice(TEXTS) for name in ("mask_key", "cycle_id", "notification_id", "model")}
    if dice.random() < 0.3:
        changes["at_ms"] = dice.choice((0, MAX_AT_MS, NOW_MS - 20 * DAY_MS, NOW_MS + DAY_MS))
    if layout is MANY_ACTIONS:
        changes["eligible"] = (1 << 63) - 1
    return make_entry(sequence, layout=layout, **changes)


def drawn_value(dice: random.Random, member_id: str, generation: int) -> bytes:
    """Return a ring as appends of several codecs, maintenance and misfortune may leave it."""
    owner, value = Owner(TENANT, member_id, generation), b""
    codecs = [CODECS[0]] if dice.random() < 0.6 else [*CODECS, UNKNOWN]
    everything: Codecs = {**KNOWN, UNKNOWN.tag: (*KNOWN.get(UNKNOWN.tag, ()), UNKNOWN)}
    for sequence in range(dice.randrange(3 * CAPACITY)):
        codec = dice.choice(codecs)
        version = packed.parse(value, owner, everything, CAPACITY).version
        append = Append(member_id, version, drawn_entry(dice, sequence, codec.layout), None)
        value = change_of(append, TENANT, codec, CAPACITY).apply(value)
    if value and dice.random() < 0.2:
        version = packed.parse(value, owner, everything, CAPACITY).version
        assert isinstance(version.found, packed.Found)
        frames = [frame for frame in version.found.frames if dice.random() < 0.7] or [*version.found.frames[-1:]]
        value = packed.lay_out(version.found, frames, version.count, owner, CAPACITY).apply(value)
    if value and dice.random() < 0.3:
        place = dice.randrange(len(value))
        flipped = bytearray(value)
        flipped[place] ^= 1 << dice.randrange(8)
        value = dice.choice((bytes(flipped), value[:place], value + b"more", value[place:] + value[:place]))
    return value


def drawn_batch(seed: int, size: int) -> tuple[list[str], list[RingValue | StoreError], Codecs]:
    """Return members, what is stored of them, and the codecs that are known."""
    dice = random.Random(seed)
    members = [f"member-{number}" for number in range(size)]
    found: list[RingValue | StoreError] = []
    for member in members:
        generation = dice.choice((0, 0, 0, 3))
        stored = dice.choice((member, member, member, member, "another"))
        value = RingValue(generation, drawn_value(dice, stored, dice.choice((generation, generation, 7))))
        found.append(StoreUnavailable("a node is away") if dice.random() < 0.05 else value)
    return members, found, KNOWN


def by_place(found: list[NewestEntries], number: int) -> list[Entry]:
    """Return the entries of one ring, the newest first."""
    placed = {
        int(place): one.entries.entry(row)
        for one in found
        for row, (ring, place) in enumerate(zip(one.ring, one.place, strict=True))
        if ring == number
    }
    assert sorted(placed) == list(range(len(placed)))
    return [placed[place] for place in sorted(placed)]


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**32), st.integers(0, CAPACITY + 1))
def test_side_by_side_rings_say_what_each_says_by_itself(seed: int, number: int) -> None:
    members, found, codecs = drawn_batch(seed, FEW + 4)
    times = [NOW_MS] * len(members)
    batch = Rings(TENANT, members, times, found, codecs, RETENTION)
    longs, newest = batch.longs, batch.newest(number)
    asked = [f"cycle-{place}" for place in range(len(members))]
    cycles = batch.cycles(asked)
    assert sum(len(one.entries) for one in newest) == sum(len(by_place(newest, place)) for place in range(len(batch)))
    for place, member in enumerate(members):
        alone = Rings(TENANT, [member], [NOW_MS], [found[place]], codecs, RETENTION)[0]
        if isinstance(alone, StoreError):
            assert batch.error(place) is batch[place] is alone
            assert (by_place(newest, place), cycles[place], longs.there[place].any()) == ([], None, False)
            with pytest.raises(StoreError, match="a node is away"):
                batch.version(place)
            continue
        assert by_place(newest, place) == list(islice(alone.newest(), number))
        assert cycles[place] == alone.cycle(asked[place])
        version = batch.version(place)
        assert version == alone.version
        assert isinstance(version.found, packed.Found)
        assert isinstance(alone.version.found, packed.Found)
        assert version.found._replace(starts=()) == alone.version.found._replace(starts=())
        assert list(version.found.starts) == list(alone.version.found.starts)
        there = longs.there[place]
        columns = (longs.sequence, longs.at_ms, longs.action, longs.eligible)
        # In the columns, entries whose decoding fails are not looked into; none is here.
        listed = [avro.Longs(*map(int, row)) for row in zip(*(column[place, there] for column in columns), strict=True)]
        assert listed[::-1] == list(alone.longs)
        ring = batch[place]
        assert isinstance(ring, Ring)
        assert (ring.entries, ring.skipped) == (alone.entries, alone.skipped)


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**32))
def test_entries_encoded_at_once_are_those_encoded_one_by_one(seed: int) -> None:
    dice = random.Random(seed)
    layout = dice.choice([codec.layout for codec in CODECS])
    entries = [drawn_entry(dice, dice.choice((number, 2**32 - 2)), layout) for number in range(FEW + 3)]
    encoded = avro_columns.encode_all(EntryColumns.of(entries))
    assert encoded == [avro.encode(entry) for entry in entries]
    longs = np.asarray([[e.sequence, e.at_ms, e.action, e.eligible] for e in entries])
    columns, rows = avro_columns.decode_bodies([body for _, body in encoded], longs, layout)
    assert rows.tolist() == list(range(len(entries)))
    assert [columns.entry(row) for row in range(len(columns))] == entries


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**32))
def test_bodies_that_are_damaged_are_left_out_or_are_what_the_library_reads(seed: int) -> None:
    dice = random.Random(seed)
    layout = dice.choice((LAYOUT, OTHER, MANY_ACTIONS))
    entries = [drawn_entry(dice, number, layout) for number in range(FEW)]
    bodies = [bytearray(avro.encode(entry)[1]) for entry in entries]
    for body in bodies:
        for _ in range(dice.randrange(3)):
            body[dice.randrange(len(body))] = dice.choice((0, 0x7F, 0x80, 0xFF, dice.randrange(256)))
        if dice.random() < 0.2:
            del body[dice.randrange(len(body)) :]
    longs = [avro.Longs(entry.sequence, entry.at_ms, entry.action, entry.eligible) for entry in entries]
    columns, rows = avro_columns.decode_bodies([bytes(body) for body in bodies], np.asarray(longs, np.int64), layout)
    for place, (body, of_body) in enumerate(zip(bodies, longs, strict=True)):
        try:
            read = avro.decode_body(bytes(body), of_body, layout)
        except ValueError:
            assert place not in rows
            continue
        if place in rows:
            assert columns.entry(rows.tolist().index(place)) == read


def test_of_a_batch_of_appends_one_that_is_wrong_costs_itself_alone() -> None:
    entries = [make_entry(0, cycle_id=f"c{number}") for number in range(FEW + 3)]
    entries[2] = replace(entries[2], at_ms=-1)
    entries[5] = replace(entries[5], floats={**entries[5].floats, "scores": np.zeros(2)})
    entries[7] = replace(entries[7], model=["no text"])  # type: ignore[arg-type]
    members = [f"m{number}" for number in range(len(entries))]
    rings = Rings(TENANT, members, [NOW_MS] * len(members), [RingValue(0, b"")] * len(members), KNOWN, RETENTION)
    appends = [Append(m, rings.version(number), entries[number], None) for number, m in enumerate(members)]
    changes = changes_of(appends, TENANT, CODECS[0], CAPACITY)
    errors = {number: str(one) for number, one in enumerate(changes) if isinstance(one, StoreError)}
    assert errors.keys() == {2, 5, 7}
    assert "at_ms = -1" in errors[2]
    assert "'scores' has shape (2,)" in errors[5]
    assert "model = ['no text']" in errors[7]
    for append, change in zip(appends, changes, strict=True):
        if not isinstance(change, StoreError):
            alone = change_of(append, TENANT, CODECS[0], CAPACITY)
            held = packed.parse(change.apply(b""), Owner(TENANT, append.member_id, 0), KNOWN, CAPACITY)
            assert [frame.entry() for frame in held.frames] == [append.entry]
            assert len(change.patches[0][1]) == len(alone.patches[0][1])


def test_a_damaged_frame_that_stays_is_never_taken_for_a_sound_one() -> None:
    """An append computes the checksum of all of the buffer anew: it must not vouch for what it did not write."""
    value = b""
    owner = Owner(TENANT, "m", 0)
    for sequence in range(8):
        version = packed.parse(value, owner, KNOWN, CAPACITY).version
        value = change_of(Append("m", version, make_entry(sequence), None), TENANT, CODECS[0], CAPACITY).apply(value)
    frames = packed.parse(value, owner, KNOWN, CAPACITY).frames
    value = value.replace(frames[4].frame, bytes((*frames[4].frame[:5], frames[4].frame[5] ^ 2, *frames[4].frame[6:])))
    for sequence in range(8, 8 + CAPACITY + 1):
        batch = Rings(TENANT, ["m"] * FEW, [NOW_MS] * FEW, [RingValue(0, value)] * FEW, KNOWN, RETENTION)
        expected = [one for one in range(max(0, sequence - CAPACITY), sequence) if one != 4]
        assert sorted(batch.longs.sequence[0, batch.longs.there[0]].tolist()) == expected
        append = Append("m", batch.version(0), make_entry(sequence), None)
        value = change_of(append, TENANT, CODECS[0], CAPACITY).apply(value)
    batch = Rings(TENANT, ["m"] * FEW, [NOW_MS] * FEW, [RingValue(0, value)] * FEW, KNOWN, RETENTION)
    assert not batch[0].skipped  # type: ignore[union-attr]


def test_columns_are_rows_and_rows_are_columns() -> None:
    entries = [make_entry(number) for number in range(5)]
    columns = EntryColumns.of(entries)
    assert [columns.entry(row) for row in range(len(columns))] == entries
    taken = columns.take(np.asarray([3, 1]))
    assert [taken.entry(row) for row in range(len(taken))] == [entries[3], entries[1]]
