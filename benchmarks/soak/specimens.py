"""Sound stored rings, and the ways to damage them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from benchmarks.soak.entries import LAYOUT, make_entry
from sequence_store import Append, Entry, packed
from sequence_store.codec import Codec
from sequence_store.frame import Codecs, Owner
from sequence_store.packed import Held
from sequence_store.sealing import change_of

TENANT: Final = "soak"
CASES_A_VALUE: Final = 500
"""Of the values that have more flips and cuts, as many are drawn."""
SWAPS_A_VALUE: Final = 32
LARGE_STRING_BYTES: Final = 60_000


@dataclass(frozen=True)
class Specimen:
    """A sound ring as it is stored, and what is in it.

    Attributes
    ----------
    held
        What a reader makes of ``value``.
    entries
        Sequence number -> the entry that was written.
    """

    member_id: str
    value: bytes
    held: Held
    entries: dict[int, Entry]
    codec: Codec
    codecs: Codecs
    capacity: int
    large: bool

    @property
    def owner(self) -> Owner:
        """Whose it is."""
        return Owner(TENANT, self.member_id, 0)

    def parse(self, value: bytes) -> Held:
        """Return what a reader makes of ``value`` in the place of this one."""
        return packed.parse(value, self.owner, self.codecs, self.capacity)


def make_specimen(rng: random.Random, dictionary: bytes, *, large: bool = False) -> Specimen:
    """Return a ring of any age; some have lost entries to a repush; with a ``dictionary``, some began without one."""
    member_id, capacity = f"m{rng.randrange(2**60)}", 16 if large else rng.choice((2, 4, 8, 16))
    codec, plain = Codec(LAYOUT, dictionary), Codec(LAYOUT)
    codecs: dict[int, tuple[Codec, ...]] = {}
    for known in {codec, plain}:
        codecs[known.tag] = (*codecs.get(known.tag, ()), known)
    owner, value, entries = Owner(TENANT, member_id, 0), b"", {}
    appended = rng.randrange(1, 3 * capacity)
    rolled_over = rng.randrange(appended) if rng.random() < 0.3 else 0
    repushed = rng.randrange(appended) if rng.random() < 0.3 else 0
    for sequence in range(appended):
        if sequence and sequence == repushed:
            value = _repushed(value, owner, codecs, capacity, rng)
        version = packed.parse(value, owner, codecs, capacity).version
        # Of sizes that differ, so that a ring has room for entries that have left it, and holds some of them still.
        size = LARGE_STRING_BYTES // 2 if large else rng.choice((0, 0, 0, 0, rng.randrange(300)))
        changes = {"notification_id": rng.randbytes(size).hex()} if size else {}
        entry = entries[sequence] = make_entry(f"{member_id}.{sequence}", sequence, **changes)
        used = codec if sequence >= rolled_over else plain
        value = change_of(Append(member_id, version, entry, None), TENANT, used, capacity).apply(value)
    held = packed.parse(value, owner, codecs, capacity)
    return Specimen(member_id, value, held, entries, codec, codecs, capacity, large)


def _repushed(value: bytes, owner: Owner, codecs: Codecs, capacity: int, rng: random.Random) -> bytes:
    """Return a ring that some of the entries have left."""
    version = packed.parse(value, owner, codecs, capacity).version
    found = version.found
    assert isinstance(found, packed.Found)
    # It is never left without any: it would be deleted.
    kept = [frame for frame in found.frames[:-1] if rng.random() < 0.7] + [found.frames[-1]]
    return packed.lay_out(found, kept, version.count, owner, capacity).apply(value)


def cut_between_frames(specimen: Specimen) -> Iterator[tuple[str, bytes]]:
    """Yield (name of the case, value): cut where a frame and its length end, so that nothing looks broken there."""
    for frame in specimen.held.frames:
        place = specimen.value.find(frame.frame)
        for length_bytes in (1, 2) if place >= 0 else ():
            if (end := place + len(frame.frame) + length_bytes) < len(specimen.value):
                yield "cuts", specimen.value[:end]


def damaged(value: bytes, rng: random.Random) -> Iterator[tuple[str, bytes]]:
    """Yield (name of the case, value): every flip of one bit and every cut, in random order."""
    bits = 8 * len(value)
    for case in rng.sample(range(bits + len(value) - 1), min(CASES_A_VALUE, bits + len(value) - 1)):
        if case < bits:
            flipped = bytearray(value)
            flipped[case // 8] ^= 1 << case % 8
            yield "flips", bytes(flipped)
        else:
            yield "cuts", value[: case - bits + 1]


def swapped(specimen: Specimen, other: Specimen, rng: random.Random) -> Iterator[tuple[str, bytes]]:
    """Yield (name of the case, value): rings that are the other's, or have parts of it, or their own in disorder."""
    own, others = (
        (value[: packed.HEADER_BYTES], value[packed.HEADER_BYTES :]) for value in (specimen.value, other.value)
    )
    for header, buffer in ((others[0], others[1]), (own[0], others[1]), (others[0], own[1])):
        yield "swaps", header + buffer
    found = specimen.held.version.found
    assert isinstance(found, packed.Found)
    for _ in range(0 if specimen.large else SWAPS_A_VALUE):
        frames, place = list(found.frames), rng.randrange(len(found.frames))
        # In a ring that is sound but for this: neither its header nor its lengths give it away. Its checksum does, as
        # it does wherever a frame was found damaged.
        frames[place] = rng.choice(other.held.frames + specimen.held.frames).frame
        if frames != list(found.frames):
            damaged_one = found._replace(sound_from=place + 1)
            change = packed.lay_out(damaged_one, frames, specimen.held.version.count, specimen.owner, specimen.capacity)
            yield "swaps", change.apply(b"")
