"""Rings as they are stored, read and changed whole: what maintenance and inspection rest on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from redis.exceptions import NoScriptError, OutOfMemoryError

from contracts.errors import StoreError
from sequence_store import packed, registry
from sequence_store.codec import Codec
from sequence_store.frame import Fault, Owner, Sealed, UnreadableFrame
from sequence_store.keys import Keys
from sequence_store.layout import Layout
from sequence_store.redis_ring import APPEND_SCRIPT, APPEND_SHA
from sequence_store.registry import Registered
from sequence_store.retention import MAX_CAPACITY
from sequence_store.wire import Command, Wire, checked

FOREIGN: Final = (Fault.FOREIGN_VERSION, Fault.FOREIGN_CODEC)
"""Faults of frames that are not damaged."""

_CYCLE_HASH_BYTES: Final = 2


@dataclass(frozen=True)
class StoredRing:
    """A member's ring as it was read.

    Attributes
    ----------
    value
        All of it; empty where there is none.
    held
        What is in it, whatever the capacity of those who write it.
    """

    member_id: str
    owner: Owner
    value: bytes
    held: packed.Held

    @cached_property
    def header(self) -> packed.Header | None:
        """The ring's header; None where there is no ring, or it is damaged or foreign."""
        return packed.Header.unpack(self.value, self.owner)

    @property
    def is_emptied(self) -> bool:
        """Whether the ring is of an older generation: no reader sees it."""
        return self.header is not None and self.header.generation < self.owner.generation

    @property
    def is_foreign(self) -> bool:
        """Whether the ring is of another release, or of a generation that the tenant has not reached."""
        if self.header is not None:
            return self.header.generation > self.owner.generation
        return bool(self.value) and self.value[0] != packed.VERSION

    @property
    def is_damaged(self) -> bool:
        """Whether something of the ring is damaged."""
        if not self.value or self.is_foreign or self.is_emptied:
            return False
        return self.found.header is None or any(fault not in FOREIGN for fault in self.held.faults)

    @property
    def found(self) -> packed.Found:
        """What a change of this ring rests on."""
        assert isinstance(self.held.version.found, packed.Found)
        return self.held.version.found


class StoredRings:
    """The rings of one tenant, read and changed a batch at a time.

    Attributes
    ----------
    registered
        The registry as of the latest read.
    """

    def __init__(self, wire: Wire, keys: Keys) -> None:
        self._wire = wire
        self._keys = keys
        self.registered = Registered()
        self._writing: dict[Layout, Codec] = {}

    def read(self, member_ids: Sequence[str]) -> list[StoredRing]:
        """Return the rings of ``member_ids``, in that order; one that is not there is empty. Raises StoreError."""
        commands: list[Command] = [
            ("MGET", self._keys.generation(self._keys.bucket(member_id)), self._keys.ring(member_id))
            for member_id in member_ids
        ]
        # Last: a codec is registered before the first entry under it is written.
        *replies, epoch = checked(self._wire.exchange([*commands, registry.epoch_command(self._keys)], writes=False))
        if epoch != self.registered.epoch:
            self.reload()
        rings = self._parse(member_ids, replies)
        if any(ring.held.unknown_tags for ring in rings):
            # On a cluster, the epoch may have been read before the rings were.
            epoch = self.registered.epoch
            self.reload()
            rings = rings if epoch == self.registered.epoch else self._parse(member_ids, replies)
        return rings

    def write(self, changes: Sequence[tuple[StoredRing, packed.Change]]) -> list[bool]:
        """Make each change whose ring is still as it was read; rings do not live longer by it.

        Tells which were made: where Redis has no memory left, only those that remove a ring. Raises StoreError,
        OutcomeUnknown.
        """
        replies = self._wire.exchange([self._command(*change) for change in changes], writes=True)
        if any(isinstance(reply, NoScriptError) for reply in replies):
            checked(list(self._wire.broadcast(("SCRIPT", "LOAD", APPEND_SCRIPT), writes=False).values()))
        replies = [0 if isinstance(reply, NoScriptError | OutOfMemoryError) else reply for reply in replies]
        return [reply == 1 for reply in checked(replies)]

    def writing(self, layout: Layout) -> Codec:
        """Return the codec to write entries of ``layout`` with; from now on it is registered. Raises StoreError."""
        codec = self._writing.get(layout)
        if codec is None:
            codec = self.registered.writing(layout)
            if not self.registered.has(codec):
                checked(self._wire.exchange([registry.register_command(self._keys, codec)], writes=False))
                self.reload()
            self._writing[layout] = codec
        return codec

    def reload(self) -> None:
        """Read the registry. Raises StoreError."""
        (reply,) = checked(self._wire.exchange([registry.load_command(self._keys)], writes=False))
        self.registered = registry.parse(reply)
        self._writing.clear()

    def _parse(self, member_ids: Sequence[str], replies: Sequence[Any]) -> list[StoredRing]:
        rings = []
        for member_id, (generation, value) in zip(member_ids, replies, strict=True):
            try:
                owner = Owner(self._keys.tenant, member_id, int(generation or 0))
            except ValueError:
                raise StoreError(
                    f"the key {self._keys.generation(self._keys.bucket(member_id))!r} holds {generation[:40]!r} "
                    "instead of a number; delete it"
                ) from None
            held = packed.parse(value or b"", owner, self.registered.codecs, MAX_CAPACITY)
            rings.append(StoredRing(member_id, owner, value or b"", held))
        return rings

    def _command(self, ring: StoredRing, change: packed.Change) -> Command:
        bucket = self._keys.bucket(ring.member_id)
        return (
            *("EVALSHA", APPEND_SHA, 3),
            *(self._keys.ring(ring.member_id), self._keys.generation(bucket), self._keys.outbox(bucket)),
            *(ring.owner.generation, change.expected, b"", b""),
            *(part for patch in change.patches for part in patch),
        )


def recoded(sealed: Sealed, owner: Owner, codec: Codec) -> bytes:
    """Return the frame with its body, unchanged, under ``codec``; as it is if it would not read back the same."""
    try:
        body = sealed.body()
        frame = owner.reseal(sealed, codec)
        again = owner.unseal(frame, {codec.tag: (codec,)})
        return frame if (again.longs, again.body()) == (sealed.longs, body) else sealed.frame
    except UnreadableFrame:
        return sealed.frame


def avro_bytes_of(sealed: Sealed, body: bytes) -> int:
    """Return the length of the entry's Avro record, the end of which is ``body``."""
    return len(sealed.clear) - _CYCLE_HASH_BYTES + len(body)
