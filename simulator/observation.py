"""Observation: all that a policy may see of each member at a decision."""

from __future__ import annotations

from typing import Any, TypedDict

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from simulator.arrays import Float32Array, IntArray
from simulator.candidates import ACTIONS, MAX_AGE_HOURS, TYPES
from simulator.features import FEATURES


class Observation(TypedDict):
    """One cycle's view of all members; the spaces of Gymnasium give the exact bounds and types."""

    decided_at_ms: IntArray  # (N,), Unix time
    member: Float32Array  # (N, len(FEATURES))
    type: IntArray  # (N,), the top-1 candidate's, an index into TYPES
    relevance: Float32Array  # (N,), the top-1 candidate's
    age_hours: Float32Array  # (N,), the top-1 candidate's
    eligible: NDArray[np.int8]  # (N, len(ACTIONS)), 1 where the action may be taken


def single_observation_space() -> spaces.Dict:
    """Return the space of one member's observation."""
    # Offsets west of Greenwich are the only negative feature.
    low = np.where([name == "utc_offset_hours" for name in FEATURES], -12.0, 0.0).astype(np.float32)
    fields: dict[str, spaces.Space[Any]] = {
        "decided_at_ms": spaces.Box(0, np.iinfo(np.int64).max, (), np.int64),
        "member": spaces.Box(low, np.full(len(FEATURES), np.inf, dtype=np.float32), dtype=np.float32),
        "type": spaces.Discrete(len(TYPES)),
        "relevance": spaces.Box(0.0, 1.0, (), np.float32),
        "age_hours": spaces.Box(0.0, MAX_AGE_HOURS, (), np.float32),
        "eligible": spaces.MultiBinary(len(ACTIONS)),
    }
    return spaces.Dict(fields)


def feature(observation: Observation, name: str) -> Float32Array:
    """Return one member feature of an observation, shape (N,)."""
    return observation["member"][:, FEATURES.index(name)]
