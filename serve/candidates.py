"""The top-1 candidate of each item: scored by the utility model, ranked, and encoded into the state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contracts.api import DecisionRequest
from models.artifact import Artifact
from models.steps import Bools, Floats, Ints
from models.utility import rank_candidates


@dataclass(frozen=True)
class TopCandidates:
    """The winning candidate of each of B items."""

    chosen: Ints  # [B] index into the item's candidates
    states: Floats  # [B, S]
    scores: Floats  # [B, P, A - 1]
    eligible: Bools  # [B, A] caps applied


def pick_candidates(
    artifact: Artifact,
    requests: Sequence[DecisionRequest],
    features: Floats,  # [B, features of the state], missing values filled
    capped: Bools,  # [B] True: the member is at a cap, only action 0 is left
) -> TopCandidates:
    """Score all candidates of all items at once and pick the best per item; the first one wins a tie.

    The rank is the greatest expected predicted reward over the candidate's eligible sends, so a candidate that can't
    be sent never beats one that can.
    """
    counts = [len(request.candidates) for request in requests]
    owner = np.repeat(np.arange(len(requests)), counts)
    candidates = [candidate for request in requests for candidate in request.candidates]
    eligible = np.zeros((len(candidates), len(artifact.spec.actions)), np.bool_)
    for row, candidate in enumerate(candidates):
        eligible[row, list(candidate.eligible)] = True
    eligible[capped[owner], 1:] = False
    columns = {
        name: _column(artifact, name, [c.features.get(name) for c in candidates]) for name in artifact.encoder.candidate
    }
    base = np.concatenate([features[owner], artifact.encoder.encode_candidates(columns, len(candidates))], axis=1)
    scores = artifact.utility.score(base)  # [K, P, A - 1]
    rank = rank_candidates(scores, eligible)
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    best = np.asarray(
        [start + int(rank[start : start + count].argmax()) for start, count in zip(starts, counts, strict=True)]
    )
    states = np.concatenate([base[best], scores[best].reshape(len(best), -1)], axis=1)
    return TopCandidates(best - starts, states, scores[best], eligible[best])


def _column(artifact: Artifact, name: str, values: Sequence[float | str | None]) -> NDArray[Any]:
    if name in artifact.encoder.categories:
        return np.asarray(values, dtype=object)
    return np.asarray([np.nan if value is None else value for value in values], dtype=np.float64)
