"""What the golden files hold: values written in past releases that every later one must read.

``v2_<name>.bin`` is the stored value of one entry, under the layout ``v2_<layout>_layout.json`` and with the dictionary
``v2_dictionary.bin`` or none; ``v4_ring_<name>.bin`` is the stored value of a whole ring, whose frames are of format 2.
The files ``v1_*``, ``v2_ring_*`` and ``v3_ring_*`` are of formats that were never released: examples of foreign ones.

A new format gets a new prefix and new files: ``python -m tests.sequence_store.golden_entries`` writes those that are
missing and touches no file that is there.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sequence_store import Entry, FloatGroup, Layout, packed
from sequence_store.avro import MAX_AT_MS, MAX_SEQUENCE, encode
from sequence_store.codec import Codec, train_dictionary
from sequence_store.frame import BLOCK, SHORT_BLOCK, STORED, WHOLE, Owner
from sequence_store.storage import rounded

FOLDER = Path(__file__).parent / "golden"
PREFIX = "v2"
RING_PREFIX = "v4"
OWNER = Owner("golden", "member-\N{ROCKET}", 3)
CAPACITY = 4

LAYOUTS = {
    "full": Layout(
        groups=(
            FloatGroup("state", ("tenure_days", "visits_24h", "is_weekend"), "float16"),
            FloatGroup("scores", ("click", "visit"), "uint8", ((0.25, 0.0625), (-3.0, 10.0))),
            FloatGroup("rewards", ("click", "volume"), "uint16", ((0.0, 2.0**-12), (1.5, 0.5))),
            FloatGroup("probabilities", ("badge", "push"), "float32"),
            FloatGroup("counters", ("visits_total",), "float64"),
        ),
        actions=("none", "badge", "push"),
    ),
    "bare": Layout((), ("none",)),
}


def _full(sequence: int, **changes: Any) -> Entry:
    floats = {
        "state": np.array([365.5, np.nan, -0.0]),
        "scores": np.array([0.5, np.inf]),
        "rewards": np.array([np.nan, -1e9]),
        "probabilities": np.array([0.1, 0.2]),
        "counters": np.array([2.0**53 + 2]),
    }
    values: dict[str, Any] = {
        "floats": {group.name: rounded(floats[group.name], group) for group in LAYOUTS["full"].groups},
        "at_ms": 1_767_225_600_123 + sequence,
        "action": 2,
        "eligible": 0b101,
        "sequence": sequence,
        "mask_key": "utility-v1",
        "cycle_id": f"2026-01-01T00:00/{sequence}",
        "notification_id": f"n-{sequence}",
        "model": "notification/7",
        "layout": LAYOUTS["full"],
    }
    return Entry(**(values | changes))


def _bare(sequence: int, **texts: str) -> Entry:
    return _full(sequence, floats={}, action=0, eligible=1, layout=LAYOUTS["bare"], **texts)


@dataclass(frozen=True)
class Golden:
    """One stored value: the entry in it, whether a dictionary made it smaller, and the form of its payload."""

    entry: Entry
    with_dictionary: bool
    form: int

    @property
    def layout(self) -> str:
        """Name of the entry's layout."""
        return next(name for name, layout in LAYOUTS.items() if layout == self.entry.layout)


_EMPTY = {"mask_key": "", "cycle_id": "", "notification_id": "", "model": ""}
_STRANGE = {"mask_key": "", "cycle_id": "NUL \0 and \N{ROCKET}", "notification_id": "é" * 100, "model": "\n"}
_LONG = {"cycle_id": "long " * 60}
_HUGE = {"cycle_id": "huge " * 10_000, "notification_id": "huge " * 10_000}

GOLDEN = {
    "full": Golden(_full(70_000), with_dictionary=False, form=STORED),
    "full_dictionary": Golden(_full(70_001), with_dictionary=True, form=SHORT_BLOCK),
    "empty": Golden(_bare(0, **_EMPTY), with_dictionary=False, form=STORED),
    "empty_dictionary": Golden(_bare(1, **_EMPTY), with_dictionary=True, form=STORED),
    "strange_text": Golden(_bare(MAX_SEQUENCE, **_STRANGE), with_dictionary=False, form=SHORT_BLOCK),
    "strange_text_dictionary": Golden(_bare(2**31, **_STRANGE), with_dictionary=True, form=SHORT_BLOCK),
    "long": Golden(_full(2, **_LONG), with_dictionary=False, form=BLOCK),
    "long_dictionary": Golden(_full(3, at_ms=MAX_AT_MS, **_LONG), with_dictionary=True, form=BLOCK),
    "huge": Golden(_bare(4, **_HUGE), with_dictionary=False, form=WHOLE),
    "huge_dictionary": Golden(_bare(5, **_HUGE), with_dictionary=True, form=WHOLE),
}

RING_ENTRIES = {
    "first": [_full(0)],
    "growing": [_full(sequence) for sequence in range(3)],
    "wrapped": [_full(number, **(_LONG if number == 8 else {})) for number in range(6, 10)],
    "mixed": [_full(0), _bare(1, **_STRANGE), _full(2), _bare(3, **_EMPTY)],
}
"""Name of a stored ring -> what is in it, the oldest first. Every other one of the mixed was made with a dictionary."""


def frame_file(name: str) -> Path:
    """Return the file of one entry's stored value."""
    return FOLDER / f"{PREFIX}_{name}.bin"


def ring_file(name: str) -> Path:
    """Return the file of one ring's stored value."""
    return FOLDER / f"{RING_PREFIX}_ring_{name}.bin"


def layout_file(name: str) -> Path:
    """Return the file of one registered layout."""
    return FOLDER / f"{PREFIX}_{name}_layout.json"


def dictionary_file() -> Path:
    """Return the file of the registered dictionary."""
    return FOLDER / f"{PREFIX}_dictionary.bin"


def write_missing() -> None:
    """Write the golden files that are not there."""
    FOLDER.mkdir(exist_ok=True)
    _write(dictionary_file(), train_dictionary([encode(_full(number))[1] for number in range(500)], 1024))
    dictionary = dictionary_file().read_bytes()
    for name, layout in LAYOUTS.items():
        _write(layout_file(name), layout.to_json().encode())
    for name, golden in GOLDEN.items():
        _write(frame_file(name), _sealed(golden.entry, dictionary if golden.with_dictionary else b""))
    for name, entries in RING_ENTRIES.items():
        _write(ring_file(name), _ring(entries, [b"", dictionary] if name == "mixed" else [b""]))


def _sealed(entry: Entry, dictionary: bytes) -> bytes:
    return OWNER.seal(entry, Codec(entry.layout, dictionary))


def _ring(entries: list[Entry], dictionaries: list[bytes]) -> bytes:
    """Return the value of a ring to which one entry after the other was appended, from sequence number 0 on."""
    before = [_full(number) for number in range(entries[0].sequence)]
    value = b""
    for number, entry in enumerate([*before, *entries]):
        dictionary = dictionaries[number % len(dictionaries)]
        codecs = [Codec(layout, known) for layout in LAYOUTS.values() for known in dictionaries]
        held = packed.parse(value, OWNER, {codec.tag: (codec,) for codec in codecs}, CAPACITY)
        assert isinstance(held.version.found, packed.Found)
        frame = _sealed(entry, dictionary)
        value = packed.append(held.version, held.version.found, frame, OWNER, CAPACITY).apply(value)
    return value


def _write(path: Path, content: bytes) -> None:
    if not path.exists():
        path.write_bytes(content)
        print(f"wrote {path}")


if __name__ == "__main__":
    write_missing()
