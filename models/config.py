"""What a fit is asked for: everything but the data, in one object or one YAML file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import ConfigDict, Field, TypeAdapter
from pydantic.dataclasses import dataclass

from contracts.errors import SpecError
from contracts.spec import Level, Model, Spec, Training, parse_yaml
from models.decision_transformer import DecisionTransformerConfig

QUANTILES = (0.1, 0.25, 0.5, 0.7, 0.8, 0.9, 0.95)
"""The levels that the paper learns (6.1)."""


@dataclass(frozen=True, config=ConfigDict(extra="forbid", strict=True, allow_inf_nan=False))
class FitConfig:
    """Settings of one fit. Sizes (states, actions, rewards) are not here: they are the trajectories'.

    Raises pydantic.ValidationError, a ValueError, naming every field that is wrong.
    """

    horizon: Annotated[int, Field(ge=0)] = 16
    """H: further decisions that a return-to-go looks ahead."""
    discount: Annotated[float, Field(gt=0.0, le=1.0)] = 0.97
    """gamma."""
    quantiles: Annotated[tuple[Level, ...], Field(min_length=1)] = QUANTILES
    context_length: Annotated[int, Field(ge=1, le=128)] = 4
    """T: steps that the model sees, the one to decide among them."""
    model: Model = Field(default_factory=Model)
    training: Training = Field(default_factory=Training)

    @staticmethod
    def of(spec: Spec) -> FitConfig:
        """Return what a deployment's spec asks for."""
        return FitConfig(
            horizon=spec.horizon,
            discount=spec.discount,
            quantiles=spec.quantiles,
            context_length=spec.context_length,
            model=spec.model,
            training=spec.training,
        )

    def shape(self, state_dim: int, n_actions: int, n_rewards: int) -> DecisionTransformerConfig:
        """Return the model's shape for data of these sizes. Raises ValueError if it makes no model."""
        model = self.model
        return DecisionTransformerConfig(
            state_dim=state_dim,
            n_actions=n_actions,
            n_rewards=n_rewards,
            quantiles=self.quantiles,
            context_length=self.context_length,
            width=model.width,
            layers=model.layers,
            heads=model.heads,
            dropout=model.dropout,
            action_input=model.action_input,
            eligibility_gate=model.eligibility_gate,
            earlier_returns=model.earlier_returns,
        )


_ADAPTER = TypeAdapter(FitConfig)


def load_fit_config(path: Path) -> FitConfig:
    """Load a FitConfig from YAML; keys left out have their defaults. Raises SpecError naming file, field and value."""
    try:
        return parse_yaml(path.read_text(encoding="utf-8"), str(path), _ADAPTER)
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"{path}: cannot be read as UTF-8 text: {error}") from None


def dump_fit_config(config: FitConfig) -> str:
    """Return ``config`` as YAML with every default written out; ``load_fit_config`` reads it back equal."""
    text: str = yaml.safe_dump(json.loads(_ADAPTER.dump_json(config)), sort_keys=False)
    return text
