"""All that maintenance does to a tenant, in any order, while it is written to: nothing live is lost."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Final, NamedTuple

from benchmarks.soak.crew import Crew
from benchmarks.soak.entries import NOW_MS, is_aged
from benchmarks.soak.ledger import Life, Row, by_member, holds_the_newest, lives
from benchmarks.soak.persistent import TENANT, TTL_DAYS, Diary, Look, Manner, judge, open_store, write
from benchmarks.soak.scenario import Report, Soak
from benchmarks.soak.servers import redis_server
from benchmarks.soak.writers import take_rows
from contracts.errors import StoreError
from sequence_store import Ring, RingStore, dictionaries, erasure, maintenance, plan, retirement
from sequence_store.keys import Keys
from sequence_store.maintenance import OnPage, Pace
from sequence_store.retention import MS_PER_DAY
from sequence_store.walk import Place
from sequence_store.wire import Wire, connect

WRITERS: Final = 5
MEMBERS: Final = 2_000
ERASED_WRITERS: Final = 2
ERASED_MEMBERS: Final = 12
"""Members that are erased now and then, and written to all the same."""
CAPACITY: Final = 16
MANNER: Final = Manner(capacity=CAPACITY, aged_every=4, looked_at_every=4)
ERASED_MANNER: Final = Manner(capacity=CAPACITY)
GRACE_MS: Final = 5_000
"""How long a writer may take from a read to its append, as far as the retirement of codecs is concerned."""
SAMPLE: Final = 4_000
_TIMEOUT_S = 60.0
_TTL_MS = round(TTL_DAYS * MS_PER_DAY)


class Erased(NamedTuple):
    """When a member's erasure began and ended, on the clock of the attempts, and the cycles in the ring after it."""

    member_id: str
    began_ns: int
    ended_ns: int
    found: frozenset[str]


class _KilledError(Exception):
    """Stands for the death of whoever makes a pass."""


