"""The physical layout of a ring: one string, a short header and a circular buffer of frames. Only this file knows it.

| bytes | field |
| --- | --- |
| 1 | version: 0x04 |
| 4 | generation of the namespace |
| 2 | incarnation: a random number, new whenever the ring is laid out anew |
| 4 | room: bytes of the buffer |
| 4 | CRC-32 of tenant, member and the buffer from the pointer around to the pointer |
| 4 | count: entries appended so far, which is the next sequence number |
| 4 | pointer: where in the buffer the next frame goes |
| 2 | live: frames that belong to the ring |
| 4 | CRC-32 of tenant, member and the 25 bytes above |
| rest | buffer: frames one after the other, around the end and on, each followed by its length |

Numbers are big-endian. The length stands behind its frame, lowest 7 bits last, as a base-128 number read backwards:
from the pointer a reader walks from the newest entry to the oldest. An append writes the new frame over the oldest
bytes, and the header from its checksum of the buffer on; no other frame moves. Only where the buffer has no room for
``capacity`` frames, or too much, or the ring is damaged, is it laid out anew. A frame is known by its checksum, so a
damaged header or length costs no frame: the reader finds them by trying every place. The buffer's checksum tells in
one go that none of this is needed; where a damaged frame stays, it is written so that it does not hold.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sequence_store.frame import MIN_FRAME_BYTES, Codecs, Fault, Owner, Sealed, UnreadableFrame, is_format
from sequence_store.joined import Ints, Joined
from sequence_store.ring import Version, new_incarnation

Bools = NDArray[np.bool_]

VERSION: Final = 0x04
_FIELDS = struct.Struct(">BIHIIIIH")
HEADER_BYTES: Final = _FIELDS.size + 4
CHANGES_FROM: Final = 11
"""Where in the header begins what an append changes."""
MAX_SEARCHED_BYTES: Final = 4 * 1024 * 1024
"""In a damaged ring that is larger, frames are not searched for."""
_LOOKS_A_BYTE, _LOOK_OVERHEAD = 8, 80
_PLACES_AT_ONCE = 65_536
_DIGIT: Final = [bytes((length,)) for length in range(0x80)]
_MOST_DIGITS: Final = 4
"""Of a frame's length."""

_REDIS_STRING_BYTES = 6
"""What Redis keeps with a string of this size: 5 bytes before it, 1 behind."""


class Header(NamedTuple):
    """What the first bytes of a ring say. ``pointer`` counts from the start of the buffer."""

    generation: int
    incarnation: int
    room: int
    checksum: int
    count: int  # type: ignore[assignment]  # of entries: tuple.count is of no use here
    pointer: int
    live: int

    def pack(self, owner: Owner) -> bytes:
        """Return the stored form."""
        fields = _FIELDS.pack(VERSION, *self)
        return fields + owner.ring_checksum(fields)

    @classmethod
    def unpack(cls, value: bytes, owner: Owner) -> Header | None:
        """Return the header of a ring; None if it is damaged, or not of this owner."""
        if len(value) < HEADER_BYTES or value[0] != VERSION or not owner.is_ring(value[:HEADER_BYTES]):
            return None
        return cls(*_FIELDS.unpack_from(value)[1:])


class Found(NamedTuple):
    """A ring's value as a reader found it: what a change to it rests on.

    Attributes
    ----------
    expected
        The first bytes of the value; empty where there was none, or one that was emptied.
    header
        None where there was no ring, it was emptied, or it is damaged: then it is laid out anew.
    straight
        The buffer from the pointer around to the pointer, so that the newest frame stands last; without a header, the
        frames to keep alone.
    starts
        Where in ``straight`` each frame to keep begins, oldest first.
    sound_from
        The first of ``starts`` from which on no frame is damaged: 0 where none is.
    """

    expected: bytes = b""
    header: Header | None = None
    straight: bytes = b""
    starts: Sequence[int] = ()
    sound_from: int = 0

    @property
    def frames(self) -> tuple[bytes, ...]:
        """The frames to keep, oldest first."""
        ends = (*self.starts[1:], len(self.straight))
        places = (_record_before(self.straight, end) for end in ends)
        return tuple(self.straight[start:frame_end] for start, frame_end in places)

    @classmethod
    def of_frames(cls, expected: bytes, frames: Sequence[bytes]) -> Found:
        """Return a ring whose header is damaged, and of which ``frames`` are left."""
        records = [_record(frame) for frame in frames]
        starts = accumulate(map(len, records[:-1]), initial=0) if records else ()
        return cls(expected, None, b"".join(records), tuple(starts))


@dataclass(frozen=True)
class Held:
    """What a ring holds, and why some of it was not readable. ``version.found`` is a ``Found``."""

    version: Version
    frames: tuple[Sealed, ...] = ()
    faults: tuple[Fault, ...] = ()
    unknown_tags: frozenset[int] = frozenset()
    """Tags of frames whose codec is not known."""


