"""A layout's JSON and fingerprint are its identity; a contradictory layout is refused by name."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given

from sequence_store import FloatGroup, Layout
from tests.sequence_store.samples import LAYOUT, layouts

pytestmark = pytest.mark.unit


@given(layouts())
def test_a_layout_survives_its_json(layout: Layout) -> None:
    again = Layout.from_json(layout.to_json())
    assert again == layout
    assert again.fingerprint == layout.fingerprint
    assert len(layout.fingerprint) == 8


@given(layouts(), layouts())
def test_different_layouts_have_different_fingerprints(one: Layout, other: Layout) -> None:
    assert (one == other) == (one.fingerprint == other.fingerprint)


def test_the_order_of_columns_is_part_of_the_identity() -> None:
    assert Layout((FloatGroup("s", ("a", "b"), "float32"),), ("none",)).fingerprint != (
        Layout((FloatGroup("s", ("b", "a"), "float32"),), ("none",)).fingerprint
    )


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("1st", ("a",), "float32"), "'1st'"),
        (("s", ("a", "b", "a"), "float32"), "duplicate column a"),
        (("s", ("a",), "int8"), "unknown storage 'int8'"),
    ],
)
def test_a_contradictory_group_is_refused(arguments: tuple[Any, ...], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        FloatGroup(*arguments)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (((LAYOUT.groups[0], LAYOUT.groups[0]), ("none",)), "duplicate float group state"),
        (((), ("none", "none")), "duplicate action none"),
        (((), ()), "0 actions"),
        (((), tuple(map(str, range(64)))), "64 actions"),
    ],
)
def test_a_contradictory_layout_is_refused(arguments: tuple[Any, ...], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Layout(*arguments)


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", '{"groups": [{}], "actions": []}', '{"groups": 1}', b"\xff"])
def test_text_that_is_no_layout_is_refused(text: str | bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - any ValueError says it
        Layout.from_json(text)
