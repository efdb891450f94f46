"""Offline evaluation as in service: every figure under the model's own prompted return, beside its baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from contracts.spec import Prompt
from models.policy import Decisions, Policy
from models.prompts import make_prompts
from models.steps import Floats, Ints
from models.trajectories import Trajectories

CHUNK = 4096  # windows at a time: bounds memory


@dataclass(frozen=True)
class Evaluation:
    """Figures on held-out members. Accuracy: share of decisions where the most probable action is the logged one."""

    decisions: int
    accuracy: float
    """Under the prompted return, as in service."""
    accuracy_true_return: float
    """Under the true return, which service never has: the shift between the two is train-to-serve skew."""
    majority_accuracy: float
    """Of always answering the action most frequent in training."""
    per_class: Mapping[str, Mapping[str, float | None]]
    """Per action: share in the log, share answered, recall (None for an action never taken)."""
    pinball: Mapping[str, float]
    """Per reward, mean over levels, raw units."""
    pinball_marginal: Mapping[str, float]
    """Of the training members' marginal quantiles."""
    coverage: Mapping[str, Mapping[str, float]]
    """Per reward and level: share of true returns at or below the predicted quantile."""
    illegal_action_rate: float

    def to_json(self) -> dict[str, Any]:
        """Return plain dicts and numbers."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


def evaluate(
    policy: Policy,
    trajectories: Trajectories,
    train_members: Ints,
    validation_members: Ints,
    prompt: Mapping[str, Prompt],
    reward_names: Sequence[str],
    action_names: Sequence[str],
    horizon: int,
    discount: float,
) -> Evaluation:
    """Evaluate the last step of every full look-ahead window of the held-out members.

    Raises ValueError if the held-out members have no decision with a full look-ahead.
    """
    returns, is_target = trajectories.returns_to_go(horizon, discount)
    train = trajectories.rows_of(train_members)
    held_out = trajectories.rows_of(validation_members)
    ends = held_out[is_target[held_out]]
    if len(ends) == 0:
        raise ValueError("no held-out decision has a full look-ahead: shorten the horizon or bring a longer log")
    served, given_true = _decide(policy, trajectories, ends, returns, prompt, reward_names)
    actual = trajectories.actions[ends]
    levels = policy.model.config.quantiles
    marginal = np.quantile(returns[train[is_target[train]]], levels, axis=0).T.astype(np.float32)  # [R, M]
    majority = np.bincount(trajectories.actions[train], minlength=len(action_names)).argmax()
    loss = pinball(served.quantiles, returns[ends], levels)
    loss_marginal = pinball(np.broadcast_to(marginal, served.quantiles.shape), returns[ends], levels)
    covered = (returns[ends][..., None] <= served.quantiles).mean(axis=0)  # [R, M]
    illegal = ~trajectories.eligible[ends, served.actions] | (
        np.where(trajectories.eligible[ends], 0.0, served.probabilities).sum(axis=1) > 0.0
    )
    return Evaluation(
        decisions=len(ends),
        accuracy=float((served.actions == actual).mean()),
        accuracy_true_return=float((given_true.actions == actual).mean()),
        majority_accuracy=float((actual == majority).mean()),
        per_class=_per_class(actual, served.actions, action_names),
        pinball={name: float(loss[j]) for j, name in enumerate(reward_names)},
        pinball_marginal={name: float(loss_marginal[j]) for j, name in enumerate(reward_names)},
        coverage={
            name: {f"{level:g}": float(covered[j, m]) for m, level in enumerate(levels)}
            for j, name in enumerate(reward_names)
        },
        illegal_action_rate=float(illegal.mean()),
    )


def pinball(quantiles: Floats, returns: Floats, levels: Sequence[float]) -> Floats:
    """Pinball loss [R] of quantiles [N, R, M] at returns [N, R], averaged over rows and levels (eq. 8)."""
    alpha = np.asarray(levels, dtype=np.float32)
    error = returns[..., None] - quantiles
    loss: Floats = np.maximum(alpha * error, (alpha - 1.0) * error).mean(axis=(0, 2))
    return loss


def _decide(
    policy: Policy,
    trajectories: Trajectories,
    ends: Ints,
    returns: Floats,
    prompt: Mapping[str, Prompt],
    reward_names: Sequence[str],
) -> tuple[Decisions, Decisions]:
    """Answer every window under the prompt, and under the true return."""
    prompted, given = [], []
    for part in np.array_split(ends, max(1, -(-len(ends) // CHUNK))):
        steps = trajectories.windows(part, policy.model.config.context_length)
        prompts = make_prompts(reward_names, [prompt] * len(part))
        prompted.append(policy.decide(steps, prompts))
        given.append(policy.decide(steps, prompts, returns[part]))
    return _concatenate(prompted), _concatenate(given)


def _concatenate(parts: Sequence[Decisions]) -> Decisions:
    return Decisions(
        np.concatenate([part.probabilities for part in parts]),
        np.concatenate([part.quantiles for part in parts]),
        np.concatenate([part.prompted for part in parts]),
    )


def _per_class(actual: Ints, answered: Ints, names: Sequence[str]) -> dict[str, dict[str, float | None]]:
    table: dict[str, dict[str, float | None]] = {}
    for index, name in enumerate(names):
        of_class = actual == index
        table[name] = {
            "share": float(of_class.mean()),
            "answered": float((answered == index).mean()),
            "recall": float((answered[of_class] == index).mean()) if of_class.any() else None,
        }
    return table
