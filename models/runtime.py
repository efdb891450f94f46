"""What runs a trained model in service: PyTorch itself, or ONNX Runtime on the model's export."""

from __future__ import annotations

import copy
import dataclasses
import itertools
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from models.batch import Batch
from models.decision_transformer import DecisionTransformer
from models.steps import Floats

LEAST_PART = 16  # rows that a thread is woken for
DECIDE = "decide.onnx"
"""The exported model, as ``models.export`` writes it."""


class Wanted(NamedTuple):
    """The return each decision is to be made for, as a linear map of its own predicted quantiles, in normalised units.

    Interpolation between learned levels is one (eq. 10); an absolute return is an offset alone.
    """

    weights: Floats  # [B, R, M]
    offset: Floats  # [B, R]

    def of(self, quantiles: Tensor) -> Tensor:
        """Return what is wanted of ``quantiles`` [B, R, M]: [B, R]."""
        weights, offset = (torch.from_numpy(each).to(quantiles.dtype) for each in self)
        return wanted_return(quantiles, weights, offset)


def wanted_return(quantiles: Tensor, weights: Tensor, offset: Tensor) -> Tensor:
    """Apply the map of ``Wanted``."""
    return (weights * quantiles).sum(dim=-1) + offset


class Runtime(Protocol):
    """Decides the last step of every window, in normalised units."""

    def answer(self, batch: Batch, earlier: Tensor | None, wanted: Wanted) -> tuple[Floats, Floats]:
        """Quantiles [B, R, M], and probabilities [B, A] at the returns wanted; exactly 0 where not eligible."""
        ...


class EagerRuntime:
    """PyTorch, the reference."""

    def __init__(self, model: DecisionTransformer, dtype: torch.dtype = torch.float32) -> None:
        """Take ``model`` itself, or a copy with its weights in another ``dtype``; answers are float32 all the same."""
        self._model = model if dtype == torch.float32 else copy.deepcopy(model).to(dtype)
        self._dtype = dtype

    @torch.inference_mode()
    def answer(self, batch: Batch, earlier: Tensor | None, wanted: Wanted) -> tuple[Floats, Floats]:
        """See Runtime."""
        if self._dtype != torch.float32:
            fields = {name: getattr(batch, name).to(self._dtype) for name in ("states", "rewards", "gaps")}
            batch = dataclasses.replace(batch, **fields)
            earlier = None if earlier is None else earlier.to(self._dtype)
        history = self._model.read(batch, earlier, last_only=True)
        quantiles = history.quantiles[:, 0]
        logits = self._model.choose(history, wanted.of(quantiles)[:, None], batch.eligible[:, -1:])
        return quantiles.float().numpy(), logits[:, 0].float().softmax(dim=-1).numpy()


class OnnxRuntime:
    """ONNX Runtime on the graph in ``folder``, with as many threads as PyTorch has (OMP_NUM_THREADS).

    Each thread answers its own part of a batch: one operator shared by two threads is too small to gain by it.
    For models that hide earlier returns, the default; the others need as many passes as steps and stay with PyTorch.
    Raises the library's error where the graph cannot be read.
    """

    def __init__(self, folder: Path, context_length: int) -> None:
        # A second of import that only service pays.
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self.threads = torch.get_num_threads()
        self._pool = ThreadPoolExecutor(self.threads - 1, "onnxruntime") if self.threads > 1 else None
        self._context_length = context_length
        self._session = onnxruntime.InferenceSession(folder / DECIDE, options, providers=["CPUExecutionProvider"])

    def answer(self, batch: Batch, earlier: Tensor | None, wanted: Wanted) -> tuple[Floats, Floats]:
        """See Runtime. Raises ValueError if earlier returns are given, or more steps than the model's context."""
        if earlier is not None:
            raise ValueError("the exported model hides earlier returns; models that predict them run in PyTorch")
        inputs = batch_inputs(batch, self._context_length) | wanted._asdict()
        parts = [{name: value[rows] for name, value in inputs.items()} for rows in self._parts(len(wanted.offset))]
        others = [self._pool.submit(self._session.run, None, part) for part in parts[1:]] if self._pool else []
        answers = [self._session.run(None, parts[0]), *(other.result() for other in others)]
        quantiles, probabilities = (np.concatenate(each) for each in zip(*answers, strict=True))
        return quantiles, probabilities

    def _parts(self, rows: int) -> list[slice]:
        """Cut B rows into one part a thread, as equal as can be; few rows are one part."""
        count = max(1, min(self.threads, rows // LEAST_PART))
        edges = [rows * part // count for part in range(count + 1)]
        return [slice(first, last) for first, last in itertools.pairwise(edges)]


def batch_inputs(batch: Batch, context_length: int) -> dict[str, np.ndarray]:
    """Return the graph's inputs: a batch padded on the left to ``context_length`` steps.

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
