"""The policy: a trained model with its normalization, asked for decisions as in service."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from models.batch import Normalization, build_batch
from models.decision_transformer import DecisionTransformer, History
from models.prompts import Prompts, prompted_returns
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


@dataclass(frozen=True)
class Policy:
    """A model in evaluation mode with its normalization."""

    model: DecisionTransformer
    normalization: Normalization

    @torch.inference_mode()
    def act(self, steps: Steps, prompts: Prompts) -> Decisions:
        """Decide the last step of every window: quantiles, prompted return, action probabilities.

        Parameters
        ----------
        steps : B windows of up to ``context_length`` steps
        prompts : B rows
        """
        if len(prompts) != len(steps):
            raise ValueError(f"{len(prompts)} prompts for {len(steps)} decisions")
        self.model.eval()
        batch = build_batch(steps, self.normalization)
        history = self.model.read(batch, last_only=True)
        quantiles = self.normalization.returns_from_model(history.quantiles[:, 0].numpy())
        asked = prompted_returns(prompts, quantiles, self.model.config.quantiles)
        return Decisions(self._probabilities(history, asked, batch.eligible[:, -1:]), quantiles, asked)

    @torch.inference_mode()
    def act_given_returns(self, steps: Steps, returns: Floats) -> Decisions:
        """Decide under given returns [B, R] in raw units, e.g. the true ones: for offline comparison only."""
        self.model.eval()
        batch = build_batch(steps, self.normalization)
        history = self.model.read(batch, last_only=True)
        quantiles = self.normalization.returns_from_model(history.quantiles[:, 0].numpy())
        return Decisions(self._probabilities(history, returns, batch.eligible[:, -1:]), quantiles, returns)

    def _probabilities(self, history: History, returns: Floats, eligible: torch.Tensor) -> Floats:
        scaled = (returns - self.normalization.return_mean) / self.normalization.return_scale
        logits = self.model.choose(history, torch.from_numpy(scaled.astype(np.float32))[:, None], eligible)
        probabilities: Floats = logits[:, 0].softmax(dim=-1).numpy()
        return probabilities
