"""Sends by the hour, in four numbers a member: what tells the sends of the last day at any later moment.

Each UTC hour of the day has a byte that counts the sends in it, at most 255; six hours share a column, the earliest in
the lowest byte, so that a column stays below 2^48 and is exact as a double. The counts are those of the 24 hours that
end with the hour of the member's last send.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

HOURS = 24
HOURS_A_COLUMN = 6
COLUMNS = tuple(f"sends_hours_{first}_to_{first + HOURS_A_COLUMN - 1}" for first in range(0, HOURS, HOURS_A_COLUMN))
_SHIFTS = 8 * np.arange(HOURS_A_COLUMN, dtype=np.int64)


def pack_hours(counts: NDArray[np.integer]) -> NDArray[np.int64]:
    """Return counts by hour of the UTC day, shape (n, 24), as COLUMNS, shape (n, 4)."""
    bytes_ = np.clip(counts, 0, 255).astype(np.int64).reshape(len(counts), len(COLUMNS), HOURS_A_COLUMN)
    packed: NDArray[np.int64] = (bytes_ << _SHIFTS).sum(axis=2)
    return packed


def unpack_hours(packed: NDArray[np.integer]) -> NDArray[np.int64]:
    """Return what ``pack_hours`` packed, shape (n, 24)."""
    hours = np.asarray(packed, dtype=np.int64)[:, :, None] >> _SHIFTS & 0xFF
    return hours.reshape(len(packed), HOURS)
