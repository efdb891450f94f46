"""The one batch builder: Steps in raw units to normalised tensors, for training and serving alike."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.steps import Floats, Steps

CLIP = 10.0  # standard deviations; an outlier beyond says no more than "very large"
GAP_SCALE = 10.0  # log1p of a day in seconds is 11.4, so that gaps come out near 1


@dataclass(frozen=True)
class Normalization:
    """Mean and scale per state column, reward and return, each a list of floats in the columns' order."""

    state_mean: Floats  # [S]
    state_scale: Floats  # [S]
    reward_mean: Floats  # [R]
    reward_scale: Floats  # [R]
    return_mean: Floats  # [R]
    return_scale: Floats  # [R]

    @staticmethod
    def fit(states: Floats, rewards: Floats, returns: Floats) -> Normalization:
        """Fit on training rows: states [N, S], rewards [N, R] and returns [N, R] (NaN where not known).

        A constant column gets scale 1, so that it becomes 0 rather than NaN. A reward never known gets
        mean 0 and scale 1.
        """

        def moments(values: Floats) -> tuple[Floats, Floats]:
            known = np.isfinite(values)
            count = np.maximum(known.sum(axis=0), 1)
            clean = np.where(known, values, 0.0).astype(np.float64)
            mean = clean.sum(axis=0) / count
            variance = (np.where(known, clean - mean, 0.0) ** 2).sum(axis=0) / count
            scale = np.sqrt(variance)
            # Below this a column is constant but for rounding.
            constant = scale <= 1e-6 * np.maximum(np.abs(mean), 1.0)
            return mean.astype(np.float32), np.where(constant, 1.0, scale).astype(np.float32)

        return Normalization(*moments(states), *moments(rewards), *moments(returns))

    def returns_from_model(self, values: Floats) -> Floats:
        """Turn normalised returns [..., R, M] into raw units."""
        return (values * self.return_scale[:, None] + self.return_mean[:, None]).astype(np.float32)

    def to_json(self) -> dict[str, list[float]]:
        """Return plain lists."""
        return {name: [float(x) for x in values] for name, values in asdict(self).items()}

    @staticmethod
    def from_json(document: dict[str, list[float]]) -> Normalization:
        """Read what ``to_json`` wrote."""
        return Normalization(**{name: np.asarray(values, dtype=np.float32) for name, values in document.items()})


@dataclass(frozen=True)
class Batch:
    """What the model reads. Padding is zero everywhere and never attended to."""

    states: Tensor  # float [B, T, S]
    actions: Tensor  # int64 [B, T]
    rewards: Tensor  # float [B, T, R]
    eligible: Tensor  # bool [B, T, A]
    gaps: Tensor  # float [B, T]
    valid: Tensor  # bool [B, T]


def build_batch(steps: Steps, normalization: Normalization) -> Batch:
    """Normalise ``steps`` and turn them into tensors.

    States and rewards are standardised and clipped to +-10, unknown rewards count as average (0), gaps become
    log(1 + seconds) / 10. Raises ValueError naming the field if S or R differ from the normalization's.
    """
    for name, size in (("states", len(normalization.state_mean)), ("rewards", len(normalization.reward_mean))):
        width = getattr(steps, name).shape[-1]
        if width != size:
            raise ValueError(f"{name} has {width} columns, the model was trained with {size}")
    valid = steps.valid[..., None]
    states = (steps.states - normalization.state_mean) / normalization.state_scale
    rewards = (steps.rewards - normalization.reward_mean) / normalization.reward_scale
    return Batch(
        states=_tensor(np.where(valid, np.clip(states, -CLIP, CLIP), 0.0)),
        actions=torch.from_numpy(np.where(steps.valid, steps.actions, 0)),
        rewards=_tensor(np.where(valid & np.isfinite(rewards), np.clip(rewards, -CLIP, CLIP), 0.0)),
        eligible=torch.from_numpy(np.where(valid, steps.eligible, False)),
        gaps=_tensor(np.log1p(steps.gaps_s) / GAP_SCALE),
        valid=torch.from_numpy(steps.valid),
    )


def _tensor(values: NDArray[np.floating]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))
