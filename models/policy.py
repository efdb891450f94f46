"""The policy: a trained model with its normalization, asked for decisions as in service."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike

from models.batch import Normalization, build_batch
from models.decision_transformer import DecisionTransformer
from models.history import PastSteps
from models.prompts import Asked, Prompts, as_prompts, level_weights, prompted_returns
from models.runtime import EagerRuntime, Runtime, Wanted
from models.steps import Floats, Ints, Steps


@dataclass(frozen=True)
class Decisions:
    """What the model answers for B decisions, returns in raw units."""

    probabilities: Floats  # [B, A] 0 where not eligible
    quantiles: Floats  # [B, R, M]
    prompted: Floats  # [B, R]

    @property
    def actions(self) -> Ints:
        """The most probable action: [B]."""
        actions: Ints = self.probabilities.argmax(axis=1)
        return actions

    @property
    def action(self) -> int:
        """The most probable action of the only decision. Raises ValueError if there is not exactly one."""
        if len(self.probabilities) != 1:
            raise ValueError(f"{len(self.probabilities)} decisions: read .actions")
        return int(self.actions[0])

    def sample(self, rng: np.random.Generator) -> Ints:
        """Draw an action of each decision from its probabilities: [B]; never one that is not eligible."""
        total = self.probabilities.cumsum(axis=1, dtype=np.float64)  # [B, A]
        drawn: Ints = (total > rng.random((len(total), 1)) * total[:, -1:]).argmax(axis=1)
        return drawn


@dataclass(frozen=True)
class Policy:
    """A model in evaluation mode with its normalization."""

    model: DecisionTransformer
    normalization: Normalization
    reward_names: tuple[str, ...] = ()
    """Of the R rewards, where the log had names: a prompt may use them. Indices are understood either way."""

    runtime: Runtime | None = field(default=None, kw_only=True)
    """What decides in the model's place, with the same weights; None: the model itself."""

    def new_history(self, members: int = 1) -> PastSteps:
        """Return the history of ``members`` members of whom nothing is known yet, for ``act``.

        It keeps the steps that the model reads, and forgets older ones.
        """
        shape = self.model.config
        keep = shape.context_length - 1
        return PastSteps.empty(members, shape.state_dim, shape.n_actions, shape.n_rewards, keep)

    def act(
        self,
        history: PastSteps,
        state: ArrayLike,
        eligible: ArrayLike | None,
        prompt: Asked,
        *,
        time: ArrayLike | None = None,
    ) -> Decisions:
        """Decide for B members or environments at once, from what each has lived through and its state now.

        The same as ``decide`` on the windows of a log that holds these steps.

        Parameters
        ----------
        history : past steps of any number; the newest ``context_length`` - 1 of each member count. ``new_history``
            starts one, and its ``append`` adds what was done and what it earned
        state : [B, S], or [S] of a single member
        eligible : [B, A] or [A], True = may be chosen; None: all actions
        prompt : what is asked of the rewards, as ``as_prompts`` reads it: ``{"gain": 0.9, "cost": Absolute(-2.0)}``
        time : [B] or one for all, of this decision, as for ``PastSteps.append``: datetime64, or seconds; None: a
            second after the last step, as where a log has no times

        Raises ValueError naming the argument: a shape that is not the model's, a state that is not finite, no
        eligible action, a level outside (0, 1), a reward that the prompt leaves out.
        """
        shape = self.model.config
        for name, size, expected in (
            ("states", history.states.shape[2], shape.state_dim),
            ("eligible", history.eligible.shape[2], shape.n_actions),
            ("rewards", history.rewards.shape[2], shape.n_rewards),
        ):
            if size != expected:
                raise ValueError(f"history.{name} has {size} columns, the policy was trained with {expected}")
        steps = history.window(state, eligible, time, shape.context_length)
        return self.decide(steps, as_prompts(prompt, len(steps), shape.n_rewards, self.reward_names))

    @torch.inference_mode()
    def decide(self, steps: Steps, prompts: Prompts, returns: Floats | None = None) -> Decisions:
        """Decide the last step of every window: quantiles, prompted return, action probabilities.

        Parameters
        ----------
        steps : B windows of up to ``context_length`` steps
        prompts : B rows
        returns : [B, R] in raw units, taken in the place of the prompted ones, e.g. the true returns; for offline
            comparison only

        Raises ValueError if the numbers of rows differ, or a shape is not the model's.
        """
        if len(prompts) != len(steps):
            raise ValueError(f"{len(prompts)} prompts for {len(steps)} decisions")
        if self.model.training:
            self.model.eval()
        batch = build_batch(steps, self.normalization)
        wanted = self._wanted(prompts)
        earlier = self.model.predict_earlier(batch, wanted.of)
        if returns is not None:
            wanted = Wanted(np.zeros_like(wanted.weights), self._scaled(returns))
        runtime = self.runtime or EagerRuntime(self.model)
        scaled, probabilities = runtime.answer(batch, earlier, wanted)
        quantiles = self.normalization.returns_from_model(scaled)
        if returns is None:
            returns = prompted_returns(prompts, quantiles, self.model.config.quantiles)
        return Decisions(probabilities, quantiles, returns)

    def save(self, folder: Path) -> None:
        """Write the policy to ``folder``: safetensors and JSON, no pickle. A policy that is there is replaced whole.

        Raises ArtifactError if the folder holds something else.
        """
        from models.policy_files import save_policy

        save_policy(folder, self)

    @staticmethod
    def load(folder: Path) -> Policy:
        """Read what ``save`` wrote. Raises ArtifactError naming the file that is missing, altered or unreadable."""
        from models.policy_files import load_policy

        return load_policy(folder)

    def _wanted(self, prompts: Prompts) -> Wanted:
        learned = self.model.config.quantiles
        by_level = np.isnan(prompts.values)
        weights = level_weights(learned, np.where(by_level, prompts.levels, learned[0]))
        weights[~by_level] = 0.0
        return Wanted(weights, self._scaled(np.where(by_level, self.normalization.return_mean, prompts.values)))

    def _scaled(self, returns: Floats) -> Floats:
        scaled: Floats = (returns - self.normalization.return_mean) / self.normalization.return_scale
        return scaled.astype(np.float32, copy=False)
