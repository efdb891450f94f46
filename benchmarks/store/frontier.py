"""Between a ring and a whole record: what compressing older entries together would save, and what it would write.

A ring that packs its entries n at a time keeps the newest as frames, one by one; once n have gathered, one value
replaces them, in which they are compressed together. n = 1 is the ring that is shipped. The more entries share a value,
the fewer bytes they take, the more an append writes on average, and the more one damaged byte costs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from benchmarks.store.bytes_used import BATCH, member_id
from benchmarks.store.decisions import Decisions
from benchmarks.store.peers import TENANT, TTL_MS, check
from benchmarks.store.records import Zstd
from benchmarks.store.server import Server
from sequence_store import avro
from sequence_store.codec import Codec
from sequence_store.frame import CHECKSUM_BYTES, Owner
from sequence_store.keys import Keys
from sequence_store.packed import CHANGES_FROM, HEADER_BYTES
from sequence_store.wire import Wire

PACKED: Final = (1, 2, 4, 8, 16)
_PACK_BYTES: Final = 2 + CHECKSUM_BYTES
"""Of a pack: length and checksum."""
_RECORD_BYTES: Final = 1
"""Of a frame: its length."""


@dataclass(frozen=True)
class Point:
    """One size of a pack.

    Attributes
    ----------
    per_member
        Bytes by ``used_memory``, the mean over members, who are at every place between two packs.
    written
        Bytes of values an append, packs included.
    lost
        Entries that one damaged byte costs at most.
    """

    per_member: float
    written: float
    lost: int


def measure(server: Server, codec: Codec, decisions: Decisions, members: int) -> dict[int, Point]:
    """Return pack size -> what it takes, for members of the log as they would be stored."""
    return {size: _measure(server, codec, decisions, members, size) for size in PACKED}


def _measure(server: Server, codec: Codec, decisions: Decisions, members: int, size: int) -> Point:
    client, zstd = server.client(), Zstd(codec.dictionary)
    wire, keys = Wire(client), Keys(TENANT)
    before, frames, packs = server.used_memory(), [], []
    sets: list[tuple[object, ...]] = []
    for number in range(members):
        rows = decisions.runs[number].tolist()
        entries = [decisions.entry(row, sequence, codec.layout) for sequence, row in enumerate(rows)]
        owner = Owner(TENANT, member_id(number), 0)
        # Members are evenly spread over the places between two packs. As many entries as the ring holds, or up to
        # size - 1 more, since a pack leaves as a whole.
        singles = number % size
        packed = -(-(len(entries) - singles) // size) * size
        earlier = [decisions.entry(row, 0, codec.layout) for row in rows[: packed + singles - len(entries)]]
        together = [*earlier, *entries[: len(entries) - singles]]
        value = b""
        for start in range(0, packed, size):
            of_pack = together[start : start + size]
            if size == 1:
                frame = owner.seal(of_pack[0], codec)
                frames.append(len(frame))
                value += frame + bytes(_RECORD_BYTES)
            else:
                pack = zstd.compress(b"".join(part for entry in of_pack for part in avro.encode(entry)))
                packs.append(len(pack) + _PACK_BYTES)
                value += pack + bytes(_PACK_BYTES)
        for entry in entries[len(entries) - singles :]:
            frame = owner.seal(entry, codec)
            frames.append(len(frame))
            value += frame + bytes(_RECORD_BYTES)
        sets.append(("SET", keys.ring(member_id(number)), bytes(HEADER_BYTES) + value, "PX", TTL_MS))
    for first in range(0, len(sets), BATCH):
        check(wire.exchange(sets[first : first + BATCH], writes=True))
    client.connection_pool.disconnect()
    per_member = (server.used_memory() - before) / members
    written = HEADER_BYTES - CHANGES_FROM + _RECORD_BYTES + float(np.mean(frames)) if frames else 0.0
    return Point(per_member, written + (float(np.mean(packs)) / size if packs else 0.0), size)
