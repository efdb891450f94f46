"""Checkpoints of a fit: all that the next step depends on, in one file that is whole or not there; no pickle."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

_NO_LOSS = float("inf")


@dataclass
class FitState:
    """How far a fit is. Its randomness is a function of seed and step, so that no generator need be kept."""

    step: int = 0
    best_loss: float = _NO_LOSS
    """Lowest loss on the members kept apart, after a whole epoch."""
    best_epoch: int = 0
    done: bool = False


def save_checkpoint(
    path: Path,
    state: FitState,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    best: dict[str, Tensor],
    identity: str,
) -> None:
    """Write a checkpoint in the place of the last one. ``identity`` says which fit of which data this is."""
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    tensors |= {f"best.{name}": tensor for name, tensor in best.items()}
    for name, parameter in model.named_parameters():
        for key, tensor in optimizer.state[parameter].items():
            tensors[f"optimizer.{key}.{name}"] = tensor
    # Two processes may run the same fit: each has its own half, and both write the same.
    half = path.with_name(f"{path.name}.{os.getpid()}.new")
    save_file(tensors, half, {"state": json.dumps(asdict(state)), "identity": identity})
    with half.open("rb") as file:
        os.fsync(file.fileno())
    half.replace(path)


def load_checkpoint(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, identity: str
) -> tuple[FitState, dict[str, Tensor]]:
    """Bring ``model`` and ``optimizer`` to where the checkpoint is; return its state and best weights.

    Raises ValueError if it is torn, or is that of another fit.
    """
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is no whole checkpoint ({error}); remove it to start anew") from None
    if about.get("identity") != identity:
        raise ValueError(
            f"{path} is a checkpoint of another fit (settings, data or versions differ): remove it, or name another "
            "folder"
        )
    try:
        model.load_state_dict(_under("model.", tensors))
    except RuntimeError as error:
        raise ValueError(f"{path} was written by another release ({error}): remove it to start anew") from None
    for name, parameter in model.named_parameters():
        keys = [key.split(".")[1] for key in tensors if key.startswith("optimizer.") and key.split(".", 2)[2] == name]
        optimizer.state[parameter] = {key: tensors[f"optimizer.{key}.{name}"] for key in keys}
    return FitState(**json.loads(about["state"])), _under("best.", tensors)


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
