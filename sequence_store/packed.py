"""The physical layout of a ring: one string, a short header and a circular buffer of frames. Only this file knows it.

| bytes | field |
| --- | --- |
| 1 | version: 0x02 |
| 4 | generation of the namespace |
| 4 | incarnation: a random number, new whenever the ring is laid out anew |
| 4 | count: entries appended so far, which is the next sequence number |
| 4 | pointer: where in the buffer the next frame goes |
| 2 | live: frames that belong to the ring |
| 4 | room: bytes of the buffer |
| 4 | CRC-32 of tenant, member and the 23 bytes above |
| rest | buffer: frames one after the other, around the end and on, each followed by its length |

Numbers are big-endian. The length stands behind its frame, lowest 7 bits last, as a base-128 number read backwards:
from the pointer a reader walks from the newest entry to the oldest. An append writes the new frame over the oldest
bytes, and the header; no other frame moves. Only where the buffer has no room for ``capacity`` frames, or too much, or
the ring is damaged, is it laid out anew. A frame is known by its checksum, so a damaged header or length costs no
frame: the reader finds them by trying every place.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Final

import numpy as np

from sequence_store.frame import Codecs, Fault, Owner, Sealed, UnreadableFrame, is_format
from sequence_store.ring import Version, new_incarnation

VERSION: Final = 0x02
_FIELDS = struct.Struct(">BIIIIHI")
HEADER_BYTES: Final = _FIELDS.size + 4
MAX_SEARCHED_BYTES: Final = 4 * 1024 * 1024
"""In a damaged ring that is larger, frames are not searched for."""
_FOREIGN: Final = (Fault.FOREIGN_VERSION, Fault.FOREIGN_CODEC)
_LOOKS_A_BYTE, _LOOK_OVERHEAD = 8, 80
_PLACES_AT_ONCE = 65_536
_MOST_DIGITS: Final = 4
"""Of a frame's length."""

_REDIS_STRING_BYTES = 6
"""What Redis keeps with a string of this size: 5 bytes before it, 1 behind."""


@dataclass(frozen=True)
class Header:
    """What the first bytes of a ring say. ``pointer`` counts from the start of the buffer."""

    generation: int
    incarnation: int
    count: int
    pointer: int
    live: int
    room: int

    def pack(self, owner: Owner) -> bytes:
        """Return the stored form."""
        numbers = (self.generation, self.incarnation, self.count, self.pointer, self.live, self.room)
        fields = _FIELDS.pack(VERSION, *numbers)
        return fields + owner.ring_checksum(fields)

    @classmethod
    def unpack(cls, value: bytes, owner: Owner) -> Header | None:
        """Return the header of a ring; None if it is damaged, or not of this owner."""
        fields, checksum = value[: _FIELDS.size], value[_FIELDS.size : HEADER_BYTES]
        if len(value) < HEADER_BYTES or value[0] != VERSION or owner.ring_checksum(fields) != checksum:
            return None
        return cls(*_FIELDS.unpack(fields)[1:])


@dataclass(frozen=True)
class Found:
    """A ring's value as a reader found it: what a change to it rests on.

    Attributes
    ----------
    expected
        The first bytes of the value; empty where there was none, or one that was emptied.
    header
        None where there was no ring, it was emptied, or it is damaged: then it is laid out anew.
    buffer_bytes
        Room for frames.
    frames
        Those to keep, oldest first.
    """

    expected: bytes = b""
    header: Header | None = None
    buffer_bytes: int = 0
    frames: tuple[bytes, ...] = ()


@dataclass(frozen=True)
class Held:
    """What a ring holds, and why some of it was not readable. ``version.found`` is a ``Found``."""

    version: Version
    frames: tuple[Sealed, ...] = ()
    faults: tuple[Fault, ...] = ()
    unknown_tags: frozenset[int] = frozenset()
    """Tags of frames whose codec is not known."""


@dataclass(frozen=True)
class Change:
    """What to write, if the first bytes of the value are still those ``expected``.

    Attributes
    ----------
    expected
        Empty: there must be no value, or one of another generation.
    patches
        (offset, bytes) to write into the value; an offset of -1 stands for the whole value, which goes if it is empty.
    """

    expected: bytes
    patches: tuple[tuple[int, bytes], ...]

    def fits(self, value: bytes, generation: int) -> bool:
        """Tell whether ``value`` is still as it was read, under the ``generation`` it was read under."""
        if self.expected or not value:
            return value[:HEADER_BYTES] == self.expected
        return len(value) >= HEADER_BYTES and _FIELDS.unpack_from(value)[1] != generation

    def apply(self, value: bytes) -> bytes:
        """Return ``value``, whose first bytes are those expected, with the change made."""
        changed = bytearray(value)
        for offset, data in self.patches:
            if offset < 0:
                changed[:] = data
            else:
                changed[offset : offset + len(data)] = data
        return bytes(changed)


