"""What every layout does in the benchmark: read the rings of some members, append one entry to each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import redis

from contracts.errors import StoreError
from sequence_store import Entry, FloatArray, Layout
from sequence_store.avro import Longs
from sequence_store.ring import Version

TENANT: Final = "notification"
TTL_DAYS: Final = 14.0
TTL_MS: Final = 14 * 86_400_000


class Held(Protocol):
    """What a layout holds of one member; ``sequence_store.Ring`` is one."""

    @property
    def version(self) -> Version:
        """``count`` is the sequence number of the next entry; ``found`` what an append rests on."""

    @property
    def longs(self) -> Sequence[Longs]:
        """Longs of all entries, in order."""

    def newest(self) -> Iterator[Entry]:
        """Yield the entries, the newest first, floats as numpy arrays."""

    def cycle(self, cycle_id: str) -> object | None:
        """Return the entry of that cycle, or None."""


class Peer(Protocol):
    """One layout of sequences on one database."""

    @property
    def layout(self) -> Layout:
        """Layout of the entries that are appended."""

    def read(self, members: Sequence[str], now_ms: Sequence[int], /) -> Sequence[Held]:
        """Return what is held of ``members``."""

    def append(self, members: Sequence[str], held: Sequence[Held], entries: Sequence[Entry], /) -> None:
        """Append one entry to each of ``members`` as just read. Raises StoreError if one is refused."""

    def written(self, member: str, held: Held, entry: Entry, /) -> int:
        """Return how many bytes of values that append writes."""


Open = Callable[[redis.Redis], Peer]
"""Opens a layout on an empty database."""


@dataclass(frozen=True)
class Record:
    """An entry taken apart by a peer's codec."""

    longs: Longs
    strings: dict[str, str]
    floats: dict[str, Any]
    """Name of every group -> its values in the peer's form."""

    @classmethod
    def of(cls, entry: Entry, floats: dict[str, Any]) -> Record:
        """Return ``entry`` with its floats in another form."""
        longs = Longs(entry.sequence, entry.at_ms, entry.action, entry.eligible)
        names = ("mask_key", "model", "cycle_id", "notification_id")
        return cls(longs, {name: getattr(entry, name) for name in names}, floats)

    def entry(self, floats: dict[str, FloatArray], layout: Layout) -> Entry:
        """Return the entry with its floats as arrays."""
        texts: dict[str, Any] = {**self.strings}
        return Entry(floats=floats, layout=layout, **self.longs._asdict(), **texts)


@dataclass(frozen=True)
class HeldRecords:
    """Records, oldest first, whose floats are turned into arrays as they are asked for."""

    version: Version
    records: Sequence[Record]
    to_entry: Callable[[Record], Entry]

    @property
    def longs(self) -> Sequence[Longs]:
        """Longs of all entries."""
        return [record.longs for record in self.records]

    def newest(self) -> Iterator[Entry]:
        """Yield the entries, the newest first."""
        return map(self.to_entry, reversed(self.records))

    def cycle(self, cycle_id: str) -> Record | None:
        """Return the record of that cycle, or None."""
        return next((record for record in reversed(self.records) if record.strings["cycle_id"] == cycle_id), None)


def check(replies: Sequence[Any]) -> Sequence[Any]:
    """Return ``replies``. Raises StoreError if Redis refused a command."""
    for reply in replies:
        if isinstance(reply, Exception):
            raise StoreError(f"refused by Redis: {reply}") from reply
    return replies


def must_be_appended(done: Sequence[bool]) -> None:
    """Raise StoreError if a compare-and-set failed: nobody else writes here."""
    if not all(done):
        raise StoreError(f"{len(done) - sum(done)} of {len(done)} appends were refused by their compare-and-set")
