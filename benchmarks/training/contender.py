"""A contender's side of the benchmark: a process that is told what to measure, one line of JSON at a time.

It runs in the peers' environment too, so it needs numpy and torch alone.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

WARM_UP = 3  # calls before any is timed


@dataclass(frozen=True)
class Sizes:
    """What the parent says of the problem (benchmarks.training.data.Problem)."""

    members: int
    length: int
    states: int
    actions: int
    rewards: int
    context: int
    width: int
    layers: int
    heads: int


class Contender(Protocol):
    """What is measured. ``precision`` is float32 or bfloat16."""

    def train(self, batch: int, precision: str, seconds: float) -> float:
        """Windows a second through loss, backward pass and optimiser step, batches drawn by one gather."""
        ...

    def train_own(self, batch: int, precision: str, seconds: float) -> float:
        """Windows a second with the library's own way from a log to a batch."""
        ...

    def infer(self, batch: int, precision: str, seconds: float) -> float:
        """Decisions a second, numpy arrays in and out."""
        ...


class Windows(NamedTuple):
    """B windows of T steps as the peers read them, left-padded."""

    states: Tensor  # float [B, T, S]
    actions: Tensor  # int64 [B, T]
    returns: Tensor  # float [B, T, 1]
    timesteps: Tensor  # int64 [B, T]
    mask: Tensor  # float [B, T]    1 = real


class Log:
    """The log in memory, and a fast way to draw windows from it."""

    def __init__(self, path: Path, context: int) -> None:
        self.arrays = dict(np.load(path))
        tensors = {name: torch.from_numpy(array) for name, array in self.arrays.items()}
        starts = tensors["starts"]
        self._states, self._actions = tensors["states"], tensors["actions"]
        self._returns, self._ends = tensors["returns"][:, :1], tensors["ends"]
        self._first = torch.repeat_interleave(starts[:-1], starts.diff())  # [N]
        self._back = torch.arange(context - 1, -1, -1)

    def draw(self, n: int) -> Windows:
        """Draw n windows that end at a training target."""
        ends = self._ends[torch.randint(len(self._ends), (n,))]
        rows, first = ends[:, None] - self._back, self._first[ends][:, None]
        mask = (rows >= first).float()
        rows = rows.maximum(first)
        return Windows(
            self._states[rows] * mask[..., None], self._actions[rows], self._returns[rows], rows - first, mask
        )


def pace(step: Callable[[], int], seconds: float) -> float:
    """Return how many windows or decisions a second ``step`` does; it returns how many it did."""
    for _ in range(WARM_UP):
        step()
    done, started = 0, perf_counter()
    while (passed := perf_counter() - started) < seconds:
        done += step()
    return done / passed


def serve(make: Callable[[Log, Sizes], Contender]) -> None:
    """Answer the parent until it closes the pipe: ``python -m ... log.npz '<sizes as JSON>'``."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no reply
    sizes = Sizes(**json.loads(sys.argv[2]))
    torch.manual_seed(0)
    contender = make(Log(Path(sys.argv[1]), sizes.context), sizes)
    for line in sys.stdin:
        asked: dict[str, Any] = json.loads(line)
        rate = getattr(contender, asked.pop("task"))(**asked)
        print(json.dumps(rate), file=replies, flush=True)
