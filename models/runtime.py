"""What runs a trained model's two passes in service: PyTorch itself, or ONNX Runtime on the model's export."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from models.batch import Batch
from models.decision_transformer import DecisionTransformer
from models.steps import Bools, Floats

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

    For models that hide earlier returns, the default; the others need as many passes as steps and stay with PyTorch.
    Raises the library's error where a graph cannot be read.
    """

    def __init__(self, folder: Path, context_length: int) -> None:
        # A second of import that only service pays.
        import onnxruntime

        options = onnxruntime.SessionOptions()
        self.threads = options.intra_op_num_threads = torch.get_num_threads()
        options.inter_op_num_threads = 1
        # Threads that wait sleep: a worker shares its cores with others.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
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
        quantiles, *kept = self._read.run(None, batch_inputs(batch, self._context_length))
        return quantiles, kept

    def choose(self, kept: Sequence[Any], returns: Floats, eligible: Bools) -> Floats:
        """See Runtime."""
        feed = {"returns": returns, "allowed": eligible, **dict(zip(self._kept, kept, strict=True))}
        probabilities: Floats = self._choose.run(None, feed)[0]
        return probabilities


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
