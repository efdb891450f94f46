"""How much history a ring keeps: the newest entries up to a number, and up to an age."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Self

MS_PER_DAY: Final = 86_400_000
MAX_CAPACITY: Final = 1024
MAX_TTL_DAYS: Final = 36_500.0


@dataclass(frozen=True)
class Retention:
    """Bounds of a ring.

    Attributes
    ----------
    capacity
        Entries kept at most: 1 to 1,024.
    ttl_ms
        Age at which an entry is no longer returned, and idle time after which the ring itself expires.

    Raises
    ------
    ValueError
        A bound is out of range.
    """

    capacity: int
    ttl_ms: int

    def __post_init__(self) -> None:
        if not 1 <= self.capacity <= MAX_CAPACITY:
            raise ValueError(f"ring capacity = {self.capacity}: must lie between 1 and {MAX_CAPACITY}")
        if not 1 <= self.ttl_ms <= MAX_TTL_DAYS * MS_PER_DAY:
            raise ValueError(f"ring ttl = {self.ttl_ms} ms: must lie between 1 ms and {MAX_TTL_DAYS:,.0f} days")

    @classmethod
    def of_days(cls, capacity: int, ttl_days: float) -> Self:
        """Return the bounds with the time to live in days. Raises ValueError."""
        return cls(capacity, round(min(ttl_days, 2 * MAX_TTL_DAYS) * MS_PER_DAY))
