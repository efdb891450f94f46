"""Features: the running record of what anyone may observe of a member's activity."""

from __future__ import annotations

import numpy as np

from contracts.send_hours import COLUMNS as SEND_HOURS
from contracts.send_hours import HOURS, pack_hours
from simulator.arrays import FloatArray, IntArray
from simulator.candidates import BADGE, PUSH, PUSH_TYPES, TYPES
from simulator.clock import DAY_S, DAYPARTS, HOUR_S, START_MS, WEEK_S, daypart
from simulator.dynamics import Events
from simulator.members import PROFILE

COUNTERS = ("visits_total", "clicks_total")
"""Cumulative counters: they never decrease, and rewards are read from them."""
ACTIVITY = (
    *COUNTERS,
    "visits_24h",
    "visits_7d",
    "clicks_24h",
    "clicks_7d",
    "ctr_7d",
    "sends_24h",
    "sends_7d",
    "pushes_24h",
    "pushes_7d",
    "badges_24h",
    "badges_7d",
    "badge_count",
    "hours_since_visit",
    "hours_since_click",
    "hours_since_send",
    "hours_since_push",
    "hours_since_badge",
    *(f"{count}_{kind}" for count in ("sends_24h", "sends_7d") for kind in TYPES),
    *(f"pushes_7d_{kind}" for kind in PUSH_TYPES),
    *(f"{count}_{kind}" for count in ("clicks_24h", "clicks_7d") for kind in TYPES),
    *(f"visits_7d_{part}" for part in DAYPARTS),
)
"""What an observation says of a member's activity."""
LIVE = (
    *COUNTERS,
    "badge_count",
    "last_visit_ms",
    "last_click_ms",
    "last_send_ms",
    "last_push_ms",
    "last_badge_ms",
    *SEND_HOURS,
)
"""Columns of the feature table ``member_live``: whole numbers that change with an event, never with the clock."""
RECENCY = (
    "hours_since_visit",
    "hours_since_click",
    "hours_since_send",
    "hours_since_push",
    "hours_since_badge",
    "sends_24h",
)
"""What follows from LIVE at the time of a decision."""
WINDOWS = tuple(name for name in ACTIVITY if name not in (*LIVE, *RECENCY))
"""Columns of the feature table ``member_activity``."""
FEATURES = (*PROFILE, *ACTIVITY)
"""Every member feature, in the order of an observation's ``member``."""
MAX_HOURS_SINCE = WEEK_S / HOUR_S
"""Value of an ``hours_since_*`` feature for an event a week ago, longer ago, or never."""


class History:
    """When events of a few kinds happened to each member over the last seven days, and how often in all."""

    def __init__(self, members: int, kinds: int) -> None:
        self.total: IntArray = np.zeros(members, dtype=np.int64)
        self.last_s: IntArray = np.full(members, -(2**40), dtype=np.int64)
        self._kinds = kinds
        # Rows: member, kind, time in seconds.
        self._events: IntArray = np.zeros((3, 0), dtype=np.int64)

    def add(self, members: IntArray, kinds: IntArray, times_s: IntArray) -> None:
        """Record events: the member, the kind and the time of each, shape (events,)."""
        np.add.at(self.total, members, 1)
        np.maximum.at(self.last_s, members, times_s)
        self._events = np.hstack([self._events, np.stack([members, kinds, times_s])])

    def forget(self, before_s: int) -> None:
        """Drop the times of events before ``before_s``; totals and last times stay."""
        self._events = np.compress(self._events[2] >= before_s, self._events, axis=1)

    def count(self, now_s: IntArray, window_s: int) -> FloatArray:
        """Count each member's events of each kind in the window (now - window, now), shape (N, kinds)."""
        members, kinds, times_s = self._events
        recent = times_s > now_s[members] - window_s
        cells = members[recent] * self._kinds + kinds[recent]
        counts = np.bincount(cells, minlength=len(now_s) * self._kinds)
        return counts.reshape(-1, self._kinds).astype(np.float64)

    def hours_since(self, now_s: IntArray) -> FloatArray:
        """Return the hours since each member's last event, shape (N,), at most MAX_HOURS_SINCE."""
        return np.minimum((now_s - self.last_s) / HOUR_S, MAX_HOURS_SINCE)

    def by_hour(self, last_s: IntArray) -> IntArray:
        """Count the events in each UTC hour of the day, over the 24 hours that end with that of ``last_s``, (N, 24)."""
        members, _, times_s = self._events
        recent = times_s // HOUR_S > last_s[members] // HOUR_S - HOURS
        cells = members[recent] * HOURS + times_s[recent] // HOUR_S % HOURS
        return np.bincount(cells, minlength=len(last_s) * HOURS).reshape(-1, HOURS).astype(np.int64)

    @property
    def last_ms(self) -> IntArray:
        """The Unix time in ms of each member's last event, shape (N,); 0: never."""
        return np.maximum(START_MS + 1000 * self.last_s, 0)


