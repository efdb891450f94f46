"""Many byte strings as one array, so that numpy can look into all of them at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Octets = NDArray[np.uint8]

SPARE_BYTES = 8
"""Behind the last of them, so that 8 bytes can be looked at wherever one is."""


@dataclass(frozen=True)
class Joined:
    """N byte strings, one after the other.

    Attributes
    ----------
    raw
        All of them, and SPARE_BYTES zeros.
    octets
        ``raw`` as an array.
    starts, ends
        [N] where each begins and ends in ``raw``.
    """

    raw: bytes
    octets: Octets
    starts: Ints
    ends: Ints

    @classmethod
    def of(cls, parts: Sequence[bytes]) -> Joined:
        """Join ``parts``."""
        raw = b"".join((*parts, bytes(SPARE_BYTES)))
        sizes = np.fromiter(map(len, parts), np.int64, len(parts))
        ends = sizes.cumsum()
        return cls(raw, np.frombuffer(raw, np.uint8), ends - sizes, ends)

    @property
    def size(self) -> int:
        """Bytes of all of them."""
        return len(self.raw) - SPARE_BYTES
