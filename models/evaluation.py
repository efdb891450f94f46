"""Offline evaluation as in service: every figure under the model's own prompted return, beside its baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from contracts.spec import Prompt
from models.calibration import Calibration, calibrate, crossing_rate
from models.clustered import Estimate, Interval, means, ratios, within
from models.config import FitConfig
from models.held_out import Baselines, HeldOut, answer, name_rewards, one_prompt
from models.policy import Decisions, Policy
from models.steps import Bools, Floats, Ints
from models.trajectories import Trajectories


@dataclass(frozen=True)
class Evaluation:
    """Figures on held-out members; every interval is of 95 % and clustered by member (models.clustered).

    Accuracy is the share of decisions where the most probable action is the logged one.
    """

    decisions: int
    members: int
    accuracy: float
    """Under the prompted return, as in service."""
    accuracy_interval: Interval | None
    accuracy_gain: Estimate
    """Accuracy less that of the majority class, on the same decisions."""
    accuracy_true_return: float
    """Under the true return, which service never has: the shift between the two is train-to-serve skew."""
    majority_accuracy: float
    """Of always answering the action most frequent in training."""
    per_class: Mapping[str, Mapping[str, float | None]]
    """Per action: share in the log, share answered, recall (None for an action never taken) and precision (None for
    one never answered)."""
    pinball: Mapping[str, float]
    """Per reward, mean over levels, raw units."""
    pinball_marginal: Mapping[str, float]
    """Of the training members' marginal quantiles."""
    pinball_ratio: Mapping[str, Estimate]
    """The one divided by the other: below 1 the model knows more than the marginal. None where that loses nothing."""
    coverage: Mapping[str, Mapping[str, float]]
    """Per reward and level: share of true returns at or below the predicted quantile."""
    coverage_interval: Mapping[str, Mapping[str, Interval | None]]
    crossing_rate: Mapping[str, float]
    """Per reward: share of decisions at which quantiles cross. 0 by construction, and measured all the same."""
    calibration: Mapping[str, Calibration]
    illegal_action_rate: float

    def to_json(self) -> dict[str, Any]:
        """Return plain dicts, lists and numbers: strict JSON, no NaN."""
        return {name: _plain(getattr(self, name)) for name in self.__dataclass_fields__}


def evaluate(
    policy: Policy,
    trajectories: Trajectories,
    train_members: Ints,
    validation_members: Ints,
    prompt: Mapping[str, Prompt] | Prompt,
    config: FitConfig,
    *,
    reward_names: Sequence[str] | None = None,
    action_names: Sequence[str] | None = None,
) -> Evaluation:
    """Evaluate the last step of every full look-ahead window of the held-out members.

    Parameters
    ----------
    policy : what is evaluated; its learned levels count, not the config's
    trajectories : of all members
    train_members, validation_members : positions of members; the baselines are fitted on the former
    prompt : what is asked for: per reward a level, learned or between, or an Absolute return; one alone holds for all
    config : for horizon and discount, which make the returns
    reward_names, action_names : in the trajectories' order; without them the prompt's rewards, ``action_0``, ...

    Raises ValueError if the held-out members have no decision with a full look-ahead, or names do not fit.
    """
    held_out = HeldOut.of(trajectories, validation_members, config)
    names = name_rewards(trajectories.rewards.shape[1], reward_names, prompt)
    actions = _name_actions(trajectories.eligible.shape[1], action_names)
    levels = policy.model.config.quantiles
    baselines = Baselines.fit(trajectories, train_members, config, levels)
    asked = one_prompt(names, prompt)
    served = answer(policy, trajectories, held_out.ends, asked)
    given_true = answer(policy, trajectories, held_out.ends, asked, held_out.returns)
    return _figures(held_out, served, given_true, baselines, levels, names, actions)


def pinball_rows(quantiles: Floats, returns: Floats, levels: Sequence[float]) -> Floats:
    """Pinball loss [N, R] of quantiles [N, R, M] at returns [N, R], averaged over levels (eq. 8)."""
    alpha = np.asarray(levels, dtype=np.float32)
    error = returns[..., None] - quantiles
    loss: Floats = np.maximum(alpha * error, (alpha - 1.0) * error).mean(axis=-1)
    return loss