class Activity:
    """Every member's observable activity; ``features`` says what was known at a decision.

    Parameters
    ----------
    utc_offset_hours
        (N,), what makes a visit's time a local one.
    """

    def __init__(self, utc_offset_hours: FloatArray) -> None:
        members = len(utc_offset_hours)
        self._utc_offset_hours = utc_offset_hours
        self._visits = History(members, len(DAYPARTS))
        self._clicks, self._pushes, self._badges = (History(members, len(TYPES)) for _ in range(3))
        self._unread: IntArray = np.zeros(members, dtype=np.int64)

    def record(self, actions: IntArray, types: IntArray, at_s: IntArray, events: Events) -> None:
        """Take in the sends made at one decision of every member, and what happened until the next.

        Parameters
        ----------
        actions
            (N,), indices into ACTIONS.
        types
            (N,), indices into TYPES: of the candidate acted on. A click is on what this decision sent.
        at_s
            (N,), the decision time in seconds since START.
        events
            Visits and clicks between this decision and the next.
        """
        for history, action in ((self._pushes, PUSH), (self._badges, BADGE)):
            sent = np.flatnonzero(actions == action)
            history.add(sent, types[sent], at_s[sent])
        visited, clicked = events.visit_members, events.click_members
        parts = daypart(events.visit_times_s, self._utc_offset_hours[visited])
        self._visits.add(visited, parts, events.visit_times_s)
        self._clicks.add(clicked, types[clicked], events.click_times_s)
        self._unread += actions == BADGE
        self._unread[visited] = 0
        oldest_needed_s = int(at_s.min()) - WEEK_S
        for history in (self._visits, self._clicks, self._pushes, self._badges):
            history.forget(oldest_needed_s)

    def features(self, now_s: IntArray) -> FloatArray:
        """Return the ACTIVITY columns as known just before a decision at ``now_s``, shape (N, len(ACTIVITY))."""
        visits, clicks, pushes, badges = self._visits, self._clicks, self._pushes, self._badges
        by_daypart, by_type = {}, {}
        for window, window_s in (("24h", DAY_S), ("7d", WEEK_S)):
            by_daypart[f"visits_{window}"] = visits.count(now_s, window_s)
            by_type[f"clicks_{window}"] = clicks.count(now_s, window_s)
            by_type[f"pushes_{window}"] = pushed = pushes.count(now_s, window_s)
            by_type[f"badges_{window}"] = badged = badges.count(now_s, window_s)
            by_type[f"sends_{window}"] = pushed + badged
        columns = {
            **_with_parts(by_daypart, DAYPARTS),
            **_with_parts(by_type, TYPES),
            "visits_total": visits.total.astype(np.float64),
            "clicks_total": clicks.total.astype(np.float64),
            "badge_count": self._unread.astype(np.float64),
            "hours_since_visit": visits.hours_since(now_s),
            "hours_since_click": clicks.hours_since(now_s),
            "hours_since_send": np.minimum(pushes.hours_since(now_s), badges.hours_since(now_s)),
            "hours_since_push": pushes.hours_since(now_s),
            "hours_since_badge": badges.hours_since(now_s),
        }
        # A click may outlive its send at the window's edge; a rate stays a rate.
        clicks_7d, sends_7d = columns["clicks_7d"], columns["sends_7d"]
        columns["ctr_7d"] = clicks_7d / np.maximum(np.maximum(sends_7d, clicks_7d), 1.0)
        return np.column_stack([columns[name] for name in ACTIVITY])

    def live(self) -> IntArray:
        """Return the LIVE columns as of the last event recorded, shape (N, len(LIVE))."""
        visits, clicks, pushes, badges = self._visits, self._clicks, self._pushes, self._badges
        last_send_s = np.maximum(pushes.last_s, badges.last_s)
        by_hour = pack_hours(pushes.by_hour(last_send_s) + badges.by_hour(last_send_s))
        columns = {
            "visits_total": visits.total,
            "clicks_total": clicks.total,
            "badge_count": self._unread,
            "last_visit_ms": visits.last_ms,
            "last_click_ms": clicks.last_ms,
            "last_send_ms": np.maximum(pushes.last_ms, badges.last_ms),
            "last_push_ms": pushes.last_ms,
            "last_badge_ms": badges.last_ms,
            **dict(zip(SEND_HOURS, by_hour.T, strict=True)),
        }
        return np.column_stack([columns[name] for name in LIVE])


def _with_parts(counts: dict[str, FloatArray], kinds: tuple[str, ...]) -> dict[str, FloatArray]:
    """Return each count (N, len(kinds)) as columns: its total under its name, and ``name_kind`` for each kind."""
    columns: dict[str, FloatArray] = {}
    for name, count in counts.items():
        columns[name] = count.sum(axis=1)
        columns |= {f"{name}_{kind}": count[:, index] for index, kind in enumerate(kinds)}
    return columns
