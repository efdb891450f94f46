"""Writers that give up on nothing, as a decision engine does not: every cycle is tried until it is settled."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from benchmarks.soak.crew import Signals
from benchmarks.soak.entries import LAYOUT, NOW_MS, make_entry
from benchmarks.soak.ledger import (
    Answer,
    Attempt,
    Life,
    Row,
    by_member,
    judge_order,
    judge_real_time,
    judge_rings,
    never,
)
from benchmarks.soak.scenario import Count, Report
from contracts.errors import OutcomeUnknown, StoreError, StoreUnavailable
from sequence_store import Append, AppendOutcome, RedisRingStore, Ring, RingStore
from sequence_store.ring import EXPIRED

TENANT: Final = "soak"
TTL_DAYS: Final = 14.0
TIMEOUT_S: Final = 10.0


class Manner(NamedTuple):
    """How writers use the store.

    Attributes
    ----------
    tenant
        Whose rings they write.
    capacity
        By default so many that no entry leaves its ring before its writer has read it back.
    replicas, wait_ms
        How many replicas an append waits for, and how long.
    aged_every
        One cycle in so many is that of a decision so long ago that its entry is aged; 0 for none.
    looked_at_every
        One read in so many is looked at in full.
    """

    tenant: str = TENANT
    capacity: int = 256
    replicas: int = 0
    wait_ms: int = 100
    aged_every: int = 0
    looked_at_every: int = 64


class Look(NamedTuple):
    """What a writer saw of a ring: its generation and count, its entries as (sequence, cycle id), and its faults."""

    member_id: str
    generation: int
    appended: int
    entries: tuple[tuple[int, str], ...]
    faults: tuple[str, ...]


@dataclass
class Diary:
    """What one writer did and was told.

    Attributes
    ----------
    acknowledged
        Appends that were answered as made.
    read_back
        Appends of unknown outcome that were found when their ring was read again.
    looks
        Rings as they were read now and then.
    counts
        Of what else happened.
    phantoms
        Cycles found in a ring though no append of theirs can have been made.
    """

    acknowledged: list[Attempt] = field(default_factory=list)
    read_back: list[Row] = field(default_factory=list)
    looks: list[Look] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    phantoms: list[str] = field(default_factory=list)


def open_store(url: str, manner: Manner) -> RedisRingStore:
    """Return a store of the scenario's tenant."""
    return RedisRingStore(
        url,
        manner.tenant,
        LAYOUT,
        manner.capacity,
        TTL_DAYS,
        timeout_s=TIMEOUT_S,
        connect_timeout_s=TIMEOUT_S,
        replicas=manner.replicas,
        wait_ms=manner.wait_ms,
    )


def write(number: int, signals: Signals, url: str, members: Sequence[str], manner: Manner) -> Diary:
    """Append cycle after cycle to ``members`` in turn until told to stop; settle the last one, too."""
    diary = Diary()
    with open_store(url, manner) as store:
        signals.ready.wait()
        for cycle in itertools.count():
            if signals.stop.is_set():
                break
            is_aged = manner.aged_every > 0 and cycle % manner.aged_every == 0
            cycle_id = f"{number}.{cycle}{'~' * is_aged}"
            _settle(store, signals, diary, members[(number + cycle) % len(members)], cycle_id, manner)
            signals.tell()
    return diary


