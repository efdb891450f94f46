"""What runs a trained model's two passes in service: PyTorch itself, or ONNX Runtime on the model's export."""

from __future__ import annotations

import copy
import dataclasses
import itertools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from models.batch import Batch
from models.decision_transformer import DecisionTransformer
from models.steps import Bools, Floats

LEAST_PART = 16  # rows that a thread is woken for
READ, CHOOSE = "read.onnx", "choose.onnx"
"""The exported passes, as ``models.export`` writes them."""


class Runtime(Protocol):
    """Runs both passes for the last step of every window, in normalised units; the prompt goes in between."""

    def read(self, batch: Batch, earlier: Tensor | None) -> tuple[Floats, Any]:
        """First pass: quantiles [B, R, M], and what the second needs."""
        ...

    def choose(self, kept: Any, returns: Floats, eligible: Bools) -> Floats:
        """Second pass: probabilities [B, A] at returns [B, R] under eligible [B, A]; exactly 0 where not eligible."""
        ...


class EagerRuntime:
    """PyTorch, the reference."""

    def __init__(self, model: DecisionTransformer, dtype: torch.dtype = torch.float32) -> None:
        """Take ``model`` itself, or a copy with its weights in another ``dtype``; answers are float32 all the same."""
        self._model = model if dtype == torch.float32 else copy.deepcopy(model).to(dtype)
        self._dtype = dtype

    @torch.inference_mode()
    def read(self, batch: Batch, earlier: Tensor | None) -> tuple[Floats, Any]:
        """See Runtime."""
        if self._dtype != torch.float32:
            fields = {name: getattr(batch, name).to(self._dtype) for name in ("states", "rewards", "gaps")}
            batch = dataclasses.replace(batch, **fields)
            earlier = None if earlier is None else earlier.to(self._dtype)
        history = self._model.read(batch, earlier, last_only=True)
        return history.quantiles[:, 0].float().numpy(), history

    @torch.inference_mode()
    def choose(self, kept: Any, returns: Floats, eligible: Bools) -> Floats:
        """See Runtime."""
        asked, allowed = torch.from_numpy(returns).to(self._dtype)[:, None], torch.from_numpy(eligible)[:, None]
        probabilities: Floats = self._model.choose(kept, asked, allowed)[:, 0].float().softmax(dim=-1).numpy()
        return probabilities


class OnnxRuntime:
    """ONNX Runtime on the two graphs in ``folder``, with as many threads as PyTorch has (OMP_NUM_THREADS).

    Each thread answers its own part of a batch: one operator shared by two threads is too small to gain by it.
    For models that hide earlier returns, the default; the others need as many passes as steps and stay with PyTorch.
    Raises the library's error where a graph cannot be read.
    """

    def __init__(self, folder: Path, context_length: int) -> None:
        # A second of import that only service pays.
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.threads = torch.get_num_threads()
        self._pool = ThreadPoolExecutor(self.threads - 1, "onnxruntime") if self.threads > 1 else None
        options.log_severity_level = 3
        self._context_length = context_length
        self._read, self._choose = (
            onnxruntime.InferenceSession(folder / name, options, providers=["CPUExecutionProvider"])
            for name in (READ, CHOOSE)
        )
        self._kept = [output.name for output in self._read.get_outputs()][1:]

    def read(self, batch: Batch, earlier: Tensor | None) -> tuple[Floats, Any]:
        """See Runtime. Raises ValueError if earlier returns are given, or more steps than the model's context."""
        if earlier is not None:
            raise ValueError("the exported model hides earlier returns; models that predict them run in PyTorch")
        answers = self._run(self._read, self._parts(batch_inputs(batch, self._context_length), len(batch.valid)))
        return np.concatenate([quantiles for quantiles, *_ in answers]), [kept for _, *kept in answers]

    def choose(self, kept: Sequence[Sequence[Any]], returns: Floats, eligible: Bools) -> Floats:
        """See Runtime. ``kept`` has an item for each part of the batch."""
        parts = self._parts({"returns": returns, "allowed": eligible}, len(returns))
        feeds = [
            {**part, **dict(zip(self._kept, of_part, strict=True))} for part, of_part in zip(parts, kept, strict=True)
        ]
        return np.concatenate([probabilities for (probabilities,) in self._run(self._choose, feeds)])

    def _parts(self, inputs: dict[str, np.ndarray], rows: int) -> list[dict[str, np.ndarray]]:
        """Cut ``inputs`` of B rows into one part a thread, as equal as can be; few rows are one part."""
        count = max(1, min(self.threads, rows // LEAST_PART))
        edges = [rows * part // count for part in range(count + 1)]
        return [
            {name: value[first:last] for name, value in inputs.items()} for first, last in itertools.pairwise(edges)
        ]

    def _run(self, session: Any, feeds: Sequence[dict[str, Any]]) -> list[list[Any]]:
        """Run ``session`` on every feed, the first in this thread; returns the outputs in order."""
        others = [self._pool.submit(session.run, None, feed) for feed in feeds[1:]] if self._pool else []
        return [session.run(None, feeds[0]), *(other.result() for other in others)]


def batch_inputs(batch: Batch, context_length: int) -> dict[str, np.ndarray]:
    """Return the inputs of the first graph: a batch padded on the left to ``context_length`` steps.

    Raises ValueError if it has more.
    """
    missing = context_length - batch.valid.shape[1]
    if missing < 0:
        raise ValueError(f"batch has {batch.valid.shape[1]} steps, context_length is {context_length}")
    inputs = {name: tensor.numpy() for name, tensor in vars(batch).items()}
    if not missing:
        return inputs
    return {
        name: np.pad(value, ((0, 0), (missing, 0), *((0, 0),) * (value.ndim - 2))) for name, value in inputs.items()
    }
