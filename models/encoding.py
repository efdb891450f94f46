"""From feature values to the numbers of a state: one encoder, used on training tables and on requests alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contracts.errors import LogError
from contracts.spec import Spec
from models.steps import Floats


@dataclass(frozen=True)
class StateEncoder:
    """The columns of a state: member features (counters apart), candidate features, utility scores."""

    features: tuple[str, ...]
    """Member features in the feature service's order, without the counters."""
    candidate: tuple[str, ...]
    categories: Mapping[str, tuple[str, ...]]
    """Candidate features that are text, with the values known in training; any other value is all zeros."""
    missing: Mapping[str, float]
    """Value of each numeric feature where it is missing."""
    scores: tuple[str, ...]
    """Utility scores, ``<reward>:<action>``."""

    @staticmethod
    def fit(spec: Spec, service_features: Sequence[str], candidate_columns: Mapping[str, NDArray[Any]]) -> StateEncoder:
        """Make the encoder of ``spec``; text columns get their categories from the spec or from the values seen.

        Raises LogError where the spec's categories do not fit the column.
        """
        categories: dict[str, tuple[str, ...]] = {}
        for name in spec.state.candidate:
            is_text = candidate_columns[name].dtype == object
            declared = spec.state.categories.get(name)
            if declared is not None and not is_text:
                raise LogError(f"state.categories.{name}: the log's column {name!r} is numeric, not text")
            if is_text:
                seen = sorted({str(value) for value in candidate_columns[name] if value is not None})
                categories[name] = declared if declared is not None else tuple(seen)
        features = tuple(name for name in service_features if name not in spec.counter_features)
        numeric = [*features, *(name for name in spec.state.candidate if name not in categories)]
        return StateEncoder(
            features=features,
            candidate=spec.state.candidate,
            categories=categories,
            missing={name: spec.state.missing_value(name) for name in numeric},
            scores=tuple(f"{reward}:{action}" for reward in spec.predicted_rewards for action in spec.actions[1:]),
        )

    @property
    def candidate_columns(self) -> tuple[str, ...]:
        """Names of the encoded candidate columns; a category becomes ``<feature>=<value>``."""
        names: list[str] = []
        for name in self.candidate:
            names += [f"{name}={value}" for value in self.categories[name]] if name in self.categories else [name]
        return tuple(names)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of all state columns, in order."""
        return (*self.features, *self.candidate_columns, *self.scores)

    def encode_features(self, names: Sequence[str], values: NDArray[np.floating]) -> Floats:
        """Pick the state's member features from ``values`` [n, len(names)] (NaN = missing): [n, features]."""
        position = {name: i for i, name in enumerate(names)}
        absent = [name for name in self.features if name not in position]
        if absent:
            raise LogError(f"features {absent} are in the model but not among those read: {list(names)}")
        picked = to_float32(values[:, [position[name] for name in self.features]])
        fill = np.asarray([self.missing[name] for name in self.features], dtype=np.float32)
        return np.where(np.isfinite(picked), picked, fill).astype(np.float32)

    def encode_candidates(self, columns: Mapping[str, NDArray[Any]], n: int) -> Floats:
        """Encode the candidate features of n candidates (numbers, NaN = missing; text as objects): [n, columns]."""
        parts: list[Floats] = []
        for name in self.candidate:
            values = columns[name]
            if name in self.categories:
                known = np.asarray(self.categories[name], dtype=object)
                parts.append((values[:, None] == known[None, :]).astype(np.float32).reshape(n, len(known)))
            else:
                number = to_float32(values)
                parts.append(np.where(np.isfinite(number), number, self.missing[name]).astype(np.float32)[:, None])
        return np.concatenate(parts, axis=1) if parts else np.zeros((n, 0), dtype=np.float32)

    def to_json(self) -> dict[str, Any]:
        """Return plain lists and dicts."""
        return asdict(self)

    @staticmethod
    def from_json(document: Mapping[str, Any]) -> StateEncoder:
        """Read what ``to_json`` wrote."""
        return StateEncoder(
            features=tuple(document["features"]),
            candidate=tuple(document["candidate"]),
            categories={name: tuple(values) for name, values in document["categories"].items()},
            missing=dict(document["missing"]),
            scores=tuple(document["scores"]),
        )


def to_float32(values: NDArray[np.floating]) -> Floats:
    """Cast to float32; what lies beyond its range becomes its largest number, not infinity. NaN stays."""
    largest = np.finfo(np.float32).max
    clipped: Floats = np.clip(values, -largest, largest).astype(np.float32)
    return clipped