def parse(value: bytes, owner: Owner, codecs: Codecs, capacity: int) -> Held:
    """Return what the stored ``value`` of the owner's ring holds: its newest ``capacity`` frames at most.

    Never raises: what is damaged is left out, and told.
    """
    header = Header.unpack(value, owner)
    if not value or (header is not None and header.generation != owner.generation):
        return Held(Version(owner.generation, 0, found=Found()))
    buffer = value[HEADER_BYTES:]
    wanted = 0 if header is None else min(header.live, capacity)
    walked = _walk(buffer, header, wanted, owner, codecs) if header else _Walked()
    if header is not None and walked.is_straight(header.count):
        found = Found(value[:HEADER_BYTES], header, len(buffer), tuple(reversed(walked.kept)))
        version = Version(owner.generation, header.count, header.incarnation, found)
        return Held(version, tuple(reversed(walked.frames)), tuple(walked.faults), walked.unknown_tags)
    # Damaged, or perhaps: a wrong length hides the frames behind it, a wrong header all of them.
    searched = {frame.sequence: frame for frame in _search(buffer, owner, codecs)}
    count = max(searched, default=-1) + 1 if header is None else header.count
    # Overwritten ones may still stand in the room that a ring has to spare.
    window = range(max(0, count - capacity), count)
    met = {frame.sequence for frame in walked.frames}
    frames: tuple[Sealed, ...]
    faults: tuple[Fault, ...]
    unknown: frozenset[int]
    if header is not None and walked.is_in_order(count) and not any(one in window for one in searched.keys() - met):
        # Nothing is hidden: the frames that can't be read stand where they belong, and may be a later release's.
        frames, faults, unknown = tuple(reversed(walked.frames)), tuple(walked.faults), walked.unknown_tags
        found = Found(value[:HEADER_BYTES], header, len(buffer), tuple(reversed(walked.kept)))
    else:
        sound = searched | {frame.sequence: frame for frame in walked.frames}
        frames = tuple(sound[sequence] for sequence in sorted(sound) if sequence in window)
        found = Found(value[:HEADER_BYTES], None, len(buffer), tuple(frame.frame for frame in frames))
        faults, unknown = (Fault.HEADER,), frozenset()
        if header is not None:
            all_there = [frame.sequence for frame in frames[-wanted:]] == list(range(count - wanted, count))
            faults = () if all_there else (Fault.CHECKSUM,) * max(1, wanted - len(frames))
    incarnation = 0 if header is None else header.incarnation
    return Held(Version(owner.generation, count, incarnation, found), frames, faults, unknown)


