"""A member's events as the writer of counters keeps them: a row of the view, and the events after it.

What follows is a set that only grows, folded into a row: a duplicate is in the set already, and a late event takes its
place in it. So the row is the same whatever came in which order, how often, and through how many writers.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from feature_repo.event_rules import EventRules, Number, Row

KEEP_US = 8 * 86_400_000_000
"""How long after newer ones an event may come: for so long ids are remembered. Longer than any window of a feature."""
NEVER_US = -1

Verdict = Literal["counted", "duplicates", "too_late"]


@dataclass(frozen=True)
class Event:
    """Something that happened to a member once."""

    member_id: str
    kind: str
    event_id: str
    """The same for every delivery of the event, and of no other event of the member."""
    at_us: int
    """When it happened, Unix time in µs."""


@dataclass(frozen=True)
class MemberEvents:
    """One member's state in one view."""

    base_us: int
    """The moment that ``base`` holds for: it speaks for all events up to then. NEVER_US: there is no row."""
    base: Row
    events: tuple[tuple[int, str, str], ...]
    """Events after ``base_us``: time in µs, kind, digest of the id; sorted."""
    pushed_us: int
    """Event time of the row that is pushed, Unix time in µs; each change has a later one than that before."""

    @classmethod
    def begin(cls, at_us: int, row: Row) -> MemberEvents:
        """Start from a row that holds for ``at_us``, where a table or another writer left it."""
        return cls(at_us, dict(row), (), at_us)

    def row(self, rules: EventRules) -> dict[str, Number]:
        """Return the view's features."""
        return rules.fold(self.base, ((at_us, kind) for at_us, kind, _ in self.events))

    def rebased(self, at_us: int, row: Row) -> MemberEvents:
        """Return the state over a newer row that someone else wrote; events that it speaks for are dropped."""
        events = tuple(event for event in self.events if event[0] > at_us)
        return MemberEvents(at_us, dict(row), events, at_us + 1 if events else at_us)

    def with_events(self, events: Iterable[Event], rules: EventRules) -> tuple[MemberEvents, Counter[Verdict]]:
        """Return the state with ``events`` in it, and what became of each."""
        verdicts: Counter[Verdict] = Counter()
        known = {digest for _, _, digest in self.events}
        added: list[tuple[int, str, str]] = []
        for event in events:
            digest = hashlib.blake2b(event.event_id.encode(), digest_size=8).hexdigest()
            if digest in known:
                verdicts["duplicates"] += 1
            elif event.at_us <= self.base_us:
                verdicts["too_late"] += 1
            else:
                known.add(digest)
                added.append((event.at_us, event.kind, digest))
                verdicts["counted"] += 1
        if not added:
            return self, verdicts
        merged = tuple(sorted((*self.events, *added)))
        pushed_us = max(merged[-1][0], self.pushed_us + 1)
        return replace(self, events=merged, pushed_us=pushed_us)._compacted(rules), verdicts

    def _compacted(self, rules: EventRules) -> MemberEvents:
        """Fold events that are older than KEEP_US before the newest into the base: their ids are forgotten."""
        until_us = self.events[-1][0] - KEEP_US
        old = [event for event in self.events if event[0] <= until_us]
        if not old:
            return self
        base = rules.fold(self.base, ((at_us, kind) for at_us, kind, _ in old))
        return replace(self, base_us=until_us, base=base, events=self.events[len(old) :])

    def dump(self) -> bytes:
        """Return the state as JSON."""
        document = {"base_us": self.base_us, "base": self.base, "pushed_us": self.pushed_us, "events": self.events}
        return json.dumps(document, separators=(",", ":")).encode()

    @classmethod
    def load(cls, blob: bytes, features: Sequence[str]) -> MemberEvents:
        """Read what ``dump`` wrote; a feature that it does not have is missing. Raises ValueError."""
        document = json.loads(blob)
        return cls(
            int(document["base_us"]),
            {name: document["base"].get(name) for name in features},
            tuple((int(at_us), str(kind), str(digest)) for at_us, kind, digest in document["events"]),
            int(document["pushed_us"]),
        )
