"""What each storage type keeps of a number."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as numpy_st

from contracts.errors import StoreError
from sequence_store import FloatArray, FloatGroup
from sequence_store.layout import SCALED, Storage
from sequence_store.storage import numbers, rounded
from tests.sequence_store.samples import groups

pytestmark = pytest.mark.unit


def group_of(number: int, kind: Storage, scale: tuple[float, float] = (0.0, 1.0)) -> FloatGroup:
    return FloatGroup("state", tuple(map(str, range(number))), kind, (scale,) * number if kind in SCALED else ())


def kept(values: Any, kind: Storage, scale: tuple[float, float] = (0.0, 1.0)) -> FloatArray:
    array = np.asarray(values, np.float64)
    return rounded(array, group_of(len(array), kind, scale))


@st.composite
def values_of(draw: st.DrawFn) -> tuple[FloatGroup, FloatArray]:
    """Draw a group and any values for it, NaN, infinities and -0.0 included."""
    group = draw(groups())
    return group, draw(numpy_st.arrays(draw(st.sampled_from([np.float64, np.float32, np.float16])), len(group.columns)))


@given(values_of())
def test_what_was_rounded_once_stays_as_it_is(drawn: tuple[FloatGroup, FloatArray]) -> None:
    group, values = drawn
    once = rounded(values, group)
    again = rounded(once, group)
    assert (again.dtype, again.tobytes()) == (once.dtype, once.tobytes())
    assert not once.flags.writeable


@given(values_of())
def test_nan_stays_nan_and_nothing_else_becomes_it(drawn: tuple[FloatGroup, FloatArray]) -> None:
    group, values = drawn
    np.testing.assert_array_equal(np.isnan(rounded(values, group)), np.isnan(values))


@given(values_of())
def test_values_take_the_bytes_that_size_says(drawn: tuple[FloatGroup, FloatArray]) -> None:
    group, values = drawn
    raw = numbers(group).to_bytes(values)
    assert len(raw) == numbers(group).size
    assert numbers(group).from_bytes(raw).tobytes() == rounded(values, group).tobytes()


@pytest.mark.parametrize("kind", ["uint8", "uint16"])
@given(data=st.data())
def test_a_scaled_value_is_the_nearest_step_within_the_range(data: st.DataObject, kind: Storage) -> None:
    centre, step = data.draw(st.floats(-1000, 1000)), data.draw(st.floats(2**-10, 1000))
    reach = SCALED[kind] * step
    values = np.array(data.draw(st.lists(st.floats(centre - reach, centre + reach), max_size=20)))
    # Read back as float32: half a step, and what float32 rounds.
    allowed = step / 2 + (abs(centre) + reach) * 2**-23
    np.testing.assert_allclose(kept(values, kind, (centre, step)).astype(np.float64), values, rtol=0, atol=allowed)


@pytest.mark.parametrize(("kind", "furthest"), [("uint8", 127), ("uint16", 32767)])
def test_a_scaled_value_saturates_at_the_last_step(kind: Storage, furthest: int) -> None:
    beyond = [1e300, np.inf, 10.0 + 0.5 * furthest + 0.3, -1e300, -np.inf, 10.0 - 0.5 * furthest - 0.3, np.nan]
    expected = [10.0 + 0.5 * furthest] * 3 + [10.0 - 0.5 * furthest] * 3 + [np.nan]
    np.testing.assert_array_equal(kept(beyond, kind, (10.0, 0.5)), np.array(expected, np.float32))


@pytest.mark.parametrize("kind", ["uint8", "uint16", "float16", "float32", "float64"])
@given(data=st.data())
def test_order_is_preserved(data: st.DataObject, kind: Storage) -> None:
    scale = data.draw(st.tuples(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6)))
    values = np.sort(np.array(data.draw(st.lists(st.floats(allow_nan=False), max_size=20))))
    stored = kept(values, kind, scale)
    assert (stored[1:] >= stored[:-1]).all()


def test_usual_values_have_small_codes() -> None:
    group = group_of(6, "uint8", (3.0, 0.5))
    assert numbers(group).to_bytes(np.array([3.0, 2.5, 3.5, 2.0, 4.0, np.nan])) == bytes([0, 1, 2, 3, 4, 255])


def test_numbers_are_little_endian() -> None:
    assert numbers(group_of(1, "uint16")).to_bytes(np.array([1000.0])) == (2000).to_bytes(2, "little")
    assert numbers(group_of(1, "float32")).to_bytes(np.array([1.0])) == bytes.fromhex("0000803f")
    assert numbers(group_of(1, "float64")).to_bytes(np.array([1.0], ">f8")) == bytes.fromhex("000000000000f03f")


@pytest.mark.parametrize(("kind", "dtype"), [("float32", np.float32), ("float64", np.float64)])
@given(data=st.data())
def test_float32_and_float64_keep_their_own_values_bit_for_bit(
    data: st.DataObject, kind: Storage, dtype: type[np.floating[Any]]
) -> None:
    values = data.draw(numpy_st.arrays(dtype, st.integers(0, 20)))
    assert rounded(values, group_of(len(values), kind)).tobytes() == values.tobytes()


def test_float32_rounds_what_it_cannot_hold() -> None:
    np.testing.assert_array_equal(kept([0.1, 1e300], "float32"), np.array([0.1, np.inf], np.float32))


@given(st.lists(st.floats(-65504, 65504), max_size=50))
def test_float16_keeps_eleven_significant_bits(values: list[float]) -> None:
    np.testing.assert_allclose(kept(values, "float16").astype(np.float64), values, rtol=2**-11, atol=2**-25)


def test_float16_saturates_beyond_its_range() -> None:
    values = kept([1e6, -1e6, 65504.0, 65519.0, np.inf, -np.inf, np.nan, -0.0, 6e-8, 1e-9], "float16")
    assert values.dtype == np.float16
    np.testing.assert_array_equal(values[:6], [65504, -65504, 65504, 65504, 65504, -65504])
    assert np.isnan(values[6])
    assert np.signbit(values[7])
    assert values[8] > 0
    assert values[9] == 0


def test_a_column_that_float32_cannot_hold_is_refused() -> None:
    with pytest.raises(ValueError, match="float32"):
        group_of(1, "uint8", (1e39, 1.0))


@pytest.mark.parametrize("value", [1e308, -1e308])
def test_a_value_far_beyond_a_small_step_is_stored_without_a_warning(value: float) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert kept([value], "uint8", (0.0, 1e-10))[0] == np.float32(np.sign(value) * 127e-10)


@pytest.mark.parametrize("kind", ["uint8", "uint16", "float16", "float32", "float64"])
def test_bytes_of_another_length_are_refused(kind: Storage) -> None:
    three = numbers(group_of(3, kind))
    for wrong in (b"", bytes(three.size - 1), bytes(three.size + 1)):
        with pytest.raises(ValueError, match="3 " + kind):
            three.from_bytes(wrong)


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        (np.zeros(2), r"'state' has shape \(2,\), its layout has \(3,\)"),
        (np.zeros((1, 3)), r"shape \(1, 3\)"),
        (np.zeros(3, np.int64), "'state' is int64"),
        (np.zeros(3, bool), "'state' is bool"),
    ],
)
def test_what_is_no_such_array_of_floats_is_refused(values: FloatArray, complaint: str) -> None:
    with pytest.raises(StoreError, match=complaint):
        numbers(group_of(3, "uint8")).to_bytes(values)
