"""One run: fit a variant to one split, answer its held-out decisions, keep the sums. Done once, however often asked."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from contracts.spec import Absolute, dump_spec
from experiments.sources import Case, Source, load_case
from experiments.sums import Sums
from experiments.variants import BASE, Variant
from models.config import FitConfig
from models.evaluation import covered, pinball_rows
from models.held_out import Baselines, HeldOut, answer, one_prompt
from models.page import write_whole
from models.policy import Policy
from models.prompt_effect import count_falls, prompt_effect
from models.prompts import constant_prompt
from models.training import fit
from models.trajectories import returns_to_go

MOST_DECISIONS: Final = 30_000
"""Decisions evaluated a split, drawn at random: members, not decisions, are what figures are uncertain about."""
BASIC_LEVEL: Final = 0.7
"""The level of the paper's constant prompt (6.3)."""
FORMAT: Final = 1
_REPORTING: Final = frozenset({"__main__", "evaluate_artifact", "page", "prompt_report", "report"})


@dataclass(frozen=True)
class Job:
    """One variant on one split of one source."""

    source: Source
    variant: Variant
    seed: int
    fold: int
    epochs: int | None = None
    """Instead of the spec's, to be quick."""
    most_decisions: int = MOST_DECISIONS
    with_effect: bool = False
    """Whether to keep what prompts do (Figure 3), too."""

    @property
    def config(self) -> FitConfig:
        """What is fitted."""
        return self.variant.config(FitConfig.of(self.source.spec), self.seed, self.epochs)

    @property
    def key(self) -> str:
        """A name for the result: another as soon as anything that it depends on is another."""
        depends_on = [
            FORMAT,
            code_digest(),
            self.source.fingerprint,
            dump_spec(self.source.spec),
            self.source.folds,
            repr(self.config),
            self.seed,
            self.fold,
            self.most_decisions,
        ]
        return hashlib.sha256(json.dumps(depends_on).encode()).hexdigest()[:24]

    def sums_in(self, cache: Path) -> Path:
        """Return where the sums are kept."""
        return cache / f"{self.key}.npz"

    def effect_in(self, cache: Path) -> Path:
        """Return where the effect of prompts is kept."""
        return cache / f"{self.key}-prompts.json"

    def is_done(self, cache: Path) -> bool:
        """Return whether the result is there."""
        return self.sums_in(cache).exists() and (not self.with_effect or self.effect_in(cache).exists())

    def run(self, cache: Path) -> None:
        """Fit, evaluate and keep the result."""
        case = load_case(self.source, self.seed, self.fold)
        config = self.config
        policy = fit(case.trajectories, config, members=case.train_members, maskable=case.maskable)
        held_out = HeldOut.of(case.trajectories, case.validation_members, config).sample(self.most_decisions, self.seed)
        if self.with_effect:
            spec = self.source.spec
            effect = prompt_effect(
                policy,
                case.trajectories,
                held_out.sample(8192),
                spec.prompt,
                reward_names=spec.reward_names,
                action_names=spec.actions,
            )
            write_whole(self.effect_in(cache), json.dumps(effect.to_json(), allow_nan=False))
        measure(policy, case, held_out, config, self).save(self.sums_in(cache))


def measure(policy: Policy, case: Case, held_out: HeldOut, config: FitConfig, job: Job) -> Sums:
    """Answer ``held_out`` under the deployment's prompt, the true returns, and a constant prompt."""
    spec, ends = job.source.spec, held_out.ends
    asked = one_prompt(spec.reward_names, spec.prompt)
    served = answer(policy, case.trajectories, ends, asked)
    given_true = answer(policy, case.trajectories, ends, asked, held_out.returns)
    constant = answer(policy, case.trajectories, ends, one_prompt(spec.reward_names, _constant(case, config, job)))
    baselines = Baselines.fit(case.trajectories, case.train_members, config)
    loss = pinball_rows(served.quantiles, held_out.returns, config.quantiles)
    marginal = pinball_rows(
        np.broadcast_to(baselines.quantiles, served.quantiles.shape), held_out.returns, config.quantiles
    )
    below = covered(served.quantiles, held_out.returns)
    illegal = ~held_out.eligible[np.arange(len(held_out)), served.actions]
    rows: dict[str, NDArray[np.generic]] = {
        "decisions": np.ones(len(held_out)),
        "right": served.actions == held_out.actions,
        "right, majority": held_out.actions == baselines.majority,
        "right, true return": given_true.actions == held_out.actions,
        "right, constant prompt": constant.actions == held_out.actions,
        "illegal": illegal,
        "crossing": np.any(np.diff(served.quantiles, axis=-1) < 0.0, axis=(1, 2)),
    }
    for index, name in enumerate(spec.actions):
        rows[f"answered {name}"] = served.actions == index
        rows[f"answered {name}, constant prompt"] = constant.actions == index
        rows[f"logged {name}"] = held_out.actions == index
    for j, name in enumerate(spec.reward_names):
        rows[f"pinball {name}"], rows[f"marginal pinball {name}"] = loss[:, j], marginal[:, j]
        for m, level in enumerate(config.quantiles):
            rows[f"covered {name} {level:g}"] = below[:, j, m]
    sums = Sums.of(rows, held_out.members)
    if job.variant == BASE:
        falls = sum(count_falls(served.quantiles[:, j], config.quantiles) for j in range(loss.shape[1]))
        first = np.where(np.arange(len(sums.members)) == 0, float(falls), 0.0)
        sums = dataclasses.replace(sums, columns={**sums.columns, "falls": first})
    return sums


def _constant(case: Case, config: FitConfig, job: Job) -> dict[str, Absolute]:
    trajectories = case.trajectories
    returns, is_target = returns_to_go(trajectories.rewards, trajectories.starts, config.horizon, config.discount)
    rows = trajectories.rows_of(case.train_members)
    names = job.source.spec.reward_names
    return constant_prompt(returns[rows[is_target[rows]]], names, dict.fromkeys(names, BASIC_LEVEL))


def code_digest() -> str:
    """Return a fingerprint of the code that figures come from: results of other code are not taken for its own."""
    digest = hashlib.sha256()
    room = Path(__file__).parent
    fitted = [path for path in (room.parent / "models").glob("*.py") if path.stem not in _REPORTING]
    for path in sorted([*fitted, room / "jobs.py", room / "sources.py", room / "sums.py"]):
        digest.update(path.read_bytes())
    return digest.hexdigest()
