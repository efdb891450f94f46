"""What it costs to have every append on disk before it is acknowledged: appends/s under each ``appendfsync``."""

from __future__ import annotations

import dataclasses
import itertools
import statistics
import time
from contextlib import ExitStack
from typing import Final, NamedTuple

from benchmarks.soak.crash import SETTINGS
from benchmarks.soak.crew import Crew, Signals
from benchmarks.soak.entries import NOW_MS, make_entry
from benchmarks.soak.scenario import Report, Soak, SoakError
from benchmarks.soak.servers import redis_server
from benchmarks.soak.writers import open_store
from sequence_store import Append, AppendOutcome, Ring

ROUNDS: Final = 5
MEMBERS: Final = 512
"""Of each writer; nobody else writes to them."""


class Load(NamedTuple):
    """How many processes write, and how many members each reads and appends to at once."""

    writers: int
    batch: int
    batches: int

    @property
    def name(self) -> str:
        """As in the table and the JSON."""
        return f"{self.writers} writer{'s' * (self.writers > 1)}, {self.batch} at once"


LOADS: Final = (Load(1, 1, 1_500), Load(1, 64, 60), Load(8, 1, 400))


class Span(NamedTuple):
    """When one writer began and ended, on one monotonic clock, in ns."""

    began_ns: int
    ended_ns: int


def run(soak: Soak) -> Report:
    """Appends/s, each with its read before it, under each appendfsync; the settings take turns."""
    report = Report()
    rounds = soak.amount(ROUNDS, 1)
    task = soak.progress.add_task("fsync", total=rounds * len(LOADS) * len(SETTINGS))
    rates: dict[tuple[str, str], list[float]] = {}
    with ExitStack() as stack:
        servers = {setting: stack.enter_context(redis_server("--appendfsync", setting)) for setting in SETTINGS}
        for turn, load, setting in itertools.product(range(rounds), LOADS, SETTINGS):
            batches = soak.amount(load.batches, 2)
            with Crew(write, load.writers, servers[setting].url, turn, load.batch, batches) as crew:
                spans = crew.results()
            seconds = (max(span.ended_ns for span in spans) - min(span.began_ns for span in spans)) / 1e9
            rates.setdefault((setting, load.name), []).append(load.writers * load.batch * batches / seconds)
            soak.progress.advance(task)
    for (setting, load_name), measured in rates.items():
        report.part(setting).update(
            {
                load_name: round(statistics.median(measured)),
                f"{load_name}, lowest": round(min(measured)),
                f"{load_name}, highest": round(max(measured)),
            }
        )
    return report


def write(number: int, signals: Signals, url: str, turn: int, batch: int, batches: int) -> Span:
    """Read and append ``batch`` members at once, ``batches`` times."""
    members = [f"{number}.{member}" for member in range(MEMBERS)]
    # Made beforehand: the generator takes longer than the append.
    entries = [make_entry(f"{turn}.{cycle}", 0) for cycle in range(batch)]
    with open_store(url) as store:
        signals.ready.wait()
        began_ns = time.monotonic_ns()
        for first in range(0, batch * batches, batch):
            chosen = [members[(first + offset) % MEMBERS] for offset in range(batch)]
            appends = []
            for ring, entry in zip(store.read(chosen, [NOW_MS] * batch), entries, strict=True):
                if not isinstance(ring, Ring):
                    raise ring
                placed = dataclasses.replace(entry, sequence=ring.version.count)
                appends.append(Append(ring.member_id, ring.version, placed, b"row"))
            if set(store.append(appends)) != {AppendOutcome.APPENDED}:
                raise SoakError("an append of a writer that has its members to itself was not made")
        return Span(began_ns, time.monotonic_ns())
