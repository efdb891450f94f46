"""Speed: reads and appends of members drawn at random, and the floor below which no layout on Redis can go."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Final, Protocol

import numpy as np

from benchmarks.store.bytes_used import BATCH, Loaded, member_id, next_times
from benchmarks.store.decisions import Decisions
from benchmarks.store.peers import TENANT, Held, check
from benchmarks.store.rings import ReadRings, Rings
from benchmarks.store.server import Meter, Server
from contracts.errors import StoreError
from sequence_store import Entry
from sequence_store.avro_columns import FEW
from sequence_store.columns import EntryColumns
from sequence_store.joined import Ints
from sequence_store.keys import Keys
from sequence_store.registry import epoch_command
from sequence_store.side_by_side import NewestEntries
from sequence_store.wire import Wire

BATCHES: Final = (1, 64)
HISTORY: Final = 3
"""Entries that a model with a context of 4 steps reads."""
_DAY_MS = 86_400_000


Turn = Callable[[], None]
"""One batch, made ready: reads the members' rings and appends one entry to each."""


@dataclass(frozen=True)
class Plan:
    """How often everything is measured."""

    repeats: int
    turns: Mapping[int, int]
    """Batch size -> batches a repeat."""

    @property
    def members(self) -> int:
        """Members that a contender must have."""
        return max(batch * turns for batch, turns in self.turns.items())


class Contender(Protocol):
    """What can be measured."""

    @property
    def members(self) -> int:
        """How many members it has."""

    @property
    def meter(self) -> Meter:
        """What it sends."""

    def turn(self, numbers: Sequence[int]) -> Turn:
        """Return the batch of these members, ready to run."""


class Decider:
    """Does with a layout what the engine does with its rings."""

    def __init__(self, loaded: Loaded, decisions: Decisions) -> None:
        self._loaded, self._decisions = loaded, decisions
        self.members, self.meter = loaded.members, loaded.meter
        self._rng = np.random.default_rng(2)

    def turn(self, numbers: Sequence[int]) -> Turn:
        """Return the batch; the decisions to append are others of the same members."""
        decisions, peer = self._decisions, self._loaded.peer
        names = [member_id(number) for number in numbers]
        times = next_times(self._loaded, decisions, numbers)
        rows = [int(self._rng.choice(decisions.runs[number])) for number in numbers]
        cycle_ids = [f"{decisions.cycle_ids[row]}+" for row in rows]
        # Made beforehand: what is measured begins with an entry and ends with one.
        entries = [
            decisions.entry(row, one.version.count, peer.layout, now)
            for one, row, now in zip(peer.read(names, times), rows, times, strict=True)
        ]

        def one_by_one() -> None:
            held = peer.read(names, times)
            for one, asked, now in zip(held, cycle_ids, times, strict=True):
                look(one, asked, now)
            peer.append(names, held, entries)

        if not isinstance(peer, Rings) or len(numbers) < FEW:
            return one_by_one
        rings, columns = peer, EntryColumns.of(entries)

        def by_column() -> None:
            held = rings.read(names, times)
            look_at_all(held, cycle_ids, times)
            rings.append_columns(names, held, columns)

        return by_column


def look_at_all(held: ReadRings, cycle_ids: Sequence[str], now_ms: Sequence[int]) -> tuple[list[NewestEntries], Ints]:
    """Return what ``look`` does for each ring, a column at a time, as the engine takes it. Raises StoreError."""
    rings = held.rings
    decided = [asked for asked, entry in zip(cycle_ids, rings.cycles(cycle_ids), strict=True) if entry is not None]
    if decided:
        raise StoreError(f"cycle {decided[0]!r} was never decided, but is there")
    longs = rings.longs
    since = np.asarray(now_ms)[:, None] - _DAY_MS
    sends: Ints = (longs.there & (longs.action != 0) & (since < longs.at_ms)).sum(axis=1)
    return rings.newest(HISTORY), sends


def look(held: Held, cycle_id: str, now_ms: int) -> tuple[list[Entry], int]:
    """Return what a decision needs: the newest entries, and the sends of the last 24 hours.

    Raises StoreError if the cycle was decided already, which no cycle asked for here was.
    """
    if held.cycle(cycle_id) is not None:
        raise StoreError(f"cycle {cycle_id!r} was never decided, but is there")
    since = now_ms - _DAY_MS
    sends = sum(longs.action != 0 and since < longs.at_ms for longs in held.longs)
    return list(islice(held.newest(), HISTORY)), sends


