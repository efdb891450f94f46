"""The one batch builder: Steps in raw units to normalised tensors, for training and serving alike."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor

from models.steps import Bools, Floats, Steps

CLIP = 10.0  # standard deviations; an outlier beyond says no more than "very large"
GAP_SCALE = 10.0  # log1p of a day in seconds is 11.4, so that gaps come out near 1


@dataclass(frozen=True)
class Normalization:
    """Mean and scale per state column, reward and return, in the columns' order.

    The centre is the median (the lower of two), and a column is whole if all its known values are whole numbers: what
    a store needs to keep values in few bits.
    """

    state_mean: Floats  # [S]
    state_scale: Floats  # [S]
    reward_mean: Floats  # [R]
    reward_scale: Floats  # [R]
    return_mean: Floats  # [R]
    return_scale: Floats  # [R]
    state_centre: Floats  # [S]
    state_whole: Bools  # [S]
    reward_centre: Floats  # [R]
    reward_whole: Bools  # [R]

    @staticmethod
    def fit(states: Floats, rewards: Floats, returns: Floats) -> Normalization:
        """Fit on training rows: states [N, S], rewards [N, R] and returns [N, R] (NaN where not known).

        A constant column gets scale 1, so that it becomes 0 rather than NaN. A reward never known gets
        mean 0, scale 1, centre 0 and is not whole.
        """
        of_state, of_reward, of_return = (_describe(values) for values in (states, rewards, returns))
        return Normalization(
            state_mean=of_state.mean,
            state_scale=of_state.scale,
            reward_mean=of_reward.mean,
            reward_scale=of_reward.scale,
            return_mean=of_return.mean,
            return_scale=of_return.scale,
            state_centre=of_state.centre,
            state_whole=of_state.whole,
            reward_centre=of_reward.centre,
            reward_whole=of_reward.whole,
        )

    def returns_from_model(self, values: Floats) -> Floats:
        """Turn normalised returns [..., R, M] into raw units."""
        return (values * self.return_scale[:, None] + self.return_mean[:, None]).astype(np.float32)

    def to_json(self) -> dict[str, list[float] | list[bool]]:
        """Return plain lists."""
        return {name: values.tolist() for name, values in asdict(self).items()}

    @staticmethod
    def from_json(document: dict[str, list[float] | list[bool]]) -> Normalization:
        """Read what ``to_json`` wrote."""
        types = {name: np.bool_ if name.endswith("_whole") else np.float32 for name in document}
        return Normalization(**{name: np.asarray(values, types[name]) for name, values in document.items()})


@dataclass(frozen=True)
class _Columns:
    """What the known values of every column are like."""

    mean: Floats
    scale: Floats
    centre: Floats
    whole: Bools


def _describe(values: Floats) -> _Columns:
    """Describe the columns of ``values`` [N, C], one after the other: a log may take half of the memory."""
    mean, scale, centre = np.zeros((3, values.shape[1]), np.float32)
    columns = _Columns(mean, scale, centre, np.zeros(values.shape[1], np.bool_))
    for j in range(values.shape[1]):
        column = values[:, j]
        known = column[np.isfinite(column)]
        if len(known):
            wide = known.astype(np.float64)
            columns.mean[j], columns.scale[j] = wide.mean(), wide.std()
            middle = (len(known) - 1) // 2
            columns.centre[j] = np.partition(known, middle)[middle]
            columns.whole[j] = bool((known == np.rint(known)).all())
        # Below this a column is constant but for rounding.
        if columns.scale[j] <= 1e-6 * max(abs(columns.mean[j]), 1.0):
            columns.scale[j] = 1.0
    return columns


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

    States and rewards are standardised and clipped to +-10, unknown ones count as average (0), gaps become
    log(1 + seconds) / 10. Raises ValueError naming the field if S or R differ from the normalization's.
    """
    for name, size in (("states", len(normalization.state_mean)), ("rewards", len(normalization.reward_mean))):
        width = getattr(steps, name).shape[-1]
        if width != size:
            raise ValueError(f"{name} has {width} columns, the model was trained with {size}")
    valid = steps.valid
    return Batch(
        states=_standardise(steps.states, normalization.state_mean, normalization.state_scale, valid),
        actions=torch.from_numpy(np.where(valid, steps.actions, 0)),
        rewards=_standardise(steps.rewards, normalization.reward_mean, normalization.reward_scale, valid),
        eligible=torch.from_numpy(steps.eligible & valid[..., None]),
        gaps=torch.from_numpy(np.log1p(steps.gaps_s) / np.float32(GAP_SCALE)),
        valid=torch.from_numpy(valid),
    )


def _standardise(values: Floats, mean: Floats, scale: Floats, valid: Bools) -> Tensor:
    """Standardise and clip ``values`` [B, T, C]; 0 where not known, or padding."""
    # One new array, changed in place: a batch of training goes through here at every step.
    scaled = np.subtract(values, mean, dtype=np.float32, order="C")
    scaled /= scale
    known = np.isfinite(scaled)
    known &= valid[..., None]
    np.clip(scaled, -CLIP, CLIP, out=scaled)
    np.copyto(scaled, np.float32(0.0), where=~known)
    return torch.from_numpy(scaled)
