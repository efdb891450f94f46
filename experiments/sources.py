"""Where decisions come from: a deployment's training set, split by member or folded for cross-validation."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from contracts.spec import Spec, dump_spec, parse_spec
from models.decision_table import TrainingSet
from models.masking import MaskableColumns
from models.steps import Ints
from models.training_data import TrainingData, prepare
from models.trajectories import Trajectories


@dataclass(frozen=True)
class Source:
    """One training set. ``folds`` = 0: each seed holds out its own share of the members (``rotated``)."""

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
    """Return the source in the folder ``training_set``. Raises LogError where there is none."""
    return Source(spec, training_set, TrainingSet.open(training_set, spec).fingerprint, folds)


def load_case(source: Source, seed: int, fold: int) -> Case:
    """Return what is trained on and evaluated with this seed and fold; the same for every variant."""
    data = _prepared(source.training_set, dump_spec(source.spec), source.folds, seed, fold)
    maskable = MaskableColumns.of(source.spec, data.encoder)
    return Case(data.trajectories, data.train_members, data.validation_members, maskable)


def rotated(members: int, share: float, turn: int) -> Ints:
    """Return the members held out in a turn: dealt one after the other from one shuffle, round and round.

    So every member is held out as often as any other, or once more; of sets drawn anew each time some members would be
    in many and some in none, and the luck of the draw would not average out.
    """
    held_out = min(max(round(members * share), 1), members - 1)
    order = np.random.default_rng(0).permutation(members)
    return np.sort(order[np.arange(turn * held_out, (turn + 1) * held_out) % members])


def fold_members(members: int, folds: int, seed: int) -> list[Ints]:
    """Deal member positions into folds at random, as equal as can be."""
    order = np.random.default_rng(seed).permutation(members)
    return [np.sort(part) for part in np.array_split(order, folds)]


@lru_cache(maxsize=1)
def _prepared(training_set: Path, spec_text: str, folds: int, seed: int, fold: int) -> TrainingData:
    # A spec holds mappings and so has no hash; its text has.
    spec = parse_spec(spec_text, str(training_set))
    spec = dataclasses.replace(spec, training=dataclasses.replace(spec.training, seed=seed))

    def split(members: int) -> tuple[Ints, Ints]:
        share = spec.training.validation_share
        held_out = fold_members(members, folds, seed)[fold] if folds else rotated(members, share, seed)
        return np.setdiff1d(np.arange(members), held_out), held_out

    return prepare(TrainingSet.open(training_set, spec), split=split)
