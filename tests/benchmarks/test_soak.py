"""Each soak scenario in short, and each of its laws broken on purpose: a law that cannot be broken shows nothing."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import signal
from collections.abc import Callable
from typing import Any

import pytest
from rich.console import Console
from rich.progress import Progress

from benchmarks.redis_cluster import RedisCluster
from benchmarks.soak import __main__ as command
from benchmarks.soak import clock, crash, damage, failover, fsync, maintenance, writers
from benchmarks.soak.costs import Cost, measured
from benchmarks.soak.crew import Crew, Signals
from benchmarks.soak.entries import LAYOUT, NOW_MS, make_entry
from benchmarks.soak.ledger import (
    Answer,
    Attempt,
    Life,
    Row,
    expiry,
    holds_the_newest,
    judge_answers,
    judge_order,
    judge_real_time,
    judge_rings,
)
from benchmarks.soak.maintenance import Erased, judge_erasures, judge_looks
from benchmarks.soak.persistent import Diary, Look, Manner, judge
from benchmarks.soak.scenario import Report, Soak, SoakError
from benchmarks.soak.specimens import Specimen, make_specimen
from sequence_store import Append, AppendOutcome, Fault, MemoryRingStore, Ring

CAPACITY = 4


def soak(scale: float = 0.001) -> Soak:
    return Soak(scale, 0, Progress(console=Console(quiet=True), disable=True))


def rows_of(*sequences: int, member_id: str = "m", generation: int = 0) -> list[Row]:
    return [Row(member_id, generation, sequence, f"c{generation}.{sequence}") for sequence in sequences]


def attempts_of(rows: list[Row], answer: Answer = Answer.APPENDED) -> list[Attempt]:
    return [Attempt(row, 10 * place, 10 * place + 5, answer) for place, row in enumerate(rows)]


def broken(report: Report) -> set[str]:
    return {text for text, law in report.laws.items() if law.broken}


def failures(report: Report) -> dict[str, list[str]]:
    """Return what a person needs to see where a law does not hold."""
    return {text: law.examples for text, law in report.laws.items() if law.broken}


ROWS = rows_of(0, 1, 2)
SENT = attempts_of(ROWS)
REFUSED = attempts_of([Row("m", 0, 1, "late")], Answer.REFUSED)


@pytest.mark.unit
@pytest.mark.parametrize(
    ("attempts", "rows", "attempted", "law"),
    [
        (SENT + REFUSED, ROWS, 4, set()),
        (SENT, ROWS, 4, {"appended + refused = attempted"}),
        (SENT + REFUSED, ROWS, 3, {"appended + refused = attempted"}),
        (SENT, ROWS[:2], 3, {"what was answered as appended was written, once"}),
        (SENT, [*ROWS, ROWS[1]], 3, {"nothing was written that was not answered as appended"}),
        (
            SENT[:2] + attempts_of([Row("m", 0, 2, "c0.2")], Answer.REFUSED),
            ROWS,
            3,
            {"nothing was written that was not answered as appended"},
        ),
        (SENT + attempts_of([Row("m", 0, 3, "x")], Answer.REFUSED), ROWS, 4, {"only what came second was refused"}),
        (SENT + attempts_of([Row("m", 0, 3, "x")], Answer.REFUSED), [*ROWS, expiry("m")], 4, set()),
        (
            [*SENT, *attempts_of([Row("m", 0, 3, "x")], Answer.REFUSED), *attempts_of(rows_of(0, generation=1))],
            ROWS + rows_of(0, generation=1),
            5,
            set(),
        ),
    ],
)
def test_answers_are_held_against_what_was_written(
    attempts: list[Attempt], rows: list[Row], attempted: int, law: set[str]
) -> None:
    report = Report()
    judge_answers(report, attempts, rows, attempted, {"m": max(row.generation for row in rows)})
    assert broken(report) == law


@pytest.mark.unit
def test_what_was_read_before_an_empty_push_is_refused_for_that_reason() -> None:
    refused = attempts_of([Row("m", 0, 3, "x")], Answer.REFUSED)
    for generation, law in ((0, {"only what came second was refused"}), (1, set())):
        report = Report()
        judge_answers(report, SENT + refused, ROWS, 4, {"m": generation})
        assert broken(report) == law


@pytest.mark.unit
@pytest.mark.parametrize(
    ("rows", "law"),
    [
        (ROWS, set()),
        (ROWS + rows_of(0, 1, generation=1), set()),
        ([*ROWS, expiry("m"), *rows_of(0, 1)], set()),
        (rows_of(0, 1, 3), {"sequence numbers are contiguous, from 0 on"}),
        (rows_of(1, 2), {"sequence numbers are contiguous, from 0 on"}),
        (rows_of(0, 1, 1), {"sequence numbers are contiguous, from 0 on"}),
        (ROWS + rows_of(1, generation=1), {"sequence numbers are contiguous, from 0 on"}),
        ([*ROWS, expiry("m"), *rows_of(3)], {"sequence numbers are contiguous, from 0 on"}),
        (ROWS + rows_of(0), {"no ring begins anew without a reason"}),
        (rows_of(0, generation=1) + rows_of(0), {"no append under a generation that is over"}),
    ],
)
def test_the_order_of_a_ring_is_held_to_its_laws(rows: list[Row], law: set[str]) -> None:
    report = Report()
    judge_order(report, rows)
    assert broken(report) == law


@pytest.mark.unit
def test_a_ring_may_begin_anew_for_the_reasons_given() -> None:
    report = Report()
    judge_order(report, ROWS + rows_of(0), lambda life: life.rows == ROWS)
    assert broken(report) == set()


@pytest.mark.unit
def test_an_append_sent_after_the_answer_to_another_stands_behind_it() -> None:
    overlapping = [Attempt(row, 0, 100, Answer.APPENDED) for row in ROWS]
    for attempts, law in (
        (SENT, set()),
        (overlapping, set()),
        (
            [Attempt(ROWS[0], 30, 35, Answer.APPENDED), *SENT[1:]],
            {"appends stand in the order in which they were acknowledged"},
        ),
    ):
        report = Report()
        judge_real_time(report, attempts, ROWS)
        assert broken(report) == law


def ring_of(rows: list[Row], *, capacity: int = CAPACITY, now_ms: int = NOW_MS) -> Ring:
    """Return a ring that was written and read."""
    store = MemoryRingStore("t", LAYOUT, capacity, 14.0)
    for row in rows:
        (ring,) = store.read([row.member_id], [now_ms])
        assert isinstance(ring, Ring)
        entry = make_entry(row.cycle_id, row.sequence)
        assert store.append([Append(row.member_id, ring.version, entry, None)]) == [AppendOutcome.APPENDED]
    (ring,) = store.read(["m"], [now_ms])
    assert isinstance(ring, Ring)
    return ring


def changed(ring: Ring, **changes: Any) -> Ring:
    """Return what a faulty store would have made of a ring."""
    for name, value in changes.items():
        ring.__dict__[name] = value
    return ring


COUNT = "a ring's count is that of the appends since it began"
NEWEST = "a ring holds its newest entries, whole and in order, and nothing else"
SOUND = "a ring's header and pointer are right"


@pytest.mark.unit
@pytest.mark.parametrize(
    ("spoil", "law"),
    [
        (lambda ring: ring, set()),
        (lambda ring: changed(ring, version=dataclasses.replace(ring.version, count=7)), {COUNT}),
        (lambda ring: changed(ring, entries=ring.entries[1:]), {NEWEST}),
        (lambda ring: changed(ring, entries=ring.entries[:-1]), {NEWEST}),
        (lambda ring: changed(ring, entries=ring.entries[::-1]), {NEWEST}),
        (lambda ring: changed(ring, entries=(make_entry("c0.1", 1), *ring.entries)), {NEWEST}),
        (
            lambda ring: changed(ring, entries=(*ring.entries[:-1], dataclasses.replace(ring.entries[-1], action=2))),
            {NEWEST},
        ),
        (lambda ring: changed(ring, version=dataclasses.replace(ring.version, found=None)), {SOUND}),
        (lambda ring: changed(ring, _faults=(Fault.CHECKSUM,)), {SOUND}),
    ],
)
def test_a_ring_is_held_against_what_was_written(spoil: Callable[[Ring], Ring], law: set[str]) -> None:
    rows = rows_of(*range(6))
    assert make_entry("c0.5", 5).action != 2
    report = Report()
    judge_rings(report, [spoil(ring_of(rows))], rows, CAPACITY)
    assert broken(report) == law


@pytest.mark.unit
def test_a_ring_that_went_holds_nothing() -> None:
    for rows, law in (([*ROWS, expiry("m")], {COUNT, NEWEST}), (ROWS + rows_of(0, generation=1), {COUNT, NEWEST})):
        report = Report()
        judge_rings(report, [ring_of(ROWS)], rows, CAPACITY)
        assert broken(report) == law
        report = Report()
        judge_rings(report, [ring_of([])], rows[:4] if rows[-1].sequence < 0 else ROWS, CAPACITY)
        assert bool(broken(report)) == (rows[-1].sequence >= 0)


@pytest.mark.unit
def test_aged_entries_may_leave_and_what_is_live_may_not() -> None:
    rows = [Row("m", 0, sequence, f"c{sequence}{'~' * (sequence in {3, 4})}") for sequence in range(6)]
    live = [(row.sequence, row.cycle_id) for row in rows if not row.cycle_id.endswith("~")]
    assert holds_the_newest(live[-2:], rows, CAPACITY)
    assert holds_the_newest(live[-4:], rows, CAPACITY)
    assert not holds_the_newest(live[-1:], rows, CAPACITY)
    assert not holds_the_newest(live[-3:-1], rows, CAPACITY)
    assert not holds_the_newest([*live[-2:], (3, "c3~")], rows, CAPACITY)
    assert not holds_the_newest([(row.sequence, row.cycle_id) for row in ROWS], ROWS, 2)


def diary_of(rows: list[Row], **counts: int) -> Diary:
    diary = Diary(acknowledged=attempts_of(rows))
    diary.counts.update({"attempted": len(rows)} | counts)
    return diary


LOST = "no acknowledged append is lost"
TWICE = "no cycle is there twice"
UNKNOWN = "an append of unknown outcome is there once, or not at all, as reading back said"
ANSWERED = "each attempt was acknowledged, refused, not sent or unknown"


@pytest.mark.unit
@pytest.mark.parametrize(
    ("diary", "rows", "law"),
    [
        (diary_of(ROWS), ROWS, set()),
        (diary_of(ROWS), ROWS[:2], {LOST}),
        (diary_of(ROWS[:2], attempted=3), ROWS[:2], {ANSWERED}),
        (diary_of(ROWS[:2], attempted=3, unknown=1, unknown_and_not_found=1), ROWS[:2], set()),
        (diary_of(ROWS[:2], attempted=3, unknown=1, unknown_and_not_found=1), ROWS, {UNKNOWN}),
        (diary_of(ROWS[:2], attempted=3, unknown=1), ROWS[:2], {UNKNOWN}),
        (diary_of([*ROWS[:2], Row("m", 0, 2, "c0.1")]), [*ROWS[:2], Row("m", 0, 2, "c0.1")], {TWICE}),
        (dataclasses.replace(diary_of(ROWS), phantoms=["c0.1"]), ROWS, {UNKNOWN}),
        (
            dataclasses.replace(diary_of(ROWS), looks=[Look("m", 0, 1, (), ("checksum",))]),
            ROWS,
            {"no reader meets damage"},
        ),
    ],
)
def test_what_writers_were_told_is_held_against_what_is_there(diary: Diary, rows: list[Row], law: set[str]) -> None:
    report = Report()
    counts = judge(report, [diary], rows, [ring_of(rows)], Manner(capacity=CAPACITY))
    assert broken(report) == law
    assert counts["acknowledged_and_lost"] == (LOST in law)
    assert counts["there_twice"] == (TWICE in law)


@pytest.mark.unit
def test_a_read_back_append_may_not_go_unless_it_is_said_so() -> None:
    diary = diary_of(ROWS[:2], attempted=3, unknown=1, unknown_and_found=1)
    diary.read_back.append(ROWS[2])
    for keeps, law in ((True, {"no append that was read back is lost"}), (False, set())):
        report = Report()
        judge(report, [diary], ROWS[:2], [ring_of(ROWS[:2])], Manner(capacity=CAPACITY), keeps_read_back=keeps)
        assert broken(report) == law


@pytest.mark.unit
@pytest.mark.parametrize(
    ("look", "holds"),
    [
        (Look("m", 0, 3, ((0, "c0.0"), (1, "c0.1"), (2, "c0.2")), ()), True),
        (Look("m", 0, 0, (), ()), True),
        (Look("m", 0, 3, ((0, "c0.0"), (2, "c0.2")), ()), False),
        (Look("m", 0, 4, ((0, "c0.0"), (1, "c0.1"), (2, "c0.2")), ()), False),
        (Look("m", 1, 3, ((0, "c0.0"), (1, "c0.1"), (2, "c0.2")), ()), False),
    ],
)
def test_what_a_reader_saw_is_held_against_the_appends_until_then(look: Look, holds: bool) -> None:
    report = Report()
    judge_looks(report, [look], ROWS + rows_of(0, generation=1))
    assert report.broken != holds


@pytest.mark.unit
def test_erasure_takes_what_was_before_it_and_nothing_after_it() -> None:
    before, after = rows_of(0, 1), rows_of(0, 1, 2)
    attempts = [Attempt(row, 0, 10, Answer.APPENDED) for row in before]
    attempts += [Attempt(row._replace(cycle_id=f"n{row.sequence}"), 100, 110, Answer.APPENDED) for row in after]
    new = [attempt.row for attempt in attempts[2:]]
    for rows, ring, found, law in (
        (new, new, "n0", set()),
        (new, new, "c0.1", {"nothing is left of what was acknowledged before an erasure"}),
        (new[:2], new, "n0", {"nothing is lost of what was acknowledged after an erasure"}),
        (new, new[:2], "n0", {"nothing is lost of what was acknowledged after an erasure"}),
        ([*before, *new], new, "n0", {"nothing is left of what was acknowledged before an erasure"}),
        (
            new,
            [*before, new[2]],
            "n0",
            {
                "nothing is left of what was acknowledged before an erasure",
                "nothing is lost of what was acknowledged after an erasure",
            },
        ),
    ):
        report = Report()
        judge_erasures(
            report, [Erased("m", 20, 90, frozenset({found}))], [Diary(acknowledged=attempts)], rows, [ring_of(ring)]
        )
        assert broken(report) == law


@pytest.mark.unit
def test_only_a_life_that_ends_in_aged_entries_may_end_in_a_repush() -> None:
    aged = [Row("m", 0, sequence, f"c{sequence}~") for sequence in range(20)]
    assert maintenance.is_left_without_entries(Life(aged))
    assert maintenance.is_left_without_entries(Life([Row("m", 0, 0, "young"), *aged]))
    assert not maintenance.is_left_without_entries(Life([*aged, Row("m", 0, 20, "young")]))


@pytest.fixture(scope="module")
def specimen() -> Specimen:
    rng = random.Random(0)
    found = make_specimen(rng, b"")
    while len(found.held.frames) < 4:
        found = make_specimen(rng, b"")
    return found


@pytest.mark.unit
def test_damage_that_goes_unnoticed_is_told(specimen: Specimen) -> None:
    held = specimen.held
    assert damage.verdict_on(specimen, held) == "harmless"
    lost = dataclasses.replace(held, frames=held.frames[:-1])
    assert damage.verdict_on(specimen, lost) == "unnoticed"
    assert damage.verdict_on(specimen, dataclasses.replace(lost, faults=(Fault.CHECKSUM,))) == "noticed"
    twice = dataclasses.replace(held, frames=(*held.frames[1:], held.frames[1]), faults=(Fault.CHECKSUM,))
    assert damage.verdict_on(specimen, twice) == "unnoticed"
    forgotten = dataclasses.replace(held, version=dataclasses.replace(held.version, count=0))
    assert damage.verdict_on(specimen, forgotten) == "unnoticed"


@pytest.mark.unit
def test_an_append_that_heals_nothing_is_told(specimen: Specimen) -> None:
    value, held = specimen.value, specimen.held
    assert damage.heals(specimen, value, held)
    assert not damage.heals(specimen, b"\0" + value[1:], held)
    assert not damage.heals(specimen, value, dataclasses.replace(held, frames=held.frames[:-1]))


@pytest.mark.unit
def test_costs_are_counted_and_bounded() -> None:
    result, cost = measured(lambda: sum(len(bytes(size)) for size in (100_000, 300_000)))
    assert result == 400_000
    assert 300_000 <= cost.allocated < 400_000
    assert cost.calls >= 3
    assert cost.is_bounded(1_000)
    assert not Cost(cost.allocated + 2**21, 0).is_bounded(1_000)
    assert not Cost(0, 100_000).is_bounded(1_000)


def count_up(number: int, signals: Signals, wanted: int) -> int:
    signals.ready.wait()
    for _ in range(wanted):
        signals.tell()
    signals.stop.wait()
    return number


def die(number: int, signals: Signals) -> None:
    if number == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    signals.stop.wait()


def fail(number: int, _signals: Signals) -> int:
    return 1 // number


@pytest.mark.integration
def test_a_crew_works_at_once_and_gives_its_results_in_order() -> None:
    with Crew(count_up, 5, 100) as crew:
        crew.until(500)
        crew.signals.stop.set()
        assert crew.results() == [0, 1, 2, 3, 4]
    assert crew.signals.done == 500


@pytest.mark.integration
@pytest.mark.parametrize(("work", "message"), [(die, "process 1 of 3 died"), (fail, "process 0 of 3 failed: ZeroDiv")])
def test_a_crew_that_loses_one_shows_nothing(work: Callable[..., Any], message: str) -> None:
    with Crew(work, 3) as crew, pytest.raises(SoakError, match=message):
        crew.results()


@pytest.mark.integration
def test_writers_in_short() -> None:
    report = writers.run(soak())
    assert failures(report) == {}
    for counts in report.counts.values():
        assert counts["attempted"] == counts["appended"] + counts["refused"]
        assert counts["appended"] > 0
        assert counts["entries_at_the_end"] > 0
    assert report.counts["1 member"]["refused"] > 0


@pytest.mark.integration
def test_crash_in_short() -> None:
    report = Report()
    crash.run_part(soak(), report, "always")
    crash.run_part(soak(), report, "everysec", while_syncing=True)
    assert failures(report) == {}
    assert report.counts["always"]["kills"] == 2
    assert report.counts["always"]["acknowledged"] > 0
    assert report.counts["always"]["acknowledged_and_lost"] == 0


@pytest.mark.integration
def test_failover_in_short(redis_cluster: RedisCluster) -> None:
    redis_cluster.heal()
    report = Report()
    for part in failover.PARTS[2:]:
        failover.run_part(soak(), report, redis_cluster, part)
    assert failures(report) == {}
    # Nobody else writes to the rings of a master while its replica is away.
    assert report.counts["cut off"]["acknowledged_and_lost"] > 0
    assert report.counts["cut off, WAIT"]["acknowledged_and_lost"] == 0
    assert report.counts["cut off, WAIT"]["unknown"] > 0


@pytest.mark.integration
def test_damage_in_short() -> None:
    report = damage.run(soak())
    assert failures(report) == {}
    assert sum(counts["cases"] for counts in report.counts.values()) >= 4_000
    for counts in report.counts.values():
        assert counts["noticed"] > 0


@pytest.mark.integration
def test_clock_in_short() -> None:
    report = clock.run(soak())
    assert failures(report) == {}
    assert report.counts["usual"]["earlier_than_the_one_before"] > 0
    assert report.counts["usual"]["from_the_future"] > 0


@pytest.mark.integration
def test_maintenance_in_short() -> None:
    report = maintenance.run(soak())
    assert failures(report) == {}
    done = report.counts["maintenance"]
    for name in ("repushes", "recodings", "entries_aged", "members_erased", "times_emptied", "dictionaries_trained"):
        assert done[name] > 0, name


@pytest.mark.integration
def test_appends_are_measured_under_each_setting() -> None:
    report = fsync.run(soak())
    assert list(report.counts) == list(crash.SETTINGS)
    for rates in report.counts.values():
        assert all(rate > 0 for rate in rates.values())


@pytest.mark.unit
def test_the_command_ends_with_json_and_says_by_its_exit_code_whether_all_laws_hold(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def holds(_soak: Soak) -> Report:
        """What holds."""
        report = Report()
        report.part("one").update(cases=3)
        report.law("all is well", [])
        return report

    def breaks(_soak: Soak) -> Report:
        """What breaks."""
        report = holds(_soak)
        report.law("all is well", ["[this] was not", "nor that"])
        return report

    def stops(_soak: Soak) -> Report:
        """What cannot be carried out."""
        raise SoakError("a process died")

    monkeypatch.setattr(command, "SCENARIOS", {"holds": holds, "breaks": breaks, "stops": stops})
    assert command.main(["--scenario", "holds", "--scale", "0.5"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == {
        "scale": 0.5,
        "seed": 0,
        "scenarios": {"holds": {"counts": {"one": {"cases": 3}}, "broken": {"all is well": 0}}},
        "failures": {},
    }
    assert command.main(["--scenario", "breaks"]) == 1
    captured = capsys.readouterr()
    assert json.loads(captured.out.splitlines()[-1])["scenarios"]["breaks"]["broken"] == {"all is well": 2}
    assert "[this] was not" in captured.err
    assert command.main([]) == 1
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert list(last["scenarios"]) == ["holds", "breaks"]
    assert last["failures"] == {"stops": "a process died"}
    with pytest.raises(SystemExit):
        command.main(["--scale", "0"])
