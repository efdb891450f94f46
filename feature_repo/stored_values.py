"""Feast's stored values (protobuf ``Value`` and ``Timestamp``) decoded as arrays, a whole batch at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from struct import Struct

import numpy as np
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from google.protobuf.timestamp_pb2 import Timestamp  # type: ignore[import-untyped]
from numpy.typing import NDArray

# A Value on the wire is one tag byte, (field number << 3) | wire type, and its payload.
DOUBLE, FLOAT = 5 << 3 | 1, 6 << 3 | 5
INT32, INT64, BOOL = 3 << 3, 4 << 3, 7 << 3
MAX_VARINT_BYTES = 10
_double, _float = Struct("<d").unpack_from, Struct("<f").unpack_from
_MASK64 = (1 << 64) - 1
_VARINTS = (INT32, INT64, BOOL)
_IS_VARINT = np.isin(np.arange(256), _VARINTS)
_FEW = 256
"""Up to so many values, Python is faster than numpy: those of one entity, or of a few."""


def decode_values(blobs: Sequence[bytes | None]) -> NDArray[np.float64]:
    """Decode serialized ``feast.types.Value`` messages of any numeric type.

    Parameters
    ----------
    blobs
        One message each; None or empty where nothing is stored.

    Returns
    -------
    Array [len(blobs)]: doubles, floats, integers and booleans as float64 (integers beyond 2^53 are rounded); NaN
    where nothing is stored, and for what is no number.
    """
    if len(blobs) <= _FEW:
        return np.array(list(map(_decode, blobs)), dtype=np.float64)
    known = [blob or b"" for blob in blobs]
    lengths = np.fromiter(map(len, known), dtype=np.int64, count=len(blobs))
    wire = np.frombuffer(b"".join(known), dtype=np.uint8)
    starts = np.cumsum(lengths) - lengths
    stored = np.flatnonzero(lengths)
    tags = np.zeros(len(blobs), dtype=np.uint8)
    tags[stored] = wire[starts[stored]]
    values = np.full(len(blobs), np.nan)
    for tag, dtype in ((DOUBLE, np.dtype("<f8")), (FLOAT, np.dtype("<f4"))):
        rows = np.flatnonzero((tags == tag) & (lengths == 1 + dtype.itemsize))
        payload = wire[starts[rows, None] + 1 + np.arange(dtype.itemsize)]
        values[rows] = payload.view(dtype)[:, 0]
    rows = np.flatnonzero(_IS_VARINT[tags] & (lengths <= 1 + MAX_VARINT_BYTES))
    values[rows] = _varints(wire, starts[rows] + 1, lengths[rows] - 1)
    return values


def _decode(blob: bytes | None) -> float:
    """Decode one message as ``decode_values`` does."""
    if not blob:
        return math.nan
    tag, size = blob[0], len(blob)
    if tag == DOUBLE and size == 9:
        return _double(blob, 1)[0]  # type: ignore[no-any-return]
    if tag == FLOAT and size == 5:
        return _float(blob, 1)[0]  # type: ignore[no-any-return]
    if not (tag in _VARINTS and size <= 1 + MAX_VARINT_BYTES):
        return math.nan
    if size == 2:
        return float(blob[1] & 0x7F)
    number = 0
    for i in range(1, size):
        number |= (blob[i] & 0x7F) << (7 * (i - 1))
    number &= _MASK64
    return float(number - (number >> 63 << 64))


def decode_times_us(blobs: Sequence[bytes | None]) -> NDArray[np.int64]:
    """Decode serialized protobuf ``Timestamp`` messages to Unix time in µs, array [len(blobs)]; -1: nothing stored."""
    times = np.full(len(blobs), -1, dtype=np.int64)
    for row, blob in enumerate(blobs):
        if blob:
            try:
                stamp = Timestamp.FromString(blob)
            except DecodeError:
                continue  # damaged: as if never written
            times[row] = stamp.seconds * 1_000_000 + stamp.nanos // 1_000
    return times


def decode_times_ns(blobs: Sequence[bytes | None]) -> list[int]:
    """Decode serialized protobuf ``Timestamp`` messages to Unix time in ns; 0: nothing stored. Raises DecodeError."""
    stamps = (Timestamp.FromString(blob) if blob else Timestamp() for blob in blobs)
    return [stamp.seconds * 1_000_000_000 + stamp.nanos for stamp in stamps]


def _varints(wire: NDArray[np.uint8], starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Read a base-128 integer at each start, low bits first; negative ones come as their 64-bit two's complement."""
    numbers = np.zeros(len(starts), dtype=np.uint64)
    for i in range(int(lengths.max(initial=0))):
        rows = np.flatnonzero(lengths > i)
        bits = (wire[starts[rows] + i] & 0x7F).astype(np.uint64)
        numbers[rows] |= bits << np.uint64(7 * i)
    return numbers.view(np.int64)
