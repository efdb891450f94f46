"""Features: the running record of what anyone may observe of a member's activity."""

from __future__ import annotations

import numpy as np

from simulator.arrays import FloatArray, IntArray
from simulator.candidates import BADGE, PUSH
from simulator.clock import DAY_S, HOUR_S, WEEK_S
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
    "badge_count",
    "hours_since_visit",
    "hours_since_click",
    "hours_since_send",
    "hours_since_push",
    "hours_since_badge",
)
"""Columns of the feature table ``member_activity``."""
FEATURES = (*PROFILE, *ACTIVITY)
"""Every stored member feature, in the order of an observation's ``member``."""
MAX_HOURS_SINCE = WEEK_S / HOUR_S
"""Value of an ``hours_since_*`` feature for an event a week ago, longer ago, or never."""


class History:
    """When one kind of event happened to each member over the last seven days, and how often in all."""

    def __init__(self, members: int) -> None:
        self.total: IntArray = np.zeros(members, dtype=np.int64)
        self.last_s: IntArray = np.full(members, -(2**40), dtype=np.int64)
        self._members: IntArray = np.zeros(0, dtype=np.int64)
        self._times_s: IntArray = np.zeros(0, dtype=np.int64)

    def add(self, members: IntArray, times_s: IntArray) -> None:
        """Record events: the member and the time of each, shape (events,)."""
        np.add.at(self.total, members, 1)
        np.maximum.at(self.last_s, members, times_s)
        self._members = np.concatenate([self._members, members])
        self._times_s = np.concatenate([self._times_s, times_s])

    def forget(self, before_s: int) -> None:
        """Drop the times of events before ``before_s``; totals and last times stay."""
        keep = self._times_s >= before_s
        self._members, self._times_s = self._members[keep], self._times_s[keep]

    def count(self, now_s: IntArray, window_s: int) -> FloatArray:
        """Count each member's events in the window (now - window, now), shape (N,)."""
        recent = self._times_s > now_s[self._members] - window_s
        return np.bincount(self._members[recent], minlength=len(now_s)).astype(np.float64)

    def hours_since(self, now_s: IntArray) -> FloatArray:
        """Return the hours since each member's last event, shape (N,), at most MAX_HOURS_SINCE."""
        return np.minimum((now_s - self.last_s) / HOUR_S, MAX_HOURS_SINCE)


class Activity:
    """Every member's observable activity; ``features`` says what was known at a decision."""

    def __init__(self, members: int) -> None:
        self._visits, self._clicks = History(members), History(members)
        self._pushes, self._badges = History(members), History(members)
        self._unread: IntArray = np.zeros(members, dtype=np.int64)

    def record(self, actions: IntArray, at_s: IntArray, events: Events) -> None:
        """Take in the sends made at ``at_s``, shape (N,), and what happened until the next decision."""
        for history, action in ((self._pushes, PUSH), (self._badges, BADGE)):
            sent = np.flatnonzero(actions == action)
            history.add(sent, at_s[sent])
        self._visits.add(events.visit_members, events.visit_times_s)
        self._clicks.add(events.click_members, events.click_times_s)
        self._unread += actions == BADGE
        self._unread[events.visit_members] = 0
        oldest_needed_s = int(at_s.min()) - WEEK_S
        for history in (self._visits, self._clicks, self._pushes, self._badges):
            history.forget(oldest_needed_s)

    def features(self, now_s: IntArray) -> FloatArray:
        """Return the ACTIVITY columns as known just before a decision at ``now_s``, shape (N, 18)."""
        visits, clicks, pushes, badges = self._visits, self._clicks, self._pushes, self._badges
        clicks_7d = clicks.count(now_s, WEEK_S)
        pushes_24h, badges_24h = pushes.count(now_s, DAY_S), badges.count(now_s, DAY_S)
        pushes_7d = pushes.count(now_s, WEEK_S)
        sends_7d = pushes_7d + badges.count(now_s, WEEK_S)
        columns = {
            "visits_total": visits.total.astype(np.float64),
            "clicks_total": clicks.total.astype(np.float64),
            "visits_24h": visits.count(now_s, DAY_S),
            "visits_7d": visits.count(now_s, WEEK_S),
            "clicks_24h": clicks.count(now_s, DAY_S),
            "clicks_7d": clicks_7d,
            # A click may outlive its send at the window's edge; a rate stays a rate.
            "ctr_7d": clicks_7d / np.maximum(np.maximum(sends_7d, clicks_7d), 1.0),
            "sends_24h": pushes_24h + badges_24h,
            "sends_7d": sends_7d,
            "pushes_24h": pushes_24h,
            "pushes_7d": pushes_7d,
            "badges_24h": badges_24h,
            "badge_count": self._unread.astype(np.float64),
            "hours_since_visit": visits.hours_since(now_s),
            "hours_since_click": clicks.hours_since(now_s),
            "hours_since_send": np.minimum(pushes.hours_since(now_s), badges.hours_since(now_s)),
            "hours_since_push": pushes.hours_since(now_s),
            "hours_since_badge": badges.hours_since(now_s),
        }
        return np.column_stack([columns[name] for name in ACTIVITY])
