"""The Decision Transformer with vector rewards, quantile return-to-go and eligible action sets.

"Generative Sequential Notification Optimization via Multi-Objective Decision Transformers", arXiv 2509.02458.

A step is (s, R, a, r). R tokens are leaves: each sees the history and its own state, and nothing but its own action
head sees it. History is therefore s, a, r, and no true return can reach the quantiles of its own or any later step.
Serving answers in two passes: the history s_1 a_1 r_1 ... s_T (a_T and r_T would be seen by nobody) gives the
quantiles of the last step and keeps its keys and values; the return token on top of them gives the action. Training,
where returns are known, has both in one pass for all T steps. What a token may look at is a matter of its moment alone,
so tokens stand by kind (a, r, s, R): what is read of the last layer is then one block, the last of all.

With ``earlier_returns="predicted"`` the history also holds the model's own earlier predictions, s R^ a r as in eq. 4,
made one after the other in training as in service (``predict_earlier``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from models.batch import Batch

KeysValues = tuple[Tensor, Tensor]  # each [B, tokens, d]
ALL = slice(None)
LANES = 16  # float32 numbers in a vector register of AVX-512; a multiple of any other's


@dataclass(frozen=True)
class DecisionTransformerConfig:
    """Shape of the model. Raises ValueError naming the field if it makes no model."""

    state_dim: int
    n_actions: int
    n_rewards: int
    quantiles: tuple[float, ...]
    context_length: int = 4
    width: int = 64
    layers: int = 2
    heads: int = 4
    dropout: float = 0.0
    action_input: Literal["state_return", "return"] = "state_return"
    eligibility_gate: bool = True
    earlier_returns: Literal["hidden", "predicted"] = "hidden"

    def __post_init__(self) -> None:
        if self.state_dim < 0:
            raise ValueError(f"state_dim = {self.state_dim} must be at least 0")
        for name in ("n_actions", "n_rewards", "context_length", "width", "layers", "heads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)} must be at least 1")
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        levels = self.quantiles
        if not levels or any(not 0.0 < level < 1.0 for level in levels) or list(levels) != sorted(set(levels)):
            raise ValueError(f"quantiles = {levels} must rise strictly within (0, 1)")


class Outputs(NamedTuple):
    """What a training pass gives, in normalised units."""

    quantiles: Tensor  # [B, T, R, M] rising along M
    logits: Tensor  # [B, T, A]    -inf where not eligible


class History(NamedTuple):
    """The first pass: all but the return tokens, kept for the second. n is T, or 1 for the last step alone."""

    quantiles: Tensor  # [B, n, R, M]
    hidden_states: Tensor  # [B, n, d]    h_s
    cache: list[KeysValues]  # one a layer, L tokens: k(T - 1) + 1 with k = 3 a step, or 4 with earlier returns
    attendable: Tensor  # bool [B, L]


class Attention(nn.Module):
    """Multi-head attention whose keys and values can be reused by tokens that come later."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor, past: KeysValues | None, asked: slice) -> tuple[Tensor, KeysValues]:
        """Attend from the n tokens ``asked`` of x [B, L, d] under the additive ``mask`` [B, 1, n, past + L or more]."""
        width = x.shape[-1]
        if asked == ALL:
            q, k, v = self.qkv(x).chunk(3, dim=-1)
        else:
            weight, bias = self.qkv.weight, self.qkv.bias
            q = F.linear(x[:, asked], weight[:width], bias[:width])
            k, v = F.linear(x, weight[width:], bias[width:]).chunk(2, dim=-1)
        own: KeysValues = (k, v)
        if past is not None:
            k, v = torch.cat([past[0], k], dim=1), torch.cat([past[1], v], dim=1)
        return self.out(self._attend(q, k, v, mask)), own

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        """Weighted sums of the values: [B, n, d] of q [B, n, d], and k and v [B, K, d]."""
        if torch.compiler.is_exporting():
            return torch.onnx.ops.attention(q, k, v, mask, q_num_heads=self.heads, kv_num_heads=self.heads)[0]
        q, k, v = (part.view(*part.shape[:2], self.heads, -1).transpose(1, 2) for part in (q, k, v))
        if blank := mask.shape[-1] - k.shape[2]:
            k, v = F.pad(k, (0, 0, 0, blank)), F.pad(v, (0, 0, 0, blank))
        # Written out: for so few tokens the fused kernels take twice the time, most of all going backward.
        weights = ((q * q.shape[-1] ** -0.5) @ k.transpose(2, 3) + mask).softmax(dim=-1)
        return (F.dropout(weights, self.dropout, self.training) @ v).transpose(1, 2).flatten(2)


