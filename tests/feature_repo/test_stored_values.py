"""Decoding agrees with protobuf, whatever numbers are stored."""

from __future__ import annotations

import numpy as np
import pytest
from feast.protos.feast.types.Value_pb2 import Value
from google.protobuf.timestamp_pb2 import Timestamp  # type: ignore[import-untyped]
from hypothesis import given
from hypothesis import strategies as st

from feature_repo.stored_values import decode_times_us, decode_values

pytestmark = pytest.mark.unit

MANY = 300
values = st.one_of(
    st.none(),
    st.builds(Value),
    st.floats(allow_nan=False).map(lambda x: Value(double_val=x)),
    st.floats(width=32, allow_nan=False).map(lambda x: Value(float_val=x)),
    st.integers(-(2**31), 2**31 - 1).map(lambda x: Value(int32_val=x)),
    st.integers(-(2**63), 2**63 - 1).map(lambda x: Value(int64_val=x)),
    st.booleans().map(lambda x: Value(bool_val=x)),
)


@given(st.lists(values, max_size=40))
def test_every_numeric_type_decodes_to_the_value_that_was_stored(stored: list[Value | None]) -> None:
    def number(value: Value | None) -> float:
        kind = value.WhichOneof("val") if value is not None else None
        return float(getattr(value, kind)) if kind else np.nan

    blobs = [value if value is None else value.SerializeToString() for value in stored]
    expected = np.array([number(value) for value in stored])
    np.testing.assert_array_equal(decode_values(blobs), expected)
    # Few values and many go different ways.
    np.testing.assert_array_equal(decode_values(blobs * MANY), np.tile(expected, MANY))


def test_what_is_no_number_or_cut_short_is_missing() -> None:
    double = Value(double_val=1.5).SerializeToString()
    blobs = [Value(string_val="12345678").SerializeToString(), double[:-1], b"\x29", b"\x20", b"\x20" + b"\xff" * 30]
    decoded = decode_values([*blobs, double])
    np.testing.assert_array_equal(decode_values([*blobs, double] * MANY), np.tile(decoded, MANY))
    assert np.isnan(decoded[:3]).all()
    assert np.isnan(decoded[4])
    assert decoded[5] == 1.5


@given(st.lists(st.one_of(st.none(), st.integers(0, 4 * 10**15)), max_size=10))
def test_times_are_exact_to_the_microsecond(times_us: list[int | None]) -> None:
    blobs = [
        None if us is None else Timestamp(seconds=us // 10**6, nanos=us % 10**6 * 1_000).SerializeToString()
        for us in times_us
    ]
    # A message whose fields are all zero has no bytes: the epoch reads as nothing stored.
    assert decode_times_us(blobs).tolist() == [us or -1 for us in times_us]