def append(version: Version, found: Found, frame: bytes, owner: Owner, capacity: int) -> Change:
    """Return the change that appends ``frame`` to the ring at ``version``, keeping ``capacity`` frames at most."""
    kept = found.frames[max(0, len(found.frames) + 1 - capacity) :]
    record = _record(frame)
    needed = sum(_record_bytes(len(one)) for one in kept) + len(record)
    header, room = found.header, found.buffer_bytes
    # Smaller only where it will stay so: a ring that changes its size writes all of itself.
    if header is None or not needed <= room <= _room(needed + needed // 8, len(kept) + 1, capacity):
        return lay_out(found, [*kept, frame], version.count + 1, owner, capacity)
    start = header.pointer
    before_end, from_start = record[: room - start], record[room - start :]
    after = replace(header, count=version.count + 1, pointer=(start + len(record)) % room, live=len(kept) + 1)
    patches = [(0, after.pack(owner)), (HEADER_BYTES + start, before_end)]
    if from_start:
        patches.append((HEADER_BYTES, from_start))
    return Change(found.expected, tuple(patches))


def lay_out(found: Found, frames: Sequence[bytes], count: int, owner: Owner, capacity: int) -> Change:
    """Return the change that replaces what was ``found`` by a ring of ``frames``, oldest first."""
    records = b"".join(map(_record, frames))
    room = _room(len(records), len(frames), capacity)
    header = Header(owner.generation, new_incarnation(), count, len(records) % room, len(frames), room)
    return Change(found.expected, ((-1, header.pack(owner) + records.ljust(room, b"\0")),))


def remove(found: Found) -> Change:
    """Return the change that leaves no ring where one was ``found``."""
    return Change(found.expected, ((-1, b""),))


@dataclass
class _Walked:
    """What a walk from the newest frame to the oldest met, in that order."""

    frames: list[Sealed] = field(default_factory=list)
    kept: list[bytes] = field(default_factory=list)
    """Every frame, readable or not."""
    faults: list[Fault] = field(default_factory=list)
    unknown_tags: frozenset[int] = frozenset()
    is_whole: bool = True
    """Whether there was room for as many frames as were looked for."""

    def is_straight(self, count: int) -> bool:
        """Tell whether the walk surely met the frames of the ring: in order, the last readable, none damaged.

        Back from a wrong length among the frames, a walk takes the last of those it passes over for a damaged one.
        """
        if any(fault not in _FOREIGN for fault in self.faults):
            return False
        if self.kept and (not self.frames or self.frames[-1].frame is not self.kept[-1]):
            return False
        return self.is_in_order(count)

    def is_in_order(self, count: int) -> bool:
        """Tell whether there was room for all frames looked for, and what was read of them is in order."""
        sequences = [count, *(frame.sequence for frame in self.frames)]
        return self.is_whole and all(newer > older for newer, older in pairwise(sequences))


def _walk(buffer: bytes, header: Header, number: int, owner: Owner, codecs: Codecs) -> _Walked:
    """Walk over ``number`` frames. After a wrong length nothing is readable but by luck, and so is not the last."""
    if header.room != len(buffer):
        return _Walked(is_whole=False)  # cut
    walked = _Walked()
    straight = buffer[header.pointer :] + buffer[: header.pointer]
    end = len(straight)
    for _ in range(number):
        start, frame_end = _record_before(straight, end)
        if start < 0:
            walked.is_whole = False
            break
        frame = straight[start:frame_end]
        walked.kept.append(frame)
        try:
            walked.frames.append(owner.unseal(frame, codecs))
        except UnreadableFrame as error:
            walked.faults.append(error.fault)
            if error.fault is Fault.FOREIGN_CODEC:
                walked.unknown_tags |= {frame[1]}
        end = start
    return walked


def _search(buffer: bytes, owner: Owner, codecs: Codecs) -> list[Sealed]:
    """Return the sound frames in ``buffer``, wherever they stand, once.

    Every place is tried where a frame of a known codec may end. In bytes that are made to look like many long frames
    the search ends when it has looked at each of them some times.
    """
    if not 0 < len(buffer) <= MAX_SEARCHED_BYTES:
        return []
    around = buffer + buffer
    found: dict[tuple[int, int], Sealed] = {}
    budget = _LOOKS_A_BYTE * len(buffer)
    for start, end in _candidates(around, codecs):
        place = start % len(buffer), end - start
        if end - start <= len(buffer) and place not in found:
            budget -= end - start + _LOOK_OVERHEAD
            if budget < 0:
                break
            try:
                found[place] = owner.unseal(around[start:end], codecs)
            except UnreadableFrame:
                continue
    return list(found.values())


def _candidates(around: bytes, codecs: Codecs) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of what looks like a frame of a known codec followed by its length."""
    octets = np.frombuffer(around, np.uint8)
    formats = np.asarray([is_format(byte) for byte in range(256)])
    tags = np.asarray([byte in codecs for byte in range(256)])
    starts_frame = np.zeros(len(octets), np.bool_)
    starts_frame[:-1] = formats[octets[:-1]] & tags[octets[1:]]
    for block in range(0, len(octets), _PLACES_AT_ONCE):
        # ``at`` are the places of the digits read next: one that is not marked is the highest of a length.
        at = np.arange(block, min(block + _PLACES_AT_ONCE, len(octets)))
        length = np.zeros(len(at), np.int64)
        for digit in range(_MOST_DIGITS):
            byte = octets[at]
            length = length + ((byte & 0x7F).astype(np.int64) << 7 * digit)
            last = np.flatnonzero((byte < 0x80) & (length > 0) & (length <= at))
            last = last[starts_frame[at[last] - length[last]]]
            yield from zip((at[last] - length[last]).tolist(), at[last].tolist(), strict=True)
            further = (byte >= 0x80) & (at > 0)
            at, length = at[further] - 1, length[further]


def _record(frame: bytes) -> bytes:
    """Return a frame followed by its length."""
    length = len(frame)
    return frame + (bytes((length,)) if length < 0x80 else bytes(_digits(length)))


def _record_bytes(frame_bytes: int) -> int:
    return frame_bytes + max(1, -(-frame_bytes.bit_length() // 7))


def _digits(length: int) -> Iterator[int]:
    """Base-128 digits, highest first; all but the first are marked, since they are read from the last."""
    digits = [length & 0x7F]
    while length := length >> 7:
        digits.append(length & 0x7F)
    for place in range(len(digits) - 1, -1, -1):
        yield digits[place] | (0x80 if place < len(digits) - 1 else 0)


def _record_before(buffer: bytes, end: int) -> tuple[int, int]:
    """Return (start, end) of the frame whose record ends at ``end``; a start below 0 if there is none."""
    place = end - 1
    length = shift = 0
    while place >= 0 and shift < 7 * _MOST_DIGITS:
        byte = buffer[place]
        length |= (byte & 0x7F) << shift
        if byte < 0x80:
            return place - length, place
        shift += 7
        place -= 1
    return -1, end


def _room(needed: int, frames: int, capacity: int) -> int:
    """Return the bytes of a buffer for ``frames`` of ``capacity`` frames that take ``needed`` bytes.

    A ring that grows takes half as much again. What the allocator (jemalloc) would round up to anyway is used: it
    keeps sizes of four steps a doubling.
    """
    if frames < capacity:
        needed = min(needed * 3 // 2, needed * capacity // frames)
    total = HEADER_BYTES + needed + _REDIS_STRING_BYTES
    step = max(16, 1 << max(0, (total - 1).bit_length() - 3))
    return -(-total // step) * step - HEADER_BYTES - _REDIS_STRING_BYTES
