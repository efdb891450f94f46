"""The entries that are written: each follows from its cycle id, so that whoever reads it knows what it must hold."""

from __future__ import annotations

import zlib
from typing import Any, Final

import numpy as np

from sequence_store import Entry, FloatGroup, Layout
from sequence_store.storage import rounded

NOW_MS: Final = 4_102_444_800_000
"""Time of decisions and reads, in the year 2100, so that maintenance, which goes by the machine's clock, keeps them."""
AGED_MS: Final = 1_000_000_000_000
"""Time of the decisions of cycles whose id ends in ``~``: longer ago than any entry is kept."""
STATE_COLUMNS: Final = 42
ACTIONS: Final = ("none", "badge", "push")
MAX_PADDING: Final = 2_000

LAYOUT: Final = Layout(
    groups=(
        FloatGroup(
            "state", tuple(f"feature_{i}" for i in range(STATE_COLUMNS)), "uint8", ((0.0, 0.25),) * STATE_COLUMNS
        ),
        FloatGroup("rewards", ("click", "volume"), "float16"),
        FloatGroup("counters", ("visits_total", "clicks_total"), "float64"),
        FloatGroup("probabilities", ("none", "badge"), "float32"),
    ),
    actions=ACTIONS,
)


def make_entry(cycle_id: str, sequence: int, **changes: Any) -> Entry:
    """Return the entry of a cycle at its place in a ring, as it is read back.

    One in 32 is far larger than the others, so that rings outgrow their room under load.
    """
    rng = np.random.default_rng(zlib.crc32(cycle_id.encode()))
    drawn = {
        # Most features of most members are where they usually are.
        "state": rng.normal(size=STATE_COLUMNS) * (rng.random(STATE_COLUMNS) < 0.3),
        "rewards": rng.random(2),
        "counters": rng.integers(0, 500, 2).astype(np.float64),
        "probabilities": rng.dirichlet((1.0, 1.0, 1.0))[:2],
    }
    padding = int(rng.integers(MAX_PADDING)) if rng.random() < 1 / 32 else 0
    fields: dict[str, Any] = {
        "floats": {group.name: rounded(drawn[group.name], group) for group in LAYOUT.groups},
        "at_ms": AGED_MS if is_aged(cycle_id) else NOW_MS,
        "action": int(rng.integers(len(ACTIONS))),
        "eligible": (1 << len(ACTIONS)) - 1,
        "sequence": sequence,
        "mask_key": "utility-v1",
        "cycle_id": cycle_id,
        "notification_id": f"n-{rng.integers(10**9)}" + rng.bytes(padding).hex(),
        "model": "notification/1",
        "layout": LAYOUT,
    }
    return Entry(**(fields | changes))


def is_aged(cycle_id: str) -> bool:
    """Tell whether the entry of a cycle is aged."""
    return cycle_id.endswith("~")
