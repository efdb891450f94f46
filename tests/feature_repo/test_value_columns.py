"""Columns are encoded to the bytes that Feast's own conversion gives, or refused where it refuses."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from feast import RepoConfig
from feast.infra.online_stores.helpers import _redis_key
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.type_map import python_values_to_proto_values
from feast.utils import _coerce_datetime, make_tzaware
from feast.value_type import ValueType
from google.protobuf.timestamp_pb2 import Timestamp  # type: ignore[import-untyped]
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_repo.entity_keys import EntityKeys
from feature_repo.stored_values import decode_times_ns
from feature_repo.value_columns import encode_column, encode_times, event_times_us, to_us

pytestmark = pytest.mark.unit

SCALARS = [
    *(ValueType.INT32, ValueType.INT64, ValueType.FLOAT, ValueType.DOUBLE, ValueType.BOOL, ValueType.STRING),
    *(ValueType.BYTES, ValueType.UNIX_TIMESTAMP),
]
INTEGERS = {
    getattr(pa, f"{sign}int{bits}")(): st.integers(*bounds)
    for bits in (8, 16, 32, 64)
    for sign, bounds in (("", (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)), ("u", (0, 2**bits - 1)))
}
MOMENTS_S = st.integers(-8 * 10**9, 7 * 10**9)
ARROW: dict[pa.DataType, st.SearchStrategy[Any]] = {
    **INTEGERS,
    pa.float32(): st.floats(width=32),
    pa.float64(): st.floats(),
    pa.bool_(): st.booleans(),
    pa.string(): st.text(max_size=5),
    pa.large_string(): st.text(max_size=5),
    pa.binary(): st.binary(max_size=5),
    pa.timestamp("us", tz="UTC"): MOMENTS_S.map(lambda second: second * 1_000_000),
}


@st.composite
def columns(draw: st.DrawFn) -> pa.Array:
    arrow_type = draw(st.sampled_from(list(ARROW)))
    values = draw(st.lists(st.none() | ARROW[arrow_type], max_size=12))
    return pa.array(values, arrow_type)


def outcome(convert: Callable[[], list[bytes]]) -> list[bytes] | type[Exception]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return convert()
        except Exception as error:
            return type(error)


@settings(deadline=None)
@given(columns(), st.sampled_from(SCALARS))
def test_a_column_becomes_the_bytes_that_feast_stores(column: pa.Array, value_type: ValueType) -> None:
    def by_feast() -> list[bytes]:
        values = python_values_to_proto_values(column.to_numpy(zero_copy_only=False), value_type)
        return [value.SerializeToString() for value in values]

    assert outcome(lambda: encode_column(column, value_type).to_pylist()) == outcome(by_feast)


@pytest.mark.parametrize("value", [2**31 - 1, -(2**31), 2**53 + 1, 2**63 - 1, -(2**63), 0, 127, 128, -1])
def test_integers_at_the_bounds_are_exact(value: int) -> None:
    (value_proto,) = python_values_to_proto_values([value], ValueType.INT64)
    assert encode_column(pa.array([value]), ValueType.INT64).to_pylist() == [value_proto.SerializeToString()]


@settings(deadline=None)
@given(st.lists(st.integers(-(2**55), 2**57), max_size=10))
def test_event_times_become_the_timestamps_that_feast_stores(times_us: list[int]) -> None:
    stored = encode_times(np.array(times_us, dtype=np.int64)).to_pylist()
    expected = [Timestamp(seconds=us // 10**6, nanos=us % 10**6 * 1_000) for us in times_us]
    assert stored == [stamp.SerializeToString() for stamp in expected]
    assert decode_times_ns(stored) == [us * 1_000 for us in times_us]


@settings(deadline=None)
@given(
    st.lists(st.tuples(MOMENTS_S, st.integers(0, 10**9 - 1)), max_size=6),
    st.sampled_from(["s", "ms", "us", "ns"]),
    st.sampled_from([None, "UTC", "America/New_York"]),
)
def test_event_times_are_read_as_feast_reads_them(moments: list[tuple[int, int]], unit: str, zone: str | None) -> None:
    times_ns = pa.array([seconds * 10**9 + nanos for seconds, nanos in moments], pa.timestamp("ns", zone))
    column = times_ns.cast(pa.timestamp(unit, zone), safe=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nanoseconds are cut off
        coerce: Any = _coerce_datetime
        values = [coerce(value) for value in pd.to_datetime(column.to_numpy(zero_copy_only=False))]
    assert event_times_us(column).tolist() == [to_us(make_tzaware(value)) for value in values]


def test_nanoseconds_are_cut_off() -> None:
    column = pa.array([1_999, -1], pa.timestamp("ns"))
    assert event_times_us(column).tolist() == [1, -1]


def test_event_times_of_other_types_are_feasts_business() -> None:
    assert event_times_us(pa.array(["2026-01-01T00:00:01Z"])).tolist() == [
        to_us(datetime(2026, 1, 1, 0, 0, 1, tzinfo=UTC))
    ]


def test_a_row_without_an_event_time_is_named() -> None:
    with pytest.raises(ValueError, match="row 1 has no event timestamp"):
        event_times_us(pa.array([0, None], pa.timestamp("us")))


KEYS: dict[ValueType, st.SearchStrategy[Any]] = {
    ValueType.STRING: st.text(max_size=6),
    ValueType.INT32: st.integers(-(2**31), 2**31 - 1),
    ValueType.INT64: st.integers(-(2**63), 2**63 - 1),
    ValueType.BYTES: st.binary(min_size=1, max_size=6),
}


@settings(deadline=None)
@given(st.data(), st.dictionaries(st.text(min_size=1, max_size=4), st.sampled_from(list(KEYS)), min_size=1, max_size=3))
def test_keys_are_those_of_feast_composite_ones_too(data: st.DataObject, types: dict[str, ValueType]) -> None:
    rows = data.draw(st.integers(1, 4))
    drawn = {
        name: data.draw(st.lists(KEYS[value_type], min_size=rows, max_size=rows)) for name, value_type in types.items()
    }
    config = RepoConfig(project="shop", provider="local", registry="x", entity_key_serialization_version=3)
    protos = {name: python_values_to_proto_values(values, types[name]) for name, values in drawn.items()}
    expected = [
        _redis_key("shop", EntityKey(join_keys=list(types), entity_values=[protos[name][row] for name in types]), 3)
        for row in range(rows)
    ]
    assert EntityKeys(config, types).make(drawn) == expected


def test_the_key_layout_of_the_feast_pinned() -> None:
    """An upgrade that changes it loses what is stored: materialize anew, then write the new bytes here."""
    config = RepoConfig(project="pacer", provider="local", registry="x", entity_key_serialization_version=3)
    keys = EntityKeys(config, {"store": ValueType.INT64, "member_id": ValueType.STRING})
    expected = (
        b"\x02\x00\x00\x00"  # two join keys, sorted by name
        b"\x02\x00\x00\x00\x09\x00\x00\x00member_id\x02\x00\x00\x00\x05\x00\x00\x00store"
        b"\x02\x00\x00\x00\x02\x00\x00\x00m7"  # type, length, value
        b"\x04\x00\x00\x00\x08\x00\x00\x00\xff\xff\xff\xff\xff\xff\xff\xff"
        b"pacer"
    )
    assert keys.make({"member_id": ["m7"], "store": [-1]}) == [expected]
    protos = [
        python_values_to_proto_values([value], kind)[0]
        for value, kind in ((-1, ValueType.INT64), ("m7", ValueType.STRING))
    ]
    assert _redis_key("pacer", EntityKey(join_keys=["store", "member_id"], entity_values=protos), 3) == expected
