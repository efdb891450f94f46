"""The items of a response, as DESIGN 4.4 writes them: one function a status."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from contracts.api import DecisionRequest, Rejection, Reply, encode
from contracts.spec import Absolute, Prompt
from models.artifact import Artifact
from models.policy import Decisions
from models.steps import Floats
from sequence_store.entry import Entry
from sequence_store.layout import Layout

Answer = dict[str, Any]


def decided(
    artifact: Artifact, request: DecisionRequest, entry: Entry, decisions: Decisions, row: int, history_used: int
) -> Answer:
    """Answer a decision that is now in the ring; ``row`` is its place in ``decisions``."""
    spec = artifact.spec
    return {
        **_of_entry("decided", request, entry),
        "prompt": {name: _plain(request.prompt[name]) for name in spec.reward_names},
        "prompted_return": {name: float(decisions.prompted[row, j]) for j, name in enumerate(spec.reward_names)},
        "quantiles": {
            name: {f"{level:g}": float(decisions.quantiles[row, j, m]) for m, level in enumerate(spec.quantiles)}
            for j, name in enumerate(spec.reward_names)
        },
        "history_used": history_used,
    }


def replayed(request: DecisionRequest, entry: Entry) -> Answer:
    """Answer a cycle that was decided before, from its entry."""
    return _of_entry("replayed", request, entry)


def fallback(artifact: Artifact, request: DecisionRequest, reason: str) -> Answer:
    """Answer the safe action, since the stores did not allow a decision. The caller may ask again."""
    actions = artifact.spec.actions
    return {
        "member_id": request.member_id,
        "cycle_id": request.cycle_id,
        "status": "fallback",
        "action": actions[0],
        "notification_id": None,
        "probabilities": {name: float(i == 0) for i, name in enumerate(actions)},
        "model": artifact.name,
        "reason": reason,
    }


def rejected(rejection: Rejection) -> Answer:
    """Answer an item that is wrong."""
    return {
        "member_id": rejection.member_id,
        "cycle_id": rejection.cycle_id,
        "status": "rejected",
        "field": rejection.field,
        "reason": f"{rejection.field}: {rejection.reason}",
    }


def error(status: int, field: str, reason: str) -> Reply:
    """Answer a body that is no request (400), or a failure of ours (500)."""
    return Reply(status, encode({"error": {"field": field, "reason": f"{field}: {reason}"}}))


def all_probabilities(layout: Layout, kept: NDArray[np.floating]) -> Floats:
    """Return the probability of every action, [A], from those that an entry of ``layout`` keeps.

    Entries keep all but the first action's, which is what remains of 1.
    """
    columns = next(group.columns for group in layout.groups if group.name == "probabilities")
    of_action = dict(zip(columns, kept.tolist(), strict=True))
    of_action.setdefault(layout.actions[0], max(0.0, 1.0 - sum(of_action.values())))
    return np.asarray([of_action[name] for name in layout.actions], np.float32)


def _of_entry(status: str, request: DecisionRequest, entry: Entry) -> Answer:
    actions = entry.layout.actions
    return {
        "member_id": request.member_id,
        "cycle_id": request.cycle_id,
        "status": status,
        "action": actions[entry.action],
        "notification_id": entry.notification_id,
        "probabilities": dict(
            zip(actions, all_probabilities(entry.layout, entry.floats["probabilities"]).tolist(), strict=True)
        ),
        "model": entry.model,
    }


def _plain(prompt: Prompt) -> float | dict[str, float]:
    return {"value": prompt.value} if isinstance(prompt, Absolute) else prompt
