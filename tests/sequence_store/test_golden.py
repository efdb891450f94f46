"""Values stored by past releases are read; a missing golden file is a failure."""

from __future__ import annotations

import pytest

from sequence_store.frame import FORMAT, unseal
from sequence_store.layout import Layout
from tests.sequence_store.golden_entries import ENTRIES, FOLDER, OWNER, frame_file, layout_file

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("name", ENTRIES)
def test_a_stored_value_of_format_1_is_read(name: str) -> None:
    layout = Layout.from_json(layout_file(name).read_text(encoding="utf-8"))
    assert unseal(frame_file(name).read_bytes(), OWNER).entry(layout) == ENTRIES[name]


@pytest.mark.parametrize("name", ENTRIES)
def test_a_layout_keeps_its_json_and_so_its_fingerprint(name: str) -> None:
    text = layout_file(name).read_text(encoding="utf-8")
    assert Layout.from_json(text).to_json() == text
    assert Layout.from_json(text).fingerprint == frame_file(name).read_bytes()[1:9]


def test_the_golden_files_are_those_of_the_current_format() -> None:
    assert {path.read_bytes()[0] for path in FOLDER.glob("v1_*.bin")} == {FORMAT}
