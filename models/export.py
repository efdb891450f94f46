"""Export of a trained model to ONNX: one graph for each of its two passes, for the last step of every window."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.overrides import TorchFunctionMode

from models.batch import Batch
from models.decision_transformer import DecisionTransformer, DecisionTransformerConfig, History
from models.runtime import CHOOSE, READ

OPSET = 23  # the first with Attention, as one operator


def can_export(config: DecisionTransformerConfig) -> bool:
    """Whether the model can be exported: with predicted earlier returns it takes T passes, and numpy between them."""
    return config.earlier_returns == "hidden"


class _Read(nn.Module):
    """First pass: the batch's fields in; quantiles [B, R, M], h_s [B, 1, d], attendable and the cache out."""

    def __init__(self, model: DecisionTransformer) -> None:
        super().__init__()
        self.model = model

    def forward(self, *fields: Tensor) -> tuple[Tensor, ...]:
        history = self.model.read(Batch(*fields), last_only=True)
        cache = [each for keys_values in history.cache for each in keys_values]
        return history.quantiles[:, 0], history.hidden_states, history.attendable, *cache


class _Choose(nn.Module):
    """Second pass: returns [B, R], eligible [B, A] and what the first kept in; probabilities [B, A] out."""

    def __init__(self, model: DecisionTransformer) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs: Tensor) -> Tensor:
        returns, allowed, hidden_states, attendable, *cache = inputs
        pairs = list(zip(cache[::2], cache[1::2], strict=True))
        history = History(hidden_states, hidden_states, pairs, attendable)  # the quantiles are not read again
        probabilities = self.model.choose(history, returns[:, None], allowed[:, None])[:, 0].softmax(dim=-1)
        # ONNX Runtime's exponential of -inf is not quite 0.
        return probabilities.masked_fill(~allowed, 0.0)


class _FlatLinear(TorchFunctionMode):
    """Makes of every linear map a matrix product of two dimensions: ONNX Runtime adds the bias within those alone."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Answer for ``func``."""
        if func is not F.linear:
            return func(*args, **(kwargs or {}))
        x, weight, bias = args
        return torch.addmm(bias, x.flatten(0, -2), weight.t()).view(*x.shape[:-1], len(weight))


def export_onnx(model: DecisionTransformer, folder: Path) -> None:
    """Write both graphs into ``folder``, for batches of any size and windows of ``context_length`` steps.

    Raises ValueError if the model's configuration cannot be exported.
    """
    config = model.config
    if not can_export(config):
        raise ValueError("a model with predicted earlier returns takes a pass a step; it is not exported")
    b, t = 3, config.context_length  # any batch size but 1, which an export takes for a constant
    batch = Batch(
        states=torch.zeros(b, t, config.state_dim),
        actions=torch.zeros(b, t, dtype=torch.int64),
        rewards=torch.zeros(b, t, config.n_rewards),
        eligible=torch.ones(b, t, config.n_actions, dtype=torch.bool),
        gaps=torch.zeros(b, t),
        valid=torch.ones(b, t, dtype=torch.bool),
    )
    fields = {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}
    kept_names = ["hidden_states", "attendable"]
    kept_names += [f"{kind}_{layer}" for layer in range(config.layers) for kind in ("keys", "values")]
    read, choose = _Read(model).eval(), _Choose(model).eval()
    with torch.no_grad():
        _, *kept = read(*fields.values())
    _export(read, fields, ["quantiles", *kept_names], folder / READ)
    asked = {"returns": torch.zeros(b, config.n_rewards), "allowed": torch.ones(b, config.n_actions, dtype=torch.bool)}
    _export(choose, {**asked, **dict(zip(kept_names, kept, strict=True))}, ["probabilities"], folder / CHOOSE)


def _export(module: nn.Module, inputs: dict[str, Tensor], outputs: list[str], path: Path) -> None:
    with _quiet(), _FlatLinear():
        torch.onnx.export(
            module,
            tuple(inputs.values()),
            path,
            input_names=list(inputs),
            output_names=outputs,
            opset_version=OPSET,
            dynamic_shapes=(tuple({0: torch.export.Dim("batch")} for _ in inputs),),
            external_data=False,
            dynamo=True,
            verbose=False,
        )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's progress and its advice on its own insides from standard output, warnings and logs."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
