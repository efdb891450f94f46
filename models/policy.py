"""The policy: a trained model with its normalization, asked for decisions as in service."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from models.batch import Normalization, build_batch
from models.decision_transformer import DecisionTransformer
from models.prompts import Prompts, prompted_returns
from models.runtime import EagerRuntime, Runtime
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
    runtime: Runtime | None = field(default=None, kw_only=True)
    """What decides in the model's place, with the same weights; None: the model itself."""

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
        earlier = self.model.predict_earlier(batch, lambda q: torch.from_numpy(self._predicted(q, prompts)))
        runtime = self.runtime or EagerRuntime(self.model)
        scaled, kept = runtime.read(batch, earlier)
        quantiles = self.normalization.returns_from_model(scaled)
        asked = self._asked(prompts, quantiles) if returns is None else returns
        probabilities = runtime.choose(kept, self._scaled(asked), batch.eligible[:, -1].numpy())
        return Decisions(probabilities, quantiles, asked)

    def _asked(self, prompts: Prompts, quantiles: Floats) -> Floats:
        return prompted_returns(prompts, quantiles, self.model.config.quantiles)

    def _predicted(self, quantiles: Tensor, prompts: Prompts) -> Floats:
        return self._scaled(self._asked(prompts, self.normalization.returns_from_model(quantiles.numpy())))

    def _scaled(self, returns: Floats) -> Floats:
        scaled: Floats = (returns - self.normalization.return_mean) / self.normalization.return_scale
        return scaled.astype(np.float32, copy=False)