class Block(nn.Module):
    """One pre-norm transformer layer."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(width)
        self.attention = Attention(width, heads, dropout)
        self.norm_mlp = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.drop = nn.Dropout(dropout)

    def forward(
        self, x: Tensor, mask: Tensor, past: KeysValues | None = None, asked: slice = ALL
    ) -> tuple[Tensor, KeysValues]:
        """Map x [B, L, d] to its tokens ``asked`` [B, n, d]; also return this layer's keys and values of all of x."""
        y, keys_values = self.attention(self.norm_attention(x), mask[:, :, asked], past, asked)
        x = x[:, asked] + self.drop(y)
        return x + self.drop(self.mlp(self.norm_mlp(x))), keys_values


class ActionHead(nn.Module):
    """Action logits from [h_s ; h_R] (or h_R), gated by the EAS embedding; ineligible actions are removed."""

    def __init__(self, config: DecisionTransformerConfig) -> None:
        super().__init__()
        width = config.width
        self.reads_state = config.action_input == "state_return"
        self.hidden = nn.Linear(2 * width if self.reads_state else width, width)
        self.gate = nn.Linear(config.n_actions, width) if config.eligibility_gate else None
        self.out = nn.Linear(width, config.n_actions)

    def forward(self, h_state: Tensor, h_return: Tensor, eligible: Tensor) -> Tensor:
        """Map h_state, h_return [..., d] and eligible bool [..., A] to logits [..., A]."""
        x = self.hidden(torch.cat([h_state, h_return], dim=-1) if self.reads_state else h_return)
        if self.gate is not None:
            x = x * self.gate(eligible.to(x.dtype))
        logits: Tensor = self.out(F.gelu(x))
        return logits.masked_fill(~eligible, -torch.inf)


