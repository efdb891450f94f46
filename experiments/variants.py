"""What is compared: the deployment as its spec has it, and the same with one thing changed."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

from models.config import FitConfig


@dataclass(frozen=True)
class Variant:
    """One change to a deployment's fit, and the group of comparisons it belongs to."""

    name: str
    group: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    """Of FitConfig."""
    model: Mapping[str, Any] = field(default_factory=dict)
    """Of FitConfig.model."""
    training: Mapping[str, Any] = field(default_factory=dict)
    """Of FitConfig.training."""
    most_seeds: int | None = None
    """Fewer seeds than the rest, for what the paper does not report."""

    def config(self, base: FitConfig, seed: int, epochs: int | None = None) -> FitConfig:
        """Return ``base`` with this change.

        Another context length gets batches of as many steps, in fewer or more windows: so that every context takes as
        many optimiser steps over as many decisions, and none is better for having learned longer.
        """
        changed = dataclasses.replace(base, **self.changes)
        training: dict[str, Any] = dict(self.training) | {"seed": seed}
        if changed.context_length != base.context_length:
            windows = base.training.batch_size * base.context_length / changed.context_length
            training["batch_size"] = max(1, round(windows))
        if epochs is not None:
            training["epochs"] = epochs
        return dataclasses.replace(
            changed,
            model=dataclasses.replace(base.model, **self.model),
            training=dataclasses.replace(base.training, **training),
        )


FURTHER_SEEDS: Final = 3
EVERY_20TH: Final = tuple(round(0.05 * level, 2) for level in range(1, 20))

BASE: Final = Variant("as deployed", "base")
CONTEXTS: Final = MappingProxyType(
    {length: Variant(f"context {length}", "context", {"context_length": length}) for length in (1, 2, 4, 8)}
)
VARIANTS: Final = (
    BASE,
    *CONTEXTS.values(),
    Variant("h_R alone", "head", model={"action_input": "return"}),
    Variant("no EAS gate", "gate", most_seeds=FURTHER_SEEDS, model={"eligibility_gate": False}),
    Variant("earlier returns predicted", "earlier", most_seeds=FURTHER_SEEDS, model={"earlier_returns": "predicted"}),
    Variant("predicted_returns 0", "shift", most_seeds=FURTHER_SEEDS, training={"predicted_returns": 0.0}),
    Variant("predicted_returns 0.25", "shift", most_seeds=FURTHER_SEEDS, training={"predicted_returns": 0.25}),
    Variant("3 quantiles", "quantiles", {"quantiles": (0.25, 0.5, 0.75)}, most_seeds=FURTHER_SEEDS),
    Variant("19 quantiles", "quantiles", {"quantiles": EVERY_20TH}, most_seeds=FURTHER_SEEDS),
)
GROUPS: Final = tuple(dict.fromkeys(variant.group for variant in VARIANTS))


def find_base(variants: tuple[Variant, ...], context_length: int) -> tuple[Variant, ...]:
    """Return the variants without the context that is the deployment's own: it is the base, fitted once."""
    return tuple(
        variant for variant in variants if variant.changes.get("context_length") != context_length or variant == BASE
    )
