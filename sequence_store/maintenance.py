"""Passes over all rings of a tenant: aged entries leave, emptied rings are freed, old codecs are replaced.

A pass reads each ring, and writes only where something is to change, and only if the ring is still as it was read:
appends go on meanwhile, and none is lost. A ring that was appended to in between is read again. What a pass writes
does not prolong a ring's life. It may be killed at any time: the next one of the same kind goes on from the last page
that was dealt with, and does a part of it twice, which changes nothing.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, Final, TypeVar

from contracts.errors import StoreError
from sequence_store import packed
from sequence_store.keys import Keys
from sequence_store.lock import Lock, read_note
from sequence_store.plan import Report, Seen, plan
from sequence_store.stored import StoredRing, StoredRings
from sequence_store.walk import Place, walk
from sequence_store.wire import Wire

PAGE: Final = 500
RATE: Final = 2_000.0
"""Members a second, unless said otherwise."""
_SMALLEST_PAGE = 10
_PAGES_A_SECOND = 4
_ATTEMPTS = 5
"""How often a ring is read in one pass, if it changes each time before it can be written."""
_Kept = TypeVar("_Kept")

_UNDER_WAY = "under_way"
_SEEN = "seen"


class Pace:
    """Keeps work to a number of members a second; 0 for no limit."""

    def __init__(
        self, rate: float, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        if not rate >= 0.0:
            raise ValueError(f"rate = {rate}: members a second must be 0, for no limit, or more")
        self.rate = rate
        self.rest = sleep
        self._clock = clock
        self._due = clock()

    def pause_s(self, members: int) -> float:
        """Return how long to rest after work on ``members``."""
        now = self._clock()
        self._due = max(now, self._due + members / self.rate) if self.rate else now
        return self._due - now


OnPage = Callable[[Place, Report], None]


def repush(
    wire: Wire,
    keys: Keys,
    ttl_ms: int | None,
    *,
    recode: bool = False,
    pace: Pace | None = None,
    restart: bool = False,
    on_page: OnPage | None = None,
    now_ms: int | None = None,
) -> Report:
    """Make one pass over all rings of a tenant.

    Entries older than ``ttl_ms`` leave, wherever in their ring they stand; the rest stays in order, under its sequence
    numbers. A ring that is left without entries is deleted. Emptied rings are freed.

    Parameters
    ----------
    ttl_ms
        None: no entry is too old.
    recode
        Seal entries under the current dictionary that are under another; layout and values stay as they are.
    pace
        ``RATE`` members a second, unless given.
    restart
        Begin anew, whatever an earlier pass has done.
    on_page
        Told after every page how far the pass is.
    now_ms
        Present time, milliseconds since 1970; None: this machine's.

    Raises
    ------
    StoreError
        Another pass of the tenant is under way, or Redis does not answer or refuses.
    """
    now_ms = round(time.time() * 1000) if now_ms is None else now_ms
    one = _Pass(wire, keys, ttl_ms, recode, pace or Pace(RATE), now_ms)
    return one.run(restart, on_page or (lambda _, __: None))


def sweep(
    wire: Wire, keys: Keys, *, pace: Pace | None = None, restart: bool = False, on_page: OnPage | None = None
) -> Report:
    """Free what is left of emptied rings, in one pass that changes nothing else. Raises StoreError as ``repush``."""
    return repush(wire, keys, None, pace=pace, restart=restart, on_page=on_page)


def last_seen(wire: Wire, keys: Keys) -> Seen | None:
    """Return what the last whole pass saw; None if there was none within a week. Raises StoreError."""
    return _read(Seen, read_note(wire, keys, _SEEN))


class _Pass:
    """One pass, from where an earlier one of the same kind was stopped."""

    def __init__(self, wire: Wire, keys: Keys, ttl_ms: int | None, recode: bool, pace: Pace, now_ms: int) -> None:
        self._wire = wire
        self._keys = keys
        self._rings = StoredRings(wire, keys)
        self._writing = self._rings.writing if recode else None
        self._pace = pace
        self._kind = {"ttl_ms": ttl_ms, "recode": recode}
        self._oldest_ms = 0 if ttl_ms is None else now_ms - ttl_ms
        self._place = Place()
        self._report = Report()
        self._seen = Seen(now_ms)

    def run(self, restart: bool, on_page: OnPage) -> Report:
        lock = Lock(self._wire, self._keys)
        lock.hold()
        try:
            if not restart:
                self._resume()
            self._go(lock, on_page)
        except BaseException:
            with contextlib.suppress(StoreError):
                lock.give_back()
            raise
        lock.give_back(**{_UNDER_WAY: None, _SEEN: asdict(self._seen)})
        return self._report

    def _resume(self) -> None:
        note = read_note(self._wire, self._keys, _UNDER_WAY)
        if note is None or note.get("kind") != self._kind:
            return
        place, report, seen = (
            _read(Place, note.get("place")),
            _read(Report, note.get("report")),
            _read(Seen, note.get("seen")),
        )
        if place and report and seen:
            report.resumed = True
            self._place, self._report, self._seen = place, report, seen

    def _go(self, lock: Lock, on_page: OnPage) -> None:
        began = time.monotonic() - self._report.seconds
        rate = self._pace.rate
        count = min(PAGE, max(_SMALLEST_PAGE, int(rate / _PAGES_A_SECOND))) if rate else PAGE
        for members in walk(self._wire, self._keys, self._place, count):
            self._deal_with(members)
            self._report.misplaced = self._place.misplaced
            self._report.seconds = round(time.monotonic() - began, 3)
            on_page(self._place, self._report)
            pause_s = self._pace.pause_s(len(members))
            lock.hold(rest_ms=round(pause_s * 1000), **{_UNDER_WAY: self._note()})
            self._pace.rest(pause_s)

    def _note(self) -> dict[str, Any]:
        return {
            "kind": self._kind,
            "place": asdict(self._place),
            "report": asdict(self._report),
            "seen": asdict(self._seen),
        }

    def _deal_with(self, members: Sequence[str]) -> None:
        waiting = members
        for _ in range(_ATTEMPTS):
            if not waiting:
                return
            planned: list[tuple[StoredRing, packed.Change, Report]] = []
            for ring in self._rings.read(waiting):
                self._seen.note(ring, self._oldest_ms, self._rings.registered)
                change, done = plan(ring, self._oldest_ms, self._writing)
                if change is None:
                    self._report.add(done)
                else:
                    planned.append((ring, change, done))
            waiting = []
            written = self._rings.write([(ring, change) for ring, change, _ in planned])
            for (ring, _, done), is_written in zip(planned, written, strict=True):
                if is_written:
                    self._report.add(done)
                else:
                    waiting.append(ring.member_id)
        self._report.add(Report(rings=len(waiting), left=len(waiting)))


def _read(kind: type[_Kept], note: Any) -> _Kept | None:
    """Return what was kept as JSON; None if it is nothing of this kind: of another release, perhaps."""
    try:
        return kind(**note)
    except TypeError:
        return None
