"""Where decisions come from: a deployment's training set, split by member or folded for cross-validation."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from contracts.errors import SpecError
from contracts.spec import Spec, dump_spec, parse_spec
from models.decision_table import TrainingSet
from models.masking import MaskableColumns
from models.steps import Ints
from models.training_data import TrainingData, prepare
from models.trajectories import Trajectories


@dataclass(frozen=True)
class Source:
    """One training set. ``folds`` = 0: each seed keeps its own share of the members apart, as training does."""

    spec: Spec
    training_set: Path
    fingerprint: str
    folds: int = 0

    @property
    def name(self) -> str:
        """The deployment's name."""
        return self.spec.name

    @property
    def parts(self) -> range:
        """Numbers of the folds; one part where there are none."""
        return range(max(self.folds, 1))


@dataclass(frozen=True)
class Case:
    """One split of a source, encoded."""

    trajectories: Trajectories
    train_members: Ints
    validation_members: Ints
    maskable: MaskableColumns


def find_source(spec: Spec, training_set: Path, folds: int = 0) -> Source:
    """Return the source in the folder ``training_set``.

    Raises LogError where there is none, SpecError for folds of a log whose utility model is fitted to a split.
    """
    if folds and spec.predicted_rewards:
        raise SpecError(
            f"{spec.name}: no cross-validation with predicted rewards ({', '.join(spec.predicted_rewards)}): the "
            "utility model is fitted to one split of the members"
        )
    return Source(spec, training_set, TrainingSet.open(training_set, spec).fingerprint, folds)


def load_case(source: Source, seed: int, fold: int) -> Case:
    """Return what is trained on and evaluated with this seed and fold; the same for every variant."""
    data = _prepared(source.training_set, dump_spec(source.spec), seed)
    maskable = MaskableColumns.of(source.spec, data.encoder)
    train, held_out = data.train_members, data.validation_members
    if source.folds:
        folds = fold_members(data.trajectories.members, source.folds, seed)
        held_out = folds[fold]
        train = np.sort(np.concatenate([part for index, part in enumerate(folds) if index != fold]))
    return Case(data.trajectories, train, held_out, maskable)


def fold_members(members: int, folds: int, seed: int) -> list[Ints]:
    """Deal member positions into folds at random, as equal as can be."""
    order = np.random.default_rng(seed).permutation(members)
    return [np.sort(part) for part in np.array_split(order, folds)]


@lru_cache(maxsize=1)
def _prepared(training_set: Path, spec_text: str, seed: int) -> TrainingData:
    # A spec holds mappings and so has no hash; its text has.
    spec = parse_spec(spec_text, str(training_set))
    spec = dataclasses.replace(spec, training=dataclasses.replace(spec.training, seed=seed))
    return prepare(TrainingSet.open(training_set, spec))
