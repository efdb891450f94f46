"""Fitting the Decision Transformer to trajectories (paper, 4.2.1), free of any log or spec file.

A step's randomness (which windows, masks, dropout, levels) is a function of the seed and the step's number alone. So a
fit that was killed goes on from its checkpoint to the very weights that it would have had.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor

from contracts.spec import Training
from models.batch import Batch, Normalization
from models.checkpoint import FitState, load_checkpoint, save_checkpoint
from models.config import FitConfig, dump_fit_config
from models.decision_transformer import DecisionTransformer, action_loss, pinball_loss
from models.masking import NO_COLUMNS, MaskableColumns
from models.mini_batches import MiniBatch, MiniBatches, Targets
from models.policy import Policy
from models.steps import Floats, Ints
from models.trajectories import Trajectories, split_members

CHECKPOINT: Final = "checkpoint.safetensors"
STEPS_PER_CHECKPOINT: Final = 500
WATCHED_WINDOWS: Final = 16_384
"""Windows of the members kept apart for early stopping that are looked at after each epoch."""

DTYPES: Final = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Progress:
    """State of a running fit, given to the progress callback after every optimiser step."""

    step: int
    steps: int
    epoch: int
    """Epochs begun."""
    action_loss: float
    rtg_loss: float
    learning_rate: float
    watched_loss: float | None = None
    """Total loss on the members kept apart; after the last step of an epoch, with early stopping."""


def fit(
    trajectories: Trajectories,
    config: FitConfig,
    *,
    members: Ints | None = None,
    on_progress: Callable[[Progress], None] = lambda _: None,
    maskable: MaskableColumns = NO_COLUMNS,
    checkpoints: Path | None = None,
) -> Policy:
    """Fit a model to ``trajectories`` (to the given members, or to all) and return it as a policy.

    Windows of ``context_length`` end at any row with a full look-ahead; an epoch draws as many windows as make
    every row a target about once. Every step of a window that is a target counts in the loss (eq. 2, 7 and 9), but
    for steps whose scores are masked: what is decided in service has its scores. The same seed on the same machine
    with the same number of threads gives the same model.

    Parameters
    ----------
    trajectories : in memory, or memory-mapped (``open_trajectories``): about 30 bytes a row are held in memory
    config : settings; sizes come from the trajectories
    members : [m] positions 0..M-1 to fit to
    on_progress : called after every optimiser step
    maskable : columns that are masked at random (``training.masked_share``)
    checkpoints : folder for a checkpoint, written every 500 steps and after every epoch. If it holds one of the same
        fit, the fit goes on from there; a finished one is returned at once.

    Raises ValueError if no row has a full look-ahead (and says why), early stopping has fewer than two members
    or nothing to watch, or ``checkpoints`` holds another fit's.
    """
    training = config.training
    members = np.arange(trajectories.members) if members is None else np.asarray(members, np.int64)
    watched = np.empty(0, np.int64)
    if training.early_stopping is not None:
        chosen, apart = split_members(len(members), training.early_stopping.share, training.seed)
        members, watched = members[chosen], members[apart]
    targets = Targets.of(trajectories, config.horizon, config.discount)
    ends = targets.ends(members)
    if len(ends) == 0:
        raise ValueError(trajectories.why_no_target(members, config.horizon))
    watched_ends = targets.ends(watched)
    if len(watched) and not len(watched_ends):
        raise ValueError(
            f"early stopping keeps {len(watched)} members apart, and none of them has a decision with a full "
            "look-ahead: raise early_stopping.share, or do without"
        )
    normalization = Normalization.fit(
        trajectories.states, trajectories.rewards, targets.returns, trajectories.rows_of(members), ends
    )
    shape = config.shape(trajectories.states.shape[1], trajectories.eligible.shape[1], trajectories.rewards.shape[1])
    batches = MiniBatches(targets, normalization, config.context_length, maskable, training.masked_share)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.seed)
        model = DecisionTransformer(shape)
        model.start_from(_marginal(normalization, targets.returns[ends], shape.quantiles))
        running = _Fit(model, batches, ends, watched_ends, training, on_progress)
        if checkpoints is not None:
            checkpoints.mkdir(parents=True, exist_ok=True)
            running.keep(checkpoints / CHECKPOINT, identity_of(trajectories, config, members))
        running.run()
    model.eval()
    return Policy(model, normalization, trajectories.reward_names)


def identity_of(trajectories: Trajectories, config: FitConfig, members: Ints) -> str:
    """Return a fingerprint of a fit: settings, members, PyTorch, and the data (states by 1,024 rows spread evenly)."""
    digest = hashlib.sha256(f"{dump_fit_config(config)}{torch.__version__}{trajectories.states.shape}".encode())
    spread = np.linspace(0, max(len(trajectories) - 1, 0), 1024).astype(np.int64)
    columns = (trajectories.actions, trajectories.eligible, trajectories.rewards, trajectories.starts)
    for array in (members, *columns, trajectories.states[spread]):
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


class _Fit:
    """One fit under way."""

    def __init__(
        self,
        model: DecisionTransformer,
        batches: MiniBatches,
        ends: Ints,
        watched: Ints,
        training: Training,
        on_progress: Callable[[Progress], None],
    ) -> None:
        self.model, self.batches, self.ends, self.training = model, batches, ends, training
        self.on_progress = on_progress
        # A window makes T steps targets.
        self.windows = math.ceil(len(ends) / model.config.context_length)
        self.steps_per_epoch = math.ceil(self.windows / training.batch_size)
        self.steps = self.steps_per_epoch * training.epochs
        self.optimizer = torch.optim.AdamW(
            _parameter_groups(model, training.weight_decay), lr=training.learning_rate, betas=(0.9, 0.98), fused=True
        )
        self.watched = watched[:: -(-len(watched) // WATCHED_WINDOWS) or 1]
        self.state = FitState()
        self.best: dict[str, Tensor] = {}
        self.checkpoint: Path | None = None
        self.identity = ""

    def keep(self, checkpoint: Path, identity: str) -> None:
        """Write checkpoints to ``checkpoint``, and go on from the one that is there."""
        self.checkpoint, self.identity = checkpoint, identity
        if checkpoint.exists():
            self.state, self.best = load_checkpoint(checkpoint, self.model, self.optimizer, identity)

    def run(self) -> None:
        """Do the steps that are left; the model has the best epoch's weights then, or the last step's."""
        self.model.train()
        for chosen in self._draws():
            if self.state.done:
                break
            self._step(chosen)
            ends_epoch = self.state.step % self.steps_per_epoch == 0
            self.state.done = self.state.step == self.steps or (ends_epoch and self._stops())
            if self.checkpoint and (ends_epoch or self.state.done or self.state.step % STEPS_PER_CHECKPOINT == 0):
                save_checkpoint(self.checkpoint, self.state, self.model, self.optimizer, self.best, self.identity)
        if self.best:
            self.model.load_state_dict(self.best)

    def _draws(self) -> Iterator[Ints]:
        """Yield the rows at which each step's windows end, from the state's step on: [B]."""
        first, skipped = divmod(self.state.step, self.steps_per_epoch)
        for epoch in range(first, self.training.epochs):
            order = np.random.default_rng([self.training.seed, 0, epoch]).permutation(len(self.ends))[: self.windows]
            parts = np.array_split(order, self.steps_per_epoch)
            for part in parts[skipped:]:
                yield self.ends[part]
            skipped = 0

    def _step(self, ends: Ints) -> None:
        seeds = np.random.SeedSequence([self.training.seed, 1, self.state.step])
        random = np.random.default_rng(seeds)
        torch.manual_seed(int(seeds.generate_state(1, np.uint32)[0]))
        learning_rate = self.training.learning_rate * _warmup_cosine(
            self.state.step, self.steps, self.training.warmup_share
        )
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        of_action, of_rtg = self._losses(self.batches.at(ends, random), self.training.predicted_returns)
        loss = of_action + self.training.rtg_weight * of_rtg
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.state.step += 1
        epoch, rest = divmod(self.state.step, self.steps_per_epoch)
        watched = self._watched_loss() if rest == 0 and len(self.watched) else None
        if watched is not None and watched < self.state.best_loss:
            self.state.best_loss, self.state.best_epoch = watched, epoch
            self.best = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        self.on_progress(
            Progress(
                self.state.step,
                self.steps,
                -(-self.state.step // self.steps_per_epoch),
                of_action.item(),
                of_rtg.item(),
                learning_rate,
                watched,
            )
        )

    def _losses(self, mini_batch: MiniBatch, predicted_returns: float) -> tuple[Tensor, Tensor]:
        """Loss of the actions and of the quantiles; in a share of the windows actions go with predicted returns."""
        batch, returns, levels = mini_batch.batch, mini_batch.returns, self.model.config.quantiles
        level = torch.randint(len(levels), (len(batch.valid), returns.shape[2], 1))
        # Windows are in random order: the first ones are as good as any. Stochastic rounding keeps the share, and the
        # number one of two (a library that compiles a kernel for each shape would do so at every step otherwise).
        served = slice(int(len(batch.valid) * predicted_returns + torch.rand(()).item()))
        with self._precision():
            earlier = self.model.predict_earlier(batch, lambda q: q.float().gather(-1, level)[..., 0])
            asked = returns
            if served.stop:
                of_served = None if earlier is None else earlier[served]
                asked = returns.clone()
                asked[served] = self._predicted(batch.at(served), level[served], of_served)
            quantiles, logits = (each.float() for each in self.model(batch, asked, earlier))
        return (
            action_loss(logits, batch.actions, mini_batch.weight),
            pinball_loss(quantiles, returns, levels, mini_batch.weight),
        )

    @torch.no_grad()
    def _predicted(self, batch: Batch, level: Tensor, earlier: Tensor | None) -> Tensor:
        """Returns [B, T, R] that the model itself predicts, at the quantiles of index ``level`` [B, R, 1]."""
        quantiles = self.model.read(batch, earlier, last_only=False).quantiles.float()
        return quantiles.gather(-1, level[:, None].expand((*quantiles.shape[:3], 1)))[..., 0]

    @contextmanager
    def _precision(self) -> Iterator[None]:
        dtype = DTYPES[self.training.precision]
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            yield

    @torch.no_grad()
    def _watched_loss(self) -> float:
        """Total loss on the members kept apart, actions under the true returns."""
        self.model.eval()
        total, weight = 0.0, 0
        for first in range(0, len(self.watched), self.training.batch_size):
            mini_batch = self.batches.at(self.watched[first : first + self.training.batch_size])
            of_action, of_rtg = self._losses(mini_batch, 0.0)
            counted = int(mini_batch.weight.sum())
            total += counted * (of_action + self.training.rtg_weight * of_rtg).item()
            weight += counted
        self.model.train()
        return total / weight

    def _stops(self) -> bool:
        """Whether early stopping ends the fit after the epoch just done."""
        stopping = self.training.early_stopping
        epoch = self.state.step // self.steps_per_epoch
        return stopping is not None and len(self.watched) > 0 and epoch - self.state.best_epoch >= stopping.patience


def _marginal(normalization: Normalization, returns: Floats, levels: Sequence[float]) -> Tensor:
    """Quantiles [R, M] of all the returns [N, R], normalised."""
    quantiles = np.quantile(returns.astype(np.float64), levels, axis=0).T  # [R, M]
    scaled = (quantiles - normalization.return_mean[:, None]) / normalization.return_scale[:, None]
    return torch.from_numpy(scaled.astype(np.float32))


def _parameter_groups(model: DecisionTransformer, weight_decay: float) -> list[dict[str, object]]:
    """Decay matrices only, as is usual for transformers."""
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


def _warmup_cosine(step: int, steps: int, warmup_share: float) -> float:
    """Factor of the learning rate: linear warm-up, then a cosine down to a tenth."""
    warmup = max(1, round(steps * warmup_share))
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return 0.1 + 0.45 * (1.0 + math.cos(math.pi * min(progress, 1.0)))
