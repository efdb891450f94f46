"""The simulator's time: whole seconds since a fixed start, so that a seed fixes every timestamp."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np

from simulator.arrays import BoolArray, FloatArray, IntArray

START = datetime(2026, 1, 5, tzinfo=UTC)
"""The log's first midnight, a Monday; every ``_s`` in this room counts seconds from here."""
START_MS = int(START.timestamp()) * 1000
HOUR_S = 3600
DAY_S = 24 * HOUR_S
WEEK_S = 7 * DAY_S
DAYPARTS = ("night", "morning", "afternoon", "evening")
"""Quarters of the local day, from midnight on."""


def decision_times(cycle: int, interval_s: int, members: int, rng: np.random.Generator) -> IntArray:
    """Draw when each member is evaluated in ``cycle``, shape (N,), seconds since START.

    A cycle opens every ``interval_s`` and reaches a member within its first third. So gaps between a member's
    decisions are uneven, and all decisions of a cycle lie before any of the next.
    """
    return cycle * interval_s + rng.integers(1, interval_s // 3, size=members, endpoint=True)


def local_hour(at_s: IntArray, utc_offset_hours: FloatArray) -> FloatArray:
    """Return the member's local hour of day in [0, 24)."""
    return np.mod(at_s / HOUR_S + utc_offset_hours, 24.0)


def daypart(at_s: IntArray, utc_offset_hours: FloatArray) -> IntArray:
    """Return the quarter of the member's local day, an index into DAYPARTS."""
    return (local_hour(at_s, utc_offset_hours) // (24 // len(DAYPARTS))).astype(np.int64)


def is_weekend(at_s: IntArray, utc_offset_hours: FloatArray) -> BoolArray:
    """Return whether it is Saturday or Sunday where the member is."""
    return np.mod(np.floor((at_s / HOUR_S + utc_offset_hours) / 24.0), 7.0) >= 5.0
