"""Rings read together: each by itself where that is asked for, and all of them a column at a time.

One by one, what a decision needs of a ring costs ten times what Redis does. So the sound rings of a batch, which are
all but a few, are walked, verified and decoded side by side: frame k of every ring in one step. What is not
sound (damaged, of a codec or format that is not known) is left to ``packed.parse`` and ``Ring``, and its answer put in
its place: both ways give the same.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import islice
from typing import Final, NamedTuple, overload

import numpy as np
import zstandard
from numpy.typing import NDArray

from contracts.errors import StoreError
from sequence_store import avro, packed
from sequence_store.codec import Codec
from sequence_store.columns import EntryColumns
from sequence_store.entry import Entry
from sequence_store.frame import (
    CHECKSUM_BYTES,
    FORMAT,
    FRAME_RESIDUE,
    LONGS_AT,
    SHORT_BLOCK,
    SHORT_FRAME,
    WHOLE,
    Codecs,
    Owner,
    Sealed,
    UnreadableFrame,
    block_header,
    cycle_hash,
)
from sequence_store.joined import Ints, Joined
from sequence_store.layout import Layout
from sequence_store.retention import Retention
from sequence_store.ring import Append, Ring, Version

Bools = NDArray[np.bool_]

NO_VALUE: Final = b""


class RingValue(NamedTuple):
    """What a store holds of a member: the generation of the namespace, and the ring, empty where there is none."""

    generation: int
    value: bytes


@dataclass(frozen=True)
class RingLongs:
    """The Longs of B rings of at most K entries: column 0 is the newest entry, whatever the time it names.

    Attributes
    ----------
    sequence, at_ms, action, eligible
        [B, K], 0 where there is no entry.
    there
        [B, K] whether there is one: readable, and not aged.
    """

    sequence: Ints
    at_ms: Ints
    action: Ints
    eligible: Ints
    there: Bools


@dataclass(frozen=True)
class NewestEntries:
    """Some of the newest entries of a batch of rings: those of one layout.

    Attributes
    ----------
    entries
        N entries.
    ring
        [N] which ring of the batch each is of.
    place
        [N] where it stands among those taken of its ring; 0 is the newest.
    """

    entries: EntryColumns
    ring: Ints
    place: Ints


@dataclass(frozen=True)
class Appends(Sequence[Append]):
    """One append to each of N rings, as columns; ``Append`` says what they are."""

    member_ids: Sequence[str]
    versions: Sequence[Version]
    entries: EntryColumns
    log_rows: Sequence[bytes | None]

    def __len__(self) -> int:
        return len(self.member_ids)

    @overload
    def __getitem__(self, number: int) -> Append: ...
    @overload
    def __getitem__(self, number: slice) -> list[Append]: ...
    def __getitem__(self, number: int | slice) -> Append | list[Append]:
        if isinstance(number, slice):
            return [self[one] for one in range(*number.indices(len(self)))]
        return Append(self.member_ids[number], self.versions[number], self.entries.entry(number), self.log_rows[number])

    @classmethod
    def of(cls, appends: Sequence[Append]) -> Appends:
        """Return some appends as columns. Raises ValueError where they do not go together."""
        return cls(
            [append.member_id for append in appends],
            [append.version for append in appends],
            EntryColumns.of([append.entry for append in appends]),
            [append.log_row for append in appends],
        )


class Rings(Sequence[Ring | StoreError]):
    """The rings that were read for some members, in their order. A StoreError stands for one that was not.

    Parameters
    ----------
    member_ids, now_ms
        B members, and the time of each one's decision.
    found
        What the store holds of each, or why that is not known.
    """

    def __init__(
        self,
        tenant: str,
        member_ids: Sequence[str],
        now_ms: Sequence[int],
        found: Sequence[RingValue | StoreError],
        codecs: Codecs,
        retention: Retention,
    ) -> None:
        self._members, self._found, self._codecs, self._retention = member_ids, found, codecs, retention
        self._oldest_ms = np.asarray(now_ms, np.int64).reshape(-1) - retention.ttl_ms
        self._owners = [
            Owner(tenant, member, 0 if isinstance(one, StoreError) else one.generation)
            for member, one in zip(member_ids, found, strict=True)
        ]
        self._rings: dict[int, Ring | StoreError] = {}
        self._versions: dict[int, Version] = {}
        few = len(found) < avro.FEW
        self._sound = _no_rings() if few else _Sound(self._owners, found, codecs, retention.capacity)
        self._others: Sequence[int] = range(len(found)) if few else self._sound.others
        self.unknown_tags: frozenset[int] = frozenset()
        """Tags of frames whose codec is not known."""
        for number in self._others:
            self._open(number)

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        return [*self] == [*other] if isinstance(other, Sequence) else NotImplemented

    def __len__(self) -> int:
        return len(self._members)

    @overload
    def __getitem__(self, number: int) -> Ring | StoreError: ...
    @overload
    def __getitem__(self, number: slice) -> list[Ring | StoreError]: ...
    def __getitem__(self, number: int | slice) -> Ring | StoreError | list[Ring | StoreError]:
        if isinstance(number, slice):
            return [self[one] for one in range(*number.indices(len(self)))]
        return self._open(range(len(self))[number])

    def error(self, number: int) -> StoreError | None:
        """Return why a ring could not be read, or None."""
        found = self._found[number]
        return found if isinstance(found, StoreError) else None

    def version(self, number: int) -> Version:
        """Return what an append to a ring gives back. Raises the StoreError of one that could not be read."""
        if number not in self._versions:
            version = self._sound.version(number)
            if version is None:
                ring = self._open(number)
                if isinstance(ring, StoreError):
                    raise ring
                version = ring.version
            self._versions[number] = version
        return self._versions[number]

    @cached_property
    def longs(self) -> RingLongs:
        """The Longs of all rings: known without decoding an entry."""
        sound = self._sound
        listed = {number: self._longs_of(number) for number in self._others}
        k = max([sound.there.shape[1], *map(len, listed.values())])
        columns = np.zeros((4, len(self), k), np.int64)
        there = np.zeros((len(self), k), np.bool_)
        width = sound.there.shape[1]
        columns[:, sound.numbers, :width] = sound.longs.transpose(2, 0, 1)
        there[sound.numbers, :width] = sound.there & (sound.longs[:, :, 1] >= self._oldest_ms[sound.numbers, None])
        for number, longs in listed.items():
            columns[:, number, : len(longs)] = np.asarray(longs, np.int64).reshape(-1, 4).T
            there[number, : len(longs)] = True
        columns *= there
        sequence, at_ms, action, eligible = columns
        return RingLongs(sequence, at_ms, action, eligible, there)

    def cycles(self, cycle_ids: Sequence[str]) -> list[Entry | None]:
        """Return the newest entry of a cycle in each ring, as ``Ring.cycle``; None where it is not, or no ring was."""
        entries: list[Entry | None] = [None] * len(self)
        hashes = np.frombuffer(b"".join(map(cycle_hash, cycle_ids)), ">u2")
        suspects = self._sound.numbers[
            (self._sound.there & (self._sound.cycles == hashes[self._sound.numbers, None])).any(axis=1)
        ]
        for number in (*suspects.tolist(), *self._others):
            ring = self._open(number)
            entries[number] = None if isinstance(ring, StoreError) else ring.cycle(cycle_ids[number])
        return entries

    def newest(self, number: int) -> list[NewestEntries]:
        """Return the ``number`` newest entries of each ring, by layout: neither aged ones nor unreadable ones.

        An entry that cannot be read costs itself alone: the next newest is taken for it.
        """
        found, broken = self._sound.newest(number, self._oldest_ms)
        others = self._each([*self._others, *broken])
        entries = {one: list(islice(ring.newest(), number)) for one, ring in others}
        if broken:
            found = [kept for one in found if (kept := _without(one, broken)) is not None]
        by_layout: dict[Layout, list[tuple[Entry, int, int]]] = {}
        for one, several in entries.items():
            for place, entry in enumerate(several):
                by_layout.setdefault(entry.layout, []).append((entry, one, place))
        for rows in by_layout.values():
            of_layout, numbers, places = zip(*rows, strict=True)
            found.append(NewestEntries(EntryColumns.of(of_layout), np.asarray(numbers), np.asarray(places)))
        return found

    def _each(self, numbers: Iterable[int]) -> Iterable[tuple[int, Ring]]:
        for number in numbers:
            ring = self._open(number)
            if isinstance(ring, Ring):
                yield number, ring

    def _longs_of(self, number: int) -> list[avro.Longs]:
        ring = self._open(number)
        return list(reversed(ring.longs)) if isinstance(ring, Ring) else []

    def _open(self, number: int) -> Ring | StoreError:
        if number not in self._rings:
            found = self._found[number]
            if isinstance(found, StoreError):
                self._rings[number] = found
            else:
                held = packed.parse(found.value, self._owners[number], self._codecs, self._retention.capacity)
                self.unknown_tags |= held.unknown_tags
                self._rings[number] = Ring(
                    self._members[number], held.version, held.frames, held.faults, int(self._oldest_ms[number])
                )
        return self._rings[number]


def _without(found: NewestEntries, rings: Iterable[int]) -> NewestEntries | None:
    """Return the entries that are of other rings than ``rings``, None if there are none."""
    rows = np.flatnonzero(~np.isin(found.ring, list(rings)))
    return NewestEntries(found.entries.take(rows), found.ring[rows], found.place[rows]) if len(rows) else None


class _Sound:
    """The sound rings of a batch, side by side: every frame's checksum holds, and they stand in order.

    Attributes
    ----------
    numbers
        [R] which rings of the batch they are.
    others
        The other rings.
    there
        [R, K] whether there is a frame; column 0 is the newest.
    longs
        [R, K, 4] their Longs.
    cycles
        [R, K] their cycle hashes.
    """

    def __init__(
        self, owners: Sequence[Owner], found: Sequence[RingValue | StoreError], codecs: Codecs, capacity: int
    ) -> None:
        self._owners, self._found = owners, found
        numbers, headers, straights = [], [], []
        for number, (owner, one) in enumerate(zip(owners, found, strict=True)):
            if isinstance(one, RingValue):
                header = packed.Header.unpack(one.value, owner)
                if not one.value or (header is not None and header.generation != owner.generation):
                    header, straight = _NO_RING, NO_VALUE
                elif header is None or packed.HEADER_BYTES + header.room != len(one.value):
                    continue
                else:
                    straight = packed.straightened(one.value, header)
                    if not packed.is_sound(header, straight, owner):
                        continue
                numbers.append(number)
                headers.append(header)
                straights.append(straight)
        self._joined = Joined.of(straights)
        self._bases = self._joined.starts
        wanted = np.minimum(np.fromiter((header.live for header in headers), np.int64, len(headers)), capacity)
        counts = np.fromiter((header.count for header in headers), np.int64, len(headers))
        self._starts, self._ends, sound = packed.walk_all(self._joined, wanted)
        self.there = np.arange(self._starts.shape[1]) < wanted[:, None]
        self.there &= sound[:, None]
        self._headers, self._straights = headers, straights
        self.numbers = np.asarray(numbers, np.int64)
        self._codecs = codecs
        forms, self._tags = (self._joined.octets[self._starts + place] for place in (0, 1))
        known = np.zeros(256, np.bool_)
        known[list(codecs)] = True
        sound &= (((forms >= FORMAT) & (forms <= FORMAT + WHOLE) & known[self._tags]) | ~self.there).all(axis=1)
        longs, self._payloads = avro.decode_heads(self._joined, (self._starts + LONGS_AT).ravel())
        self.longs = longs.reshape(*self.there.shape, 4)
        self._payloads = self._payloads.reshape(self.there.shape)
        inside = (self._payloads >= 0) & (self._payloads <= self._ends - CHECKSUM_BYTES)
        sequences = self.longs[:, :, 0]
        in_order = sequences < np.concatenate([counts[:, None], sequences], axis=1)[:, :-1]
        sound &= ((inside & in_order) | ~self.there).all(axis=1)
        self._keep(sound)
        kept = set(self.numbers.tolist())
        self.others = [number for number in range(len(found)) if number not in kept]

    @cached_property
    def cycles(self) -> Ints:
        """[R, K] cycle hashes."""
        high, low = (self._joined.octets[self._starts + place].astype(np.int64) for place in (2, 3))
        return high << 8 | low

    def version(self, number: int) -> Version | None:
        """Return the version of a ring of the batch, None if it is not a sound one."""
        row = self._row_of.get(number)
        if row is None:
            return None
        header, generation = self._headers[row], self._owners[number].generation
        if header is _NO_RING:
            return Version(generation, 0, found=packed.Found())
        expected = self._found[number].value[: packed.HEADER_BYTES]  # type: ignore[union-attr]
        starts = self._frames_at[row][: self._live[row]]
        found = packed.Found(expected, header, self._straights[row], starts[::-1])
        return Version(generation, header.count, header.incarnation, found)

    @cached_property
    def _frames_at(self) -> list[list[int]]:
        """Where in its buffer each frame begins."""
        at: list[list[int]] = (self._starts - self._bases[:, None]).tolist()
        return at

    @cached_property
    def _live(self) -> list[int]:
        live: list[int] = self.there.sum(axis=1).tolist()
        return live

    def newest(self, number: int, oldest_ms: Ints) -> tuple[list[NewestEntries], set[int]]:
        """Return the newest entries, by codec, and the rings in which one could not be decoded."""
        fresh = self.there & (self.longs[:, :, 1] >= oldest_ms[self.numbers, None])
        place = np.cumsum(fresh, axis=1) - 1
        rows, columns = np.nonzero(fresh & (place < number))
        tags = self._tags[rows, columns]
        found: list[NewestEntries] = []
        left = np.ones(len(rows), np.bool_)
        for tag in np.unique(tags).tolist():
            for codec in self._codecs[tag]:
                some = np.flatnonzero(left & (tags == tag))
                if len(some):
                    entries, read = self._decode(rows[some], columns[some], codec)
                    some = some[read]
                    left[some] = False
                    found.append(NewestEntries(entries, self.numbers[rows[some]], place[rows[some], columns[some]]))
        return found, set(self.numbers[rows[left]].tolist())

    def _decode(self, rows: Ints, columns: Ints, codec: Codec) -> tuple[EntryColumns, Ints]:
        """Return the entries of some frames under ``codec``, and which of them those are."""
        seeds = [self._owners[number].frame_seed(codec) for number in self.numbers.tolist()]
        starts, ends = self._starts[rows, columns], self._ends[rows, columns]
        frames = map(self._joined.raw.__getitem__, map(slice, starts.tolist(), ends.tolist()))
        residues = np.asarray([*map(zlib.crc32, frames, map(seeds.__getitem__, rows.tolist()))], np.int64)
        holds = np.flatnonzero(residues == FRAME_RESIDUE)
        rows, columns, starts, ends = rows[holds], columns[holds], starts[holds], ends[holds]
        payloads = self._payloads[rows, columns].tolist()
        bodies = _bodies(self._joined.raw, starts.tolist(), payloads, ends.tolist(), codec)
        entries, read = avro.decode_bodies(bodies, self.longs[rows, columns], codec.layout)
        return entries, holds[read]

    def _keep(self, sound: Bools) -> None:
        """Leave out the rings that are not sound."""
        self._row_of = {number: row for row, number in enumerate(self.numbers[sound].tolist())}
        if sound.all():
            return
        self.numbers, self._bases = self.numbers[sound], self._bases[sound]
        self.there, self.longs = self.there[sound], self.longs[sound]
        self._starts, self._ends, self._payloads = self._starts[sound], self._ends[sound], self._payloads[sound]
        self._tags = self._tags[sound]
        self._headers = [header for header, is_sound in zip(self._headers, sound, strict=True) if is_sound]
        self._straights = [straight for straight, is_sound in zip(self._straights, sound, strict=True) if is_sound]


@lru_cache(maxsize=1)
def _no_rings() -> _Sound:
    return _Sound([], [], {}, 0)


_NO_RING: Final = packed.Header(0, 0, 0, 0, 0, 0, 0)


def _bodies(
    raw: bytes, starts: Sequence[int], payloads: Sequence[int], ends: Sequence[int], codec: Codec
) -> list[bytes]:
    """Return the bodies of frames, all at once; of one that cannot be expanded, no bytes."""
    small: list[bytes] = []
    others: dict[int, bytes] = {}
    for place, (start, payload, end) in enumerate(zip(starts, payloads, ends, strict=True)):
        if raw[start] == FORMAT + SHORT_BLOCK:
            # as_frame, in place: this is what nearly all are.
            block, end = payload + 1, end - CHECKSUM_BYTES
            small.append(SHORT_FRAME + raw[payload:block] + block_header(end - block) + raw[block:end])
        else:
            others[place] = _body_of(raw[start:end], codec)
    try:
        bodies = codec.decompress_small(small)
    except (ValueError, zstandard.ZstdError):
        return [_body_of(raw[start:end], codec) for start, end in zip(starts, ends, strict=True)]
    for place, body in others.items():
        bodies.insert(place, body)
    return bodies


def _body_of(frame: bytes, codec: Codec) -> bytes:
    try:
        return Sealed(frame, codec).body()
    except UnreadableFrame:
        return b""