class Floor:
    """The commands of a ring's read and append, made beforehand: bytes of the same sizes, no codec, nothing parsed.

    Works on a copy of the rings in a database of its own, where an append writes the header that is there already.
    """

    def __init__(self, server: Server, ring: Loaded, decisions: Decisions) -> None:
        assert isinstance(ring.peer, Rings)
        self.members, self.meter = ring.members, Meter()
        client = server.client(self.meter)
        keys, database = Keys(TENANT), client.connection_pool.connection_kwargs["db"]
        names = [member_id(number) for number in range(ring.members)]
        copied = [keys.codecs, *map(keys.ring, names)]
        check(Wire(ring.client).exchange([("COPY", key, key, "DB", database) for key in copied], writes=True))
        peer = Rings(client, ring.peer.codec, ring.peer.capacity)
        self._wire, self._epoch = Wire(client), epoch_command(keys)
        self._reads = [peer.read_commands(name) for name in names]
        self._appends = []
        for first in range(0, len(names), BATCH):
            numbers = range(first, min(first + BATCH, len(names)))
            some, times = names[first : first + BATCH], next_times(ring, decisions, numbers)
            for number, name, held, now in zip(numbers, some, peer.read(some, times), times, strict=True):
                entry = decisions.entry(int(decisions.runs[number, 0]), held.version.count, peer.layout, now)
                self._appends.append(peer.unchanging(name, held, entry))

    def turn(self, numbers: Sequence[int]) -> Turn:
        """Return the batch."""
        # Generations once, as the store asks for them.
        asked = dict.fromkeys(command for number in numbers for command in self._reads[number])
        reads = [*asked, self._epoch]
        self._wire.exchange(reads, writes=False)  # as the others' entries are made
        appends = [self._appends[number] for number in numbers]

        def run() -> None:
            self._wire.exchange(reads, writes=False)
            if self._wire.exchange(appends, writes=True) != [1] * len(appends):
                raise StoreError("the floor's appends were refused: they are not those of a ring")

        return run

    def appends_per_s(self, members: int, repeats: int) -> float:
        """Return how many appends a second go through, 64 at a time, with nothing read in between."""
        rates = []
        for _ in range(repeats):
            started = time.perf_counter()
            for first in range(0, members, max(BATCHES)):
                self._wire.exchange(self._appends[first : min(first + max(BATCHES), members)], writes=True)
            rates.append(members / (time.perf_counter() - started))
        return float(np.median(rates))


@dataclass
class Pace:
    """How fast one contender is."""

    per_s: dict[int, float] = field(default_factory=dict)
    """Batch size -> members a second, the median of all repeats."""
    spread: dict[int, float] = field(default_factory=dict)
    """Batch size -> half the distance of the quartiles, as a share of the median."""
    client_us: float = 0.0
    server_us: float = 0.0
    """CPU time of a decision in the largest batch."""
    round_trips: dict[int, float] = field(default_factory=dict)
    """Batch size -> exchanges a batch."""
    network_bytes: float = 0.0
    """Bytes in and out of the server a decision, in the largest batch."""


def race(contenders: Mapping[str, Contender], server: Server, plan: Plan) -> dict[str, Pace]:
    """Measure all contenders by turns, so that the noise of the machine is everybody's."""
    rng = np.random.default_rng(3)
    seconds: dict[tuple[str, int], list[float]] = {(name, batch): [] for name in contenders for batch in BATCHES}
    cpu: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
    paces = {name: _count(contender, server, rng) for name, contender in contenders.items()}
    for _ in range(plan.repeats):
        for batch in BATCHES:
            for name in rng.permutation(list(contenders)).tolist():
                turns = _drawn(contenders[name], batch, plan.turns[batch], rng)
                server_s, client_s, started = server.cpu_s(), time.process_time(), time.perf_counter()
                for turn in turns:
                    turn()
                seconds[name, batch].append((time.perf_counter() - started) / (batch * len(turns)))
                if batch == max(BATCHES):
                    decisions = batch * len(turns)
                    client_s, server_s = time.process_time() - client_s, server.cpu_s() - server_s
                    cpu[name].append((client_s / decisions, server_s / decisions))
    for name, pace in paces.items():
        for batch in BATCHES:
            low, median, high = np.quantile(1.0 / np.asarray(seconds[name, batch]), [0.25, 0.5, 0.75])
            pace.per_s[batch], pace.spread[batch] = float(median), float((high - low) / 2 / median)
        pace.client_us, pace.server_us = (float(1e6 * np.mean(part)) for part in zip(*cpu[name], strict=True))
    return paces


def _drawn(contender: Contender, batch: int, turns: int, rng: np.random.Generator) -> list[Turn]:
    """Return batches of members none of whom is in two, so that all can be made ready before the first is run."""
    drawn = rng.choice(contender.members, (turns, batch), replace=False)
    return [contender.turn(numbers) for numbers in drawn.tolist()]


def _count(contender: Contender, server: Server, rng: np.random.Generator) -> Pace:
    """Count round trips and bytes, after a turn that nobody looks at."""
    pace = Pace()
    for batch in BATCHES:
        for _ in range(2):
            (turn,) = _drawn(contender, batch, 1, rng)
            idle = server.network_bytes()
            idle = server.network_bytes() - idle  # what asking costs
            exchanges, network = contender.meter.exchanges, server.network_bytes()
            turn()
            network = server.network_bytes() - network - idle
        pace.round_trips[batch] = contender.meter.exchanges - exchanges
        pace.network_bytes = network / batch
    return pace
