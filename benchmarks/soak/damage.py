"""Stored values with one bit flipped, cut off, or another member's: each is noticed, or does no harm."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from benchmarks.soak.costs import measured
from benchmarks.soak.crew import Crew, Signals
from benchmarks.soak.entries import LAYOUT, make_entry
from benchmarks.soak.scenario import Report, Soak
from benchmarks.soak.specimens import TENANT, Specimen, cut_between_frames, damaged, make_specimen, swapped
from sequence_store import Append, Entry, UnreadableFrame, avro, registry
from sequence_store.avro_columns import FEW
from sequence_store.codec import Codec, train_dictionary
from sequence_store.frame import Owner
from sequence_store.keys import Keys
from sequence_store.packed import Found, Held
from sequence_store.registry import Registered
from sequence_store.retention import Retention
from sequence_store.rings import Rings
from sequence_store.sealing import change_of
from sequence_store.side_by_side import RingValue

PROCESSES: Final = 2
MEASURED_EVERY: Final = 500
DECODED_EVERY: Final = 50
HEALED_EVERY: Final = 20

UNNOTICED: Final = "no damage goes unnoticed, unless all that is read is what was written"
CRASH: Final = "no damaged value raises anything but UnreadableFrame"
COSTLY: Final = "no damaged value makes its reader allocate or work without bound"
FOR_EVER_DAYS: Final = 36_500.0

BY_COLUMN: Final = "a damaged ring is read among others, a column at a time, as it is by itself"
UNHEALED: Final = "an append to a damaged ring is whole, keeps what was readable, and adds no damage"


class Part(NamedTuple):
    """What is damaged, and in how many ways in all: ``rings``, ``large rings``, ``frames`` or the ``registry``."""

    what: str
    dictionary: bytes
    cases: int

    @property
    def name(self) -> str:
        """As in the table and the JSON."""
        return f"{self.what}, dictionary" if self.dictionary else self.what


@dataclass
class Tally:
    """What one process counted, the largest costs that it measured, and (law, case) of what broke one."""

    counts: Counter[str] = field(default_factory=Counter)
    most: Counter[str] = field(default_factory=Counter)
    broken: list[tuple[str, str]] = field(default_factory=list)

    def begin(self, kind: str) -> int:
        """Count a case of that kind; return its number."""
        number = self.counts["cases"]
        self.counts["cases"] += 1
        self.counts[kind] += 1
        return number

    def watch(self, read: Callable[[], Any], case: str, size: int, *, measure: bool) -> Any:
        """Return what reading a value of ``size`` bytes gives; None if it raised an error, which breaks a law."""
        try:
            if not measure:
                return read()
            result, cost = measured(read)
        except Exception as error:
            self.broken.append((CRASH, f"{error!r}: {case}"))
            return None
        self.counts["measured"] += 1
        self.most |= Counter({"most_bytes_allocated": cost.allocated, "most_calls": cost.calls})
        if not cost.is_bounded(size):
            self.broken.append((COSTLY, f"{size} bytes cost {cost}: {case}"))
        return result

    def judge(self, verdict: str, case: str) -> None:
        """Count what came of a case: it was ``noticed``, ``harmless``, or ``unnoticed``, which breaks a law."""
        self.counts[verdict] += 1
        if verdict == "unnoticed":
            self.broken.append((UNNOTICED, case))


def run(soak: Soak) -> Report:
    """One bit is flipped, bytes are cut off, values are swapped: in rings, single frames and the registry."""
    dictionary = train_dictionary([avro.encode(make_entry(f"dictionary {number}", 0))[1] for number in range(4_000)])
    percent = soak.amount(1_000_000, 4_000) // 100
    parts = [
        Part("rings", dictionary, 30 * percent),
        Part("rings", b"", 30 * percent),
        Part("frames", dictionary, 19 * percent),
        Part("frames", b"", 19 * percent),
        Part("registry", dictionary, 2 * percent),
        Part("large rings", b"", soak.amount(20, 2)),
    ]
    task = soak.progress.add_task("damage", total=sum(part.cases for part in parts))
    with Crew(work, PROCESSES, parts, soak.seed) as crew:
        by_process = crew.results(lambda done: soak.progress.update(task, completed=done))
    report = Report()
    for part in parts:
        tallies = [by_part[part.name] for by_part in by_process]
        counts = sum((tally.counts for tally in tallies), Counter[str]())
        most = Counter({name: max(tally.most[name] for tally in tallies) for name in tallies[0].most})
        report.part(part.name).update(
            {name: number for each in (counts, most) for name, number in sorted(each.items())}
        )
        report.law("every case that was asked for was tried", [()] * abs(part.cases - counts["cases"]))
        for law in (UNNOTICED, CRASH, COSTLY, UNHEALED, BY_COLUMN):
            report.law(law, [case for tally in tallies for text, case in tally.broken if text == law])
    return report


def work(number: int, signals: Signals, parts: list[Part], seed: int) -> dict[str, Tally]:
    """Do this process's share of each part."""
    tallies: dict[str, Tally] = {}
    for part in parts:
        tally = tallies[part.name] = Tally()
        rng = random.Random(f"{seed}/{part.name}/{number}")
        share = part.cases // PROCESSES + (number < part.cases % PROCESSES)
        while (before := tally.counts["cases"]) < share:
            if part.what == "registry":
                examine_registry(part.dictionary, rng, tally, share - before)
            else:
                large = part.what == "large rings"
                specimen, other = (make_specimen(rng, part.dictionary, large=large) for _ in range(2))
                examine = examine_frames if part.what == "frames" else examine_rings
                examine(specimen, other, rng, tally, share - before)
            signals.tell(tally.counts["cases"] - before)
    return tallies


