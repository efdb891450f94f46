"""Held-out decisions answered as in service, and the baselines that know only the training members."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from contracts.spec import Prompt
from models.config import FitConfig
from models.policy import Decisions, Policy
from models.prompts import Prompts, make_prompts
from models.steps import Bools, Floats, Ints
from models.trajectories import Trajectories, returns_to_go

CHUNK = 4096  # windows at a time: bounds memory


@dataclass(frozen=True)
class HeldOut:
    """Decisions of held-out members with a full look-ahead: N rows of the trajectories, in order."""

    ends: Ints  # [N] rows
    members: Ints  # [N] position of the member
    actions: Ints  # [N] as logged
    eligible: Bools  # [N, A]
    returns: Floats  # [N, R] realised

    @staticmethod
    def of(trajectories: Trajectories, members: Ints, config: FitConfig) -> HeldOut:
        """Return the decisions of ``members`` that can be evaluated: the same for every context length.

        Raises ValueError if there is none.
        """
        returns, is_target = returns_to_go(trajectories.rewards, trajectories.starts, config.horizon, config.discount)
        rows = trajectories.rows_of(members)
        ends = rows[is_target[rows]]
        if len(ends) == 0:
            raise ValueError("no held-out decision has a full look-ahead: shorten the horizon or bring a longer log")
        return HeldOut(
            ends,
            np.searchsorted(trajectories.starts, ends, side="right").astype(np.int64) - 1,
            trajectories.actions[ends],
            trajectories.eligible[ends],
            returns[ends],
        )

    def __len__(self) -> int:
        """Return the number of decisions N."""
        return len(self.ends)

    def sample(self, most: int, seed: int = 0) -> HeldOut:
        """Return at most so many of the decisions, drawn without replacement, in order."""
        if len(self) <= most:
            return self
        chosen = np.sort(np.random.default_rng(seed).choice(len(self), most, replace=False))
        return HeldOut(
            self.ends[chosen], self.members[chosen], self.actions[chosen], self.eligible[chosen], self.returns[chosen]
        )


@dataclass(frozen=True)
class Baselines:
    """What can be answered without a model, from the training members alone."""

    majority: int
    """The action most frequent in training."""
    quantiles: Floats  # [R, M] marginal quantiles of their returns

    @staticmethod
    def fit(
        trajectories: Trajectories, train_members: Ints, config: FitConfig, levels: Sequence[float] | None = None
    ) -> Baselines:
        """Fit on training members; ``levels`` are the config's unless given."""
        returns, is_target = returns_to_go(trajectories.rewards, trajectories.starts, config.horizon, config.discount)
        rows = trajectories.rows_of(train_members)
        known = returns[rows[is_target[rows]]]
        levels = config.quantiles if levels is None else levels
        if len(known) == 0:
            raise ValueError("no decision of a training member has a full look-ahead: shorten the horizon")
        counts = np.bincount(trajectories.actions[rows], minlength=trajectories.eligible.shape[1])
        return Baselines(int(counts.argmax()), np.quantile(known, levels, axis=0).T.astype(np.float32))


def name_rewards(count: int, names: Sequence[str] | None, prompt: Mapping[str, Prompt] | Prompt) -> tuple[str, ...]:
    """Return ``count`` reward names: those given, else the prompt's, else ``reward_0``, ...

    Raises ValueError where the number of names is another, or the prompt is of other rewards.
    """
    if names is None:
        names = tuple(prompt) if isinstance(prompt, Mapping) else [f"reward_{j}" for j in range(count)]
    if len(names) != count:
        raise ValueError(f"{len(names)} reward names ({', '.join(names)}) for {count} rewards")
    if isinstance(prompt, Mapping) and set(prompt) != set(names):
        raise ValueError(f"the prompt is of {sorted(prompt)}, the rewards are {sorted(names)}")
    return tuple(names)


def one_prompt(names: Sequence[str], prompt: Mapping[str, Prompt] | Prompt) -> Prompts:
    """Return the prompt as one row; a single level or Absolute holds for every reward."""
    return make_prompts(names, [prompt if isinstance(prompt, Mapping) else dict.fromkeys(names, prompt)])


def answer(
    policy: Policy, trajectories: Trajectories, ends: Ints, asked: Prompts, returns: Floats | None = None
) -> Decisions:
    """Answer the windows that end at rows ``ends`` [N], all under the one-row prompt ``asked``.

    ``returns`` [N, R], if given, are what the last step is conditioned on in the place of the prompted ones.
    """
    parts = []
    for at in np.array_split(np.arange(len(ends)), max(1, -(-len(ends) // CHUNK))):
        steps = trajectories.windows(ends[at], policy.model.config.context_length)
        parts.append(policy.decide(steps, asked.repeated(len(at)), None if returns is None else returns[at]))
    return Decisions(
        np.concatenate([part.probabilities for part in parts]),
        np.concatenate([part.quantiles for part in parts]),
        np.concatenate([part.prompted for part in parts]),
    )