class Change(NamedTuple):
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
    # Overwritten frames may still stand in the room that a ring has to spare.
    window = range(max(0, header.count - capacity), header.count) if header else range(0)
    is_straight = header is not None and walked.is_in_order(header.count)
    if (
        header is not None
        and is_straight
        and (is_sound(header, walked.straight, owner) or (not walked.faults and walked.is_within(window)))
    ):
        found = Found(value[:HEADER_BYTES], header, walked.straight, tuple(reversed(walked.starts)))
        version = Version(owner.generation, header.count, header.incarnation, found)
        return Held(version, tuple(reversed(walked.frames)), tuple(walked.faults), walked.unknown_tags)
    # Damaged, or perhaps: a wrong length hides the frames behind it, a wrong header all of them.
    searched = {frame.sequence: frame for frame in _search(buffer, owner, codecs)}
    count = max(searched, default=-1) + 1 if header is None else header.count
    window = range(max(0, count - capacity), count)
    is_hidden = any(one in window for one in searched.keys() - {frame.sequence for frame in walked.frames})
    frames: tuple[Sealed, ...]
    faults: tuple[Fault, ...]
    unknown: frozenset[int]
    if header is not None and walked.is_in_order(count) and walked.is_within(window) and not is_hidden:
        # Nothing is hidden: the frames that can't be read stand where they belong, and may be a later release's.
        frames, faults, unknown = tuple(reversed(walked.frames)), tuple(walked.faults), walked.unknown_tags
        sound_from = len(walked.starts) - walked.sound
        found = Found(value[:HEADER_BYTES], header, walked.straight, tuple(reversed(walked.starts)), sound_from)
    else:
        sound = searched | {frame.sequence: frame for frame in walked.frames}
        frames = tuple(sound[sequence] for sequence in sorted(sound) if sequence in window)
        found = Found.of_frames(value[:HEADER_BYTES], [frame.frame for frame in frames])
        faults, unknown = (Fault.HEADER,), frozenset()
        if header is not None:
            all_there = [frame.sequence for frame in frames[-wanted:]] == list(range(count - wanted, count))
            faults = () if all_there else (Fault.CHECKSUM,) * max(1, wanted - len(frames))
    incarnation = 0 if header is None else header.incarnation
    return Held(Version(owner.generation, count, incarnation, found), frames, faults, unknown)


def append(version: Version, found: Found, frame: bytes, owner: Owner, capacity: int) -> Change:
    """Return the change that appends ``frame`` to the ring at ``version``, keeping ``capacity`` frames at most."""
    starts, straight, header = found.starts, found.straight, found.header
    kept = min(len(starts), capacity - 1)
    kept_at = starts[-kept] if kept else len(straight)
    record = _record(frame)
    needed = len(straight) - kept_at + len(record)
    # A damaged frame that leaves takes the mark that it left with it.
    is_sound = len(starts) - kept >= found.sound_from
    if header is None or not _fits(header.room, needed, kept + 1, capacity):
        return _laid_out(
            found.expected, straight[kept_at:] + record, kept + 1, version.count + 1, owner, capacity, is_sound
        )
    start, room = header.pointer, header.room
    end = start + len(record)
    checksum = zlib.crc32(record, zlib.crc32(memoryview(straight)[len(record) :], owner.ring_seed))
    after = Header(
        owner.generation,
        header.incarnation,
        room,
        checksum if is_sound else _broken(checksum),
        version.count + 1,
        end % room,
        kept + 1,
    ).pack(owner)
    changed = (CHANGES_FROM, after[CHANGES_FROM:])
    if end <= room:
        return Change(found.expected, (changed, (HEADER_BYTES + start, record)))
    before_end, from_start = record[: room - start], record[room - start :]
    return Change(found.expected, (changed, (HEADER_BYTES + start, before_end), (HEADER_BYTES, from_start)))


def _fits(room: int, needed: int, frames: int, capacity: int) -> bool:
    """Tell whether a buffer of ``room`` bytes stays for ``frames`` that take ``needed`` of them.

    It becomes smaller only where it will stay so: a ring that changes its size writes all of itself.
    """
    spare = needed + needed // 8
    return needed <= room and (room <= spare or room <= _room(spare, frames, capacity))


def lay_out(found: Found, frames: Sequence[bytes], count: int, owner: Owner, capacity: int) -> Change:
    """Return the change that replaces what was ``found`` by a ring of ``frames``, oldest first."""
    records = b"".join(map(_record, frames))
    return _laid_out(found.expected, records, len(frames), count, owner, capacity, found.sound_from == 0)


