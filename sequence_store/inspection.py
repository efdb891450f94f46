"""What a person wants to see of a tenant's rings on Redis: one member's in full, or all of them in numbers."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from redis.exceptions import ResponseError

from sequence_store import packed
from sequence_store.entry import Entry
from sequence_store.frame import UnreadableFrame
from sequence_store.keys import Keys, check_member_id
from sequence_store.registry import name_of
from sequence_store.retention import MS_PER_DAY
from sequence_store.ring import Version
from sequence_store.stored import StoredRing, StoredRings, avro_bytes_of
from sequence_store.walk import Place, draw, walk
from sequence_store.wire import Wire, checked

_PAGE: Final = 500
FUTURE: Final = "from the future"
AGES: Final = {"< 1 h": MS_PER_DAY // 24, "< 1 d": MS_PER_DAY, "< 7 d": 7 * MS_PER_DAY, "< 14 d": 14 * MS_PER_DAY}
"""Bounds of the age histogram."""
OLDER: Final = "older"


@dataclass(frozen=True)
class Frame:
    """One stored entry: the entry and the fingerprint of its dictionary in hex, or what is wrong with it."""

    stored_bytes: int
    entry: Entry | None = None
    dictionary: str = ""
    error: UnreadableFrame | None = None


@dataclass(frozen=True)
class Inspection:
    """One member's ring, aged entries included.

    Attributes
    ----------
    state
        ``absent``; ``live``; ``damaged``; ``emptied``: to be freed; or ``foreign``: of another release, or of a
        generation that the tenant has not reached.
    header
        None where there is none, or it is damaged.
    frames
        Oldest first.
    faults
        Why there may be frames that are not found.
    expires_in_ms
        None: it does not expire.
    value_bytes, memory_bytes
        Of the value alone; and with key and overhead, None where Redis does not tell.
    """

    state: str
    version: Version
    header: packed.Header | None
    frames: tuple[Frame, ...]
    faults: tuple[str, ...]
    expires_in_ms: int | None
    value_bytes: int
    memory_bytes: int | None


@dataclass
class Usage:
    """Entries under one codec, layout or dictionary, and the bytes of their frames."""

    entries: int = 0
    frame_bytes: int = 0


@dataclass
class Dictionary(Usage):
    """A registered dictionary. ``since_ms``: when it was made the current one; None if that is not known."""

    dictionary_bytes: int = 0
    since_ms: int | None = None
    is_current: bool = False


@dataclass
class Stats:
    """All rings of a tenant, or those looked at, in numbers.

    Attributes
    ----------
    rings, looked_at
        Rings there are, and those that all other numbers but ``outbox_rows`` are about.
    members
        Rings that readers see.
    emptied, emptied_bytes
        Rings that are emptied but not freed, and the bytes of their values.
    foreign, misplaced
        Rings of another release or of a generation that the tenant has not reached, and keys that look like a ring's
        but are not where this number of buckets has them.
    entries, avro_bytes, frame_bytes
        Readable entries, the length of their Avro records, and that of what is stored for them.
    value_bytes, memory_bytes
        Of the rings that readers see: their values; and with key and overhead, None where Redis does not tell.
    ages
        Label -> entries of that age.
    formats, layouts, dictionaries, codecs
        Format, or fingerprint in hex -> what is under it. A codec's key is layout and dictionary with ``+`` between.
    faults
        What is wrong with a stored value -> how many.
    """

    rings: int = 0
    looked_at: int = 0
    members: int = 0
    emptied: int = 0
    emptied_bytes: int = 0
    foreign: int = 0
    misplaced: int = 0
    entries: int = 0
    avro_bytes: int = 0
    frame_bytes: int = 0
    value_bytes: int = 0
    memory_bytes: int | None = 0
    outbox_rows: int = 0
    ages: dict[str, int] = field(default_factory=lambda: dict.fromkeys([FUTURE, *AGES, OLDER], 0))
    formats: dict[str, Usage] = field(default_factory=dict)
    layouts: dict[str, Usage] = field(default_factory=dict)
    dictionaries: dict[str, Dictionary] = field(default_factory=dict)
    codecs: dict[str, Usage] = field(default_factory=dict)
    faults: dict[str, int] = field(default_factory=dict)

    @property
    def ratio(self) -> float | None:
        """Bytes of Avro for one byte of an entry's stored value; None without entries."""
        return self.avro_bytes / self.frame_bytes if self.frame_bytes else None