def pinball(quantiles: Floats, returns: Floats, levels: Sequence[float]) -> Floats:
    """Pinball loss [R] of quantiles [N, R, M] at returns [N, R], averaged over rows and levels (eq. 8)."""
    loss: Floats = pinball_rows(quantiles, returns, levels).mean(axis=0)
    return loss


def covered(quantiles: Floats, returns: Floats) -> Bools:
    """Whether each return [N, R] is at or below each of its quantiles [N, R, M]: [N, R, M]."""
    return returns[..., None] <= quantiles


def _figures(
    held_out: HeldOut,
    served: Decisions,
    given_true: Decisions,
    baselines: Baselines,
    levels: Sequence[float],
    names: Sequence[str],
    actions: Sequence[str],
) -> Evaluation:
    logged, returns, members = held_out.actions, held_out.returns, held_out.members
    right, usual = served.actions == logged, logged == baselines.majority
    accuracy = within(means(right[:, None], members), 0.0, 1.0).at(0)
    loss = pinball_rows(served.quantiles, returns, levels)
    loss_marginal = pinball_rows(np.broadcast_to(baselines.quantiles, served.quantiles.shape), returns, levels)
    relative = ratios(loss, loss_marginal, members)
    shape = (len(names), len(levels))
    coverage = within(means(covered(served.quantiles, returns).reshape(len(logged), -1), members), 0.0, 1.0)
    illegal = ~held_out.eligible[np.arange(len(logged)), served.actions] | (
        np.where(held_out.eligible, 0.0, served.probabilities).sum(axis=1) > 0.0
    )

    def by_reward(values: Floats) -> dict[str, float]:
        return {name: float(values[j]) for j, name in enumerate(names)}

    def by_level(j: int) -> dict[str, Estimate]:
        return {f"{level:g}": coverage.at(j * shape[1] + m) for m, level in enumerate(levels)}

    return Evaluation(
        decisions=len(logged),
        members=len(np.unique(members)),
        accuracy=float(right.mean()),
        accuracy_interval=accuracy.interval,
        accuracy_gain=means(right[:, None].astype(np.float64) - usual[:, None], members).at(0),
        accuracy_true_return=float((given_true.actions == logged).mean()),
        majority_accuracy=float(usual.mean()),
        per_class=_per_class(logged, served.actions, actions),
        pinball=by_reward(loss.mean(axis=0)),
        pinball_marginal=by_reward(loss_marginal.mean(axis=0)),
        pinball_ratio={name: relative.at(j) for j, name in enumerate(names)},
        coverage={
            name: dict(zip(by_level(j), coverage.value.reshape(shape)[j].tolist(), strict=True))
            for j, name in enumerate(names)
        },
        coverage_interval={
            name: {level: found.interval for level, found in by_level(j).items()} for j, name in enumerate(names)
        },
        crossing_rate=by_reward(crossing_rate(served.quantiles)),
        calibration=dict(zip(names, calibrate(served.quantiles, returns, levels, members), strict=True)),
        illegal_action_rate=float(illegal.mean()),
    )


def _per_class(actual: Ints, answered: Ints, names: Sequence[str]) -> dict[str, dict[str, float | None]]:
    table: dict[str, dict[str, float | None]] = {}
    for index, name in enumerate(names):
        taken, chosen = actual == index, answered == index
        table[name] = {
            "share": float(taken.mean()),
            "answered": float(chosen.mean()),
            "recall": float(chosen[taken].mean()) if taken.any() else None,
            "precision": float(taken[chosen].mean()) if chosen.any() else None,
        }
    return table


def _name_actions(count: int, names: Sequence[str] | None) -> tuple[str, ...]:
    named = tuple(f"action_{index}" for index in range(count)) if names is None else tuple(names)
    if len(named) != count:
        raise ValueError(f"{len(named)} action names ({', '.join(named)}) for {count} actions")
    return named


def _plain(value: Any) -> Any:
    if isinstance(value, Estimate | Calibration):
        return value.to_json()
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return list(value) if isinstance(value, tuple) else value
