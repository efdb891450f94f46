"""Whole columns as serialised protobuf ``Value`` messages: what Feast's Redis store keeps, without a message a value.

Numbers and booleans are encoded in numpy, everything else by Feast's own conversion. Both give the bytes that Feast
would store: a column takes the fast way only where Feast's conversion is known to do the same (type_map in Feast 0.67).
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from feast.type_map import python_values_to_proto_values
from feast.utils import _coerce_datetime, make_tzaware
from feast.value_type import ValueType
from numpy.typing import NDArray

from feature_repo.stored_values import BOOL, DOUBLE, FLOAT, INT32, INT64, MAX_VARINT_BYTES

_EPOCH = datetime.fromtimestamp(0, UTC)
_INTEGERS: dict[ValueType, tuple[int, np.iinfo[Any]]] = {
    ValueType.INT32: (INT32, np.iinfo(np.int32)),
    ValueType.INT64: (INT64, np.iinfo(np.int64)),
}
_US_PER_UNIT = {"s": 1_000_000, "ms": 1_000, "us": 1}
# The years that a Python datetime can hold.
_FIRST_US = (datetime(1, 1, 1, tzinfo=UTC) - _EPOCH) // timedelta(microseconds=1)
_LAST_US = (datetime(9999, 12, 31, tzinfo=UTC) - _EPOCH) // timedelta(microseconds=1)


def encode_column(column: pa.Array, value_type: ValueType) -> pa.LargeBinaryArray:
    """Serialise a column as Feast's ``Value`` messages of ``value_type``; a missing value is an empty message.

    Raises what Feast's conversion raises where the column does not fit the type.
    """
    fast = _encode_numbers(column, value_type)
    if fast is not None:
        return fast
    values = python_values_to_proto_values(column.to_numpy(zero_copy_only=False), value_type)
    return binary([value.SerializeToString() for value in values])


def event_times_us(column: pa.Array) -> NDArray[np.int64]:
    """Return event times as Unix time in µs, array [rows]; without a time zone they are UTC, as everywhere in Feast.

    Raises ValueError where a row has none.
    """
    if column.null_count:
        raise ValueError(f"row {pc.index(column.is_null(), True).as_py()} has no event timestamp")
    if pa.types.is_timestamp(column.type):
        times = column.cast(pa.int64()).to_numpy(zero_copy_only=False)
        if column.type.unit == "ns":
            return np.asarray(times // 1_000, dtype=np.int64)
        per_unit = _US_PER_UNIT[column.type.unit]
        if len(times) == 0 or (times.min() >= _FIRST_US // per_unit and times.max() <= _LAST_US // per_unit):
            return np.asarray(times * per_unit, dtype=np.int64)
    coerce: Callable[[Any], datetime] = _coerce_datetime
    moments = [coerce(value) for value in pd.to_datetime(column.to_numpy(zero_copy_only=False))]
    return np.array([to_us(moment) for moment in moments], dtype=np.int64)


def to_us(moment: datetime) -> int:
    """Return a moment as Unix time in µs; without a time zone it is UTC."""
    aware: datetime = make_tzaware(moment)
    return (aware - _EPOCH) // timedelta(microseconds=1)


def encode_times(times_us: NDArray[np.int64]) -> pa.LargeBinaryArray:
    """Serialise Unix times in µs as protobuf ``Timestamp`` messages."""
    seconds, rest_us = np.divmod(times_us, 1_000_000)
    # A field that is zero is left out.
    parts = [
        _ragged(*_varints(tag << 3, numbers), numbers == 0) for tag, numbers in ((1, seconds), (2, rest_us * 1_000))
    ]
    return pc.binary_join_element_wise(*parts, pa.scalar(b"", pa.large_binary()))


def binary(values: list[bytes]) -> pa.LargeBinaryArray:
    """Return values as a column of bytes that may be longer than 2 GiB altogether."""
    return pa.array(values, pa.large_binary())


def _encode_numbers(column: pa.Array, value_type: ValueType) -> pa.LargeBinaryArray | None:
    """Serialise in numpy; None where only Feast's own conversion knows what to do."""
    if value_type is ValueType.BOOL and pa.types.is_boolean(column.type):
        missing = column.is_null().to_numpy(zero_copy_only=False)
        flags = column.fill_null(False).to_numpy(zero_copy_only=False)
        rows = np.column_stack([np.full(len(flags), BOOL, np.uint8), flags.astype(np.uint8)])
        return _ragged(rows, np.full(len(flags), 2), missing)
    if not (pa.types.is_floating(column.type) or pa.types.is_integer(column.type)):
        return None
    # Feast goes by way of numpy, too: integers with gaps come as float64.
    numbers = column.to_numpy(zero_copy_only=False)
    if value_type is ValueType.DOUBLE and numbers.dtype == np.float64:
        return _floats(DOUBLE, numbers, np.dtype("<f8"))
    if value_type is ValueType.FLOAT and numbers.dtype in (np.float32, np.float64):
        return _floats(FLOAT, numbers, np.dtype("<f4"))
    if value_type in _INTEGERS:
        return _integers(numbers, *_INTEGERS[value_type])
    return None


def _floats(tag: int, numbers: NDArray[Any], dtype: np.dtype[Any]) -> pa.LargeBinaryArray:
    rows = np.empty((len(numbers), 1 + dtype.itemsize), dtype=np.uint8)
    rows[:, 0] = tag
    with np.errstate(over="ignore"):  # beyond float32's range is infinity, as in protobuf
        rows[:, 1:] = numbers.astype(dtype).view(np.uint8).reshape(len(numbers), dtype.itemsize)
    return _ragged(rows, np.full(len(numbers), rows.shape[1]), np.isnan(numbers))


def _integers(numbers: NDArray[Any], tag: int, bounds: np.iinfo[Any]) -> pa.LargeBinaryArray | None:
    missing = np.isnan(numbers) if numbers.dtype.kind == "f" else np.zeros(len(numbers), np.bool_)
    known = numbers[~missing]
    # As floats, the bounds of int64 are not exact: what lies near them is left to Feast.
    if len(known) and not (known.min() >= bounds.min and known.max() < bounds.max):
        return None
    return _ragged(*_varints(tag, np.where(missing, 0, numbers).astype(np.int64)), missing)


def _varints(tag: int, numbers: NDArray[np.int64]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return a tag and a base-128 integer a row, low bits first, [rows, 11], and how many of the bytes count."""
    rest = numbers.view(np.uint64)
    rows = np.zeros((len(numbers), 1 + MAX_VARINT_BYTES), dtype=np.uint8)
    rows[:, 0] = tag
    lengths = np.full(len(numbers), 2, dtype=np.int64)
    for i in range(1, 1 + MAX_VARINT_BYTES):
        rows[:, i] = rest & np.uint64(0x7F)
        rest = rest >> np.uint64(7)
        more = rest != 0
        if not more.any():
            break
        rows[more, i] |= 0x80
        lengths += more
    return rows, lengths


def _ragged(rows: NDArray[np.uint8], lengths: NDArray[np.int64], missing: NDArray[np.bool_]) -> pa.LargeBinaryArray:
    """Return the first ``lengths`` bytes of each row, and none of those that are ``missing``."""
    lengths = np.where(missing, 0, lengths)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    wire = rows if (lengths == rows.shape[1]).all() else rows[np.arange(rows.shape[1]) < lengths[:, None]]
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(np.ascontiguousarray(wire))]
    return pa.Array.from_buffers(pa.large_binary(), len(lengths), buffers)
