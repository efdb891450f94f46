"""What was asked for beside what is there: appends by their answers, the log rows they wrote, and the rings.

An append writes its log row in the same step as its entry, so the rows of a bucket stand in the order in which the
server made the appends: a second witness, which does not rest on the ring. All of this file is judgement; it reads and
writes nothing.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from benchmarks.soak.entries import is_aged, make_entry
from benchmarks.soak.scenario import Report
from sequence_store import Ring
from sequence_store.packed import Found
from sequence_store.ring import EXPIRED


class Row(NamedTuple):
    """A log row: an append, or, with a sequence of -1, that the member's ring expired here."""

    member_id: str
    generation: int
    sequence: int
    cycle_id: str

    def pack(self) -> bytes:
        """Return the row as it is written."""
        return "\t".join(map(str, self)).encode()

    @classmethod
    def unpack(cls, row: bytes) -> Row:
        """Return what ``pack`` wrote."""
        member_id, generation, sequence, cycle_id = row.decode().split("\t")
        return cls(member_id, int(generation), int(sequence), cycle_id)


def expiry(member_id: str) -> Row:
    """Return the row that says that the member's ring expired."""
    return Row(member_id, -1, -1, "")


class Answer(StrEnum):
    """What an append was answered."""

    APPENDED = "appended"
    REFUSED = "refused"


class Attempt(NamedTuple):
    """One append, what it was answered, and when; times are of one monotonic clock, in ns."""

    row: Row
    sent_ns: int
    answered_ns: int
    answer: Answer


@dataclass
class Life:
    """The appends to a ring from when there was none until it went, in order; and whether it is known to have gone."""

    rows: list[Row]
    ended: bool = False


def lives(rows: Iterable[Row]) -> list[Life]:
    """Return the lives of one member's ring, by its rows in the order they were written.

    A life ends where the ring expires or is emptied. Where sequence numbers begin anew without either, a new one
    begins, too, but the one before is not known to have ended.
    """
    found: list[Life] = []
    for row in rows:
        if row.sequence < 0:
            if found:
                found[-1].ended = True
            continue
        if found and found[-1].rows[-1].generation != row.generation:
            found[-1].ended = True
        if not found or found[-1].ended or row.sequence == 0:
            found.append(Life([row]))
        else:
            found[-1].rows.append(row)
    return found


