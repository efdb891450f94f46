"""One tenant on a real Redis or cluster, with what maintenance tests need of it: raw values, damage, interleaving."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import redis

from sequence_store import Layout, RedisRingStore, avro, registry
from sequence_store.codec import Codec, train_dictionary
from sequence_store.keys import Keys
from sequence_store.stored import StoredRings
from sequence_store.wire import Command, Wire, connect
from tests.sequence_store.samples import LAYOUT, make_entry

TIMEOUT_S = 30.0
_numbers = itertools.count()


def url_of(request: pytest.FixtureRequest) -> str:
    """Return the URL of the kind of server that a fixture's parameter names: ``redis`` or ``cluster``."""
    is_cluster = request.param == "cluster"
    return str(request.getfixturevalue("redis_cluster").url if is_cluster else request.getfixturevalue("redis_url"))


class HookedWire(Wire):
    """A wire that lets something happen right before changes to rings are sent, and keeps what was sent."""

    def __init__(self, client: redis.Redis) -> None:
        super().__init__(client)
        self.before_changes: Callable[[], object] = lambda: None
        self.sent: list[Command] = []

    def exchange(self, commands: Sequence[Command], *, writes: bool) -> list[Any]:
        self.sent += commands
        if any(command[0] == "EVALSHA" for command in commands):
            self.before_changes()
        return super().exchange(commands, writes=writes)

    @property
    def changes(self) -> int:
        """How many changes to rings were sent."""
        return sum(command[0] == "EVALSHA" for command in self.sent)


class Tenant:
    """A tenant of its own on the Redis or cluster at ``url``."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.keys = Keys(f"tenant-{next(_numbers)}")
        self._client = connect(url, TIMEOUT_S, TIMEOUT_S)
        self.wire = HookedWire(self._client)
        self._stores: list[RedisRingStore] = []

    @property
    def name(self) -> str:
        return self.keys.tenant

    def open(self, *, layout: Layout = LAYOUT, capacity: int = 16, ttl_days: float = 36_500.0) -> RedisRingStore:
        store = RedisRingStore(self.url, self.name, layout, capacity, ttl_days, timeout_s=TIMEOUT_S)
        self._stores.append(store)
        return store

    def close(self) -> None:
        for store in self._stores:
            store.close()
        self.wire.close()
        self._client.close()

    def call(self, *command: Any) -> Any:
        """Return the reply to one command that names a key."""
        (reply,) = Wire.exchange(self.wire, [command], writes=True)
        assert not isinstance(reply, Exception), reply
        return reply

    def value(self, member_id: str = "m") -> bytes:
        value = self.call("GET", self.keys.ring(member_id))
        return bytes(value or b"")

    def expires_in_ms(self, member_id: str = "m") -> int:
        return int(self.call("PTTL", self.keys.ring(member_id)))

    def codecs(self, member_id: str = "m") -> list[Codec]:
        """Return the codec of each entry that is stored."""
        (ring,) = StoredRings(self.wire, self.keys).read([member_id])
        return [sealed.codec for sealed in ring.held.frames]

    def use_dictionary(self, seed: int, at_ms: int) -> bytes:
        """Make another dictionary the current one, and return it."""
        dictionary = some_dictionary(seed)
        self.call(*registry.use_command(self.keys, dictionary, at_ms))
        return dictionary


def some_dictionary(seed: int) -> bytes:
    """Return a dictionary; another one for each seed."""
    bodies = [avro.encode(make_entry(number, cycle_id=f"{seed}-{number}"))[1] for number in range(300)]
    return train_dictionary(bodies, 2048)
