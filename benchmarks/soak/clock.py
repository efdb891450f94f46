"""Times in any order, texts and numbers of any kind and size: order is that of the appends, and nothing is lost."""

from __future__ import annotations

import dataclasses
import itertools
import random
from collections import Counter
from typing import Any, Final

import numpy as np

from benchmarks.soak.entries import LAYOUT, NOW_MS
from benchmarks.soak.scenario import Report, Soak, SoakError
from benchmarks.soak.servers import redis_server
from contracts.errors import StoreError
from sequence_store import (
    Append,
    AppendOutcome,
    Entry,
    FloatArray,
    FloatGroup,
    Layout,
    MemoryRingStore,
    RedisRingStore,
    Ring,
    RingStore,
)
from sequence_store.avro import MAX_AT_MS, MAX_STRING_BYTES
from sequence_store.ring import EXPIRED
from sequence_store.storage import rounded

CAPACITY: Final = 16
MEMBERS: Final = ("m", "\0", "member\twith\ttabs", "\N{BLACK HEART SUIT}" * 100, "{braces}:m:x")
TTL_DAYS: Final = 14.0
_TTL_MS = round(TTL_DAYS * 86_400_000)
_TIMEOUT_S = 60.0
_MANY = tuple(f"c{number}" for number in range(10_000))

