"""Sends by the hour survive packing, and stay exact as doubles."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.send_hours import COLUMNS, HOURS, pack_hours, unpack_hours

pytestmark = pytest.mark.unit


@given(st.lists(st.lists(st.integers(0, 400), min_size=HOURS, max_size=HOURS), max_size=5))
def test_counts_up_to_255_come_back_through_a_double(rows: list[list[int]]) -> None:
    counts = np.array(rows, dtype=np.int64).reshape(len(rows), HOURS)
    packed = pack_hours(counts)
    assert packed.shape == (len(rows), len(COLUMNS))
    np.testing.assert_array_equal(unpack_hours(packed.astype(np.float64).astype(np.int64)), np.minimum(counts, 255))


def test_the_earliest_hour_is_the_lowest_byte() -> None:
    counts = np.zeros((1, HOURS), dtype=np.int64)
    counts[0, [0, 7, 23]] = [3, 4, 5]
    assert pack_hours(counts).tolist() == [[3, 4 << 8, 0, 5 << 40]]
    assert COLUMNS == ("sends_hours_0_to_5", "sends_hours_6_to_11", "sends_hours_12_to_17", "sends_hours_18_to_23")
