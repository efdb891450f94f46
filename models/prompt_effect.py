"""What a prompt does: predicted return-to-go at any level (the paper's Figure 3), and the actions that follow.

One reward's level is moved at a time; the others keep the deployment's prompt. Realised returns stand beside the
prompted ones. They came of the logged actions: where the model would have acted otherwise they say nothing of what its
own action earns, and where it agrees they are of decisions at which the log happened to do what was prompted for. So
the gap between prompted and realised is no measure of how well a prompt is met; that takes an online experiment.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from contracts.spec import Prompt
from models.clustered import Estimate, means, ratios
from models.held_out import HeldOut, answer, name_rewards, one_prompt
from models.policy import Decisions, Policy
from models.prompts import Values, interpolate, prompted_returns
from models.steps import Floats
from models.trajectories import Trajectories

LEVELS: Final = (0.02, 0.1, 0.25, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 0.98)
"""Levels shown, beside the learned ones: between them and, at either end, beyond."""
GRID: Final = tuple(np.round(np.arange(1, 200) / 200, 3).tolist())
"""Levels at which predicted returns must not fall."""
SHOWN: Final = (0.05, 0.25, 0.5, 0.75, 0.95)
"""Quantiles over decisions by which a distribution of predicted returns is described."""
BINS: Final = 40
MOST_DECISIONS: Final = 8192
"""Decisions looked at: each level takes a pass over them."""


@dataclass(frozen=True)
class LevelEffect:
    """Decisions under one level of one reward."""

    level: float
    learned: bool
    """Otherwise it is interpolated, or clamped to the lowest or highest learned level."""
    predicted: float
    """Mean predicted return-to-go, which is the return prompted for."""
    distribution: Mapping[str, float]
    """Its quantiles over decisions."""
    histogram: tuple[float, ...]
    """Share of decisions between the reward's ``edges``; those outside count in the outermost bins."""
    actions: Mapping[str, float]
    """Share of decisions at which each action is the most probable one."""
    agreeing: float
    """Share of decisions at which that is the logged one."""
    realised_agreeing: Estimate
    """Mean realised return of those."""


@dataclass(frozen=True)
class RewardEffect:
    """The levels of one reward."""

    levels: tuple[LevelEffect, ...]
    edges: tuple[float, ...]
    realised: Estimate
    """Mean realised return of all decisions, under the logged actions."""
    falls: int
    """Decisions at which the predicted return falls somewhere as the level rises through GRID: 0 by construction."""


@dataclass(frozen=True)
class PromptAnswer:
    """Decisions under one complete prompt: the deployment's, a cohort's, or one that a request could bring."""

    predicted: Mapping[str, float]
    """Mean return prompted for, per reward."""
    actions: Mapping[str, float]


@dataclass(frozen=True)
class PromptEffect:
    """What prompts do on held-out decisions."""

    decisions: int
    rewards: Mapping[str, RewardEffect]
    prompts: Mapping[str, PromptAnswer]

    @property
    def monotone(self) -> bool:
        """Whether no predicted return falls as its level rises."""
        return all(reward.falls == 0 for reward in self.rewards.values())

    def to_json(self) -> dict[str, Any]:
        """Return plain dicts, lists and numbers: strict JSON, no NaN."""
        plain: dict[str, Any] = dataclasses.asdict(self)
        for name, reward in self.rewards.items():
            plain["rewards"][name]["realised"] = reward.realised.to_json()
            plain["rewards"][name]["levels"] = [
                {**row, "realised_agreeing": level.realised_agreeing.to_json()}
                for row, level in zip(plain["rewards"][name]["levels"], reward.levels, strict=True)
            ]
        return {**plain, "monotone": self.monotone}


