"""``python -m benchmarks.store``: rings beside streams, lists, whole records and Feast arrays, on one redis-server."""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rich.console import Console

from benchmarks.store import decisions as log
from benchmarks.store import frontier, physical
from benchmarks.store.bytes_used import Loaded, bytes_written, load
from benchmarks.store.decisions import Decisions
from benchmarks.store.growth import SIZES, read_costs
from benchmarks.store.layouts import Codecs
from benchmarks.store.peers import Open
from benchmarks.store.physical import Measured
from benchmarks.store.report import Bytes, Results, show
from benchmarks.store.server import Server
from benchmarks.store.speed import Contender, Decider, Floor, Pace, Plan, race
from contracts.errors import PacerError
from contracts.settings import Settings, load_settings
from contracts.spec import load_spec

MEMBERS: Final = 20_000
OTHER_SPEC: Final = Path("specs/heartsteps.yaml")
WIDTH: Final = 140


@dataclass(frozen=True)
class Scale:
    """How much is measured.

    Attributes
    ----------
    natural_members
        Members of a peer with its natural codec.
    physical_members
        Members of a physical layout that was not chosen.
    sizes
        Numbers of members among which reads are measured.
    read_batches
        Reads among each of them.
    """

    natural_members: int
    physical_members: int
    plan: Plan
    sizes: tuple[int, ...]
    read_batches: int


FULL: Final = Scale(2_000, 5_000, Plan(15, {1: 200, 64: 16}), SIZES, 300)
QUICK: Final = Scale(100, 100, Plan(2, {1: 4, 64: 1}), (100, 1_000), 3)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.store", description=__doc__)
    parser.add_argument("--spec", type=Path, default=Path("specs/notification.yaml"))
    parser.add_argument("--members", type=int, help=f"rings to measure (default {MEMBERS}; 500 with --quick)")
    parser.add_argument("--quick", action="store_true", help="a glance: few members, few repeats, one log")
    options = parser.parse_args(arguments)
    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        console = Console(stderr=True, highlight=False, width=WIDTH)
    members = options.members or (500 if options.quick else MEMBERS)
    scale = QUICK if options.quick else FULL
    if members < scale.plan.members:
        parser.error(f"--members {members}: at least {scale.plan.members}")
    settings = load_settings()
    # A terminated run stops its server on the way out, like an interrupted one.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        spec = load_spec(options.spec)
        results = measure(log.load(spec, settings, members, console), spec.name, scale, console)
        if not options.quick:
            results.other = _other(settings, console)
    except PacerError as error:
        console.print("[red]error:[/]", end=" ")
        console.print(str(error), markup=False, soft_wrap=True)
        return 1
    show(results, console)
    print(json.dumps(results.to_json(), allow_nan=False), flush=True)
    return 0


def measure(decisions: Decisions, title: str, scale: Scale, console: Console) -> Results:
    """Measure every layout on ``decisions``. Raises StoreError, ServerError."""
    # What the loading processes share is not to be copied because its garbage is collected.
    gc.collect()
    gc.freeze()
    codecs = Codecs.of(decisions)
    with Server() as server:
        results = _results(decisions, title, server)
        console.print(results.environment)
        _warm_up(server, codecs, decisions)
        ours = _load(server, codecs.ours(), decisions, len(decisions.runs), "our codec", console)
        results.ours = _bytes(ours, decisions)
        few = min(scale.natural_members, len(decisions.runs))
        natural = _load(server, codecs.natural(), decisions, few, "natural codec", console)
        results.natural = _bytes(natural, decisions)
        console.print("reading and appending by turns")
        floor = Floor(server, ours["ring"], decisions)
        results.paces, results.natural_paces = _race(server, ours, natural, floor, decisions, scale.plan)
        console.print("physical layouts")
        few = min(scale.physical_members, len(decisions.runs))
        ring, rate = results.ours["ring"], floor.appends_per_s(few, scale.plan.repeats)
        results.physical = {
            "packed": Measured(ring.per_member, ring.written, rate),
            **physical.measure(server, codecs.shipped, decisions, few, scale.plan.repeats),
        }
        console.print("entries compressed together")
        results.frontier = frontier.measure(server, codecs.shipped, decisions, few)
        console.print("reads as members grow")
        server.flush()
        results.reads = read_costs(server, codecs.shipped, decisions, scale.sizes, scale.read_batches)
    return results


def measure_bytes(decisions: Decisions, title: str, console: Console) -> Results:
    """Measure the bytes of every layout on ``decisions``. Raises StoreError, ServerError."""
    codecs = Codecs.of(decisions)
    with Server() as server:
        results = _results(decisions, title, server)
        _warm_up(server, codecs, decisions)
        for kind, layouts in (("our codec", codecs.ours()), ("natural codec", codecs.natural())):
            loaded = _load(server, layouts, decisions, len(decisions.runs), f"{title}, {kind}", console)
            if kind == "our codec":
                results.ours = _bytes(loaded, decisions)
            else:
                results.natural = _bytes(loaded, decisions)
    return results


def _warm_up(server: Server, codecs: Codecs, decisions: Decisions) -> None:
    """Let the server allocate what it allocates once."""
    load(server, codecs.ours()["ring"], decisions, 1)
    server.flush()


def _results(decisions: Decisions, title: str, server: Server) -> Results:
    environment = f"{os.cpu_count()} cores, Redis {server.version()}, Python {platform.python_version()}"
    columns = len(decisions.floats["state"][0]) + len(decisions.floats["scores"][0])
    return Results(title, len(decisions.runs), columns, environment, decisions.per_day)


def _load(
    server: Server, layouts: Mapping[str, Open], decisions: Decisions, members: int, kind: str, console: Console
) -> dict[str, Loaded]:
    loaded = {}
    for name, opened in layouts.items():
        started = time.monotonic()
        loaded[name] = load(server, opened, decisions, members)
        console.print(f"{name}, {kind}: {members:,} members loaded in {time.monotonic() - started:.0f} s")
    return loaded


def _bytes(loaded: Mapping[str, Loaded], decisions: Decisions) -> dict[str, Bytes]:
    return {
        name: Bytes(one.bytes_per_member, one.value_bytes_per_member, bytes_written(one, decisions))
        for name, one in loaded.items()
    }


def _race(
    server: Server,
    ours: Mapping[str, Loaded],
    natural: Mapping[str, Loaded],
    floor: Floor,
    decisions: Decisions,
    plan: Plan,
) -> tuple[dict[str, Pace], dict[str, Pace]]:
    contenders: dict[str, Contender] = {name: Decider(one, decisions) for name, one in ours.items()}
    contenders |= {f"{name}*": Decider(one, decisions) for name, one in natural.items()}
    paces = race(contenders | {"floor": floor}, server, plan)
    return (
        {name: pace for name, pace in paces.items() if not name.endswith("*")},
        {name[:-1]: pace for name, pace in paces.items() if name.endswith("*")},
    )


def _other(settings: Settings, console: Console) -> Results | None:
    """Measure bytes on the other log, where its data are at hand."""
    spec = load_spec(OTHER_SPEC)
    if not (settings.workspace(spec.name).training_set.is_dir() or settings.heartsteps.is_dir()):
        console.print(f"{spec.name}: left out, since {settings.heartsteps} is not there")
        return None
    return measure_bytes(log.load(spec, settings, None, console), spec.name, console)


if __name__ == "__main__":
    sys.exit(main())