class DecisionTransformer(nn.Module):
    """Quantiles of the return-to-go, and the action that goes with a given return-to-go."""

    def __init__(self, config: DecisionTransformerConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.embed_state = nn.Linear(config.state_dim + config.n_actions + 1, width)
        self.embed_action = nn.Embedding(config.n_actions, width)
        self.embed_reward = nn.Linear(config.n_rewards, width)
        self.embed_return = nn.Linear(config.n_rewards, width)
        self.embed_step = nn.Embedding(config.context_length, width)
        self.step_tokens = 4 if config.earlier_returns == "predicted" else 3
        self.drop = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(width, config.heads, config.dropout) for _ in range(config.layers))
        self.norm = nn.LayerNorm(width)
        self.quantile_head = nn.Sequential(
            nn.Linear(width, width), nn.GELU(), nn.Linear(width, config.n_rewards * len(config.quantiles))
        )
        self.action_head = ActionHead(config)
        self.apply(self._init)

    @staticmethod
    def _init(module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=0.02 if isinstance(module, nn.Embedding) else _std(module))
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)

    @torch.no_grad()
    def start_from(self, quantiles: Tensor) -> None:
        """Make ``quantiles`` [R, M] (normalised) the answer to everything, for training to move away from.

        Weight decay spares biases, so that with little to learn from the model shrinks to these and not to zero.
        """
        last = self.quantile_head[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        last.bias.copy_(quantiles.flatten())

    def forward(self, batch: Batch, returns: Tensor, earlier: Tensor | None = None) -> Outputs:
        """Quantiles and logits of every step, conditioned on the returns [B, T, R] (normalised): one pass."""
        tokens, attendable = self._history_tokens(batch, earlier)
        t = returns.shape[1]
        x = self.drop(torch.cat([tokens, self._return_tokens(returns, t)], dim=1))
        # No history looks at a return.
        of_history = F.pad(self._history_looks(attendable), (0, t))
        mask = _additive(torch.cat([of_history, self._returns_look(attendable, t)], dim=1), x.dtype)
        asked = slice(-2 * t, None)
        for block in self.blocks:
            x, _ = block(x, mask, asked=asked if block is self.blocks[-1] else ALL)
        h_state, h_return = self.norm(x).chunk(2, dim=1)
        return Outputs(self._quantiles(h_state), self._logits(h_state, h_return, batch.eligible))

    @torch.no_grad()
    def predict_earlier(self, batch: Batch, ask: Callable[[Tensor], Tensor]) -> Tensor | None:
        """Return-to-go of every step but the last, as the model itself asks for it: [B, T, R], or None if hidden.

        ``ask`` turns the quantiles [B, R, M] of one step into the return asked for [B, R]. Each step is predicted
        from those before it: T - 1 passes.
        """
        if self.config.earlier_returns == "hidden":
            return None
        earlier = torch.zeros_like(batch.rewards)
        for step in range(batch.valid.shape[1] - 1):
            earlier[:, step] = ask(self.read(batch, earlier, last_only=False).quantiles[:, step])
        return earlier

    def read(self, batch: Batch, earlier: Tensor | None = None, *, last_only: bool) -> History:
        """First pass: history and states in, quantiles of every step (or of the last one alone) out.

        ``earlier`` [B, T, R] is what ``predict_earlier`` gave; the last step's is not read.
        """
        x, attendable = self._history_tokens(batch, earlier)
        x = self.drop(x)
        mask = _additive(self._history_looks(attendable), x.dtype)
        asked = slice(-1 if last_only else -batch.valid.shape[1], None)
        cache = []
        for block in self.blocks:
            # Of the last layer only the states are read; the other tokens leave it their keys and values.
            x, keys_values = block(x, mask, asked=asked if block is self.blocks[-1] else ALL)
            cache.append(keys_values)
        h_state = self.norm(x)
        return History(self._quantiles(h_state), h_state, cache, attendable)

    def choose(self, history: History, returns: Tensor, eligible: Tensor) -> Tensor:
        """Second pass: logits [B, n, A] of the last n steps, given returns [B, n, R] and eligible actions [B, n, A]."""
        x = self.drop(self._return_tokens(returns, self._steps(history.attendable)))
        mask = _additive(self._returns_look(history.attendable, returns.shape[1]), x.dtype)
        for block, past in zip(self.blocks, history.cache, strict=True):
            x, _ = block(x, mask, past)
        return self._logits(history.hidden_states, self.norm(x), eligible)

    def _history_tokens(self, batch: Batch, earlier: Tensor | None) -> tuple[Tensor, Tensor]:
        """Embed a, r, (R^) of all steps but the last, then s of all: tokens [B, L, d], and who may be looked at."""
        t = batch.valid.shape[1]
        if t > self.config.context_length:
            raise ValueError(f"batch has {t} steps, context_length is {self.config.context_length}")
        if (earlier is None) != (self.config.earlier_returns == "hidden"):
            raise ValueError(
                f"earlier_returns is {self.config.earlier_returns!r}: earlier is {'not ' * (earlier is None)}given"
            )
        state = torch.cat([batch.states, batch.eligible.to(batch.states.dtype), batch.gaps[..., None]], dim=-1)
        parts = [self.embed_action(batch.actions[:, :-1]), self.embed_reward(batch.rewards[:, :-1])]
        if earlier is not None:
            parts.append(self.embed_return(earlier[:, :-1]))
        position = self._positions(t)
        tokens = torch.cat([*(part + position[:-1] for part in parts), self.embed_state(state) + position], dim=1)
        return tokens, torch.cat([batch.valid[:, :-1]] * len(parts) + [batch.valid], dim=1)

    def _return_tokens(self, returns: Tensor, t: int) -> Tensor:
        """Embed the returns [B, n, R] of the last n of t steps."""
        embedded: Tensor = self.embed_return(returns)
        return embedded + self._positions(t)[-returns.shape[1] :]

    def _history_looks(self, attendable: Tensor) -> Tensor:
        """Which history each history token may look at: bool [B, L, L]."""
        moments = self._moments(attendable)
        # A padded query may look at itself: a row without any key would give NaN.
        itself = torch.eye(len(moments), dtype=torch.bool, device=attendable.device)
        return (moments <= moments[:, None]) & (attendable[:, None, :] | itself)

    def _returns_look(self, attendable: Tensor, n: int) -> Tensor:
        """Which history, then which return each return of the last n steps may look at: bool [B, n, L + n].

        A leaf looks at what is there up to the state of its step, and at itself.
        """
        moments = self._moments(attendable)
        history = (moments <= moments[-n:, None]) & attendable[:, None, :]
        itself = torch.eye(n, dtype=torch.bool, device=attendable.device)
        return torch.cat([history, itself.expand(history.shape[0], n, n)], dim=2)  # not len(), a constant to an export

    def _moments(self, attendable: Tensor) -> Tensor:
        """Place in s_1 (R^_1) a_1 r_1 s_2 ... of each of the L tokens of history: [L]."""
        k, t = self.step_tokens, self._steps(attendable)
        state = torch.arange(0, k * t, k, device=attendable.device)
        after = {3: (1, 2), 4: (2, 3, 1)}[k]  # of a, r, (R^)
        return torch.cat([*(state[:-1] + place for place in after), state])

    def _steps(self, attendable: Tensor) -> int:
        """T of a history of L tokens."""
        return (attendable.shape[1] - 1) // self.step_tokens + 1

    def _logits(self, h_state: Tensor, h_return: Tensor, eligible: Tensor) -> Tensor:
        """Logits [B, n, A]. Padding has no eligible action; the first one keeps its softmax defined."""
        first = torch.arange(eligible.shape[-1], device=eligible.device) == 0
        eligible = eligible | (~eligible.any(dim=-1, keepdim=True) & first)
        logits: Tensor = self.action_head(h_state, h_return, eligible)
        return logits

    def _positions(self, t: int) -> Tensor:
        """Positions count from the end, so that the step to decide is always the last: [t, d]."""
        return self.embed_step.weight[-t:]

    def _quantiles(self, h_state: Tensor) -> Tensor:
        """Quantiles [..., R, M] from h_s [..., d]; sorted, hence never crossing (eq. 5 and 6)."""
        flat = self.quantile_head(h_state)
        shape = (*h_state.shape[:-1], self.config.n_rewards, len(self.config.quantiles))
        quantiles: Tensor = flat.view(shape).sort(dim=-1).values
        return quantiles


def action_loss(logits: Tensor, actions: Tensor, weight: Tensor) -> Tensor:
    """Cross-entropy of logits [B, T, A] at actions [B, T], averaged over the steps where ``weight`` is True (eq. 2)."""
    chosen = -F.log_softmax(logits, dim=-1).gather(-1, actions[..., None])[..., 0]
    return _mean_where(chosen, weight)


def pinball_loss(quantiles: Tensor, returns: Tensor, levels: Sequence[float], weight: Tensor) -> Tensor:
    """Pinball loss of quantiles [B, T, R, M] at returns [B, T, R]: eq. 7 with rho_alpha_j, eq. 8.

    Summed over rewards and averaged over levels and over the steps where ``weight`` [B, T] is True (the paper sums;
    the factor goes into lambda).
    """
    alpha = torch.as_tensor(levels, dtype=quantiles.dtype, device=quantiles.device)
    error = returns[..., None] - quantiles
    loss = torch.maximum(alpha * error, (alpha - 1.0) * error)
    return _mean_where(loss.mean(dim=-1).sum(dim=-1), weight)


def _mean_where(values: Tensor, weight: Tensor) -> Tensor:
    # where, not multiplication: infinity or NaN times zero is NaN.
    kept = torch.where(weight, values, torch.zeros_like(values))
    return kept.sum() / weight.sum().clamp(min=1)


def _additive(allowed: Tensor, dtype: torch.dtype) -> Tensor:
    """Turn bool [B, n, L] (True = may look) into what attention adds to its scores, for every layer: [B, 1, n, K].

    K is L rounded up to whole vector registers, with blanks that nobody may look at: softmax over 16 keys takes a
    third of the time that it takes over 10 (in PyTorch; an export does without).
    """
    if not torch.compiler.is_exporting():
        allowed = F.pad(allowed, (0, -allowed.shape[-1] % LANES))
    return torch.zeros_like(allowed, dtype=dtype).masked_fill(~allowed, -torch.inf)[:, None]


def _std(linear: nn.Linear) -> float:
    return 1.0 / math.sqrt(linear.in_features)
