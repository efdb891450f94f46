"""Sound rings side by side: frame k of every ring of a batch is walked, verified and decoded in one step."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, NamedTuple

import numpy as np
import zstandard
from numpy.typing import NDArray

from contracts.errors import StoreError
from sequence_store import avro_columns, packed
from sequence_store.codec import Codec
from sequence_store.columns import EntryColumns
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
)
from sequence_store.joined import Ints, Joined
from sequence_store.ring import Version

Bools = NDArray[np.bool_]

NO_VALUE: Final = b""


class RingValue(NamedTuple):
    """What a store holds of a member: the generation of the namespace, and the ring, empty where there is none."""

    generation: int
    value: bytes


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


class SideBySide:
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
        longs, self._payloads = avro_columns.decode_heads(self._joined, (self._starts + LONGS_AT).ravel())
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
        entries, read = avro_columns.decode_bodies(bodies, self.longs[rows, columns], codec.layout)
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