def inspect(wire: Wire, keys: Keys, member_id: str) -> Inspection:
    """Return everything stored in one member's ring. Raises StoreError."""
    rings, key = StoredRings(wire, keys), keys.ring(check_member_id(member_id))
    expiry, memory = wire.exchange([("PTTL", key), ("MEMORY", "USAGE", key)], writes=False)
    (expires_in_ms,) = checked([expiry])
    (ring,) = rings.read([member_id])
    readable = {sealed.frame: sealed for sealed in ring.held.frames}
    frames = []
    for frame in ring.found.frames:
        try:
            sealed = readable.get(frame) or ring.owner.unseal(frame, rings.registered.codecs)
            frames.append(Frame(len(frame), sealed.entry(), name_of(sealed.codec.dictionary)))
        except UnreadableFrame as error:
            frames.append(Frame(len(frame), error=error))
    return Inspection(
        state=_state(ring),
        version=ring.held.version,
        header=ring.header,
        frames=tuple(frames),
        faults=() if ring.found.header is not None else tuple(map(str, ring.held.faults)),
        expires_in_ms=expires_in_ms if expires_in_ms >= 0 else None,
        value_bytes=len(ring.value),
        memory_bytes=None if isinstance(memory, Exception) else memory or 0,
    )


def stats(
    wire: Wire, keys: Keys, *, sample: int | None = None, on_page: Callable[[Place], None] | None = None
) -> Stats:
    """Walk over all rings of a tenant and count; of ``sample`` rings drawn at random only, if given. Raises StoreError.

    What is written meanwhile may be counted or not.
    """
    result, rings, place, now_ms = Stats(), StoredRings(wire, keys), Place(), round(time.time() * 1000)
    result.outbox_rows = sum(
        checked(wire.exchange([("XLEN", keys.outbox(bucket)) for bucket in range(keys.buckets)], writes=False))
    )
    rings.reload()
    _add_registered(result, rings)

    def pages() -> Iterable[list[str]]:
        for page in walk(wire, keys, place, _PAGE):
            result.rings += len(page)
            result.misplaced = place.misplaced
            if on_page is not None:
                on_page(place)
            yield page

    if sample is None:
        for page in pages():
            _count(result, wire, keys, rings, page, now_ms)
    else:
        drawn = draw(pages(), sample, random.Random())
        for start in range(0, len(drawn), _PAGE):
            _count(result, wire, keys, rings, drawn[start : start + _PAGE], now_ms)
    return result


def _add_registered(result: Stats, rings: StoredRings) -> None:
    registered = rings.registered
    for name, dictionary in registered.dictionaries.items():
        if dictionary:
            result.dictionaries[name.decode()] = Dictionary(
                dictionary_bytes=len(dictionary),
                since_ms=registered.since.get(name),
                is_current=dictionary == registered.current,
            )


def _count(result: Stats, wire: Wire, keys: Keys, rings: StoredRings, members: list[str], now_ms: int) -> None:
    if not members:
        return
    sizes = wire.exchange([("MEMORY", "USAGE", keys.ring(member_id)) for member_id in members], writes=False)
    for ring, memory in zip(rings.read(members), sizes, strict=True):
        if not ring.value:
            continue  # expired since it was listed
        result.looked_at += 1
        state = _state(ring)
        if state == "emptied":
            result.emptied += 1
            result.emptied_bytes += len(ring.value)
        elif state == "foreign":
            result.foreign += 1
        else:
            result.members += 1
            result.value_bytes += len(ring.value)
            if isinstance(memory, ResponseError):
                result.memory_bytes = None
            elif result.memory_bytes is not None:
                result.memory_bytes += memory or 0
            _count_entries(result, ring, now_ms)


def _count_entries(result: Stats, ring: StoredRing, now_ms: int) -> None:
    faults = Counter(map(str, ring.held.faults))
    for sealed in ring.held.frames:
        try:
            result.avro_bytes += avro_bytes_of(sealed, sealed.body())
        except UnreadableFrame as error:
            faults[error.fault] += 1
            continue
        frame_bytes = len(sealed.frame)
        result.entries += 1
        result.frame_bytes += frame_bytes
        result.ages[_age(now_ms - sealed.longs.at_ms)] += 1
        layout, dictionary = sealed.codec.layout.fingerprint.hex(), sealed.codec.dictionary
        name = name_of(dictionary)
        usages = [
            result.formats.setdefault(str(sealed.frame[0] >> 4), Usage()),
            result.layouts.setdefault(layout, Usage()),
            result.codecs.setdefault(f"{layout}+{name}", Usage()),
        ]
        if dictionary:
            usages.append(result.dictionaries.setdefault(name, Dictionary(dictionary_bytes=len(dictionary))))
        for usage in usages:
            usage.entries += 1
            usage.frame_bytes += frame_bytes
    for fault, number in faults.items():
        result.faults[fault] = result.faults.get(fault, 0) + number


def _state(ring: StoredRing) -> str:
    if not ring.value:
        return "absent"
    if ring.is_foreign:
        return "foreign"
    if ring.is_emptied:
        return "emptied"
    return "damaged" if ring.is_damaged else "live"


def _age(age_ms: int) -> str:
    if age_ms < 0:
        return FUTURE
    return next((label for label, bound_ms in AGES.items() if age_ms < bound_ms), OLDER)
