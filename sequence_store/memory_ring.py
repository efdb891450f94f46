"""The in-memory twin of the rings on Redis, for tests and notebooks: the same frames, without a server."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from contracts.errors import StoreError
from sequence_store.codec import Codec
from sequence_store.keys import Keys, check_member_id
from sequence_store.layout import Layout
from sequence_store.packed import Change
from sequence_store.retention import Retention
from sequence_store.ring import Append, AppendOutcome, Cursor
from sequence_store.rings import Rings
from sequence_store.sealing import changes_of
from sequence_store.side_by_side import RingValue


@dataclass
class _Held:
    value: bytes
    expires_s: float


class MemoryRingStore:
    """The RingStore of one tenant in this process's memory.

    Parameters
    ----------
    tenant, layout, capacity, ttl_days
        As of RedisRingStore.
    clock_s
        Time by which idle rings expire, in seconds.

    Raises
    ------
    ValueError
        An argument is out of range.
    """

    def __init__(
        self,
        tenant: str,
        layout: Layout,
        capacity: int,
        ttl_days: float,
        *,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tenant = Keys(tenant).tenant
        self._codec = Codec(layout)
        self._codecs = {self._codec.tag: (self._codec,)}
        self._retention = Retention.of_days(capacity, ttl_days)
        self._clock_s = clock_s
        self._generation = 0
        self._rings: dict[str, _Held] = {}
        self._outbox: list[tuple[Cursor, bytes]] = []
        self._rows_written = 0
        self._lock = threading.Lock()

    def read(self, member_ids: Sequence[str], now_ms: Sequence[int]) -> Rings:
        """Read rings as ``RingStore.read`` says."""
        if len(member_ids) != len(now_ms):
            raise ValueError(f"{len(member_ids)} member_ids but {len(now_ms)} now_ms: give one time a member")
        with self._lock:
            generation = self._generation
            values = [self._value(check_member_id(member_id)) for member_id in member_ids]
        found = [RingValue(generation, value) for value in values]
        return Rings(self._tenant, member_ids, now_ms, found, self._codecs, self._retention)

    def append(self, appends: Sequence[Append]) -> list[AppendOutcome | StoreError]:
        """Append as ``RingStore.append`` says."""
        changes = changes_of(appends, self._tenant, self._codec, self._retention.capacity)
        return [
            change if isinstance(change, StoreError) else self._append_one(append, change)
            for append, change in zip(appends, changes, strict=True)
        ]

    def drain(self, limit: int) -> list[tuple[Cursor, bytes]]:
        """Return the oldest log rows of the outbox, as ``RingStore.drain`` says."""
        if limit < 1:
            raise ValueError(f"limit = {limit}: must be at least 1")
        with self._lock:
            return self._outbox[:limit]

    def trim(self, cursors: Sequence[Cursor]) -> int:
        """Forget drained log rows, as ``RingStore.trim`` says."""
        with self._lock:
            before = len(self._outbox)
            furthest = max((cursor.position for cursor in cursors), default=(0, 0))
            self._outbox = [row for row in self._outbox if row[0].position > furthest]
            return before - len(self._outbox)

    def empty(self) -> None:
        """Empty every ring, as ``RingStore.empty`` says."""
        with self._lock:
            self._generation += 1
            self._rings.clear()

    def close(self) -> None:
        """Do nothing: there is no connection."""

    def _value(self, member_id: str) -> bytes:
        ring = self._rings.get(member_id)
        return ring.value if ring is not None and self._clock_s() < ring.expires_s else b""

    def _append_one(self, append: Append, change: Change) -> AppendOutcome:
        with self._lock:
            value = self._value(append.member_id)
            if append.version.generation != self._generation or not change.fits(value, self._generation):
                return AppendOutcome.CONFLICT
            expires_s = self._clock_s() + self._retention.ttl_ms / 1000
            self._rings[append.member_id] = _Held(change.apply(value), expires_s)
            if append.log_row is not None:
                self._rows_written += 1
                self._outbox.append((Cursor(0, (self._rows_written, 0)), append.log_row))
            return AppendOutcome.APPENDED