def _settle(store: RingStore, signals: Signals, diary: Diary, member_id: str, cycle_id: str, manner: Manner) -> None:
    """Try until the cycle is in its ring, by answer or by reading it back."""
    unknown = False
    while True:
        try:
            (ring,) = store.read([member_id], [NOW_MS])
            if not isinstance(ring, Ring):
                raise ring
        except StoreUnavailable:
            diary.counts["reads_that_failed"] += 1
            signals.up.wait()
            continue
        diary.counts["reads"] += 1
        if diary.counts["reads"] % manner.looked_at_every == 0:
            diary.looks.append(_look(ring))
        found = ring.cycle(cycle_id)
        if found is not None:
            diary.counts["unknown_and_found"] += 1
            if not unknown:
                diary.phantoms.append(cycle_id)
            diary.read_back.append(Row(member_id, ring.version.generation, found.sequence, cycle_id))
            return
        if unknown:
            diary.counts["unknown_and_not_found"] += 1
            unknown = False
        row = Row(member_id, ring.version.generation, ring.version.count, cycle_id)
        diary.counts["attempted"] += 1
        append = Append(member_id, ring.version, make_entry(cycle_id, row.sequence), row.pack())
        sent_ns = time.monotonic_ns()
        outcome = _append(store, append)
        if outcome is AppendOutcome.APPENDED:
            diary.acknowledged.append(Attempt(row, sent_ns, time.monotonic_ns(), Answer.APPENDED))
            return
        if outcome is AppendOutcome.CONFLICT:
            diary.counts["refused"] += 1
        elif isinstance(outcome, OutcomeUnknown):
            diary.counts["unknown"] += 1
            unknown = True
        elif isinstance(outcome, StoreUnavailable):
            diary.counts["not_sent"] += 1
            signals.up.wait()
        else:
            raise outcome


def _look(ring: Ring) -> Look:
    entries = tuple((entry.sequence, entry.cycle_id) for entry in ring.entries)
    faults = tuple(fault for fault in ring.skipped if fault != EXPIRED)
    return Look(ring.member_id, ring.version.generation, ring.version.count, entries, faults)


def _append(store: RingStore, append: Append) -> AppendOutcome | StoreError:
    try:
        (outcome,) = store.append([append])
    except StoreError as error:
        return error
    return outcome


def judge(
    report: Report,
    diaries: Sequence[Diary],
    rows: Sequence[Row],
    rings: Sequence[Ring],
    manner: Manner,
    *,
    keeps_acknowledged: bool = True,
    keeps_read_back: bool = True,
    may_go: Callable[[Life], bool] = never,
) -> dict[str, Count]:
    """Hold what the writers were told against what is there, and return the counts.

    What may be lost is counted, and breaks no law; what is there must be whole and in order all the same.
    """
    attempts = [attempt for diary in diaries for attempt in diary.acknowledged]
    acknowledged = Counter(attempt.row for attempt in attempts)
    read_back = Counter(row for diary in diaries for row in diary.read_back)
    written = Counter(row for row in rows if row.sequence >= 0)
    per_cycle = Counter(row.cycle_id for row in written.elements())
    counts = sum((diary.counts for diary in diaries), Counter[str]())
    lost, lost_read_back = acknowledged - written, read_back - written
    if keeps_acknowledged:
        report.law("no acknowledged append is lost", list(lost))
    if keeps_read_back:
        report.law("no append that was read back is lost", list(lost_read_back))
    report.law("no cycle is there twice", [cycle for cycle, number in per_cycle.items() if number > 1])
    settled = counts["unknown_and_found"] + counts["unknown_and_not_found"]
    report.law(
        "an append of unknown outcome is there once, or not at all, as reading back said",
        [
            *(cycle for diary in diaries for cycle in diary.phantoms),
            *(written - acknowledged - read_back).elements(),
            *[f"{counts['unknown']} unknown, {settled} settled"] * (counts["unknown"] != settled),
        ],
    )
    answered = acknowledged.total() + sum(counts[answer] for answer in ("refused", "not_sent", "unknown"))
    report.law(
        "each attempt was acknowledged, refused, not sent or unknown",
        [f"{counts['attempted']} attempted, {answered} answered"] * (counts["attempted"] != answered),
    )
    report.law("no reader meets damage", [look for diary in diaries for look in diary.looks if look.faults])
    judge_order(report, rows, may_go)
    judge_real_time(report, attempts, rows)
    judge_rings(report, rings, rows, manner.capacity, may_go)
    names = ("attempted", "refused", "not_sent", "unknown", "unknown_and_found", "unknown_and_not_found")
    return {
        "writers": len(diaries),
        **{name: counts[name] for name in names},
        "acknowledged": acknowledged.total(),
        "acknowledged_and_lost": lost.total(),
        "read_back_and_lost": lost_read_back.total(),
        "there_twice": sum(number > 1 for number in per_cycle.values()),
        "members_that_lost": len(by_member(lost)),
        "looks": sum(len(diary.looks) for diary in diaries),
    }
