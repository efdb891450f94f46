"""Bytes: what a member takes in memory, and what an append writes."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import redis

from benchmarks.store.decisions import Decisions
from benchmarks.store.peers import TENANT, Held, Open, Peer, check
from benchmarks.store.server import Meter, Server
from contracts.errors import StoreError
from sequence_store.keys import Keys
from sequence_store.wire import Wire

BATCH: Final = 512
LOADERS: Final = 2
"""Processes that load a layout: one would take twice as long."""
WORN_MEMBERS: Final = 500
WORN_APPENDS: Final = 8
"""Appends a member, to as many members, that tell what one writes where the rings are full."""
_SAMPLED_VALUES = 2_000
_HOUR_MS = 3_600_000


def member_id(number: int) -> str:
    """Return the id of a measured member, as the simulator names them."""
    return f"m{number:06d}"


@dataclass
class Loaded:
    """One layout with its members on the server."""

    peer: Peer
    client: redis.Redis
    meter: Meter
    members: int
    bytes_per_member: float
    value_bytes_per_member: float
    appended: int = 0
    """Appends since it was loaded: each is later than the last."""


def load(server: Server, opened: Open, decisions: Decisions, members: int) -> Loaded:
    """Append every decision of the first ``members`` runs, as a service would: one by one for each member.

    ``bytes_per_member`` is the growth of ``used_memory``, all keys of the layout and their times to live included.
    """
    meter = Meter()
    client = server.client(meter)
    before = server.used_memory()
    _in_processes(lambda numbers: _append_all(opened(server.same_database(client)), decisions, numbers), members)
    used = server.used_memory() - before
    loaded = Loaded(opened(client), client, meter, members, used / members, _value_bytes(client))
    # The buffers of a connection that stays would count when the next layout is measured.
    client.connection_pool.disconnect()
    return loaded


def _append_all(peer: Peer, decisions: Decisions, members: range) -> None:
    for step in range(decisions.runs.shape[1]):
        for first in range(0, len(members), BATCH):
            numbers = members[first : first + BATCH]
            names = [member_id(number) for number in numbers]
            rows = [int(decisions.runs[number, step]) for number in numbers]
            held = peer.read(names, [int(decisions.at_ms[row]) for row in rows])
            peer.append(names, held, [decisions.entry(row, step, peer.layout) for row in rows])


def _in_processes(work: Callable[[range], None], members: int) -> None:
    """Have a process a core do ``work`` on its share of the members. Raises StoreError if one fails."""
    shares = [
        range(members)[start : start + -(-members // LOADERS)] for start in range(0, members, -(-members // LOADERS))
    ]
    # Forked, since the decisions are large.
    loaders = [multiprocessing.get_context("fork").Process(target=work, args=(share,)) for share in shares]
    for loader in loaders:
        loader.start()
    for loader in loaders:
        loader.join()
    if any(loader.exitcode for loader in loaders):
        raise StoreError("a loading process failed; its reason stands above")


def bytes_written(loaded: Loaded, decisions: Decisions) -> float:
    """Return the bytes of values that an append writes, the mean of many to full rings."""
    rng = np.random.default_rng(1)
    numbers = rng.permutation(loaded.members)[:WORN_MEMBERS]
    names = [member_id(number) for number in numbers]
    written = []
    for _ in range(WORN_APPENDS):
        times = next_times(loaded, decisions, numbers.tolist())
        held = loaded.peer.read(names, times)
        entries = [
            decisions.entry(int(rng.choice(decisions.runs[number])), one.version.count, loaded.peer.layout, at_ms)
            for number, one, at_ms in zip(numbers, held, times, strict=True)
        ]
        written += [loaded.peer.written(*item) for item in zip(names, held, entries, strict=True)]
        loaded.peer.append(names, held, entries)
    return float(np.mean(written))


def next_times(loaded: Loaded, decisions: Decisions, numbers: Sequence[int]) -> list[int]:
    """Return the times of the next decisions of some members: each is later than those before it."""
    loaded.appended += 1
    return [int(decisions.at_ms[decisions.runs[number, -1]]) + _HOUR_MS + 1_000 * loaded.appended for number in numbers]


def same_history(first: Held, second: Held) -> bool:
    """Tell whether two layouts hold the same entries of a member."""
    return list(first.newest()) == list(second.newest()) and list(first.longs) == list(second.longs)


def _value_bytes(client: redis.Redis) -> float:
    """Return the bytes of a member's values as they were given to Redis, the mean of some members."""
    wire = Wire(client)
    sizes: list[int] = []
    for page in wire.scan(b"*", 1_000):
        keys = [key for key in page if key != Keys(TENANT).codecs]
        kinds = check(wire.exchange([("TYPE", key) for key in keys], writes=False))
        reads = [(_READ[kind][0], key, *_READ[kind][1:]) for key, kind in zip(keys, kinds, strict=True)]
        sizes += map(_length, check(wire.exchange(reads, writes=False)))
        if len(sizes) >= _SAMPLED_VALUES:
            break
    return float(np.mean(sizes))


_READ: Final[dict[bytes, tuple[Any, ...]]] = {
    b"string": ("GET",),
    b"list": ("LRANGE", 0, -1),
    b"stream": ("XRANGE", "-", "+"),
    b"hash": ("HVALS",),
}


def _length(reply: Any) -> int:
    return len(reply) if isinstance(reply, bytes) else sum(map(_length, reply))
