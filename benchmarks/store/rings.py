"""The rings of ``sequence_store``: as shipped, and with other codecs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, overload
from unittest.mock import patch

import redis

from benchmarks.store.peers import TENANT, TTL_DAYS, Held, must_be_appended
from contracts.errors import StoreError
from sequence_store import Append, AppendOutcome, Entry, RedisRingStore, Ring
from sequence_store.codec import Codec
from sequence_store.columns import EntryColumns
from sequence_store.keys import Keys
from sequence_store.packed import CHANGES_FROM
from sequence_store.registry import use_command
from sequence_store.rings import Appends
from sequence_store.rings import Rings as Batch
from sequence_store.sealing import change_of
from sequence_store.wire import Command, Wire


@dataclasses.dataclass(frozen=True)
class ReadRings(Sequence[Ring]):
    """What was read of some rings."""

    rings: Batch

    def __len__(self) -> int:
        return len(self.rings)

    @overload
    def __getitem__(self, number: int) -> Ring: ...
    @overload
    def __getitem__(self, number: slice) -> list[Ring]: ...
    def __getitem__(self, number: int | slice) -> Ring | list[Ring]:
        if isinstance(number, slice):
            return [self[one] for one in range(*number.indices(len(self)))]
        ring = self.rings[number]
        if isinstance(ring, StoreError):
            raise ring
        return ring


class Rings:
    """Rings with one codec. As safe as it gets: the compare-and-set is per member."""

    def __init__(self, client: redis.Redis, codec: Codec, capacity: int) -> None:
        self.layout = codec.layout
        self.codec, self.capacity = codec, capacity
        self._store = RedisRingStore(client, TENANT, codec.layout, capacity, TTL_DAYS)
        if codec.dictionary:
            Wire(client).exchange([use_command(Keys(TENANT), codec.dictionary)], writes=False)

    def read(self, members: Sequence[str], now_ms: Sequence[int]) -> ReadRings:
        """Return the rings."""
        return ReadRings(self._store.read(members, now_ms))

    def read_commands(self, member: str) -> list[Command]:
        """Return the commands that read one ring, but for the epoch that is asked for once a batch."""
        keys = Keys(TENANT)
        return [("GET", keys.generation(keys.bucket(member))), ("GET", keys.ring(member))]

    def append(self, members: Sequence[str], held: Sequence[Held], entries: Sequence[Entry]) -> None:
        """Append without log rows, which would be the same bytes beside every layout."""
        assert isinstance(held, ReadRings)
        appends = [
            Append(member, held.rings.version(number), entry, None)
            for number, (member, entry) in enumerate(zip(members, entries, strict=True))
        ]
        must_be_appended([outcome is AppendOutcome.APPENDED for outcome in self._store.append(appends)])

    def append_columns(self, members: Sequence[str], held: ReadRings, entries: EntryColumns) -> None:
        """Append as the engine does: a column at a time."""
        versions = [held.rings.version(number) for number in range(len(members))]
        outcomes = self._store.append(Appends(members, versions, entries, [None] * len(members)))
        must_be_appended([outcome is AppendOutcome.APPENDED for outcome in outcomes])

    def written(self, member: str, held: Held, entry: Entry) -> int:
        """Return the bytes of all patches."""
        change = change_of(Append(member, held.version, entry, None), TENANT, self.codec, self.capacity)
        return sum(len(data) for _, data in change.patches)

    def unchanging(self, member: str, held: Held, entry: Entry) -> Command:
        """Return the command of that append, with the header that is there in the place of the new one."""
        append = Append(member, held.version, entry, None)
        change = change_of(append, TENANT, self.codec, self.capacity)
        header = {-1: change.expected, CHANGES_FROM: change.expected[CHANGES_FROM:]}
        patches = [
            (offset, header.get(offset, b"") + data[len(header.get(offset, b"")) :]) for offset, data in change.patches
        ]
        # The store's own, so that the command is the same whatever its script is given.
        return self._store._append_command(
            member, held.version.generation, change._replace(patches=tuple(patches)), None
        )


class RawRings(Rings):
    """Rings of Avro as it is. A reader needs no more than the codec of the layout."""

    def append(self, members: Sequence[str], held: Sequence[Held], entries: Sequence[Entry]) -> None:
        """Append uncompressed."""
        with _uncompressed():
            super().append(members, held, entries)

    def append_columns(self, members: Sequence[str], held: ReadRings, entries: EntryColumns) -> None:
        """Append uncompressed."""
        with _uncompressed():
            super().append_columns(members, held, entries)

    def written(self, member: str, held: Held, entry: Entry) -> int:
        """Return the bytes of all patches."""
        with _uncompressed():
            return super().written(member, held, entry)


def _uncompressed() -> Any:
    """Have every codec leave bodies as they are. No store offers that: it is of no use but to compare with."""
    return patch.object(Codec, "compress", lambda _, body: body)
