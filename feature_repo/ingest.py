"""Events in: visits, clicks and sends counted into the pushed views of a deployment (feature_repo.counter_writer)."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from feast import FeatureStore, FeatureView

from contracts.errors import SpecError
from contracts.settings import Settings
from contracts.spec import Spec
from feature_repo.catalog import applied_service, is_pushed, stored_views
from feature_repo.counter_writer import CounterWriter
from feature_repo.member_events import Event
from feature_repo.online_rows import portions
from feature_repo.store import open_store
from feature_repo.tables import EPOCH

MEMBERS_AT_ONCE = 2_000
AHEAD_US = 60_000_000
"""How far an event may lie in the future of this machine's clock; beyond that it is refused, to come again."""


@dataclass
class IngestReport:
    """What became of the events of one call."""

    counted: int = 0
    duplicates: int = 0
    too_late: int = 0
    """The base speaks for them: they lie before the table's row, or more than KEEP_US before newer events."""
    in_the_future: int = 0
    unknown_kind: int = 0
    """No feature follows such events."""
    members: int = 0
    """Members whose rows were pushed."""
    problems: list[str] = field(default_factory=list)
    """The first event of each refused sort, in words."""

    def add(self, verdicts: Mapping[str, int]) -> None:
        """Add numbers by name."""
        for name, count in verdicts.items():
            setattr(self, name, getattr(self, name) + count)


def ingest(events: Iterable[Event], spec: Spec, settings: Settings, now_us: int | None = None) -> IngestReport:
    """Count events into the pushed views of ``spec``'s service.

    Parameters
    ----------
    events
        In any order, any number of times; taken in portions, so a long stream needs no more memory than a short one.
    spec
        The deployment.
    settings
        Where the registry, the tables and Redis are.
    now_us
        This machine's time, Unix time in µs: events more than a minute after it are refused. None: now. Nothing else
        depends on it, so a clock that jumps counts nothing twice and moves nothing back.

    Raises
    ------
    SpecError
        If no view of the service is pushed to, or a rule in one's tags is wrong.
    StoreUnavailable
        If Redis does not answer: give the same events again.
    StoreError
        If the service was not applied as it is defined, or Feast fails.
    """
    store = open_store(settings)
    views = stored_views(store, applied_service(store, spec, settings))
    writers = [CounterWriter(store, view, settings) for view in views if is_pushed(view)]
    if not writers:
        raise SpecError(f"feature service {spec.state.feature_service!r}: no event changes any of its views")
    report = IngestReport()
    for portion in portions(events, 10 * MEMBERS_AT_ONCE):
        latest_us = (time.time_ns() // 1000 if now_us is None else now_us) + AHEAD_US
        accepted = _accepted(portion, writers, latest_us, report)
        for writer in writers:
            mine = _by_member(event for event in accepted if event.kind in writer.rules.kinds)
            for part in portions(mine, MEMBERS_AT_ONCE):
                report.add(writer.take({member: mine[member] for member in part}))
                report.members += len(part)
    return report


def restore(store: FeatureStore, views: Sequence[FeatureView], settings: Settings) -> int:
    """Push the rows of every member with a state again, over what a reload left; return how many."""
    restored = 0
    for view in views:
        writer = CounterWriter(store, view, settings)
        for part in portions(writer.members(), MEMBERS_AT_ONCE):
            writer.take({member: [] for member in part})
            restored += len(part)
    return restored


def _accepted(
    events: Sequence[Event], writers: Sequence[CounterWriter], latest_us: int, report: IngestReport
) -> list[Event]:
    kinds = frozenset().union(*(writer.rules.kinds for writer in writers))
    accepted = []
    for event in events:
        if event.kind not in kinds:
            if not report.unknown_kind:
                report.problems.append(
                    f"event {event.event_id!r} of member {event.member_id!r}: kind {event.kind!r} changes no feature; "
                    f"known are {', '.join(sorted(kinds))}"
                )
            report.unknown_kind += 1
        elif event.at_us > latest_us:
            if not report.in_the_future:
                moment = EPOCH + timedelta(microseconds=event.at_us)
                report.problems.append(
                    f"event {event.event_id!r} of member {event.member_id!r}: at {moment.isoformat()} lies in the "
                    "future; if its clock is right and this machine's is not, set that and send the event again"
                )
            report.in_the_future += 1
        else:
            accepted.append(event)
    return accepted


def _by_member(events: Iterable[Event]) -> dict[str, list[Event]]:
    by_member: dict[str, list[Event]] = {}
    for event in events:
        by_member.setdefault(event.member_id, []).append(event)
    return by_member
