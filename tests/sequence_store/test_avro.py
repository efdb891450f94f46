"""The Avro record: what each storage type keeps, and that any Avro reader can read it."""

from __future__ import annotations

import io
import json

import fastavro
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sequence_store import Entry, FloatGroup, Layout
from sequence_store.avro import decode, encode, schema
from sequence_store.entry import FloatArray
from sequence_store.layout import Storage
from tests.sequence_store.samples import LAYOUT, entries, make_entry

pytestmark = pytest.mark.unit


def stored(values: FloatArray, storage: Storage) -> FloatArray:
    layout = Layout((FloatGroup("state", tuple(map(str, range(len(values)))), storage),), ("none",))
    return decode(encode(make_entry(0, layout=layout, floats={"state": values})), layout).floats["state"]


def test_float16_saturates_beyond_its_range_and_keeps_nan() -> None:
    values = np.array([1e6, -1e6, 65504.0, 65519.0, np.inf, -np.inf, np.nan, -0.0, 6e-8, 1e-9])
    kept = stored(values, "float16")
    assert kept.dtype == np.float16
    np.testing.assert_array_equal(kept[:6], [65504, -65504, 65504, 65504, 65504, -65504])
    assert np.isnan(kept[6])
    assert np.signbit(kept[7])
    assert kept[8] > 0
    assert kept[9] == 0


@given(st.lists(st.floats(-65504, 65504), max_size=50))
def test_float16_keeps_eleven_significant_bits(values: list[float]) -> None:
    array = np.array(values, np.float64)
    np.testing.assert_allclose(stored(array, "float16").astype(np.float64), array, rtol=2**-11, atol=2**-25)


@given(st.lists(st.floats(width=32), max_size=50))
def test_float32_keeps_its_own_values_bit_for_bit(values: list[float]) -> None:
    array = np.array(values, np.float32)
    assert stored(array, "float32").tobytes() == array.tobytes()
    assert stored(array, "float64").tobytes() == array.astype(np.float64).tobytes()


def test_float32_rounds_what_it_cannot_hold() -> None:
    np.testing.assert_array_equal(stored(np.array([0.1, 1e300]), "float32"), np.array([0.1, np.inf], np.float32))


@given(entries())
def test_the_record_is_plain_avro_under_the_public_schema(entry: Entry) -> None:
    parsed = fastavro.parse_schema(json.loads(json.dumps(schema(entry.layout))))
    record = fastavro.schemaless_reader(io.BytesIO(encode(entry)), parsed, None)
    assert isinstance(record, dict)
    assert record["longs"] == {name: getattr(entry, name) for name in ("at_ms", "action", "eligible", "sequence")}
    assert record["strings"]["cycle_id"] == entry.cycle_id
    assert record["floats"] == {name: array.tobytes() for name, array in entry.floats.items()}


def test_floats_of_another_byte_order_are_stored_alike() -> None:
    swapped = {name: array.astype(array.dtype.newbyteorder(">")) for name, array in make_entry().floats.items()}
    assert encode(make_entry(floats=swapped)) == encode(make_entry())


@given(st.data())
def test_a_record_cut_anywhere_is_refused(data: st.DataObject) -> None:
    record = encode(make_entry())
    with pytest.raises(ValueError, match=r"Avro record|bytes for"):
        decode(record[: data.draw(st.integers(0, len(record) - 1))], LAYOUT)
