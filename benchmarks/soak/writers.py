"""Many writers of the same rings: each append is acknowledged or refused, and the ring says the same."""

from __future__ import annotations

import itertools
import random
import time
from collections import Counter
from collections.abc import Sequence
from typing import Final

from benchmarks.soak.crew import Crew, Signals
from benchmarks.soak.entries import LAYOUT, NOW_MS, make_entry
from benchmarks.soak.ledger import (
    Answer,
    Attempt,
    Row,
    by_member,
    expiry,
    judge_answers,
    judge_order,
    judge_real_time,
    judge_rings,
    lives,
)
from benchmarks.soak.scenario import Report, Soak
from benchmarks.soak.servers import redis_server
from sequence_store import Append, AppendOutcome, RedisRingStore, Ring
from sequence_store.keys import Keys
from sequence_store.outbox import ROW_FIELD
from sequence_store.wire import Command, Wire, connect

TENANT: Final = "soak"
CAPACITY: Final = 16
WRITERS: Final = 64
_TIMEOUT_S = 60.0
_ANSWERS = {AppendOutcome.APPENDED: Answer.APPENDED, AppendOutcome.CONFLICT: Answer.REFUSED}


def run(soak: Soak) -> Report:
    """64 processes write to one member, and to 1,000, while rings expire and are emptied."""
    report = Report()
    for members, attempts, batch in ((1, 500, 1), (1_000, 1_000, 8)):
        name = f"{members:,} member{'s' * (members > 1)}"
        member_ids = [f"m{number}" for number in range(members)]
        _run_one(soak, report, name, member_ids, soak.amount(attempts, 4 * batch), batch)
    return report


def open_store(url: str) -> RedisRingStore:
    """Return a store of the scenario's tenant."""
    return RedisRingStore(url, TENANT, LAYOUT, CAPACITY, 14.0, timeout_s=_TIMEOUT_S, connect_timeout_s=_TIMEOUT_S)


def write(
    number: int, signals: Signals, url: str, members: Sequence[str], attempts: int, batch: int, seed: int
) -> list[Attempt]:
    """Read ``batch`` members and append to each, without trying again, until ``attempts`` are made.

    The last quarter waits until nothing happens to the rings any more, so that there is something in them at the end.
    """
    rng = random.Random(f"{seed}/{number}")
    made: list[Attempt] = []
    with open_store(url) as store:
        signals.ready.wait()
        while len(made) < attempts:
            if len(made) >= attempts * 3 // 4:
                signals.calm.wait()
            chosen = rng.sample(members, min(batch, attempts - len(made)))
            appends: list[Append] = []
            rows: list[Row] = []
            for ring in store.read(chosen, [NOW_MS] * len(chosen)):
                if not isinstance(ring, Ring):
                    raise ring
                version = ring.version
                row = Row(ring.member_id, version.generation, version.count, f"{number}.{len(made) + len(rows)}")
                appends.append(Append(ring.member_id, version, make_entry(row.cycle_id, row.sequence), row.pack()))
                rows.append(row)
            sent_ns = time.monotonic_ns()
            outcomes = store.append(appends)
            answered_ns = time.monotonic_ns()
            for row, outcome in zip(rows, outcomes, strict=True):
                if not isinstance(outcome, AppendOutcome):
                    raise outcome
                made.append(Attempt(row, sent_ns, answered_ns, _ANSWERS[outcome]))
            signals.tell(len(rows))
    return made


def take_rows(store: RedisRingStore) -> list[Row]:
    """Drain the outbox and return its rows, those of a bucket in their order."""
    rows: list[Row] = []
    while drained := store.drain(20_000):
        store.trim([cursor for cursor, _ in drained])
        rows += [Row.unpack(row) for _, row in drained]
    return rows


def _run_one(soak: Soak, report: Report, name: str, members: list[str], attempts: int, batch: int) -> None:
    total, events = WRITERS * attempts, soak.amount(40, 4)
    task = soak.progress.add_task(f"writers, {name}", total=total)
    rng = random.Random(soak.seed)
    with redis_server() as server, open_store(server.url) as store:
        with Crew(write, WRITERS, server.url, members, attempts, batch, soak.seed) as crew:
            for event in range(1, events + 1):
                crew.until(
                    total * event * 3 // (4 * (events + 1)), lambda done: soak.progress.update(task, completed=done)
                )
                if event % 4 == 0:
                    store.empty()
                else:
                    _expire(server.url, rng.sample(members, -(-len(members) // 20)))
            crew.signals.calm.set()
            made = crew.results(lambda done: soak.progress.update(task, completed=done))
        attempts_made = list(itertools.chain(*made))
        rows = take_rows(store)
        rings = [ring for ring in store.read(members, [NOW_MS] * len(members)) if isinstance(ring, Ring)]
    report.law("every ring can be read", [()] * (len(members) - len(rings)))
    generations = {ring.member_id: ring.version.generation for ring in rings}
    judge_answers(report, attempts_made, rows, total, generations)
    judge_order(report, rows)
    judge_real_time(report, attempts_made, rows)
    judge_rings(report, rings, rows, CAPACITY)
    answers = Counter(attempt.answer for attempt in attempts_made)
    report.part(name).update(
        writers=len(made),
        attempted=total,
        appended=answers[Answer.APPENDED],
        refused=answers[Answer.REFUSED],
        rings_expired=sum(row.sequence < 0 for row in rows),
        times_emptied=events // 4,
        rings_begun=sum(len(lives(theirs)) for theirs in by_member(rows).values()),
        entries_at_the_end=sum(len(ring.entries) for ring in rings),
    )


def _expire(url: str, members: Sequence[str]) -> None:
    """Let rings expire, and say so in the outbox in the same step."""
    keys = Keys(TENANT)
    with connect(url, _TIMEOUT_S, _TIMEOUT_S) as client:
        commands: list[Command] = []
        for member_id in members:
            row = ("XADD", keys.outbox(keys.bucket(member_id)), "*", ROW_FIELD, expiry(member_id).pack())
            commands += [("MULTI",), ("PEXPIRE", keys.ring(member_id), 0), row, ("EXEC",)]
        Wire(client).exchange(commands, writes=True)
