"""Pacer itself as a contender: its own ``fit`` and ``Policy.decide``, batch building included in both."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch

from benchmarks.training.contender import WARM_UP, Log, Sizes, pace, serve
from benchmarks.training.data import DISCOUNT, HORIZON
from contracts.spec import Model, Training
from models.config import FitConfig
from models.export import export_onnx
from models.policy import Policy
from models.prompts import make_prompts
from models.runtime import EagerRuntime, OnnxRuntime, Runtime
from models.training import Progress, fit
from models.trajectories import Trajectories


class _EnoughError(Exception):
    """Ends a fit: time is up."""


class Pacer:
    """See Contender."""

    def __init__(self, log: Log, sizes: Sizes) -> None:
        fields = {field.name for field in dataclasses.fields(Trajectories)}
        self._log = Trajectories(**{name: array for name, array in log.arrays.items() if name in fields})
        self._sizes, self._ends = sizes, log.arrays["ends"]
        self._policy = fit(self._log, self._config(512, "float32", 1), members=np.arange(2))
        self._runtimes: dict[str, Runtime] = {"bfloat16": EagerRuntime(self._policy.model, torch.bfloat16)}
        with tempfile.TemporaryDirectory() as folder:
            export_onnx(self._policy.model, Path(folder))
            self._runtimes["float32"] = OnnxRuntime(Path(folder), sizes.context)

    def _config(self, batch: int, precision: str, epochs: int) -> FitConfig:
        sizes = self._sizes
        options: dict[str, Any] = {"precision": precision}
        return FitConfig(
            horizon=HORIZON,
            discount=DISCOUNT,
            context_length=sizes.context,
            model=Model(width=sizes.width, layers=sizes.layers, heads=sizes.heads),
            training=Training(batch_size=batch, epochs=epochs, **options),
        )

    def train(self, batch: int, precision: str, seconds: float) -> float:
        """See Contender: ``fit`` itself, from its first steps until time is up."""
        first, last, started, passed = 0, 0, 0.0, 0.0

        def watch(progress: Progress) -> None:
            nonlocal first, last, started, passed
            if progress.step == WARM_UP:
                first, started = progress.step, perf_counter()
            last, passed = progress.step, perf_counter() - started
            if progress.step > WARM_UP and passed > seconds:
                raise _EnoughError

        with contextlib.suppress(_EnoughError):
            fit(self._log, self._config(batch, precision, 1_000), on_progress=watch)
        return (last - first) * batch / passed

    train_own = train
    """Its way from a log to a batch is measured either way."""

    def infer(self, batch: int, precision: str, seconds: float) -> float:
        """See Contender: quantiles, prompt, action."""
        policy = Policy(self._policy.model, self._policy.normalization, runtime=self._runtimes[precision])
        rng = np.random.default_rng(0)
        steps = self._log.windows(rng.choice(self._ends, batch), self._sizes.context)
        names = [f"reward_{j}" for j in range(self._sizes.rewards)]
        prompts = make_prompts(names, [dict.fromkeys(names, 0.7)] * batch)

        def step() -> int:
            policy.decide(steps, prompts)
            return batch

        return pace(step, seconds)


if __name__ == "__main__":
    serve(Pacer)
