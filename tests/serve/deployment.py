"""A small deployment for the engine's tests: an untrained model, features from a dict, rings in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from contracts.settings import CHECKOUT
from contracts.spec import Spec, parse_spec
from models.artifact import Artifact, config_of
from models.decision_transformer import DecisionTransformer
from models.encoding import StateEncoder
from models.policy import Policy
from models.steps import Bools, Floats, Steps
from models.utility import UtilityModel
from sequence_store.avro_columns import FEW
from sequence_store.ring import Ring, RingStore
from serve.history import HistoryReader
from tests.models.problems import normalization

FEATURES = ("tenure_days", "visits_total", "clicks_total", "sends_24h")
NOW = 1_770_000_000_000
HOUR = 3_600_000


def spec_with(*changes: tuple[str, str]) -> Spec:
    """The simulator's spec with text replaced, float32 rings, deadlines that a loaded machine keeps."""
    text = (CHECKOUT / "specs" / "notification.yaml").read_text().replace("{default: uint8}", "{default: float32}")
    text = text.replace("features: 200, rings: 200", "features: 20000, rings: 20000")
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new)
    return parse_spec(text, "test.yaml")


def untrained_artifact(spec: Spec | None = None) -> Artifact:
    """An artifact with random weights: what it answers is no matter, that it does so consistently is."""
    spec = spec or spec_with()
    encoder = StateEncoder.fit(
        spec,
        FEATURES,
        {"type": np.array(["job", "news"], dtype=object), "relevance": np.zeros(1), "age_hours": np.zeros(1)},
    )
    n = len(encoder.columns)
    torch.manual_seed(0)
    model = DecisionTransformer(config_of(spec, n)).eval()
    utility = UtilityModel(len(encoder.features) + len(encoder.candidate_columns), 1, len(spec.actions))
    fitted = normalization(n, len(spec.rewards), mean=1.0)
    return Artifact(spec, Policy(model, fitted), utility, encoder, FEATURES, {}, "v1")


def ring_in(store: RingStore, now_ms: int = NOW) -> Ring:
    """The ring of member ``a``."""
    ring = store.read(["a"], [now_ms])[0]
    assert isinstance(ring, Ring)
    return ring


def steps_in(
    reader: HistoryReader, store: RingStore, states: Floats, eligible: Bools, at_ms: int, counters: NDArray[np.float64]
) -> Steps:
    """What the model is shown of member ``a`` [1, T]: the same by itself and among others."""
    alone, among = (
        reader.steps(store.read(["a"] * members, [at_ms] * members), [members - 1], states, eligible, [at_ms], counters)
        for members in (1, FEW)
    )
    for one in fields(Steps):
        np.testing.assert_array_equal(getattr(alone, one.name), getattr(among, one.name), strict=True)
    return alone


@dataclass
class Values:
    """What is not known is missing, but for what the fields say."""

    values: NDArray[np.float64]
    stale: NDArray[np.bool_]
    never_materialized: NDArray[np.bool_]

    @property
    def missing(self) -> NDArray[np.bool_]:
        return np.isnan(self.values) & ~self.stale & ~self.never_materialized

    @property
    def event_us(self) -> NDArray[np.int64]:
        """No views: what is no table of Feast's has no times."""
        return np.empty((len(self.values), 0), np.int64)


@dataclass
class TableOfFeatures:
    """Features by member, as a feature store would give them; NaN for a member never seen."""

    rows: dict[str, Mapping[str, float]] = field(default_factory=dict)
    feature_names: tuple[str, ...] = FEATURES
    stale: frozenset[str] = frozenset()
    never_materialized: frozenset[str] = frozenset()
    """Features of which nothing is known, and why."""
    view_names: tuple[str, ...] = ()

    def read(self, member_ids: Sequence[str], at_ms: Sequence[int]) -> Values:
        """Return values [n, F]."""
        stale, never = (
            np.array([[name in names for name in self.feature_names]] * len(member_ids))
            for names in (self.stale, self.never_materialized)
        )
        values = np.array(
            [[self.rows.get(member, {}).get(name, np.nan) for name in self.feature_names] for member in member_ids]
        )
        return Values(np.where(stale | never, np.nan, values), stale, never)


def item(member: str = "a", cycle: str = "c0", at_hours: float = 0.0, **more: Any) -> dict[str, Any]:
    """One request item with two candidates."""
    moment = np.datetime64(NOW + int(at_hours * HOUR), "ms")
    return {
        "member_id": member,
        "cycle_id": cycle,
        "at": f"{moment}Z",
        "candidates": [
            {
                "notification_id": f"n{k}",
                "type": "job",
                "eligible": ["none", "badge", "push"],
                "features": {"relevance": 0.1 + k, "age_hours": 2.0},
            }
            for k in range(2)
        ],
        **more,
    }