def _laid_out(
    expected: bytes, records: bytes, frames: int, count: int, owner: Owner, capacity: int, is_sound: bool
) -> Change:
    room = _room(len(records), frames, capacity)
    checksum = zlib.crc32(records.rjust(room, b"\0"), owner.ring_seed)
    checksum = checksum if is_sound else _broken(checksum)
    header = Header(owner.generation, new_incarnation(), room, checksum, count, len(records) % room, frames)
    return Change(expected, ((-1, header.pack(owner) + records.ljust(room, b"\0")),))


def remove(found: Found) -> Change:
    """Return the change that leaves no ring where one was ``found``."""
    return Change(found.expected, ((-1, b""),))


@dataclass
class _Walked:
    """What a walk from the newest frame to the oldest met, in that order."""

    frames: list[Sealed] = field(default_factory=list)
    straight: bytes = b""
    """The buffer from the pointer around to the pointer."""
    starts: list[int] = field(default_factory=list)
    """Where in it every frame begins, readable or not."""
    faults: list[Fault] = field(default_factory=list)
    sound: int = 0
    """How many it met before the first that was not readable."""
    unknown_tags: frozenset[int] = frozenset()
    is_whole: bool = True
    """Whether there was room for as many frames as were looked for."""

    def is_within(self, window: range) -> bool:
        """Tell whether it met none but frames of these sequence numbers."""
        return all(frame.sequence in window for frame in self.frames)

    def is_in_order(self, count: int) -> bool:
        """Tell whether there was room for all frames looked for, and what was read of them is in order."""
        sequences = [count, *(frame.sequence for frame in self.frames)]
        return self.is_whole and all(newer > older for newer, older in pairwise(sequences))


def _walk(buffer: bytes, header: Header, number: int, owner: Owner, codecs: Codecs) -> _Walked:
    """Walk over ``number`` frames. After a wrong length nothing is readable but by luck, and so is not the last."""
    if header.room != len(buffer):
        return _Walked(is_whole=False)  # cut
    straight = buffer[header.pointer :] + buffer[: header.pointer]
    walked = _Walked(straight=straight)
    end = len(straight)
    for _ in range(number):
        start, frame_end = _record_before(straight, end)
        if start < 0:
            walked.is_whole = False
            break
        frame = straight[start:frame_end]
        walked.starts.append(start)
        try:
            walked.frames.append(owner.unseal(frame, codecs))
            walked.sound += not walked.faults
        except UnreadableFrame as error:
            walked.faults.append(error.fault)
            if error.fault is Fault.FOREIGN_CODEC:
                walked.unknown_tags |= {frame[1]}
        end = start
    return walked


def straightened(value: bytes, header: Header) -> bytes:
    """Return the buffer of a ring from the pointer around to the pointer, so that the newest frame stands last."""
    start = HEADER_BYTES + header.pointer
    return value[start:] + value[HEADER_BYTES:start]


def is_sound(header: Header, straight: bytes, owner: Owner) -> bool:
    """Tell whether the ``straightened`` buffer of a ring is as it was written, and no frame was damaged before."""
    return zlib.crc32(straight, owner.ring_seed) == header.checksum


def _broken(checksum: int) -> int:
    """Return what to write for the checksum of a buffer with a damaged frame in it: one that does not hold."""
    return checksum ^ 0xFFFFFFFF


def walk_all(buffers: Joined, wanted: Ints) -> tuple[Ints, Ints, Bools]:
    """Walk over the frames of R buffers at once, each from its newest to its oldest.

    Parameters
    ----------
    buffers
        R ``straightened`` buffers.
    wanted
        [R] how many frames to walk over.

    Returns
    -------
    tuple
        [R, K] where each frame begins and where it ends, column 0 the newest, K the most that are wanted; and whether
        there was room for as many as are wanted [R]. Where there was not, or none is wanted, places are 0.
    """
    most = int(wanted.max(initial=0))
    starts, frame_ends = np.zeros((2, most, len(wanted)), np.int64)
    octets, end = buffers.octets, buffers.ends
    split = np.zeros(len(wanted), np.bool_)
    for place in range(most):
        at = np.maximum(end - 1, 0)
        length = octets[at].astype(np.int64)
        if length.max(initial=0) >= 0x80:
            # Few lengths have more than one digit.
            shift, more, length = 7, length >= 0x80, length & 0x7F
            while more.any() and shift < 7 * _MOST_DIGITS:
                at = np.maximum(at - more, 0)
                digit = octets[at].astype(np.int64)
                length = np.where(more, length | (digit & 0x7F) << shift, length)
                more, shift = more & (digit >= 0x80), shift + 7
            split |= more & (place < wanted)
        end = at - length
        starts[place], frame_ends[place] = end, at
    fits = (starts >= buffers.starts) & (frame_ends - starts >= MIN_FRAME_BYTES)
    walked = np.arange(most)[:, None] < wanted
    whole = (fits | ~walked).all(axis=0) & ~split
    walked &= whole
    return (starts * walked).T, (frame_ends * walked).T, whole


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
    return frame + (_DIGIT[length] if length < 0x80 else bytes(_digits(length)))


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