def examine_rings(specimen: Specimen, other: Specimen, rng: random.Random, tally: Tally, limit: int) -> None:
    """Read a whole ring, damaged in up to ``limit`` ways."""
    ways = itertools.chain(swapped(specimen, other, rng), cut_between_frames(specimen), damaged(specimen.value, rng))
    for kind, value in itertools.islice(ways, limit):
        number = tally.begin(kind)
        case = f"{kind}, ring of {specimen.member_id}: {value[:4_000].hex()}"
        measure = specimen.large or number % MEASURED_EVERY == 0
        held = tally.watch(lambda: specimen.parse(value), case, len(value), measure=measure)  # noqa: B023
        if held is None:
            continue
        verdict = verdict_on(specimen, held)
        tally.judge(verdict, case)
        if verdict == "unnoticed":
            continue
        if number % DECODED_EVERY == 0:
            tally.counts["entries_decoded"] += len(held.frames)
            if any(frame.entry() != specimen.entries[frame.sequence] for frame in held.frames):
                tally.broken.append((UNNOTICED, f"read as another entry: {case}"))
        if number % HEALED_EVERY == 0:
            tally.counts["appended_to"] += 1
            if not heals(specimen, value, held):
                tally.broken.append((UNHEALED, case))
            tally.counts["read_side_by_side"] += 1
            if not specimen.large and not same_side_by_side(specimen, value, held):
                tally.broken.append((BY_COLUMN, case))


def verdict_on(specimen: Specimen, held: Held) -> str:
    """Tell what came of the damage: a frame is what was written if its bytes are, under the same codec."""
    written = [(frame.frame, frame.codec) for frame in specimen.held.frames]
    read = [(frame.frame, frame.codec) for frame in held.frames]
    if read == written and held.version.count == specimen.held.version.count and not held.faults:
        return "harmless"
    in_order = [frame for frame in written if frame in read]
    return "noticed" if held.faults and read == in_order else "unnoticed"


def heals(specimen: Specimen, value: bytes, held: Held) -> bool:
    """Tell whether an append to a damaged ring leaves it as it should.

    What cannot be read may be of a later release: it keeps its place among the newest frames, and leaves in its turn.
    While it is there, a ring from which entries were removed keeps those of its newest ``capacity`` sequence numbers:
    an older one could be the rest of an entry that was overwritten, and is counted with the damaged.
    """
    entry = make_entry("healing", held.version.count)
    append = Append(specimen.member_id, held.version, entry, None)
    change = change_of(append, TENANT, specimen.codec, specimen.capacity)
    after = specimen.parse(change.apply(value))
    found = held.version.found
    assert isinstance(found, Found)
    oldest = after.version.count - specimen.capacity if after.faults else 0
    readable = [frame.frame for frame in held.frames if frame.sequence >= oldest]
    staying = found.frames[max(0, len(found.frames) + 1 - specimen.capacity) :]
    return (
        value.startswith(change.expected)
        and {frame.frame for frame in held.frames} <= set(found.frames)
        and after.version.count == held.version.count + 1
        and [frame.frame for frame in after.frames[:-1]] == [frame for frame in readable if frame in staying]
        and after.frames[-1].entry() == entry
        and len(after.faults) <= len(held.faults) + len(held.frames) - len(readable)
    )


