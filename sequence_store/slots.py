"""The physical layout of a ring on Redis: a hash of slots. Nothing else knows it but ``append.lua``.

| field | holds |
| --- | --- |
| ``0`` to ``c - 1`` | the entry with sequence number s in field s mod c |
| ``n`` | entries appended so far, which is the index pointer |
| ``c`` | capacity when the ring was last appended to |
| ``g``, ``i`` | generation and incarnation (``ring.Version``) |
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from redis.exceptions import ResponseError

from contracts.errors import StoreUnavailable
from sequence_store.assembly import Stored
from sequence_store.retention import MAX_CAPACITY
from sequence_store.ring import Version, new_incarnation

MAX_COUNT: Final = 2**32 - 2
"""Sequence numbers are 32 bits in a frame."""

WRONG_TYPE: Final = "wrong_type"
"""Reason counted in ``Ring.skipped`` where the ring's key holds no hash."""

APPEND_SCRIPT: Final = Path(__file__).with_name("append.lua").read_bytes()
APPEND_SHA: Final = hashlib.sha1(APPEND_SCRIPT, usedforsecurity=False).hexdigest()


@dataclass(frozen=True)
class Place:
    """Keys that one append touches; Redis wants them named."""

    ring: bytes
    generation: bytes
    outbox: bytes


def read_command(ring_key: bytes) -> tuple[Any, ...]:
    """Return the command whose reply ``parse`` reads."""
    return ("HGETALL", ring_key)


def append_command(
    place: Place, version: Version, frame: bytes, log_row: bytes | None, capacity: int, ttl_ms: int
) -> tuple[Any, ...]:
    """Return the command that appends ``frame``: it replies 1 if it did, 0 if the ring is no longer at ``version``."""
    return (
        *("EVALSHA", APPEND_SHA, 3, place.ring, place.generation, place.outbox),
        *(version.generation, version.count, version.incarnation, new_incarnation()),
        *(capacity, ttl_ms, frame),
        *(() if log_row is None else (log_row,)),
    )


def parse(reply: Any, generation: int, capacity: int) -> Stored:
    """Return what a ring holds, given the bucket's generation: its newest ``capacity`` entries at most.

    Raises StoreUnavailable if Redis refused the command for another reason than the type of this one key.
    """
    if isinstance(reply, ResponseError):
        if not str(reply).startswith("WRONGTYPE"):
            raise StoreUnavailable(f"Redis refuses to read rings: {reply}") from reply
        return Stored(Version(generation, 0), faults=(WRONG_TYPE,))
    fields = reply if isinstance(reply, Mapping) else dict(zip(reply[::2], reply[1::2], strict=True))
    numbers = [fields.get(name, b"") for name in (b"g", b"i", b"n", b"c")]
    # As the script does: digits only, and within bounds; anything else is no ring.
    if not all(number.isdigit() and len(number) <= 10 for number in numbers):
        return Stored(Version(generation, 0))
    stored_generation, incarnation, count, slots = map(int, numbers)
    if stored_generation != generation or not 1 <= slots <= MAX_CAPACITY or count > MAX_COUNT:
        return Stored(Version(generation, 0))
    newest = range(max(0, count - min(slots, capacity)), count)
    found = ((sequence, fields.get(b"%d" % (sequence % slots))) for sequence in newest)
    frames = tuple((sequence, value) for sequence, value in found if value is not None)
    return Stored(Version(generation, count, incarnation), frames)