def prompt_effect(
    policy: Policy,
    trajectories: Trajectories,
    held_out: HeldOut,
    prompt: Mapping[str, Prompt] | Prompt,
    *,
    reward_names: Sequence[str] | None = None,
    action_names: Sequence[str] | None = None,
    prompts: Mapping[str, Mapping[str, Prompt]] | None = None,
    levels: Sequence[float] = LEVELS,
) -> PromptEffect:
    """Answer ``held_out`` under every level of every reward, and under each of ``prompts`` (complete ones, by name).

    History stays as it is under ``prompt``: with ``earlier_returns="predicted"`` it holds what that asked for. The
    learned levels are added to ``levels``. Raises ValueError if names do not fit.
    """
    names = name_rewards(held_out.returns.shape[1], reward_names, prompt)
    actions = action_names or [f"action_{index}" for index in range(held_out.eligible.shape[1])]
    learned = policy.model.config.quantiles
    asked = one_prompt(names, prompt)
    base = answer(policy, trajectories, held_out.ends, asked)
    realised = means(held_out.returns, held_out.members)

    def under(returns: Floats) -> Decisions:
        return answer(policy, trajectories, held_out.ends, asked, returns)

    rewards = {}
    for j, name in enumerate(names):
        edges = _edges(base.quantiles[:, j])
        rows = []
        for level in sorted({*levels, *learned}):
            returns = base.prompted.copy()
            returns[:, j] = interpolate(base.quantiles[:, j], learned, np.full(len(held_out), level))
            rows.append(_level(under(returns), held_out, j, level, level in learned, edges, actions))
        falls = count_falls(base.quantiles[:, j], learned)
        rewards[name] = RewardEffect(tuple(rows), tuple(edges.tolist()), realised.at(j), falls)
    answers = {}
    for title, other in {"deployment": prompt, **(prompts or {})}.items():
        one = one_prompt(names, other)
        answers[title] = _answer(
            under(prompted_returns(one.repeated(len(held_out)), base.quantiles, learned)),
            names,
            actions,
        )
    return PromptEffect(len(held_out), rewards, answers)


def count_falls(quantiles: Floats, learned: Sequence[float], grid: Sequence[float] = GRID) -> int:
    """Count the decisions of one reward's quantiles [N, M] whose return falls as the level rises through ``grid``."""
    fallen = np.zeros(len(quantiles), np.bool_)
    before = interpolate(quantiles, learned, np.full(len(quantiles), grid[0]))
    for level in grid[1:]:
        after = interpolate(quantiles, learned, np.full(len(quantiles), level))
        fallen |= after < before
        before = after
    return int(fallen.sum())


def action_shares(decisions: Decisions, names: Sequence[str]) -> dict[str, float]:
    """Share of decisions at which each action is the most probable one."""
    counts = np.bincount(decisions.actions, minlength=len(names)) / max(len(decisions.actions), 1)
    return dict(zip(names, counts.tolist(), strict=True))


def _level(
    decisions: Decisions,
    held_out: HeldOut,
    j: int,
    level: float,
    learned: bool,
    edges: Values,
    actions: Sequence[str],
) -> LevelEffect:
    predicted = decisions.prompted[:, j].astype(np.float64)
    counts, _ = np.histogram(np.clip(predicted, edges[0], edges[-1]), edges)
    agreeing = (decisions.actions == held_out.actions)[:, None]
    return LevelEffect(
        level=level,
        learned=learned,
        predicted=float(predicted.mean()),
        distribution={
            f"{share:g}": value for share, value in zip(SHOWN, np.quantile(predicted, SHOWN).tolist(), strict=True)
        },
        histogram=tuple((counts / len(predicted)).tolist()),
        actions=action_shares(decisions, actions),
        agreeing=float(agreeing.mean()),
        realised_agreeing=ratios(agreeing * held_out.returns[:, j : j + 1], agreeing, held_out.members).at(0),
    )


def _answer(decisions: Decisions, names: Sequence[str], actions: Sequence[str]) -> PromptAnswer:
    predicted = decisions.prompted.mean(axis=0, dtype=np.float64).tolist()
    return PromptAnswer(dict(zip(names, predicted, strict=True)), action_shares(decisions, actions))


def _edges(quantiles: Floats) -> Values:
    """Edges of bins that hold nearly all of one reward's quantiles [N, M]."""
    low, high = np.quantile(quantiles.astype(np.float64), (0.002, 0.998))
    room = 1e-6 * max(abs(low), abs(high), 1.0)  # of constant returns, too
    edges: Values = np.linspace(low - room, high + room, BINS + 1)
    return edges
