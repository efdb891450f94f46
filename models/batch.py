"""The one batch builder: Steps in raw units to normalised tensors, for training and serving alike."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor

from models.steps import Bools, Floats, Ints, Steps

CLIP = 10.0  # standard deviations; an outlier beyond says no more than "very large"
TINY = 1e-30  # no scale that anything is measured on
_BLOCK = 4_194_304  # values looked at together
_SAMPLE = 33_554_432  # values
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
    def fit(
        states: Floats, rewards: Floats, returns: Floats, rows: Ints | None = None, targets: Ints | None = None
    ) -> Normalization:
        """Fit on states [N, S], rewards [N, R] and returns [N, R] (NaN where not known), read block by block.

        States and rewards count in ``rows``, returns in ``targets`` (all of the N rows where None). A constant column
        gets scale 1, so that it becomes 0 rather than NaN. A reward never known gets mean 0, scale 1, centre 0 and is
        not whole. The centre is exact up to 2**25 values (half a million rows of 64 columns), beyond that of as many,
        of rows evenly spread.
        """
        rows = np.arange(len(states)) if rows is None else rows
        of_state, of_reward = _describe(states, rows), _describe(rewards, rows)
        of_return = _describe(returns, np.arange(len(returns)) if targets is None else targets)
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


def _describe(values: Floats, rows: Ints) -> _Columns:
    """Describe the columns of ``values`` [N, C] over ``rows``: a block at a time, since a log may exceed memory."""
    width = values.shape[1]
    count, mean, squares = np.zeros((3, width))  # squares: sum of squared deviations from the mean
    whole = np.ones(width, np.bool_)
    together = max(1, _BLOCK // max(width, 1))
    for first in range(0, len(rows), together):
        block = values[rows[first : first + together]].astype(np.float64)
        known = np.isfinite(block)
        whole &= np.where(known, block == np.rint(block), True).all(axis=0)
        n = known.sum(axis=0)
        of_block = np.where(known, block, 0.0).sum(axis=0) / np.maximum(n, 1)
        deviations = np.where(known, block - of_block, 0.0)
        # The parallel form of Chan, Golub and LeVeque (1983): exact where the block is all there is.
        total = np.maximum(count + n, 1)
        squares += (deviations**2).sum(axis=0) + (of_block - mean) ** 2 * count * n / total
        mean += (of_block - mean) * n / total
        count += n
    scale = np.sqrt(squares / np.maximum(count, 1))
    # Below this a column is constant but for rounding; the least scales would take others out of float32's range.
    scale[scale <= np.maximum(1e-6 * np.abs(mean), TINY)] = 1.0
    sample = values[rows[:: -(-len(rows) * width // _SAMPLE) or 1]]
    centre = np.array([_lower_median(column) for column in sample.T], np.float32)
    return _Columns(mean.astype(np.float32), scale.astype(np.float32), centre, whole & (count > 0))


def _lower_median(column: Floats) -> float:
    known = column[np.isfinite(column)]
    middle = (len(known) - 1) // 2
    return float(np.partition(known, middle)[middle]) if len(known) else 0.0


@dataclass(frozen=True)
class Batch:
    """What the model reads. Padding is zero everywhere and never attended to."""

    states: Tensor  # float [B, T, S]
    actions: Tensor  # int64 [B, T]
    rewards: Tensor  # float [B, T, R]
    eligible: Tensor  # bool [B, T, A]
    gaps: Tensor  # float [B, T]
    valid: Tensor  # bool [B, T]

    def at(self, rows: slice) -> Batch:
        """Return some of the windows."""
        return Batch(**{name: tensor[rows] for name, tensor in vars(self).items()})


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
