"""Export of a trained model to ONNX: one graph for both passes, for the last step of every window."""

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
from models.decision_transformer import DecisionTransformer, DecisionTransformerConfig
from models.runtime import DECIDE, wanted_return

OPSET = 23  # the first with Attention, as one operator


def can_export(config: DecisionTransformerConfig) -> bool:
    """Whether the model can be exported: with predicted earlier returns it takes T passes, and numpy between them."""
    return config.earlier_returns == "hidden"


class _Decide(nn.Module):
    """Both passes: a batch's fields and what is wanted in; quantiles [B, R, M] and probabilities [B, A] out."""

    def __init__(self, model: DecisionTransformer) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        *fields, weights, offset = inputs
        batch = Batch(*fields)
        history = self.model.read(batch, last_only=True)
        quantiles, allowed = history.quantiles[:, 0], batch.eligible[:, -1:]
        logits = self.model.choose(history, wanted_return(quantiles, weights, offset)[:, None], allowed)
        # ONNX Runtime's exponential of -inf is not quite 0.
        return quantiles, logits[:, 0].softmax(dim=-1).masked_fill(~allowed[:, 0], 0.0)


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
    """Write the graph into ``folder``, for batches of any size and windows of ``context_length`` steps.

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
    inputs = {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}
    inputs["weights"] = torch.zeros(b, config.n_rewards, len(config.quantiles))
    inputs["offset"] = torch.zeros(b, config.n_rewards)
    with _quiet(), _FlatLinear():
        torch.onnx.export(
            _Decide(model).eval(),
            tuple(inputs.values()),
            folder / DECIDE,
            input_names=list(inputs),
            output_names=["quantiles", "probabilities"],
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
