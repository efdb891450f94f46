"""The engine's own decision log: the row that goes to the outbox with every entry (DESIGN 4.2 and 4.3)."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contracts.api import Candidate, DecisionRequest
from contracts.spec import Spec
from models.encoding import to_float32
from sequence_store.entry import Entry

FEATURES = "features_read"
"""Column of the features as the model saw them: see ``pack_features``."""
VIEW_TIME = "read_us_"
"""Prefix of the columns that say, a view each, since when its values were known: Unix time in µs, null for none."""


@dataclass(frozen=True)
class Seen:
    """What the feature store answered for one decision."""

    values: NDArray[np.float64]  # [F] in the order of the artifact's service_features, NaN where missing
    view_times_us: Mapping[str, int]
    """Since when each stored view's values were known; -1: it has none."""


def pack_features(values: NDArray[np.floating]) -> str:
    """Return features [F] as base64 of little-endian float32, which is what a model sees of them."""
    return base64.b64encode(to_float32(values).astype("<f4").tobytes()).decode()


def unpack_features(packed: Sequence[str], features: int) -> NDArray[np.float32]:
    """Return what ``pack_features`` packed, [n, features]. Raises ValueError where one holds another number."""
    rows = [np.frombuffer(base64.b64decode(text, validate=True), dtype="<f4") for text in packed]
    if any(len(row) != features for row in rows):
        raise ValueError(f"{FEATURES} does not hold {features} numbers")
    return np.stack(rows) if rows else np.empty((0, features), np.float32)


def log_row(
    spec: Spec, request: DecisionRequest, candidate: Candidate, entry: Entry, propensity: float, seen: Seen
) -> bytes:
    """Return one row as JSON: the decision, its propensity, the counters read, penalties, candidate features.

    Counter rewards are not in it: they are known one decision later, and attribution makes them of the counters. What
    the feature store answered stands in ``features_read`` and ``read_us_<view>``, context columns under the contract.
    """
    rewards = next(group.columns for group in entry.layout.groups if group.name == "rewards")
    penalties = {
        f"reward_{name}": _number(value)
        for name, value in zip(rewards, entry.floats["rewards"], strict=True)
        if spec.rewards[name].kind == "penalty"
    }
    counters = {
        f"counter_{name}": _number(value)
        for name, value in zip(spec.counter_features, entry.floats["counters"], strict=True)
    }
    row: dict[str, Any] = {
        "member_id": request.member_id,
        "decided_at_ms": request.at_ms,
        "eligible": [name for index, name in enumerate(spec.actions) if entry.eligible >> index & 1],
        "action": spec.actions[entry.action],
        "propensity": propensity,
        "sequence": entry.sequence,
        "cycle_id": request.cycle_id,
        "notification_id": entry.notification_id,
        "model": entry.model,
        **{name: candidate.features.get(name) for name in spec.state.candidate},
        **penalties,
        **counters,
        FEATURES: pack_features(seen.values),
        **{VIEW_TIME + view: at_us if at_us >= 0 else None for view, at_us in seen.view_times_us.items()},
    }
    return json.dumps(row, allow_nan=False, separators=(",", ":")).encode()


def _number(value: np.floating) -> float | None:
    return float(value) if np.isfinite(value) else None
