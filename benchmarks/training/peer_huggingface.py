"""Hugging Face's ``DecisionTransformerModel``, trained as its examples do, for discrete actions."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.nn import functional as F  # noqa: N812
from transformers import DecisionTransformerConfig, DecisionTransformerModel

from benchmarks.training.contender import Log, Sizes, Windows, pace, serve


class HuggingFace:
    """See Contender."""

    def __init__(self, log: Log, sizes: Sizes) -> None:
        self._log, self._sizes = log, sizes
        self._model = self._make()
        # What its Trainer uses: fused AdamW, gradients clipped to 1.
        self._optimizer = torch.optim.AdamW(self._model.parameters(), lr=1e-4, fused=True)

    def _make(self) -> Any:
        sizes = self._sizes
        return DecisionTransformerModel(
            DecisionTransformerConfig(
                state_dim=sizes.states,
                act_dim=sizes.actions,
                hidden_size=sizes.width,
                n_layer=sizes.layers,
                n_head=sizes.heads,
                max_ep_len=sizes.length,
                n_positions=3 * sizes.context,
                action_tanh=False,
                use_cache=False,  # it would keep keys and values that nothing reads
                resid_pdrop=0.0,
                embd_pdrop=0.0,
                attn_pdrop=0.0,
            )
        )

    def train(self, batch: int, precision: str, seconds: float) -> float:
        """See Contender."""
        self._model.train()
        return pace(lambda: self._step(self._log.draw(batch), precision), seconds)

    def train_own(self, batch: int, precision: str, seconds: float) -> float:
        """See Contender: the data collator of the library's published example, a window at a time in numpy."""
        self._model.train()
        rng = np.random.default_rng(0)
        return pace(lambda: self._step(self._collate(rng, batch), precision), seconds)

    def infer(self, batch: int, precision: str, seconds: float) -> float:
        """See Contender: one forward pass, the last step's actions."""
        model = self._make().eval().to(getattr(torch, precision))
        drawn = self._log.draw(batch)
        one_hot = F.one_hot(drawn.actions, self._sizes.actions).float()
        arrays = [each.numpy() for each in (drawn.states, one_hot, drawn.returns, drawn.timesteps, drawn.mask)]

        @torch.inference_mode()
        def step() -> int:
            states, actions, returns, timesteps, mask = (torch.from_numpy(array) for array in arrays)
            if precision != "float32":
                states, actions, returns = (each.to(model.dtype) for each in (states, actions, returns))
            logits = model(
                states=states,
                actions=actions,
                returns_to_go=returns,
                timesteps=timesteps,
                attention_mask=mask,
                return_dict=False,
            )[1][:, -1]
            logits.float().softmax(dim=-1).numpy()
            return batch

        return pace(step, seconds)

    def _step(self, windows: Windows, precision: str) -> int:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            logits = self._model(
                states=windows.states,
                actions=F.one_hot(windows.actions, self._sizes.actions).float(),
                returns_to_go=windows.returns,
                timesteps=windows.timesteps,
                attention_mask=windows.mask,
                return_dict=False,
            )[1]
            real = windows.mask.reshape(-1) > 0
            loss = F.cross_entropy(logits.reshape(-1, self._sizes.actions)[real], windows.actions.reshape(-1)[real])
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
        self._optimizer.step()
        return len(windows.actions)

    def _collate(self, rng: np.random.Generator, batch: int) -> Windows:
        """Build a batch as ``DecisionTransformerGymDataCollator`` of the example does, left-padded with zeros."""
        arrays, t = self._log.arrays, self._sizes.context
        starts = arrays["starts"]
        parts: tuple[list[Any], ...] = ([], [], [], [], [])
        for member in rng.choice(len(starts) - 1, size=batch, replace=True):
            begin, end = starts[member], starts[member + 1]
            last = begin + rng.integers(0, end - begin)
            rows = slice(max(begin, last - t + 1), last + 1)
            steps = np.arange(rows.start - begin, last - begin + 1).reshape(1, -1)
            values = (
                np.array(arrays["states"][rows]).reshape(1, -1, self._sizes.states),
                np.array(arrays["actions"][rows]).reshape(1, -1),
                np.array(arrays["returns"][rows, 0]).reshape(1, -1, 1),
                steps,
                np.ones(steps.shape, np.float32),
            )
            for part, value in zip(parts, values, strict=True):
                blank = np.zeros((1, t - value.shape[1], *value.shape[2:]), value.dtype)
                part.append(np.concatenate([blank, value], axis=1))
        return Windows(*(torch.from_numpy(np.concatenate(part, axis=0)) for part in parts))


if __name__ == "__main__":
    serve(HuggingFace)
