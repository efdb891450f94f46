"""Mini-batches: windows of trajectories with their targets, drawn from arrays that may be files mapped into memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from models.batch import Batch, Normalization, build_batch
from models.masking import MaskableColumns, draw_masks, mask_history
from models.steps import Bools, Floats, Ints
from models.trajectories import Trajectories


@dataclass(frozen=True)
class MiniBatch:
    """B windows as the model reads them, and what they should give."""

    batch: Batch
    returns: Tensor  # float [B, T, R] normalised returns-to-go; 0 where ``weight`` is False
    weight: Tensor  # bool [B, T] steps that count in the loss


@dataclass(frozen=True)
class Targets:
    """The return-to-go of every row of ``trajectories``, and which rows have a full look-ahead."""

    trajectories: Trajectories
    returns: Floats  # [N, R] raw units, NaN where there is none
    is_target: Bools  # [N]

    @staticmethod
    def of(trajectories: Trajectories, horizon: int, discount: float) -> Targets:
        """Compute the targets. They stay in memory, 4 R + 1 bytes a row; the states need not."""
        return Targets(trajectories, *trajectories.returns_to_go(horizon, discount))

    def ends(self, members: Ints) -> Ints:
        """Return the rows of ``members`` that are targets, in order."""
        rows = self.trajectories.rows_of(members)
        ends: Ints = rows[self.is_target[rows]]
        return ends


@dataclass(frozen=True)
class MiniBatches:
    """Makes a mini-batch of the windows that end at given rows."""

    targets: Targets
    normalization: Normalization
    context_length: int
    maskable: MaskableColumns
    masked_share: float

    def at(self, ends: Ints, random: np.random.Generator | None = None) -> MiniBatch:
        """Return the windows ending at rows ``ends`` [B]; with ``random``, a share of them with masked history.

        A step counts where it is a target and its scores are not masked: what is decided in service has its scores.
        """
        trajectories, t = self.targets.trajectories, self.context_length
        windows = trajectories.windows(ends, t)
        at = np.maximum(ends[:, None] - np.arange(t - 1, -1, -1), 0)  # rows of the steps: [B, T]
        weight = windows.valid & self.targets.is_target[at]
        if random is not None and self.masked_share > 0.0 and len(self.maskable.scores):
            masked = draw_masks(random, len(ends), t, self.masked_share)
            windows = mask_history(windows, masked, self.maskable)
            weight &= ~masked["scores"]
        of_model = (self.targets.returns[at] - self.normalization.return_mean) / self.normalization.return_scale
        return MiniBatch(
            build_batch(windows, self.normalization),
            torch.from_numpy(np.where(weight[..., None], of_model, np.float32(0.0)).astype(np.float32)),
            torch.from_numpy(weight),
        )