def by_member(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Return each member's rows, in order."""
    grouped: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        grouped[row.member_id].append(row)
    return grouped


def judge_answers(
    report: Report,
    attempts: Sequence[Attempt],
    rows: Sequence[Row],
    attempted: int,
    generations: Mapping[str, int],
) -> None:
    """Hold every answer against the rows: where each append has an answer, they tell the same story.

    ``attempted`` is what was to be attempted, not what was reported; ``generations`` are those of the members now.
    """
    written = Counter(row for row in rows if row.sequence >= 0)
    appended = Counter(attempt.row for attempt in attempts if attempt.answer is Answer.APPENDED)
    refused = [attempt.row for attempt in attempts if attempt.answer is Answer.REFUSED]
    report.law("appended + refused = attempted", [()] * abs(attempted - appended.total() - len(refused)))
    report.law("what was answered as appended was written, once", list((appended - written).elements()))
    report.law("nothing was written that was not answered as appended", list((written - appended).elements()))
    places = {(row.member_id, row.generation, row.sequence) for row in written}
    restarted = {row.member_id for row in rows if row.sequence < 0}
    report.law(
        "only what came second was refused",
        [
            row
            for row in refused
            if (row.member_id, row.generation, row.sequence) not in places
            and row.member_id not in restarted
            and row.generation == generations[row.member_id]
        ],
    )


def never(_life: Life) -> bool:
    """Tell that no life may end so."""
    return False


def judge_order(report: Report, rows: Iterable[Row], may_go: Callable[[Life], bool] = never) -> None:
    """Hold the order of the rows to the laws of one ring's life: 0, 1, 2, ... without gap or return.

    ``may_go`` tells of a life whether it may have ended though the ring neither expired nor was emptied.
    """
    gaps: list[str] = []
    gone: list[str] = []
    returns: list[str] = []
    for member_id, theirs in by_member(rows).items():
        past = lives(theirs)
        for life in past:
            sequences = [row.sequence for row in life.rows]
            if sequences != list(range(len(sequences))):
                gaps.append(f"{member_id}: {sequences[:20]}")
        gone += [f"{member_id}: at {life.rows[-1]}" for life in past[:-1] if not life.ended and not may_go(life)]
        generations = [life.rows[0].generation for life in past]
        if generations != sorted(generations):
            returns.append(f"{member_id}: {generations}")
    report.law("sequence numbers are contiguous, from 0 on", gaps)
    report.law("no ring begins anew without a reason", gone)
    report.law("no append under a generation that is over", returns)


def judge_real_time(report: Report, attempts: Iterable[Attempt], rows: Sequence[Row]) -> None:
    """Hold the rows against the clock: what was answered before something else was sent stands before it."""
    times = {
        attempt.row: (attempt.sent_ns, attempt.answered_ns) for attempt in attempts if attempt.answer is Answer.APPENDED
    }
    late: list[str] = []
    for theirs in by_member(row for row in rows if row in times).values():
        first_answer, first = 2**63, theirs[-1]
        for row in reversed(theirs):
            sent_ns, answered_ns = times[row]
            if first_answer < sent_ns:
                late.append(f"{row} was sent after {first} had been answered, and stands before it")
            if answered_ns < first_answer:
                first_answer, first = answered_ns, row
    report.law("appends stand in the order in which they were acknowledged", late)


def judge_rings(
    report: Report, rings: Iterable[Ring], rows: Iterable[Row], capacity: int, may_go: Callable[[Life], bool] = never
) -> None:
    """Hold every ring as it is read at the end against the last life that the rows tell of; ``may_go`` as above."""
    theirs = by_member(rows)
    wrong_count: list[str] = []
    wrong_entries: list[str] = []
    damaged: list[str] = []
    for ring in rings:
        last = _present(ring, theirs.get(ring.member_id, ()), may_go)
        if ring.version.count != len(last):
            wrong_count.append(f"{ring.member_id}: {ring.version.count} counted, {len(last)} written")
        read = [(entry.sequence, entry.cycle_id) for entry in ring.entries]
        whole = all(entry == make_entry(entry.cycle_id, entry.sequence) for entry in ring.entries)
        if not (whole and holds_the_newest(read, last, capacity)):
            wrong_entries.append(f"{ring.member_id}: {read}, whole: {whole}; written: {last[-capacity:]}")
        found = ring.version.found
        if set(ring.skipped) - {EXPIRED} or (last and (not isinstance(found, Found) or found.header is None)):
            damaged.append(f"{ring.member_id}: {ring.skipped}")
    report.law("a ring's count is that of the appends since it began", wrong_count)
    report.law("a ring holds its newest entries, whole and in order, and nothing else", wrong_entries)
    report.law("a ring's header and pointer are right", damaged)


def holds_the_newest(read: Sequence[tuple[int, str]], written: Sequence[Row], capacity: int) -> bool:
    """Tell whether the entries ``read``, as (sequence, cycle id), are what a ring must hold after these appends.

    Those are the newest ``capacity``, or of them those that are not aged; and where aged ones have left, it may hold
    as many that came before them.
    """
    young = [(row.sequence, row.cycle_id) for row in written if not is_aged(row.cycle_id)]
    must = sum(not is_aged(row.cycle_id) for row in written[-capacity:])
    return must <= len(read) <= capacity and list(read) == young[len(young) - len(read) :]


def _present(ring: Ring, rows: Sequence[Row], may_go: Callable[[Life], bool]) -> list[Row]:
    past = lives(rows)
    if not past or past[-1].ended or past[-1].rows[-1].generation != ring.version.generation:
        return []
    return [] if ring.version.count == 0 and may_go(past[-1]) else past[-1].rows