LAYOUTS: Final = {
    "no floats": Layout((), ("none",)),
    "a group of none": Layout((FloatGroup("state", (), "float32"),), ("none", "push")),
    "usual": LAYOUT,
    "10,000 float64": Layout((FloatGroup("state", _MANY, "float64"),), ("none", "badge", "push")),
    "10,000 float16": Layout((FloatGroup("state", _MANY, "float16"),), tuple(f"a{number}" for number in range(63))),
    "10,000 uint8": Layout((FloatGroup("state", _MANY, "uint8", ((0.0, 0.1),) * len(_MANY)),), ("none", "push")),
}
SHARES: Final = {"no floats": 20, "a group of none": 20, "usual": 50}
"""Of the appends, by layout; the others have 1 each."""
STRINGS: Final = (
    *("", " ", "\0", "a\0b", "\r\n\t", "\x1b[31m", "\u202eright to left", "e\u0301", "\ufffe", "\U0010ffff", "*", "["),
    *("\N{PILE OF POO}", "x" * 1_000, "\N{BLACK HEART SUIT}" * (MAX_STRING_BYTES // 3), "{t:0}"),
)
UNFIT: Final[tuple[dict[str, Any], ...]] = (
    *({"mask_key": text} for text in ("\ud800", "x" * (MAX_STRING_BYTES + 1), "x" * 16 * 1024 * 1024, None)),
    *({"cycle_id": "\N{BLACK HEART SUIT}" * (MAX_STRING_BYTES // 3 + 1)}, {"model": b"bytes"}),
    *({"at_ms": time} for time in (-1, MAX_AT_MS + 1, 1.5)),
    *({"action": action} for action in (-1, 63)),
    *({"eligible": 1 << 63}, {"floats": {"other": np.zeros(1, np.float32)}}),
)
"""Changes that make an entry one that cannot be kept."""
NUMBERS: Final = (0.0, -0.0, 1.0, np.nan, np.inf, -np.inf, 5e-324, 1e-8, 65504.0, 65520.0, 3.4e38, 1.7e308)


def run(soak: Soak) -> Report:
    """Clocks go backwards or stand, entries come from the future, texts and numbers are strange."""
    report = Report()
    rng = random.Random(soak.seed)
    appends = soak.amount(20_000, 200)
    task = soak.progress.add_task("clock", total=appends)
    shares = {name: SHARES.get(name, 1) for name in LAYOUTS}
    with redis_server() as server:
        benches = {
            name: Bench(report, server.url, f"soak{number}", layout)
            for number, (name, layout) in enumerate(LAYOUTS.items())
        }
        for _ in range(appends):
            (name,) = rng.choices(list(shares), list(shares.values()))
            benches[name].step(rng)
            soak.progress.advance(task)
        for name, bench in benches.items():
            report.part(name).update(bench.finish())
    return report


class Bench:
    """A store on Redis and its twin in memory, given the same entries; and what was given."""

    def __init__(self, report: Report, url: str, tenant: str, layout: Layout) -> None:
        self._report = report
        self._layout = layout
        self._stores: tuple[RingStore, ...] = (
            RedisRingStore(url, tenant, layout, CAPACITY, TTL_DAYS, timeout_s=_TIMEOUT_S),
            MemoryRingStore(tenant, layout, CAPACITY, TTL_DAYS),
        )
        self._given: dict[str, list[Entry]] = {member_id: [] for member_id in MEMBERS}
        self._rows: dict[str, list[bytes]] = {member_id: [] for member_id in MEMBERS}
        self._counts = Counter[str]()

    def step(self, rng: random.Random) -> None:
        """Read a member at some time, and append an entry of another; now and then one that cannot be kept."""
        member_id = rng.choice(MEMBERS)
        given = self._given[member_id]
        now_ms = self._time(rng, given)
        rings = [self._read(store, member_id, now_ms) for store in self._stores]
        entry = self._entry(rng, len(given), self._time(rng, given))
        unfit = rng.random() < 0.1
        if unfit:
            entry = dataclasses.replace(entry, **rng.choice(UNFIT))
        row = f"{member_id}\n{len(given)}".encode()
        outcomes = [
            store.append([Append(member_id, ring.version, entry, row)])[0]
            for store, ring in zip(self._stores, rings, strict=True)
        ]
        self._counts["unfit_entries" if unfit else "appends"] += 1
        if unfit:
            refused = all(isinstance(outcome, StoreError) for outcome in outcomes)
            self._law("what cannot be kept is refused", refused, str(outcomes))
        else:
            appended = all(outcome is AppendOutcome.APPENDED for outcome in outcomes)
            self._law("what can be kept is appended", appended, str(outcomes))
            given.append(_as_read(entry))
            self._rows[member_id].append(row)

    def finish(self) -> dict[str, int | float]:
        """Look at everything once more, close the stores, and return the counts."""
        for store in self._stores:
            for member_id in MEMBERS:
                self._read(store, member_id, NOW_MS)
            rows = [row for _, row in store.drain(10**6)]
            for member_id, expected in self._rows.items():
                theirs = [row for row in rows if row.decode().startswith(f"{member_id}\n")]
                self._law("log rows come in the order of the appends", theirs == expected, repr(member_id))
            store.close()
        return dict(self._counts)

    def _read(self, store: RingStore, member_id: str, now_ms: int) -> Ring:
        (ring,) = store.read([member_id], [now_ms])
        if not isinstance(ring, Ring):
            raise SoakError(f"the ring of {member_id!r} could not be read: {ring}")
        newest = self._given[member_id][-CAPACITY:]
        young = [entry for entry in newest if entry.at_ms >= now_ms - _TTL_MS]
        aged = [entry for entry in newest if entry.at_ms < now_ms - _TTL_MS]
        self._counts["reads"] += 1
        self._counts["entries_read"] += len(young)
        self._counts["aged"] += len(aged)
        self._counts["from_the_future"] += sum(entry.at_ms > now_ms for entry in young)
        self._counts["earlier_than_the_one_before"] += sum(
            later.at_ms < entry.at_ms for entry, later in itertools.pairwise(newest)
        )
        told = {EXPIRED: len(aged)} if aged else {}
        case = f"{type(store).__name__}, member {member_id!r}, count {ring.version.count}, at {now_ms}"
        self._law("entries come in the order of their appends, whole", list(ring.entries) == young, case)
        self._law("aged entries are told, and not lost", (list(ring.aged), ring.skipped) == (aged, told), case)
        self._law("no append is forgotten", ring.version.count == len(self._given[member_id]), case)
        return ring

    def _law(self, text: str, holds: bool, case: str) -> None:
        self._report.law(text, [] if holds else [case])

    def _time(self, rng: random.Random, given: list[Entry]) -> int:
        """Return a time: near that of the last entry, before or after it or the same, or any that can be kept."""
        last = given[-1].at_ms if given else NOW_MS
        near = last + rng.choice((0, 0, 1, -1, 3_600_000, -3_600_000, _TTL_MS, -_TTL_MS, -_TTL_MS - 1))
        wild = rng.choice((0, MAX_AT_MS, NOW_MS, rng.randrange(MAX_AT_MS)))
        return min(max(0, near if rng.random() < 0.9 else wild), MAX_AT_MS)

    def _entry(self, rng: random.Random, sequence: int, at_ms: int) -> Entry:
        layout = self._layout
        return Entry(
            floats={group.name: _numbers(rng, group) for group in layout.groups},
            at_ms=at_ms,
            action=rng.randrange(len(layout.actions)),
            eligible=rng.randrange(1 << len(layout.actions)),
            sequence=sequence,
            mask_key=rng.choice(STRINGS),
            cycle_id=rng.choice(STRINGS),
            notification_id=rng.choice(STRINGS),
            model=rng.choice(STRINGS),
            layout=layout,
        )


def _numbers(rng: random.Random, group: FloatGroup) -> FloatArray:
    """Return numbers, a few of them strange."""
    values = np.random.default_rng(rng.randrange(2**32)).normal(size=len(group.columns))
    for place in range(0, len(values), rng.randrange(1, 50)):
        values[place] = rng.choice(NUMBERS)
    return values


def _as_read(entry: Entry) -> Entry:
    """Return an entry as it must be read back: its numbers in the storage type of their group."""
    floats = {group.name: rounded(entry.floats[group.name], group) for group in entry.layout.groups}
    return dataclasses.replace(entry, floats=floats)
