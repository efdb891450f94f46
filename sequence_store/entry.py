"""One step of a member's history: the Float, Long and String tensors of one decision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from sequence_store.layout import Layout
from sequence_store.storage import FloatArray


@dataclass(frozen=True, eq=False)
class Entry:
    """One decision as the ring keeps it.

    An entry that was read back holds read-only arrays in the storage type of their group. Entries are equal if all
    their fields are, and their arrays in type and bit for bit (so NaN equals itself).

    Attributes
    ----------
    floats
        Name of every group of ``layout`` -> array [number of columns of the group].
    at_ms
        Time of the decision, milliseconds since 1970, UTC: 0 to 2**48 - 1.
    action
        Index of the action taken in ``layout.actions``.
    eligible
        Bitmask of the eligible actions: bit i stands for ``layout.actions[i]``.
    sequence
        Number of entries appended to the ring before this one: 0, 1, 2, ... It alone orders the ring.
    mask_key, cycle_id, notification_id, model
        Text of at most 64 KiB each, as UTF-8.
    layout
        What the columns and actions are. An entry read back carries the layout it was written under, which need not
        be today's: map its columns by name.
    """

    floats: Mapping[str, FloatArray]
    at_ms: int
    action: int
    eligible: int
    sequence: int
    mask_key: str
    cycle_id: str
    notification_id: str
    model: str
    layout: Layout

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Entry):
            return NotImplemented
        return self._comparable() == other._comparable()

    def _comparable(self) -> dict[str, Any]:
        plain = {field.name: getattr(self, field.name) for field in fields(self)}
        plain["floats"] = {
            name: (array.dtype, array.shape, array.tobytes())
            for name, array in ((name, np.asarray(values)) for name, values in self.floats.items())
        }
        return plain
