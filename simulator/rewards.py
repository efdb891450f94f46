"""Rewards: the spec's reward vector, read from the simulator's features."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from contracts.attribution import penalties
from contracts.errors import SpecError
from contracts.spec import Spec, nearest
from simulator.arrays import Float32Array, FloatArray, IntArray
from simulator.candidates import ACTIONS, CANDIDATE
from simulator.features import COUNTERS, FEATURES


def check_spec(spec: Spec) -> None:
    """Check that the simulator can play ``spec``.

    Raises SpecError naming each field that asks for what the simulator has not, and what it has.
    """
    problems = list(_problems(spec))
    if problems:
        raise SpecError("\n".join(f"spec {spec.name!r} is not one the simulator can play: {line}" for line in problems))


def reward_vector(spec: Spec, actions: IntArray, before: Float32Array, after: Float32Array) -> dict[str, FloatArray]:
    """Return each reward earned between two consecutive decisions, shape (N,), in the spec's order.

    A penalty follows from the action and the features known at the first decision (``contracts.attribution``). Any
    other reward is the difference of its cumulative feature; for clicks that is 1.0 if the sent notification was
    clicked.

    Parameters
    ----------
    spec
        One that ``check_spec`` passed.
    actions
        (N,), indices into ACTIONS, taken at the first decision.
    before, after
        (N, len(FEATURES)), the features known at the first and at the second decision.
    """
    return {name: _one_reward(spec, name, actions, before, after) for name in spec.rewards}


def _one_reward(spec: Spec, name: str, actions: IntArray, before: Float32Array, after: Float32Array) -> FloatArray:
    reward = spec.rewards[name]
    if reward.kind == "penalty":
        # The spec may list the sending actions in another order.
        taken = np.array([spec.actions.index(action) for action in ACTIONS])[actions]
        grows_with = None if reward.grows_with is None else before[:, FEATURES.index(reward.grows_with)]
        return penalties(spec, name, taken, grows_with)
    column = FEATURES.index(str(reward.feature))
    earned: FloatArray = after[:, column].astype(np.float64) - before[:, column]
    return earned


def _problems(spec: Spec) -> Iterable[str]:
    if sorted(spec.actions) != sorted(ACTIONS) or spec.actions[0] != ACTIONS[0]:
        yield f"actions = {list(spec.actions)}: they must be {', '.join(ACTIONS)}, with {ACTIONS[0]!r} first"
    for name in spec.state.candidate:
        if name not in CANDIDATE:
            yield f"state.candidate: no feature {name!r}; known are {', '.join(CANDIDATE)}"
    for name, reward in spec.rewards.items():
        if reward.kind != "penalty" and reward.feature not in COUNTERS:
            yield f"rewards.{name}.feature = {reward.feature!r}: its cumulative features are {', '.join(COUNTERS)}"
        if reward.grows_with is not None and reward.grows_with not in FEATURES:
            yield (
                f"rewards.{name}.grows_with = {reward.grows_with!r}: no such feature"
                f"{nearest(reward.grows_with, FEATURES)}"
            )
