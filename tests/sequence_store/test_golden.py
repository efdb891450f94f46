"""Values stored by past releases are read; a missing golden file is a failure."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from sequence_store import Fault, Layout, UnreadableFrame, packed
from sequence_store.codec import Codec, dictionary_fingerprint
from sequence_store.frame import FORMAT, STORED, WHOLE, Codecs
from tests.sequence_store.golden_entries import (
    CAPACITY,
    FOLDER,
    GOLDEN,
    LAYOUTS,
    OWNER,
    RING_ENTRIES,
    dictionary_file,
    frame_file,
    layout_file,
    ring_file,
)

pytestmark = pytest.mark.unit


def registered() -> Codecs:
    """Return the codecs as the files have them."""
    layouts = [Layout.from_json(layout_file(name).read_bytes()) for name in LAYOUTS]
    dictionaries = [b"", dictionary_file().read_bytes()]
    codecs = [Codec(layout, dictionary) for layout in layouts for dictionary in dictionaries]
    return {codec.tag: tuple(one for one in codecs if one.tag == codec.tag) for codec in codecs}


@pytest.mark.parametrize("name", GOLDEN)
def test_a_stored_value_is_read(name: str) -> None:
    frame, golden = frame_file(name).read_bytes(), GOLDEN[name]
    sealed = OWNER.unseal(frame, registered())
    assert sealed.entry() == golden.entry
    assert frame[0] == FORMAT + golden.form
    assert bool(sealed.codec.dictionary) == golden.with_dictionary


def test_every_form_of_payload_and_every_storage_type_is_among_them() -> None:
    assert {golden.form for golden in GOLDEN.values()} == set(range(STORED, WHOLE + 1))
    stored = {group.storage for layout in LAYOUTS.values() for group in layout.groups}
    assert stored == {"float64", "float32", "float16", "uint16", "uint8"}


@pytest.mark.parametrize("name", RING_ENTRIES)
def test_a_stored_ring_is_read_and_appended_to(name: str) -> None:
    value, codecs, entries = ring_file(name).read_bytes(), registered(), RING_ENTRIES[name]
    held = packed.parse(value, OWNER, codecs, CAPACITY)
    assert held.faults == ()
    assert [sealed.entry() for sealed in held.frames] == entries
    assert held.version.count == entries[-1].sequence + 1
    assert isinstance(held.version.found, packed.Found)
    frame = OWNER.seal(replace(entries[0], sequence=held.version.count), Codec(entries[0].layout))
    grown = packed.append(held.version, held.version.found, frame, OWNER, CAPACITY).apply(value)
    frames = [sealed.frame for sealed in (*held.frames, OWNER.unseal(frame, codecs))]
    assert [sealed.frame for sealed in packed.parse(grown, OWNER, codecs, CAPACITY).frames] == frames[-CAPACITY:]


@pytest.mark.parametrize("version", ["v2", "v3"])
@pytest.mark.parametrize("name", RING_ENTRIES)
def test_a_ring_of_another_version_is_a_damaged_one_and_never_misread(name: str, version: str) -> None:
    held = packed.parse((FOLDER / f"{version}_ring_{name}.bin").read_bytes(), OWNER, registered(), CAPACITY)
    assert held.faults == (Fault.HEADER,)
    assert all(sealed.entry() in RING_ENTRIES[name] for sealed in held.frames)


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_keeps_its_json_and_so_its_fingerprint(name: str) -> None:
    text = layout_file(name).read_text(encoding="utf-8")
    assert Layout.from_json(text) == LAYOUTS[name]
    assert Layout.from_json(text).to_json() == LAYOUTS[name].to_json() == text


def test_fingerprints_stay_what_they_are() -> None:
    assert dictionary_fingerprint(b"").hex() == "e4a6a0577479b2b4"
    assert {name: Codec(layout).fingerprint.hex() for name, layout in LAYOUTS.items()} == {
        "full": "628b0d2035118afa",
        "bare": "128e16ea815dcbac",
    }


@pytest.mark.parametrize("path", sorted(FOLDER.glob("v1_*.bin")), ids=lambda path: path.stem)
def test_a_value_of_a_format_that_is_not_known_is_told_from_damage(path: Path) -> None:
    with pytest.raises(UnreadableFrame) as caught:
        OWNER.unseal(path.read_bytes(), registered())
    assert caught.value.fault is Fault.FOREIGN_VERSION
    assert packed.parse(path.read_bytes(), OWNER, registered(), CAPACITY).frames == ()
