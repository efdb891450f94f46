"""A layout's JSON and fingerprint are its identity; a contradictory layout is refused by name."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given

from sequence_store import FloatGroup, Layout
from tests.sequence_store.samples import LAYOUT, OTHER_LAYOUTS, layout_with, layouts

pytestmark = pytest.mark.unit


@given(layouts())
def test_a_layout_survives_its_json(layout: Layout) -> None:
    again = Layout.from_json(layout.to_json())
    assert again == layout
    assert hash(again) == hash(layout)
    assert again.fingerprint == layout.fingerprint
    assert len(layout.fingerprint) == 8


@given(layouts(), layouts())
def test_different_layouts_have_different_fingerprints(one: Layout, other: Layout) -> None:
    assert (one == other) == (one.fingerprint == other.fingerprint)


@pytest.mark.parametrize("change", OTHER_LAYOUTS)
def test_whatever_gives_numbers_another_meaning_is_part_of_the_identity(change: str) -> None:
    assert layout_with(OTHER_LAYOUTS[change]).fingerprint != LAYOUT.fingerprint


def test_the_json_is_canonical() -> None:
    layout = Layout((FloatGroup("state", ("b", "é"), "uint8", ((0.0, 1.0), (0.5, 0.25))),), ("none",))
    assert layout.to_json() == (
        '{"actions":["none"],"groups":[{"columns":["b","\\u00e9"],"name":"state","scales":[[0.0,1.0],[0.5,0.25]],'
        '"storage":"uint8"}]}'
    )


@pytest.mark.parametrize("scale", [(0, 1), (-0.0, 1.0)])
def test_equal_layouts_have_one_fingerprint_however_their_numbers_are_written(scale: tuple[float, float]) -> None:
    plain, other = (Layout((FloatGroup("s", ("a",), "uint8", (one,)),), ("none",)) for one in ((0.0, 1.0), scale))
    assert plain == other
    assert plain.fingerprint == other.fingerprint == Layout.from_json(other.to_json()).fingerprint


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("1st", ("a",), "float32"), "'1st'"),
        (("s", ("a", "b", "a"), "float32"), "duplicate column a"),
        (("s", ("a",), "int8"), "unknown storage 'int8'"),
        (("s", ("a", "b"), "uint8"), "0 scales; uint8 needs 2"),
        (("s", ("a",), "uint16", ((0.0, 1.0), (0.0, 1.0))), "2 scales; uint16 needs 1"),
        (("s", ("a",), "float32", ((0.0, 1.0),)), "1 scales; float32 needs 0"),
        (("s", ("a", "b"), "uint8", ((0.0, 1.0), (0.0, 0.0))), "column 'b': centre 0.0 and step 0.0"),
        (("s", ("a",), "uint8", ((0.0, -1.0),)), "step above 0"),
        (("s", ("a",), "uint8", ((float("nan"), 1.0),)), "centre nan"),
        (("s", ("a",), "uint8", ((0.0, float("inf")),)), "step inf"),
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


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", "{}", "null", '{"groups": [{}], "actions": []}', '{"groups": 1}', b"\xff"),
        LAYOUT.to_json().replace('"uint8"', '["uint8"]'),
        LAYOUT.to_json().replace("[0.5,0.25]", "[0.5,NaN]"),
        LAYOUT.to_json().replace("[0.5,0.25]", "[0.5]"),
        LAYOUT.to_json().replace("[0.5,0.25]", "null"),
        pytest.param(LAYOUT.to_json().replace("[0.5,0.25]", f"[1{'0' * 400},1]"), id="a number beyond float64"),
        pytest.param("[" * 100_000, id="too deep for json"),
    ],
)
def test_text_that_is_no_layout_is_refused(text: str | bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - any ValueError says it
        Layout.from_json(text)


def test_what_a_later_release_adds_to_a_layout_gives_it_another_fingerprint() -> None:
    text = json.dumps(json.loads(LAYOUT.to_json()) | {"added": 1}, sort_keys=True, separators=(",", ":"))
    assert Layout.from_json(text).to_json() != text
