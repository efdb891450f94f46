"""Candidates: what could go to each member in a cycle, and how much it would truly appeal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from simulator.arrays import BoolArray, Float32Array, FloatArray, IntArray
from simulator.clock import local_hour

ACTIONS = ("none", "badge", "push")
"""Names of the environment's actions; the index is the action."""
NONE, BADGE, PUSH = range(3)
TYPES = ("social", "job", "news", "message", "digest")
PUSH_TYPES = TYPES[:-1]
"""The types that may go as a push: a digest never does."""
CANDIDATE = ("type", "relevance", "age_hours")
"""Candidate features that a policy sees and a log keeps."""
MAX_CANDIDATES = 5
MAX_AGE_HOURS = 168.0

_TYPE_SHARES = np.array([0.35, 0.15, 0.25, 0.15, 0.10])
_COUNT_SHARES = np.array([0.25, 0.30, 0.20, 0.15, 0.10])
_MAY_PUSH = np.isin(TYPES, PUSH_TYPES)
_MEAN_AGE_HOURS = 10.0
_FRESH_HOURS = 48.0
_VIEW_NOISE = 0.6
_QUIET_FROM_HOUR, _QUIET_UNTIL_HOUR = 22.0, 7.0


@dataclass(frozen=True)
class Candidates:
    """The visible side of one cycle's candidates; a member has 1 to MAX_CANDIDATES, in the first slots."""

    count: IntArray  # (N,)
    type: IntArray  # (N, MAX_CANDIDATES), an index into TYPES
    relevance: Float32Array  # (N, MAX_CANDIDATES), in (0, 1): a noisy view of interest and quality
    age_hours: Float32Array  # (N, MAX_CANDIDATES), in [0, MAX_AGE_HOURS]
    eligible: BoolArray  # (N, MAX_CANDIDATES, len(ACTIONS))

    @property
    def present(self) -> BoolArray:
        """Which slots hold a candidate, shape (N, MAX_CANDIDATES)."""
        return np.arange(MAX_CANDIDATES) < self.count[:, None]


Rank = Callable[[Candidates, Float32Array], IntArray]
"""Chooses the top-1: takes the candidates and the member features (N, F), gives a present slot each, (N,)."""


def most_relevant(candidates: Candidates, features: Float32Array) -> IntArray:  # noqa: ARG001
    """Rank by visible relevance alone."""
    best: IntArray = np.argmax(np.where(candidates.present, candidates.relevance, -1.0), axis=1)
    return best


def draw_candidates(
    interests: FloatArray,
    can_push: BoolArray,
    at_s: IntArray,
    utc_offset_hours: FloatArray,
    rng: np.random.Generator,
) -> tuple[Candidates, FloatArray]:
    """Draw one cycle's candidates and their true appeal.

    Parameters
    ----------
    interests
        (N, len(TYPES)), in (0, 1).
    can_push
        (N,), whether the member has a mobile and allows pushes.
    at_s
        (N,), the decision time in seconds since START.
    utc_offset_hours
        (N,).
    rng
        The stream that this cycle's candidates come from.

    Returns
    -------
    tuple
        The candidates, and the appeal of each in (0, 1), shape (N, MAX_CANDIDATES): the geometric mean of interest
        and quality, fading with age. Appeal is hidden; relevance is appeal before fading, seen through noise.
    """
    shape = (len(at_s), MAX_CANDIDATES)
    count = rng.choice(MAX_CANDIDATES, size=shape[0], p=_COUNT_SHARES) + 1
    kind = rng.choice(len(TYPES), size=shape, p=_TYPE_SHARES)
    quality = rng.beta(2.5, 2.0, shape).clip(0.01, 0.99)
    age_hours = rng.exponential(_MEAN_AGE_HOURS, shape).clip(max=MAX_AGE_HOURS)
    match = np.sqrt(np.take_along_axis(interests, kind, axis=1) * quality)
    view = np.log(match / (1.0 - match)) + rng.normal(0.0, _VIEW_NOISE, shape)

    hour = local_hour(at_s, utc_offset_hours)
    awake = (hour >= _QUIET_UNTIL_HOUR) & (hour < _QUIET_FROM_HOUR)
    eligible = np.ones((*shape, len(ACTIONS)), dtype=np.bool_)
    eligible[:, :, PUSH] = (can_push & awake)[:, None] & _MAY_PUSH[kind]
    candidates = Candidates(
        count=count,
        type=kind,
        relevance=(1.0 / (1.0 + np.exp(-view))).astype(np.float32),
        age_hours=age_hours.astype(np.float32),
        eligible=eligible,
    )
    return candidates, match * np.exp(-age_hours / _FRESH_HOURS)


def notification_ids(cycle: int, slots: IntArray) -> list[str]:
    """Return the id of the candidate in each member's slot of ``slots``, shape (N,): unique over the whole run."""
    return [f"n{cycle:05d}-{member:06d}-{slot}" for member, slot in enumerate(slots.tolist())]
