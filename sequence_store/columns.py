"""Many entries at once: what one ``Entry`` has as a field, N of them have as a column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from sequence_store.entry import Entry
from sequence_store.joined import Ints
from sequence_store.layout import Layout
from sequence_store.storage import FloatArray

_LONGS: Final = ("sequence", "at_ms", "action", "eligible")
_TEXTS: Final = ("mask_key", "cycle_id", "notification_id", "model")


@dataclass(frozen=True, eq=False)
class EntryColumns:
    """N entries of one layout.

    Attributes
    ----------
    floats
        Name of every group of ``layout`` -> array [N, columns of the group].
    sequence, at_ms, action, eligible
        [N] whole numbers, as ``Entry`` has them.
    mask_key, cycle_id, notification_id, model
        N texts each.
    layout
        Of all of them.
    """

    floats: Mapping[str, FloatArray]
    sequence: Ints
    at_ms: Ints
    action: Ints
    eligible: Ints
    mask_key: Sequence[str]
    cycle_id: Sequence[str]
    notification_id: Sequence[str]
    model: Sequence[str]
    layout: Layout

    def __len__(self) -> int:
        return len(self.sequence)

    def entry(self, row: int) -> Entry:
        """Return one of the entries."""
        return Entry(
            {name: values[row] for name, values in self.floats.items()},
            at_ms=int(self.at_ms[row]),
            action=int(self.action[row]),
            eligible=int(self.eligible[row]),
            sequence=int(self.sequence[row]),
            mask_key=self.mask_key[row],
            cycle_id=self.cycle_id[row],
            notification_id=self.notification_id[row],
            model=self.model[row],
            layout=self.layout,
        )

    def take(self, rows: Ints) -> EntryColumns:
        """Return some of the entries."""
        texts: dict[str, Any] = {name: [getattr(self, name)[row] for row in rows.tolist()] for name in _TEXTS}
        longs = {name: getattr(self, name)[rows] for name in _LONGS}
        floats = {name: values[rows] for name, values in self.floats.items()}
        return EntryColumns(floats=floats, layout=self.layout, **longs, **texts)

    @classmethod
    def of(cls, entries: Sequence[Entry]) -> EntryColumns:
        """Return ``entries``, one or more of one layout, as columns.

        Raises ValueError if they are of several, or their arrays and numbers do not make columns.
        """
        layout = entries[0].layout
        if any(entry.layout is not layout and entry.layout != layout for entry in entries):
            raise ValueError("entries of several layouts are no columns")
        try:
            floats = {name: _stacked([entry.floats[name] for entry in entries]) for name in entries[0].floats}
            longs: dict[str, Any] = {name: _column([getattr(entry, name) for entry in entries]) for name in _LONGS}
        except (KeyError, TypeError) as error:
            raise ValueError(f"no columns: {error!r}") from error
        texts: dict[str, Any] = {name: [getattr(entry, name) for entry in entries] for name in _TEXTS}
        return cls(floats=floats, layout=layout, **longs, **texts)


def _stacked(arrays: Sequence[FloatArray]) -> FloatArray:
    (size,) = set(map(len, arrays))
    return np.concatenate(arrays).reshape(len(arrays), size)


def _column(numbers: Sequence[int]) -> Ints:
    column = np.asarray(numbers)
    if column.dtype.kind not in "iu":
        raise ValueError(f"no column of whole numbers: {column.dtype}")
    return column.astype(np.int64)
