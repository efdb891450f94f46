"""What a read costs in steps and bytes: counted, since a time would depend on the machine."""

from __future__ import annotations

import sys
import tracemalloc
from collections.abc import Callable
from types import FrameType
from typing import Any, Final, NamedTuple

MAX_ALLOCATED: Final = (2 * 1024 * 1024, 12)
"""Bytes that reading a value may allocate at most: so many, and so many more for every byte of it."""
MAX_CALLS: Final = (10_000, 25)
"""Functions that reading a value may call at most, likewise."""


class Cost(NamedTuple):
    """Peak of the bytes allocated, and functions called."""

    allocated: int
    calls: int

    def is_bounded(self, size: int) -> bool:
        """Tell whether a value of ``size`` bytes may cost as much."""
        bounds = (constant + a_byte * size for constant, a_byte in (MAX_ALLOCATED, MAX_CALLS))
        return all(cost <= bound for cost, bound in zip(self, bounds, strict=True))


def measured(read: Callable[[], Any]) -> tuple[Any, Cost]:
    """Return what ``read`` returns, and its cost."""
    calls = 0

    def count(_frame: FrameType, event: str, _argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    tracemalloc.start()
    sys.setprofile(count)
    try:
        result = read()
    finally:
        sys.setprofile(None)
        allocated = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return result, Cost(allocated, calls)
