"""Entries and layouts that the tests of this room share."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as numpy_st

from sequence_store import Append, AppendOutcome, Entry, FloatGroup, Layout, Ring, RingStore, storage
from sequence_store.avro import MAX_AT_MS, MAX_SEQUENCE
from sequence_store.layout import SCALED, Storage

NOW_MS = 1_767_225_600_000
DAY_MS = 86_400_000

LAYOUT = Layout(
    groups=(
        FloatGroup("state", tuple(f"feature_{i}" for i in range(45)), "uint8", ((0.5, 0.25),) * 45),
        FloatGroup("rewards", ("click", "visit", "volume"), "uint16", ((0.0, 1 / 4096),) * 3),
        FloatGroup("scores", ("click",), "float16"),
        FloatGroup("counters", ("visits_total", "clicks_total"), "float64"),
        FloatGroup("probabilities", ("none", "badge", "push"), "float32"),
    ),
    actions=("none", "badge", "push"),
)

_STATE = LAYOUT.groups[0]
OTHER_LAYOUTS = {
    "feature added": replace(_STATE, columns=(*_STATE.columns, "new"), scales=(*_STATE.scales, (1.0, 0.5))),
    "feature removed": replace(_STATE, columns=_STATE.columns[1:], scales=_STATE.scales[1:]),
    "features reordered": replace(_STATE, columns=_STATE.columns[::-1]),
    "another storage type": replace(_STATE, storage="float32", scales=()),
    "another scale": replace(_STATE, scales=((0.5, 0.125), *_STATE.scales[1:])),
}
"""What a spec may change -> the state group of the layout that comes of it."""


def layout_with(state: FloatGroup) -> Layout:
    """Return LAYOUT with another state group."""
    return replace(LAYOUT, groups=(state, *LAYOUT.groups[1:]))


def make_entry(sequence: int = 0, *, layout: Layout = LAYOUT, **changes: Any) -> Entry:
    """Return an entry as it is read back: its arrays hold what the storage types keep."""
    rng = np.random.default_rng(sequence)
    values: dict[str, Any] = {
        "floats": {group.name: storage.rounded(rng.normal(size=len(group.columns)), group) for group in layout.groups},
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


def read_many(store: RingStore, member_ids: list[str], now_ms: int = NOW_MS) -> list[Ring]:
    """Read the rings of members, all of which can be read."""
    rings = []
    for ring in store.read(member_ids, [now_ms] * len(member_ids)):
        assert isinstance(ring, Ring), ring
        rings.append(ring)
    return rings


def read_one(store: RingStore, member_id: str = "m", now_ms: int = NOW_MS) -> Ring:
    """Read one member's ring."""
    (ring,) = read_many(store, [member_id], now_ms)
    return ring


def append_one(store: RingStore, member_id: str = "m", *, log_row: bytes | None = None, **changes: Any) -> Entry:
    """Append one entry to a member's ring as it is now, and return it."""
    version = read_one(store, member_id).version
    entry = make_entry(version.count, **changes)
    assert store.append([Append(member_id, version, entry, log_row)]) == [AppendOutcome.APPENDED]
    return entry


def grow(store: RingStore, number: int, member_id: str = "m", *, layout: Layout = LAYOUT) -> None:
    """Append ``number`` entries to a member's ring as it is now."""
    for _ in range(number):
        append_one(store, member_id, layout=layout)


names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
storages: st.SearchStrategy[Storage] = st.sampled_from(["float16", "float32", "float64", "uint8", "uint16"])
# Steps that float32, which scaled values are read back as, can tell apart anywhere in their range.
scales = st.tuples(st.floats(-1000, 1000), st.floats(2**-10, 1000))


@st.composite
def groups(draw: st.DrawFn, name: str = "state") -> FloatGroup:
    """Draw a float group of up to six columns."""
    columns = tuple(draw(st.lists(texts, max_size=6, unique=True)))
    kind = draw(storages)
    return FloatGroup(name, columns, kind, tuple(draw(scales) for _ in columns) if kind in SCALED else ())


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    """Draw any layout of up to four groups."""
    of_names = tuple(draw(groups(name)) for name in draw(st.lists(names, max_size=4, unique=True)))
    return Layout(of_names, tuple(draw(st.lists(texts, min_size=1, max_size=63, unique=True))))


@st.composite
def entries(draw: st.DrawFn) -> Entry:
    """Draw any entry under any layout, as it is read back; NaN, infinities and -0.0 included."""
    layout = draw(layouts())
    floats = {}
    for group in layout.groups:
        kind = np.dtype("float64" if group.storage in SCALED else group.storage)
        floats[group.name] = storage.rounded(draw(numpy_st.arrays(kind, len(group.columns))), group)
    return Entry(
        floats=floats,
        at_ms=draw(st.integers(0, MAX_AT_MS)),
        action=draw(st.integers(0, len(layout.actions) - 1)),
        eligible=draw(st.integers(0, (1 << len(layout.actions)) - 1)),
        sequence=draw(st.integers(0, MAX_SEQUENCE)),
        mask_key=draw(texts),
        cycle_id=draw(texts),
        notification_id=draw(texts),
        model=draw(texts),
        layout=layout,
    )
