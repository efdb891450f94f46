"""The in-memory twin of the rings on Redis, for tests and notebooks: the same frames, without a server."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from contracts.errors import StoreError
from sequence_store.assembly import Stored, assemble, check, check_member_id
from sequence_store.keys import Keys
from sequence_store.layout import Layout
from sequence_store.retention import Retention
from sequence_store.ring import Append, AppendOutcome, Cursor, Ring, Version, new_incarnation
from sequence_store.sealing import seal_append


@dataclass
class _Held:
    incarnation: int = field(default_factory=new_incarnation)
    frames: list[bytes] = field(default_factory=list)
    """The newest frames, the last of which has sequence number ``count`` - 1."""
    count: int = 0
    expires_s: float = 0.0


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
        self._layout = layout
        self._retention = Retention.of_days(capacity, ttl_days)
        self._clock_s = clock_s
        self._generation = 0
        self._rings: dict[str, _Held] = {}
        self._outbox: list[tuple[Cursor, bytes]] = []
        self._rows_written = 0
        self._lock = threading.Lock()

    def read(self, member_ids: Sequence[str], now_ms: Sequence[int]) -> list[Ring]:
        """Read rings as ``RingStore.read`` says."""
        if len(member_ids) != len(now_ms):
            raise ValueError(f"{len(member_ids)} member_ids but {len(now_ms)} now_ms: give one time a member")
        with self._lock:
            stored = [self._stored(check_member_id(member_id)) for member_id in member_ids]
        layouts = {self._layout.fingerprint: self._layout}
        return [
            assemble(check(self._tenant, member_id, ring, now - self._retention.ttl_ms), layouts)
            for member_id, now, ring in zip(member_ids, now_ms, stored, strict=True)
        ]

    def append(self, appends: Sequence[Append]) -> list[AppendOutcome | StoreError]:
        """Append as ``RingStore.append`` says."""
        return [self._append_one(append) for append in appends]

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

    def _held(self, member_id: str) -> _Held | None:
        ring = self._rings.get(member_id)
        return ring if ring is not None and self._clock_s() < ring.expires_s else None

    def _stored(self, member_id: str) -> Stored:
        ring = self._held(member_id)
        if ring is None:
            return Stored(Version(self._generation, 0))
        first = ring.count - len(ring.frames)
        return Stored(Version(self._generation, ring.count, ring.incarnation), tuple(enumerate(ring.frames, first)))

    def _append_one(self, append: Append) -> AppendOutcome | StoreError:
        try:
            frame = seal_append(append, self._tenant, self._layout)
        except StoreError as error:
            return error
        with self._lock:
            if append.version != self._stored(append.member_id).version:
                return AppendOutcome.CONFLICT
            ring = self._held(append.member_id) or _Held()
            self._rings[append.member_id] = ring
            ring.frames = [*ring.frames, frame][-self._retention.capacity :]
            ring.count += 1
            ring.expires_s = self._clock_s() + self._retention.ttl_ms / 1000
            if append.log_row is not None:
                self._rows_written += 1
                self._outbox.append((Cursor(0, (self._rows_written, 0)), append.log_row))
            return AppendOutcome.APPENDED