def run(soak: Soak) -> Report:
    """Repush, recode, dictionaries trained and retired, empty push, sweep and erasure, all under live load."""
    report, rng = Report(), random.Random(soak.seed)
    number = soak.amount(150, 10)
    task = soak.progress.add_task("maintenance", total=number)
    members = [f"m{member}" for member in range(soak.amount(MEMBERS, 200))]
    erased_members = [f"e{member}" for member in range(ERASED_MEMBERS)]
    with (
        redis_server() as server,
        connect(server.url, _TIMEOUT_S, _TIMEOUT_S) as client,
        open_store(server.url, MANNER) as store,
    ):
        caretaker = Caretaker(Wire(client), store, erased_members, rng)
        with (
            Crew(write, WRITERS, server.url, members, MANNER) as crew,
            Crew(write, ERASED_WRITERS, server.url, erased_members, ERASED_MANNER) as erased_crew,
        ):
            crew.until(5 * len(members))
            for action in caretaker.order(number):
                action()
                crew.until(crew.signals.done + len(members) // 4)
                soak.progress.advance(task)
            for each in (crew, erased_crew):
                each.until(each.signals.done + len(members))
                each.signals.stop.set()
            diaries, erased_diaries = crew.results(), erased_crew.results()
        rows = take_rows(store)
        everyone = members + erased_members
        rings = [ring for ring in store.read(everyone, [NOW_MS] * len(everyone)) if isinstance(ring, Ring)]
    report.law("every ring can be read", [()] * (len(everyone) - len(rings)))
    counts = judge(
        report,
        diaries,
        [row for row in rows if row.member_id in members],
        [ring for ring in rings if ring.member_id in members],
        MANNER,
        may_go=is_left_without_entries,
    )
    judge_looks(report, [look for diary in diaries for look in diary.looks], rows)
    judge_erasures(report, caretaker.erased, erased_diaries, rows, rings)
    report.part("writers").update(counts)
    report.part("maintenance").update(caretaker.counts)
    return report


class Caretaker:
    """Whoever maintains the tenant.

    Attributes
    ----------
    counts
        Of what was done.
    erased
        When which members were erased.
    """

    def __init__(self, wire: Wire, store: RingStore, erasable: Sequence[str], rng: random.Random) -> None:
        self.counts = Counter[str]()
        self.erased: list[Erased] = []
        self._wire = wire
        self._store = store
        self._erasable = erasable
        self._rng = rng
        self._keys = Keys(TENANT)

    def order(self, number: int) -> list[Callable[[], None]]:
        """Return ``number`` things to do: each once, and the rest as it comes."""
        weights: dict[Callable[[], None], int] = {
            self._train: 1,
            self._recode: 4,
            self._erase: 6,
            self._empty: 1,
            self._sweep: 2,
            self._repush: 6,
            self._interrupted: 3,
            self._retire: 3,
        }
        return [*weights, *self._rng.choices(list(weights), list(weights.values()), k=number - len(weights))]

    def _repush(self) -> None:
        self._pass("repushes")

    def _recode(self) -> None:
        self._pass("recodings", recode=True)

    def _interrupted(self) -> None:
        """Make a pass that dies on its way, and another that goes on from there."""

        def die(_place: Place, _report: plan.Report) -> None:
            if self._rng.random() < 0.5:
                raise _KilledError

        recode = self._rng.random() < 0.5
        try:
            self._pass("repushes", recode=recode, on_page=die)
        except _KilledError:
            self.counts["passes_interrupted"] += 1
        self._pass("repushes", recode=recode)

    def _pass(self, name: str, *, recode: bool = False, on_page: OnPage | None = None) -> None:
        done = maintenance.repush(self._wire, self._keys, _TTL_MS, recode=recode, pace=Pace(0), on_page=on_page)
        self._note(name, done)

    def _sweep(self) -> None:
        self._note("sweeps", maintenance.sweep(self._wire, self._keys, pace=Pace(0)))

    def _note(self, name: str, done: plan.Report) -> None:
        self.counts[name] += 1
        self.counts["passes_resumed"] += done.resumed
        counted = asdict(done)
        for figure in (
            "rewritten",
            "deleted",
            "freed",
            "left",
            "foreign",
            "damaged",
            "entries_aged",
            "entries_recoded",
        ):
            self.counts[figure] += counted[figure]

    def _train(self) -> None:
        try:
            dictionaries.train(self._wire, self._keys, sample=SAMPLE, force=True)
            self.counts["dictionaries_trained"] += 1
        except StoreError:
            self.counts["too_few_entries_to_train"] += 1  # after an empty push

    def _retire(self) -> None:
        done = retirement.retire(self._wire, self._keys, grace_ms=GRACE_MS)
        self.counts["dictionaries_retired"] += len(done.forgotten)
        self.counts["layouts_unused"] += len(done.layouts_unused)
        self.counts["layouts_retired"] += len(done.layouts_forgotten)

    def _empty(self) -> None:
        self._store.empty()
        self.counts["times_emptied"] += 1

    def _erase(self) -> None:
        member_id = self._rng.choice(self._erasable)
        began_ns = time.monotonic_ns()
        done = erasure.erase(self._wire, self._keys, member_id, lambda row: Row.unpack(row).member_id == member_id)
        ended_ns = time.monotonic_ns()
        (ring,) = self._store.read([member_id], [NOW_MS])
        if not isinstance(ring, Ring):
            raise ring
        found = frozenset(entry.cycle_id for entry in ring.entries)
        self.erased.append(Erased(member_id, began_ns, ended_ns, found))
        self.counts["members_erased"] += 1
        self.counts["rows_erased"] += done.rows


def is_left_without_entries(life: Life) -> bool:
    """Tell whether a repush may have deleted the ring at the end of a life: all it surely held was aged."""
    return all(is_aged(row.cycle_id) for row in life.rows[-CAPACITY:])


def judge_looks(report: Report, looks: Sequence[Look], rows: Sequence[Row]) -> None:
    """Hold what was seen of rings in the middle of it all against the appends made until then."""
    past = {member_id: lives(theirs) for member_id, theirs in by_member(rows).items()}
    report.law(
        "every reader sees all that is live",
        [
            look
            for look in looks
            if look.appended
            and not any(
                life.rows[0].generation == look.generation
                and len(life.rows) >= look.appended
                and holds_the_newest(look.entries, life.rows[: look.appended], CAPACITY)
                for life in past.get(look.member_id, ())
            )
        ],
    )


def judge_erasures(
    report: Report, erased: Sequence[Erased], diaries: Sequence[Diary], rows: Sequence[Row], rings: Sequence[Ring]
) -> None:
    """Hold rings and rows of erased members to what was acknowledged before and after their erasure."""
    last = {erasure.member_id: erasure for erasure in erased}
    found = [(erasure, cycle_id) for erasure in erased for cycle_id in erasure.found]
    answered_ns = {attempt.row.cycle_id: attempt.answered_ns for diary in diaries for attempt in diary.acknowledged}
    there = {ring.member_id: ring for ring in rings}
    held = {(ring.member_id, entry.cycle_id) for ring in rings for entry in ring.entries}
    kept = {(row.member_id, row.cycle_id) for row in rows}
    left = [
        f"{cycle_id} of {erasure.member_id}"
        for erasure, cycle_id in found
        if answered_ns.get(cycle_id, erasure.began_ns) < erasure.began_ns
    ]
    lost: list[str] = []
    for attempt in (attempt for diary in diaries for attempt in diary.acknowledged):
        row, ring = attempt.row, there[attempt.row.member_id]
        place = (row.member_id, row.cycle_id)
        erasure = last.get(row.member_id)
        if erasure is not None and attempt.answered_ns < erasure.began_ns:
            left += [str(row)] * (place in held or place in kept)
        elif erasure is None or attempt.sent_ns > erasure.ended_ns:
            is_due = row.generation == ring.version.generation and row.sequence >= ring.version.count - CAPACITY
            lost += [str(row)] * (place not in kept or (is_due and place not in held))
    report.law("nothing is left of what was acknowledged before an erasure", left)
    report.law("nothing is lost of what was acknowledged after an erasure", lost)
