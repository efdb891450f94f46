"""How numbers are kept: a float group's values to the bytes of its storage type, and back.

Numbers are little-endian. A scaled value is the whole number of steps k from its column's centre, as the code
0, 1, 2, 3, 4, ... for k = 0, -1, 1, -2, 2, ... (zigzag, as Avro has it for its longs), so that usual values have small
codes in every column; the largest code stands for NaN.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from contracts.errors import StoreError
from sequence_store.layout import SCALED, FloatGroup

FloatArray = NDArray[np.floating[Any]]

_FLOAT16_MAX: Final = 65504.0


class Numbers:
    """How the values of one float group are kept.

    Attributes
    ----------
    size
        Bytes that they take.
    """

    def __init__(self, group: FloatGroup) -> None:
        self._group = group
        self._dtype = np.dtype(group.storage).newbyteorder("<")
        self.size = len(group.columns) * int(self._dtype.itemsize)
        self._furthest = SCALED.get(group.storage)
        self._centres, self._steps = np.asarray(group.scales, np.float64).reshape(-1, 2).T
        # Value of every code of every column, where there are few.
        self._first_code = np.arange(len(group.columns)) * 256
        self._values = self._all_values() if group.storage == "uint8" else None

    def to_rows(self, values: FloatArray) -> NDArray[np.uint8]:
        """Return ``values`` [N, columns] as they are kept: [N, ``size``] bytes.

        Raises StoreError if they are no such array of floats.
        """
        group, array = self._group, np.asarray(values)
        if array.ndim != 2 or array.shape[1] != len(group.columns):
            raise StoreError(
                f"entry: float group {group.name!r} has shape {array.shape[1:]}, its layout has ({len(group.columns)},)"
            )
        if array.dtype.kind != "f":
            raise StoreError(f"entry: float group {group.name!r} is {array.dtype}; give floats")
        with np.errstate(over="ignore"):
            if self._furthest is not None:
                stored: NDArray[Any] = self._codes(array, self._furthest)
            elif group.storage == "float16":
                stored = np.minimum(np.maximum(array, -_FLOAT16_MAX), _FLOAT16_MAX).astype(self._dtype)
            else:
                stored = array.astype(self._dtype)
        return np.ascontiguousarray(stored).view(np.uint8).reshape(len(array), self.size)

    def from_rows(self, raw: NDArray[np.uint8]) -> FloatArray:
        """Return the read-only values [N, columns] of ``raw`` [N, ``size``].

        They are float32 with a scaled storage type, else of the type itself.
        """
        stored = np.ascontiguousarray(raw).view(self._dtype)
        values: FloatArray
        if self._furthest is None:
            values = stored
        elif self._values is not None:
            values = self._values.take(self._first_code + stored)
        else:
            values = (self._centres + self._steps * _steps_of(stored, self._furthest)).astype(np.float32)
        values.flags.writeable = False
        return values

    def to_bytes(self, values: FloatArray) -> bytes:
        """Return ``values``, one a column, as they are kept. Raises StoreError if they are no such array of floats."""
        return self.to_rows(np.asarray(values)[None]).tobytes()

    def from_bytes(self, raw: bytes) -> FloatArray:
        """Return the read-only values, one a column, as ``from_rows`` does.

        Raises ValueError if ``raw`` has another length than they take.
        """
        if len(raw) != self.size:
            group = self._group
            raise ValueError(f"float group {group.name!r}: {len(raw)} bytes, {len(group.columns)} {group.storage}")
        values: FloatArray = self.from_rows(np.frombuffer(raw, np.uint8)[None])[0]
        return values

    def _codes(self, array: FloatArray, furthest: int) -> NDArray[np.integer[Any]]:
        steps = np.rint((array - self._centres) / self._steps)
        unknown = np.isnan(steps)
        steps[unknown] = 0.0
        whole = np.minimum(np.maximum(steps, -furthest), furthest).astype(np.int32)
        codes: NDArray[np.integer[Any]] = (whole << 1) ^ (whole >> 31)
        codes[unknown] = 2 * furthest + 1
        return codes.astype(self._dtype)

    def _all_values(self) -> NDArray[np.float32]:
        steps = _steps_of(np.arange(256), SCALED["uint8"])
        return (self._centres[:, None] + self._steps[:, None] * steps).astype(np.float32).ravel()


@lru_cache(maxsize=1024)
def numbers(group: FloatGroup) -> Numbers:
    """Return how ``group`` is kept."""
    return Numbers(group)


def rounded(values: FloatArray, group: FloatGroup) -> FloatArray:
    """Return ``values`` as a reader will find them. Raises StoreError as ``Numbers.to_bytes``."""
    kept = numbers(group)
    return kept.from_bytes(kept.to_bytes(values))


def _steps_of(codes: NDArray[np.integer[Any]], furthest: int) -> NDArray[np.float64]:
    """Return the steps from the centre that ``codes`` stand for, NaN for the largest code."""
    whole = codes.astype(np.int32)
    steps = ((whole >> 1) ^ -(whole & 1)).astype(np.float64)
    steps[whole > 2 * furthest] = np.nan
    return steps
