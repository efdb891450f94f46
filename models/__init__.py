"""The Decision Transformer and what it is trained from: PyTorch, and neither Redis, Feast nor TorchServe.

As a library (docs/model.md) these names are all one needs. They are imported when first used, so that a process that
reads windows alone (``models.steps``) starts without PyTorch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from contracts.spec import Absolute, Model, Training
    from models.build import from_columns, from_episodes
    from models.config import FitConfig
    from models.evaluation import Evaluation, evaluate
    from models.history import PastSteps
    from models.policy import Decisions, Policy
    from models.prompts import Prompts, make_prompts
    from models.rollouts import Rollout, collect, rollout
    from models.steps import Steps
    from models.training import Progress, fit
    from models.trajectories import Trajectories, split_members

_HOMES = {
    "Absolute": "contracts.spec",
    "Model": "contracts.spec",
    "Training": "contracts.spec",
    "from_columns": "models.build",
    "from_episodes": "models.build",
    "FitConfig": "models.config",
    "Evaluation": "models.evaluation",
    "evaluate": "models.evaluation",
    "PastSteps": "models.history",
    "Decisions": "models.policy",
    "Policy": "models.policy",
    "Prompts": "models.prompts",
    "make_prompts": "models.prompts",
    "Rollout": "models.rollouts",
    "collect": "models.rollouts",
    "rollout": "models.rollouts",
    "Steps": "models.steps",
    "Progress": "models.training",
    "fit": "models.training",
    "Trajectories": "models.trajectories",
    "split_members": "models.trajectories",
}

__all__ = [
    "Absolute",
    "Decisions",
    "Evaluation",
    "FitConfig",
    "Model",
    "PastSteps",
    "Policy",
    "Progress",
    "Prompts",
    "Rollout",
    "Steps",
    "Training",
    "Trajectories",
    "collect",
    "evaluate",
    "fit",
    "from_columns",
    "from_episodes",
    "make_prompts",
    "rollout",
    "split_members",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'models' has no attribute {name!r}; its names are {', '.join(__all__)}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
