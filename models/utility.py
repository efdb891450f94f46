"""The utility model: the probability of each predicted reward (a click) for a candidate under each action.

A small network on the member's and the candidate's features, one output per predicted reward and action but the
safe one. Its scores rank the candidates, are part of the state, and are the predicted rewards (paper, section 3).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from contracts.errors import LogError
from models.batch import CLIP
from models.steps import Bools, Floats, Ints

HIDDEN = 32
EPOCHS = 6
LEAST_STEPS = 400
"""A small log is passed over more often."""
BATCH = 1024
LEARNING_RATE = 3e-3


class UtilityModel(nn.Module):
    """Scores [n, P, A - 1] of n candidates from their encoded features [n, F]; P may be 0."""

    mean: Tensor
    scale: Tensor

    def __init__(self, n_features: int, n_rewards: int, n_actions: int) -> None:
        super().__init__()
        self.n_features, self.n_rewards, self.n_actions = n_features, n_rewards, n_actions
        self.register_buffer("mean", torch.zeros(n_features))
        self.register_buffer("scale", torch.ones(n_features))
        if n_rewards:  # without predicted rewards there is nothing to fit, and nothing to store
            self.hidden = nn.Linear(n_features, HIDDEN)
            self.out = nn.Linear(HIDDEN, n_rewards * (n_actions - 1))

    def forward(self, features: Tensor) -> Tensor:
        """Logits [n, P, A - 1]."""
        x = ((features - self.mean) / self.scale).clamp(-CLIP, CLIP)
        logits: Tensor = self.out(F.gelu(self.hidden(x)))
        return logits.view(-1, self.n_rewards, self.n_actions - 1)

    @torch.inference_mode()
    def score(self, features: Floats) -> Floats:
        """Probabilities [n, P, A - 1] of features [n, F]."""
        if self.n_rewards == 0:
            return np.zeros((len(features), 0, self.n_actions - 1), dtype=np.float32)
        scores: Floats = self(torch.from_numpy(np.ascontiguousarray(features, dtype=np.float32))).sigmoid().numpy()
        return scores


def rewards_of(scores: Floats, actions: Ints) -> Floats:
    """Predicted rewards [n, P] of the actions taken [n], from scores [n, P, A - 1]; 0 for the safe action."""
    padded = np.concatenate([np.zeros((*scores.shape[:2], 1), dtype=np.float32), scores], axis=2)
    return np.take_along_axis(padded, actions[:, None, None], axis=2)[:, :, 0]


def rank_candidates(scores: Floats, eligible: Bools) -> Floats:
    """Rank value [n] of n candidates: the best expected predicted reward, summed over rewards, over eligible sends.

    A candidate with nothing but the safe action ranks at 0; without predicted rewards every candidate does.
    """
    total = np.where(eligible[:, 1:], scores.sum(axis=1), 0.0)
    best: Floats = total.max(axis=1, initial=0.0).astype(np.float32)
    return best


@dataclass(frozen=True)
class Sent:
    """The rows from which a utility model learns: something was sent, and a label is known."""

    features: Tensor  # [n, F]
    chosen: Tensor  # [n] action - 1
    labels: Tensor  # [n, P] NaN where not known

    @staticmethod
    def of(features: Floats, actions: Ints, labels: Floats) -> Sent:
        """Pick the rows from those of a log: features [N, F], actions [N], labels [N, P]."""
        rows = np.flatnonzero((actions > 0) & np.isfinite(labels).any(axis=1))
        return Sent(
            torch.from_numpy(features[rows]),
            torch.from_numpy(actions[rows] - 1),
            torch.from_numpy(labels[rows].astype(np.float32)),
        )

    @staticmethod
    def concatenate(parts: Sequence[Sent]) -> Sent:
        """Put the rows of at least one part together."""
        columns = ([getattr(part, name) for part in parts] for name in ("features", "chosen", "labels"))
        return Sent(*(torch.cat(column) for column in columns))

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.chosen)


@dataclass(frozen=True)
class UtilityReport:
    """How well the model predicts on rows it was not fitted on, per predicted reward."""

    log_loss: Floats  # [P]
    base_log_loss: Floats  # [P] of the fitted rows' mean label per action
    rows: int


def fit_utility(sent: Sent, n_actions: int, reward_names: tuple[str, ...], seed: int) -> UtilityModel:
    """Fit by logistic loss to the rows where something was sent and the label is known.

    Raises LogError if a label lies outside [0, 1].
    """
    n_rewards = len(reward_names)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = UtilityModel(sent.features.shape[1], n_rewards, n_actions)
    for j, name in enumerate(reward_names):
        known = sent.labels[:, j][torch.isfinite(sent.labels[:, j])]
        if len(known) and (known.min() < 0.0 or known.max() > 1.0):
            raise LogError(
                f"reward_{name} is of kind predicted: its log column is the label of a probability and must lie in "
                f"[0, 1], found {known.min()}..{known.max()}; make it kind counter, or scale it"
            )
    if len(sent) == 0 or n_rewards == 0:
        return model.eval()
    x = sent.features.double()  # the squares of large features are beyond float32
    spread = x.std(dim=0, correction=0)
    model.mean.copy_(x.mean(dim=0))
    model.scale.copy_(torch.where(spread > 1e-6, spread, 1.0))
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    order = np.random.default_rng(seed)
    for _ in range(max(EPOCHS, math.ceil(LEAST_STEPS / math.ceil(len(sent) / BATCH)))):
        for part in torch.split(torch.from_numpy(order.permutation(len(sent))), BATCH):
            loss = _losses(model(sent.features[part]), sent.chosen[part], sent.labels[part]).sum()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return model.eval()


@torch.inference_mode()
def evaluate_utility(model: UtilityModel, fitted: Sent, held_out: Sent) -> UtilityReport:
    """Compare the model on held-out rows with the mean label per action of the rows it was fitted on."""
    if len(held_out) == 0 or len(fitted) == 0 or model.n_rewards == 0:
        nothing = np.zeros(model.n_rewards, np.float32)
        return UtilityReport(nothing, nothing, 0)
    base = _base_rate_logits(fitted, model.n_actions).expand(len(held_out), -1, -1)
    return UtilityReport(
        _losses(model(held_out.features), held_out.chosen, held_out.labels).numpy(),
        _losses(base, held_out.chosen, held_out.labels).numpy(),
        len(held_out),
    )


def _losses(logits: Tensor, chosen: Tensor, target: Tensor) -> Tensor:
    """Mean logistic loss per reward [P] at the action taken, over known labels."""
    at_action = logits.gather(2, chosen[:, None, None].expand(-1, logits.shape[1], 1))[:, :, 0]  # [n, P]
    known = torch.isfinite(target)
    loss = F.binary_cross_entropy_with_logits(at_action, target.nan_to_num(), reduction="none")
    return torch.where(known, loss, 0.0).sum(dim=0) / known.sum(dim=0).clamp(min=1)


def _base_rate_logits(sent: Sent, n_actions: int) -> Tensor:
    """Logits [1, P, A - 1] of the mean label per action: the baseline that knows nothing of the candidate."""
    rates = torch.full((1, sent.labels.shape[1], n_actions - 1), 0.5)
    for action in range(n_actions - 1):
        rates[0, :, action] = sent.labels[sent.chosen == action].nanmean(dim=0).nan_to_num(0.5)
    return rates.clamp(1e-6, 1 - 1e-6).logit()
