"""What a person wants to see of a tenant's rings on Redis: one member's in full, or all of them in numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import redis
from redis.exceptions import RedisError, ResponseError

from contracts.errors import StoreUnavailable
from sequence_store import slots
from sequence_store.assembly import Stored, check_member_id
from sequence_store.entry import Entry
from sequence_store.frame import UnreadableFrame, owner, unseal
from sequence_store.keys import Keys
from sequence_store.registry import Registry
from sequence_store.retention import MAX_CAPACITY
from sequence_store.ring import Version
from sequence_store.wire import Wire

_PAGE = 500


@dataclass(frozen=True)
class Slot:
    """One stored value: the entry in it, or what is wrong with it."""

    sequence: int
    stored_bytes: int
    entry: Entry | None
    error: UnreadableFrame | None


@dataclass(frozen=True)
class Inspection:
    """One member's ring. ``expires_in_ms`` and ``memory_bytes`` are 0 where there is none."""

    version: Version
    slots: tuple[Slot, ...]
    expires_in_ms: int
    memory_bytes: int


@dataclass
class Stats:
    """All rings of a tenant, in numbers. ``memory_bytes`` is Redis' own figure, keys and overhead included."""

    members: int = 0
    entries: int = 0
    value_bytes: int = 0
    memory_bytes: int = 0
    outbox_rows: int = 0
    layouts: Counter[str] = field(default_factory=Counter)
    """Layout fingerprint in hex -> entries under it."""
    faults: Counter[str] = field(default_factory=Counter)
    """What is wrong with a stored value -> how many."""


def inspect(client: redis.Redis, tenant: str, member_id: str) -> Inspection:
    """Return everything stored in one member's ring, aged entries included. Raises StoreError."""
    keys, wire = Keys(tenant), Wire(client)
    key = keys.ring(check_member_id(member_id))
    generation, ring, expires_in_ms, memory = wire.exchange(
        [
            ("GET", keys.generation(keys.bucket(member_id))),
            slots.read_command(key),
            ("PTTL", key),
            ("MEMORY", "USAGE", key, "SAMPLES", 0),
        ],
        writes=False,
    )
    stored = slots.parse(ring, int(generation or 0), MAX_CAPACITY)
    found = tuple(_slots(stored, tenant, member_id, Registry(wire, keys)))
    return Inspection(stored.version, found, max(0, expires_in_ms), _number(memory))


def stats(client: redis.Redis, tenant: str) -> Stats:
    """Walk over all rings of a tenant, a page at a time, and count. Raises StoreError."""
    keys, wire, result = Keys(tenant), Wire(client), Stats()
    registry = Registry(wire, keys)
    buckets = range(keys.buckets)
    commands = [("GET", keys.generation(bucket)) for bucket in buckets]
    commands += [("XLEN", keys.outbox(bucket)) for bucket in buckets]
    replies = wire.exchange(commands, writes=False)
    generations = [int(reply or 0) for reply in replies[: len(buckets)]]
    result.outbox_rows = sum(_number(reply) for reply in replies[len(buckets) :])
    for page in _ring_keys(client, keys):
        rings = wire.exchange([slots.read_command(key) for key in page], writes=False)
        sizes = wire.exchange([("MEMORY", "USAGE", key, "SAMPLES", 0) for key in page], writes=False)
        for key, ring, size in zip(page, rings, sizes, strict=True):
            member_id = key.split(b"}:r:", 1)[1].decode()
            stored = slots.parse(ring, generations[keys.bucket(member_id)], MAX_CAPACITY)
            result.members += bool(stored.frames)
            result.memory_bytes += _number(size)
            result.faults.update(stored.faults)
            for slot in _slots(stored, tenant, member_id, registry):
                result.value_bytes += slot.stored_bytes
                if slot.error is not None:
                    result.faults[slot.error.fault] += 1
                if slot.entry is not None:
                    result.entries += 1
                    result.layouts[slot.entry.layout.fingerprint.hex()] += 1
    return result


def _ring_keys(client: redis.Redis, keys: Keys) -> Iterator[list[bytes]]:
    cursor = 0
    while True:
        try:
            reply: Any = client.scan(cursor, match=keys.rings_pattern, count=_PAGE)
        except RedisError as error:
            raise StoreUnavailable(f"Redis cannot list the rings of {keys.tenant!r}: {error}") from error
        cursor, page = reply
        if page:
            yield page
        if not cursor:
            return


def _slots(stored: Stored, tenant: str, member_id: str, registry: Registry) -> Iterator[Slot]:
    for sequence, value in stored.frames:
        try:
            sealed = unseal(value, owner(tenant, member_id))
            entry = sealed.entry(registry.resolve([sealed.fingerprint]).get(sealed.fingerprint))
            yield Slot(sequence, len(value), entry, None)
        except UnreadableFrame as error:
            yield Slot(sequence, len(value), None, error)


def _number(reply: Any) -> int:
    return 0 if reply is None or isinstance(reply, ResponseError) else int(reply)
