"""Entries and layouts that the tests of this room share."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as numpy_st

from sequence_store import Append, AppendOutcome, Entry, FloatGroup, Layout, Ring, RingStore
from sequence_store.layout import Storage

NOW_MS = 1_767_225_600_000
DAY_MS = 86_400_000

LAYOUT = Layout(
    groups=(
        FloatGroup("state", tuple(f"feature_{i}" for i in range(45)), "float16"),
        FloatGroup("rewards", ("click", "visit", "volume"), "float32"),
        FloatGroup("scores", ("click",), "float16"),
        FloatGroup("counters", ("visits_total", "clicks_total"), "float64"),
        FloatGroup("probabilities", ("none", "badge", "push"), "float32"),
    ),
    actions=("none", "badge", "push"),
)


def make_entry(sequence: int = 0, *, layout: Layout = LAYOUT, **changes: Any) -> Entry:
    """Return an entry as it is read back: its arrays are of the storage types already."""
    rng = np.random.default_rng(sequence)
    values: dict[str, Any] = {
        "floats": {
            group.name: rng.normal(size=len(group.columns)).astype(np.dtype(group.storage)) for group in layout.groups
        },
        "at_ms": NOW_MS + sequence,
        "action": sequence % len(layout.actions),
        "eligible": (1 << len(layout.actions)) - 1,
        "sequence": sequence,
        "mask_key": "utility-v1",
        "cycle_id": f"cycle-{sequence}",
        "notification_id": f"notification-{sequence}",
        "model": "notification/1",
        "layout": layout,
    }
    return Entry(**(values | changes))


def read_one(store: RingStore, member_id: str = "m", now_ms: int = NOW_MS) -> Ring:
    """Read one member's ring."""
    (ring,) = store.read([member_id], [now_ms])
    return ring


def append_one(store: RingStore, member_id: str = "m", *, log_row: bytes | None = None, **changes: Any) -> Entry:
    """Append one entry to a member's ring as it is now, and return it."""
    version = read_one(store, member_id).version
    entry = make_entry(version.count, **changes)
    assert store.append([Append(member_id, version, entry, log_row)]) == [AppendOutcome.APPENDED]
    return entry


def grow(store: RingStore, number: int, member_id: str = "m", *, layout: Layout = LAYOUT) -> None:
    """Append ``number`` entries to a member's ring as it is now."""
    if number == 0:
        return
    append_one(store, member_id, layout=layout)
    version = read_one(store, member_id).version
    versions = [replace(version, count=version.count + later) for later in range(number - 1)]
    appends = [Append(member_id, version, make_entry(version.count, layout=layout), None) for version in versions]
    assert store.append(appends) == [AppendOutcome.APPENDED] * len(appends)


names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
storages: st.SearchStrategy[Storage] = st.sampled_from(["float16", "float32", "float64"])


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    """Draw any layout of up to four groups."""
    groups = tuple(
        FloatGroup(name, tuple(draw(st.lists(texts, max_size=6, unique=True))), draw(storages))
        for name in draw(st.lists(names, max_size=4, unique=True))
    )
    return Layout(groups, tuple(draw(st.lists(texts, min_size=1, max_size=63, unique=True))))


@st.composite
def entries(draw: st.DrawFn) -> Entry:
    """Draw any entry under any layout, with arrays of the storage types; NaN, infinities and -0.0 included."""
    layout = draw(layouts())
    floats = {}
    for group in layout.groups:
        array = draw(numpy_st.arrays(np.dtype(group.storage), len(group.columns)))
        # float16 saturates: tests/sequence_store/test_avro.py
        floats[group.name] = np.clip(array, -65504, 65504) if group.storage == "float16" else array
    return Entry(
        floats=floats,
        at_ms=draw(st.integers(0, 2**48 - 1)),
        action=draw(st.integers(0, len(layout.actions) - 1)),
        eligible=draw(st.integers(0, (1 << len(layout.actions)) - 1)),
        sequence=draw(st.integers(0, 2**32 - 1)),
        mask_key=draw(texts),
        cycle_id=draw(texts),
        notification_id=draw(texts),
        model=draw(texts),
        layout=layout,
    )
