"""Fitting the Decision Transformer to trajectories (paper, 4.2.1), free of any log or spec file."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from contracts.spec import Training
from models.batch import Normalization, build_batch
from models.config import FitConfig
from models.decision_transformer import DecisionTransformer, action_loss, pinball_loss
from models.masking import NO_COLUMNS, MaskableColumns, draw_masks, mask_history
from models.policy import Policy
from models.steps import Ints
from models.trajectories import Trajectories


@dataclass(frozen=True)
class Progress:
    """State of a running fit, given to the progress callback after every optimiser step."""

    step: int
    steps: int
    action_loss: float
    rtg_loss: float


def fit(
    trajectories: Trajectories,
    config: FitConfig,
    *,
    members: Ints | None = None,
    on_progress: Callable[[Progress], None] = lambda _: None,
    maskable: MaskableColumns = NO_COLUMNS,
) -> Policy:
    """Fit a model to ``trajectories`` (to the given members, or to all) and return it as a policy.

    Windows of ``context_length`` end at any row with a full look-ahead; an epoch draws as many windows as make
    every row a target about once. Every step of a window that is a target counts in the loss (eq. 2, 7 and 9), but
    for steps whose scores are masked: what is decided in service has its scores. The same seed on the same machine
    gives the same model.

    Raises ValueError if no row has a full look-ahead, and says why.
    """
    returns, is_target = trajectories.returns_to_go(config.horizon, config.discount)
    members = np.arange(len(trajectories.starts) - 1) if members is None else members
    rows = trajectories.rows_of(members)
    ends = rows[is_target[rows]]
    if len(ends) == 0:
        raise ValueError(trajectories.why_no_target(members, config.horizon))
    shape = config.shape(trajectories.states.shape[1], trajectories.eligible.shape[1], trajectories.rewards.shape[1])
    normalization = Normalization.fit(trajectories.states[rows], trajectories.rewards[rows], returns[ends])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.training.seed)
        model = DecisionTransformer(shape)
        _train(model, normalization, trajectories, returns, is_target, ends, config.training, on_progress, maskable)
    model.eval()
    return Policy(model, normalization, trajectories.reward_names)


def _train(
    model: DecisionTransformer,
    normalization: Normalization,
    trajectories: Trajectories,
    returns: np.ndarray,
    is_target: np.ndarray,
    ends: Ints,
    config: Training,
    on_progress: Callable[[Progress], None],
    maskable: MaskableColumns,
) -> None:
    t = model.config.context_length
    per_epoch = math.ceil(len(ends) / t)
    batches = math.ceil(per_epoch / config.batch_size)
    steps = batches * config.epochs
    optimizer = torch.optim.AdamW(
        _parameter_groups(model, config.weight_decay), lr=config.learning_rate, betas=(0.9, 0.98)
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _warmup_cosine(steps, config.warmup_share))
    order, masks = np.random.default_rng(config.seed), np.random.default_rng([config.seed, 1])
    masked_share = config.masked_share if len(maskable.scores) else 0.0
    scaled = ((returns - normalization.return_mean) / normalization.return_scale).astype(np.float32)
    scaled[~is_target] = 0.0
    model.train()
    step = 0
    for _ in range(config.epochs):
        for chosen in np.array_split(order.permutation(len(ends))[:per_epoch], batches):
            masked = draw_masks(masks, len(chosen), t, masked_share)
            windows = mask_history(trajectories.windows(ends[chosen], t), masked, maskable)
            batch = build_batch(windows, normalization)
            at = np.maximum(ends[chosen][:, None] - np.arange(t - 1, -1, -1), 0)  # rows of the steps: [B, T]
            target = torch.from_numpy(scaled[at])
            weight = batch.valid & torch.from_numpy(is_target[at] & ~masked["scores"])
            level = torch.randint(len(model.config.quantiles), (len(chosen), target.shape[2], 1))
            earlier = model.predict_earlier(batch, lambda quantiles: quantiles.gather(-1, level)[..., 0])  # noqa: B023
            history = model.read(batch, earlier, last_only=False)
            asked = _mix_predicted(target, history.quantiles.detach(), level, config.predicted_returns)
            logits = model.choose(history, asked, batch.eligible)
            loss_action = action_loss(logits, batch.actions, weight)
            loss_rtg = pinball_loss(history.quantiles, target, model.config.quantiles, weight)
            loss = loss_action + config.rtg_weight * loss_rtg
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            step += 1
            on_progress(Progress(step, steps, loss_action.item(), loss_rtg.item()))


def _mix_predicted(true: Tensor, quantiles: Tensor, level: Tensor, share: float) -> Tensor:
    """Returns [B, T, R] to condition actions on: the true ones, but in a share of windows a predicted quantile.

    ``level`` [B, R, 1] is the index of the quantile, drawn for the window and reward.
    """
    predicted = quantiles.gather(-1, level[:, None].expand((*quantiles.shape[:3], 1)))[..., 0]
    return torch.where(torch.rand(len(true), 1, 1) < share, predicted, true)


def _parameter_groups(model: DecisionTransformer, weight_decay: float) -> list[dict[str, object]]:
    """Decay matrices only, as is usual for transformers."""
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


def _warmup_cosine(steps: int, warmup_share: float) -> Callable[[int], float]:
    warmup = max(1, round(steps * warmup_share))

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        progress = (step - warmup) / max(1, steps - warmup)
        return 0.1 + 0.45 * (1.0 + math.cos(math.pi * min(progress, 1.0)))

    return factor
