"""The stores under the contract suite, each with the one thing that no store offers: making its rings expire."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod

import redis

from sequence_store import Layout, MemoryRingStore, RedisRingStore, RingStore
from tests.sequence_store.samples import LAYOUT

_numbers = itertools.count()


class Harness(ABC):
    """Opens stores of one kind, each under a tenant of its own."""

    @abstractmethod
    def open(self, *, layout: Layout = LAYOUT, capacity: int = 16, ttl_days: float = 14.0) -> RingStore:
        """Return an empty store."""

    @abstractmethod
    def expire_rings(self) -> None:
        """Let every ring of every open store expire by its idle time."""


class MemoryHarness(Harness):
    """Stores in memory, on a clock that the test moves."""

    def __init__(self) -> None:
        self._now_s = 0.0

    def open(self, *, layout: Layout = LAYOUT, capacity: int = 16, ttl_days: float = 14.0) -> RingStore:
        return MemoryRingStore(f"t{next(_numbers)}", layout, capacity, ttl_days, clock_s=lambda: self._now_s)

    def expire_rings(self) -> None:
        self._now_s += 15 * 86_400


class RedisHarness(Harness):
    """Stores on one database of a real redis-server."""

    def __init__(self, url: str) -> None:
        self._url = url

    def open(self, *, layout: Layout = LAYOUT, capacity: int = 16, ttl_days: float = 14.0) -> RingStore:
        return RedisRingStore(self._url, f"t{next(_numbers)}", layout, capacity, ttl_days, timeout_s=30.0)

    def expire_rings(self) -> None:
        with redis.Redis.from_url(self._url) as client:
            for key in client.scan_iter("{*}:r:*", count=1000):
                client.pexpire(key, 0)
