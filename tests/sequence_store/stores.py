"""The stores under the contract suite, each with what no store offers: time, restarts, and damage behind its back."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable

from sequence_store import Layout, MemoryRingStore, RedisRingStore, RingStore, registry
from sequence_store.codec import Codec
from sequence_store.keys import Keys
from sequence_store.wire import Wire, connect
from tests.sequence_store.samples import LAYOUT

_TIMEOUT_S = 30.0
_numbers = itertools.count()


class Harness(ABC):
    """Opens stores of one kind, each under a tenant of its own."""

    @abstractmethod
    def open(self, *, layout: Layout = LAYOUT, capacity: int = 16, ttl_days: float = 14.0) -> RingStore:
        """Return an empty store."""

    @abstractmethod
    def restart(
        self, store: RingStore, *, layout: Layout = LAYOUT, capacity: int = 16, dictionary: bytes | None = None
    ) -> RingStore:
        """Return a store on what ``store`` wrote, as another process opens it; ``store`` is not used again.

        From now on ``dictionary`` is written with, if there is one.
        """

    @abstractmethod
    def rewrite(self, store: RingStore, member_id: str, change: Callable[[bytes], bytes]) -> None:
        """Put in place of a member's stored ring what ``change`` makes of it."""

    @abstractmethod
    def expire_rings(self) -> None:
        """Let every ring of every open store expire by its idle time."""

    @abstractmethod
    def close(self) -> None:
        """Close every store that was opened."""


class MemoryHarness(Harness):
    """Stores in memory, on a clock that the test moves."""

    def __init__(self) -> None:
        self._now_s = 0.0

    def open(self, *, layout: Layout = LAYOUT, capacity: int = 16, ttl_days: float = 14.0) -> RingStore:
        return MemoryRingStore(f"t{next(_numbers)}", layout, capacity, ttl_days, clock_s=lambda: self._now_s)

    def restart(
        self, store: RingStore, *, layout: Layout = LAYOUT, capacity: int = 16, dictionary: bytes | None = None
    ) -> RingStore:
        # The twin lives and dies with its process: only here does another one take over its state.
        assert isinstance(store, MemoryRingStore)
        again = MemoryRingStore(store._tenant, layout, capacity, 14.0, clock_s=lambda: self._now_s)
        again._generation, again._rings = store._generation, store._rings
        again._outbox, again._rows_written = store._outbox, store._rows_written
        again._codec = Codec(layout, store._codec.dictionary if dictionary is None else dictionary)
        known = {codec: None for codecs in store._codecs.values() for codec in codecs} | {again._codec: None}
        again._codecs = {codec.tag: tuple(one for one in known if one.tag == codec.tag) for codec in known}  # type: ignore[misc]
        return again

    def rewrite(self, store: RingStore, member_id: str, change: Callable[[bytes], bytes]) -> None:
        assert isinstance(store, MemoryRingStore)
        held = store._rings[member_id]
        held.value = change(held.value)

    def expire_rings(self) -> None:
        self._now_s += 15 * 86_400

    def close(self) -> None:
        pass


class RedisHarness(Harness):
    """Stores on one database of a real redis-server, or on a real cluster."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._client = connect(url, _TIMEOUT_S, _TIMEOUT_S)
        self._wire = Wire(self._client)
        self._keys: dict[RingStore, Keys] = {}

    def open(self, *, layout: Layout = LAYOUT, capacity: int = 16, ttl_days: float = 14.0) -> RingStore:
        return self._open(Keys(f"t{next(_numbers)}"), layout, capacity, ttl_days)

    def restart(
        self, store: RingStore, *, layout: Layout = LAYOUT, capacity: int = 16, dictionary: bytes | None = None
    ) -> RingStore:
        keys = self._keys[store]
        if dictionary is not None:
            self._wire.exchange([registry.use_command(keys, dictionary)], writes=True)
        return self._open(keys, layout, capacity, 14.0)

    def rewrite(self, store: RingStore, member_id: str, change: Callable[[bytes], bytes]) -> None:
        key = self._keys[store].ring(member_id)
        (value,) = self._wire.exchange([("GET", key)], writes=False)
        assert self._wire.exchange([("SET", key, change(value), "KEEPTTL")], writes=True) == [b"OK"]

    def expire_rings(self) -> None:
        for keys in set(self._keys.values()):
            for page in self._wire.scan(keys.rings_pattern, 1000):
                self._wire.exchange([("PEXPIRE", key, 0) for key in page], writes=True)

    def close(self) -> None:
        for store in self._keys:
            store.close()
        self._wire.close()
        self._client.close()

    def _open(self, keys: Keys, layout: Layout, capacity: int, ttl_days: float) -> RingStore:
        store = RedisRingStore(self._url, keys.tenant, layout, capacity, ttl_days, timeout_s=_TIMEOUT_S)
        self._keys[store] = keys
        return store