def same_side_by_side(specimen: Specimen, value: bytes, held: Held) -> bool:
    """Tell whether a damaged ring among others is read, a column at a time, as it is by itself."""
    members, found = [specimen.member_id] * FEW, [RingValue(0, specimen.value)] * (FEW - 1) + [RingValue(0, value)]
    retention = Retention.of_days(specimen.capacity, FOR_EVER_DAYS)
    rings = Rings(TENANT, members, [0] * FEW, found, specimen.codecs, retention)
    there = rings.longs.there[-1]
    placed = {
        int(place): columns.entries.entry(row)
        for columns in rings.newest(specimen.capacity)
        for row, (ring, place) in enumerate(zip(columns.ring, columns.place, strict=True))
        if ring == FEW - 1
    }
    newest = [frame.entry() for frame in reversed(held.frames)]
    return (
        [placed[place] for place in sorted(placed)] == newest
        and rings.longs.sequence[-1, there].tolist() == [entry.sequence for entry in newest]
        and rings.version(FEW - 1) == held.version
    )


def examine_frames(specimen: Specimen, other: Specimen, rng: random.Random, tally: Tally, limit: int) -> None:
    """Read the frames of a ring one by one, each damaged in many ways, ``limit`` of them in all."""
    strangers = [other.owner, Owner("another", specimen.member_id, 0), Owner(TENANT, specimen.member_id, 1)]
    ways = (
        (kind, frame.sequence, value, owner)
        for frame in specimen.held.frames
        for kind, value, owner in itertools.chain(
            (("swaps", frame.frame, owner) for owner in strangers),
            ((kind, value, specimen.owner) for kind, value in damaged(frame.frame, rng)),
        )
    )
    for kind, sequence, value, owner in itertools.islice(ways, limit):
        number = tally.begin(kind)
        case = f"{kind}, frame of {specimen.member_id}: {value.hex()}"

        def read(value: bytes = value, owner: Owner = owner) -> Entry | UnreadableFrame:
            try:
                return owner.unseal(value, specimen.codecs).entry()
            except UnreadableFrame as error:
                return error

        found = tally.watch(read, case, len(value), measure=number % MEASURED_EVERY == 0)
        if isinstance(found, UnreadableFrame):
            tally.judge("noticed", case)
        elif found is not None:
            harmless = owner is specimen.owner and found == specimen.entries[sequence]
            tally.judge("harmless" if harmless else "unnoticed", case)


def examine_registry(dictionary: bytes, rng: random.Random, tally: Tally, limit: int) -> None:
    """Read the registered layout, dictionary and codec, one of them damaged, in up to ``limit`` ways."""
    keys, codec = Keys(TENANT), Codec(LAYOUT, dictionary)
    fields: dict[bytes, bytes] = {}
    for command in (registry.register_command(keys, codec), registry.use_command(keys, dictionary, at_ms=0)):
        names, values = ([_as_bytes(part) for part in command[start::2]] for start in (2, 3))
        fields |= zip(names, values, strict=True)
    ways = [(name, kind, value) for name, whole in fields.items() if whole for kind, value in damaged(whole, rng)]
    for name, kind, value in rng.sample(ways, min(limit, len(ways))):
        number = tally.begin(kind)
        case = f"{kind}, registered {name!r}: {value[:4_000].hex()}"
        measure = number % MEASURED_EVERY == 0
        found = tally.watch(lambda: registry.parse(fields | {name: value}), case, len(dictionary), measure=measure)  # noqa: B023
        if found is not None:
            tally.judge(_verdict_on_registry(found, codec), case)


def _verdict_on_registry(found: Registered, codec: Codec) -> str:
    """Tell what came of the damage: entries of a codec that is not there any more are noticed when they are read."""
    codecs = [known for group in found.codecs.values() for known in group]
    if found.current not in (b"", codec.dictionary) or codecs not in ([codec], []):
        return "unnoticed"
    return "harmless" if codecs and found.current else "noticed"


def _as_bytes(part: Any) -> bytes:
    return part if isinstance(part, bytes) else str(part).encode()
