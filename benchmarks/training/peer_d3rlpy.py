"""d3rlpy's ``DiscreteDecisionTransformer``, in sizes like ours and otherwise with its defaults."""

from __future__ import annotations

import contextlib
from time import perf_counter
from typing import Any

import d3rlpy
import numpy as np
import torch
from d3rlpy.torch_utility import TorchTrajectoryMiniBatch

from benchmarks.training.contender import WARM_UP, Log, Sizes, pace, serve


class _EnoughError(Exception):
    """Ends a fit: time is up."""


class D3rlpy:
    """See Contender."""

    def __init__(self, log: Log, sizes: Sizes) -> None:
        self._log, self._sizes = log, sizes

    def _make(self, batch: int, precision: str) -> Any:
        sizes = self._sizes
        algorithm = d3rlpy.algos.DiscreteDecisionTransformerConfig(
            batch_size=batch,
            context_size=sizes.context,
            max_timestep=sizes.length,
            encoder_factory=d3rlpy.models.VectorEncoderFactory([sizes.width], exclude_last_activation=True),
            optim_factory=d3rlpy.optimizers.AdamWFactory(clip_grad_norm=1.0),
            num_heads=sizes.heads,
            num_layers=sizes.layers,
            attn_dropout=0.0,
            resid_dropout=0.0,
            embed_dropout=0.0,
        ).create(device="cpu:0")
        algorithm.create_impl((sizes.states,), sizes.actions)
        if precision == "bfloat16":
            impl, exact = algorithm.impl, algorithm.impl.compute_loss

            def compute_loss(windows: Any) -> Any:
                with torch.autocast("cpu", torch.bfloat16):
                    return exact(windows)

            impl.compute_loss = compute_loss
        return algorithm

    def train(self, batch: int, precision: str, seconds: float) -> float:
        """See Contender."""
        impl = self._make(batch, precision).impl

        def step() -> int:
            drawn = self._log.draw(batch)
            impl.update(
                TorchTrajectoryMiniBatch(
                    observations=drawn.states,
                    actions=drawn.actions[..., None],
                    rewards=drawn.returns,  # not read
                    returns_to_go=drawn.returns,
                    terminals=drawn.returns,  # not read
                    timesteps=drawn.timesteps + 1,
                    masks=drawn.mask,
                    device="cpu:0",
                ),
                0,
            )
            return batch

        return pace(step, seconds)

    def train_own(self, batch: int, precision: str, seconds: float) -> float:
        """See Contender: its own ``fit``, which slices a trajectory at a time."""
        arrays, done, started = self._log.arrays, 0, 0.0
        timeouts = np.zeros(len(arrays["actions"]), np.float32)
        timeouts[arrays["starts"][1:] - 1] = 1.0
        dataset = d3rlpy.dataset.MDPDataset(
            observations=arrays["states"],
            actions=arrays["actions"],
            rewards=arrays["rewards"][:, 0],
            terminals=np.zeros_like(timeouts),
            timeouts=timeouts,
            action_space=d3rlpy.constants.ActionSpace.DISCRETE,
            action_size=self._sizes.actions,
        )

        def count(_: Any, __: int, step: int) -> None:
            nonlocal done, started
            if step == WARM_UP:
                started = perf_counter()
            elif step > WARM_UP:
                done += 1
                if perf_counter() - started > seconds:
                    raise _EnoughError

        with contextlib.suppress(_EnoughError):
            self._make(batch, precision).fit(
                dataset,
                n_steps=10**9,
                n_steps_per_epoch=10**9,
                logger_adapter=d3rlpy.logging.NoopAdapterFactory(),
                show_progress=False,
                callback=count,
            )
        return done * batch / (perf_counter() - started)

    def infer(self, batch: int, precision: str, seconds: float) -> float:
        """See Contender: one forward pass of its module, since its ``predict`` takes one trajectory at a time."""
        model = self._make(batch, "float32").impl.modules.transformer.eval().to(getattr(torch, precision))
        drawn = self._log.draw(batch)
        arrays = [each.numpy() for each in (drawn.states, drawn.actions, drawn.returns, drawn.timesteps, drawn.mask)]

        @torch.inference_mode()
        def step() -> int:
            states, actions, returns, timesteps, mask = (torch.from_numpy(array) for array in arrays)
            if precision != "float32":
                states, returns, mask = (each.bfloat16() for each in (states, returns, mask))
            probabilities, _ = model(states, actions, returns, timesteps, 1 - mask)
            probabilities[:, -1].float().numpy()
            return batch

        return pace(step, seconds)


if __name__ == "__main__":
    serve(D3rlpy)
