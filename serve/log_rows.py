"""The engine's own decision log: the row that goes to the outbox with every entry (DESIGN 4.2 and 4.3)."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from contracts.api import Candidate, DecisionRequest
from contracts.spec import Spec
from sequence_store.entry import Entry


def log_row(spec: Spec, request: DecisionRequest, candidate: Candidate, entry: Entry, propensity: float) -> bytes:
    """Return one row as JSON: the decision, its propensity, the counters read, penalties, candidate features.

    Counter rewards are not in it: they are known one decision later, and attribution makes them of the counters.
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
    }
    return json.dumps(row, allow_nan=False, separators=(",", ":")).encode()


def _number(value: np.floating) -> float | None:
    return float(value) if np.isfinite(value) else None
