"""The entries behind the golden files: values written in past releases that every later one must read.

A new format gets a new prefix and new files: ``python -m tests.sequence_store.golden_entries`` writes those that are
missing and touches no file that is there.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sequence_store.entry import Entry
from sequence_store.frame import owner, seal
from sequence_store.layout import FloatGroup, Layout

FOLDER = Path(__file__).parent / "golden"
FORMAT_PREFIX = "v1"
OWNER = owner("golden", "member-\N{ROCKET}")

_FULL = Layout(
    groups=(
        FloatGroup("state", ("tenure_days", "visits_24h", "is_weekend"), "float16"),
        FloatGroup("probabilities", ("none", "badge", "push"), "float32"),
        FloatGroup("counters", ("visits_total",), "float64"),
    ),
    actions=("none", "badge", "push"),
)

ENTRIES = {
    "full": Entry(
        floats={
            "state": np.array([365.5, np.nan, -0.0], np.float16),
            "probabilities": np.array([0.1, 0.2, 0.7], np.float32),
            "counters": np.array([2.0**53 + 2], np.float64),
        },
        at_ms=1_767_225_600_123,
        action=2,
        eligible=0b101,
        sequence=70_000,
        mask_key="utility-v1",
        cycle_id="2026-01-01T00:00",
        notification_id="n-42",
        model="notification/7",
        layout=_FULL,
    ),
    "strange_text": Entry(
        floats={},
        at_ms=2**48 - 1,
        action=0,
        eligible=1,
        sequence=2**32 - 1,
        mask_key="",
        cycle_id="NUL \0 and \N{ROCKET}",
        notification_id="é" * 100,
        model="\n",
        layout=Layout((), ("none",)),
    ),
}


def frame_file(name: str) -> Path:
    """Return the file of one entry's stored value."""
    return FOLDER / f"{FORMAT_PREFIX}_{name}.bin"


def layout_file(name: str) -> Path:
    """Return the file of the registered layout of one entry."""
    return FOLDER / f"{FORMAT_PREFIX}_{name}_layout.json"


def write_missing() -> None:
    """Write the golden files that are not there."""
    FOLDER.mkdir(exist_ok=True)
    for name, entry in ENTRIES.items():
        for path, content in (
            (frame_file(name), seal(entry, OWNER)),
            (layout_file(name), entry.layout.to_json().encode()),
        ):
            if not path.exists():
                path.write_bytes(content)
                print(f"wrote {path}")


if __name__ == "__main__":
    write_missing()
