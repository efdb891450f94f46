"""Feast's stored values (protobuf ``Value`` and ``Timestamp``) decoded as arrays, a whole batch at a time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from google.protobuf.timestamp_pb2 import Timestamp  # type: ignore[import-untyped]
from numpy.typing import NDArray

# A Value on the wire is one tag byte, (field number << 3) | wire type, and its payload.
_DOUBLE, _FLOAT = 5 << 3 | 1, 6 << 3 | 5
_INT32, _INT64, _BOOL = 3 << 3, 4 << 3, 7 << 3
_MAX_VARINT_BYTES = 10


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
    lengths = np.fromiter((len(blob) if blob else 0 for blob in blobs), dtype=np.int64, count=len(blobs))
    wire = np.frombuffer(b"".join(blob for blob in blobs if blob), dtype=np.uint8)
    starts = np.cumsum(lengths) - lengths
    stored = np.flatnonzero(lengths)
    tags = np.zeros(len(blobs), dtype=np.uint8)
    tags[stored] = wire[starts[stored]]
    values = np.full(len(blobs), np.nan)
    for tag, dtype in ((_DOUBLE, np.dtype("<f8")), (_FLOAT, np.dtype("<f4"))):
        rows = np.flatnonzero((tags == tag) & (lengths == 1 + dtype.itemsize))
        payload = wire[starts[rows, None] + 1 + np.arange(dtype.itemsize)]
        values[rows] = payload.view(dtype)[:, 0]
    rows = np.flatnonzero(np.isin(tags, (_INT32, _INT64, _BOOL)) & (lengths <= 1 + _MAX_VARINT_BYTES))
    values[rows] = _varints(wire, starts[rows] + 1, lengths[rows] - 1)
    return values


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


def _varints(wire: NDArray[np.uint8], starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Read a base-128 integer at each start, low bits first; negative ones come as their 64-bit two's complement."""
    numbers = np.zeros(len(starts), dtype=np.uint64)
    for i in range(int(lengths.max(initial=0))):
        rows = np.flatnonzero(lengths > i)
        bits = (wire[starts[rows] + i] & 0x7F).astype(np.uint64)
        numbers[rows] |= bits << np.uint64(7 * i)
    return numbers.view(np.int64)
