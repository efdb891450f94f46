"""A redis-server killed in the middle of appends, again and again, and restarted on its append-only file."""

from __future__ import annotations

import random
from typing import Any, Final

import redis

from benchmarks.soak.crew import Crew
from benchmarks.soak.entries import NOW_MS
from benchmarks.soak.persistent import Manner, judge, open_store, write
from benchmarks.soak.scenario import Report, Soak, SoakError
from benchmarks.soak.servers import redis_server
from benchmarks.soak.writers import take_rows
from sequence_store import Ring

SETTINGS: Final = ("always", "everysec", "no")
WRITERS: Final = 8
MEMBERS: Final = 12
BETWEEN_KILLS: Final = (50, 600)
"""Settled cycles, of all writers together."""
_MAX_POLLS = 20_000


def run(soak: Soak) -> Report:
    """redis-server is killed (SIGKILL) in the middle of appends and restarted on its append-only file."""
    report = Report()
    for setting in SETTINGS:
        run_part(soak, report, setting)
    run_part(soak, report, "everysec", while_syncing=True)
    report.remarks.append(
        "A killed process loses what it has not handed to the system. With always and no, Redis does that before it "
        "answers; with everysec, not while it is syncing: then it answers first, for up to 2 s. A machine that loses "
        "its power loses more: with everysec about the last 1 to 2 s, with no as much as the system has not written "
        "yet (about 30 s), with always nothing where the disk is honest."
    )
    return report


def run_part(soak: Soak, report: Report, setting: str, *, while_syncing: bool = False) -> None:
    """Kill a server with this ``appendfsync`` under load, at random or ``while_syncing``, and restart it."""
    kills = soak.amount(20, 2)
    name = f"{setting}{', while it syncs' * while_syncing}"
    task = soak.progress.add_task(f"crash, appendfsync {name}", total=kills)
    rng = random.Random(f"{soak.seed}/{name}")
    members = [f"m{number}" for number in range(MEMBERS)]
    with redis_server("--appendfsync", setting) as server:
        with Crew(write, WRITERS, server.url, members, Manner()) as crew:
            for _ in range(kills):
                crew.until(crew.signals.done + rng.randint(*BETWEEN_KILLS))
                if while_syncing:
                    _await_sync(server.port)
                crew.signals.up.clear()
                server.kill()
                server.start()
                crew.signals.up.set()
                soak.progress.advance(task)
            crew.until(crew.signals.done + rng.randint(*BETWEEN_KILLS))
            crew.signals.stop.set()
            diaries = crew.results()
        with open_store(server.url, Manner()) as store:
            rows = take_rows(store)
            rings = [ring for ring in store.read(members, [NOW_MS] * MEMBERS) if isinstance(ring, Ring)]
    report.law("every ring can be read", [()] * (MEMBERS - len(rings)))
    keeps = setting == "always"
    counts = judge(report, diaries, rows, rings, Manner(), keeps_acknowledged=keeps, keeps_read_back=keeps)
    report.part(name).update(kills=kills, **counts)


def _await_sync(port: int) -> None:
    """Return at a moment when the server waits for its disk, and has answered what it has not handed to the system."""
    with redis.Redis(port=port) as client:
        for _ in range(_MAX_POLLS):
            state: Any = client.info("persistence")
            if state.get("aof_pending_bio_fsync") and state.get("aof_buffer_length"):
                return
    raise SoakError(f"in {_MAX_POLLS} looks, redis-server was never found syncing its append-only file")
