"""From a training set to a fitted utility model and encoded trajectories, a part at a time: memory is flat."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from contracts.errors import LogError
from contracts.spec import Spec
from models.decision_table import DecisionTable, TrainingSet
from models.encoding import StateEncoder
from models.steps import Floats, Ints
from models.trajectories import Trajectories, concatenate, split_members
from models.trajectory_files import TrajectoryWriter, open_trajectories
from models.utility import Sent, UtilityModel, UtilityReport, evaluate_utility, fit_utility, rewards_of

UTILITY_ROWS: Final = 1_000_000
"""Sends that the utility model is fitted to (and as many to evaluate it); of more, a share is drawn."""


@dataclass(frozen=True)
class TrainingData:
    """Everything a fit needs, and what a server must know to build the same states."""

    service_features: tuple[str, ...]
    member_ids: tuple[str, ...]  # [M] in the trajectories' order
    trajectories: Trajectories
    train_members: Ints
    validation_members: Ints
    encoder: StateEncoder
    utility: UtilityModel
    utility_report: UtilityReport


def prepare(
    training_set: TrainingSet,
    folder: Path | None = None,
    on_part: Callable[[], None] = lambda: None,
    split: Callable[[int], tuple[Ints, Ints]] | None = None,
) -> TrainingData:
    """Split members, fit encoder and utility model on the training ones, and encode everything.

    Three passes over the parts. With ``folder`` the trajectories are written there and memory-mapped; without, they
    are held in memory. ``on_part`` is called after each part of each pass. ``split`` gives the positions of
    training and held-out members, of as many as there are; without it they are split at random as the spec says.

    Raises ValueError with fewer than two members, LogError where labels or categories do not fit the spec, a reward
    was never known, or a member stands in two parts.
    """
    spec = training_set.spec

    def parts() -> Iterator[DecisionTable]:
        for part in training_set:
            yield part
            on_part()

    overview = _look_over(parts(), spec)
    encoder = StateEncoder.fit(spec, training_set.service_features, overview.candidate)
    members = len(overview.member_ids)
    train, validation = (
        split(members) if split else split_members(members, spec.training.validation_share, spec.training.seed)
    )
    share = min(1.0, UTILITY_ROWS / max(overview.sent, 1))
    fitted, held_out = _sent_rows(parts(), spec, encoder, train, share)
    utility = fit_utility(fitted, len(spec.actions), spec.predicted_rewards, spec.training.seed)
    trajectories = encode_all(parts(), spec, encoder, utility, folder)
    report = evaluate_utility(utility, fitted, held_out)
    return TrainingData(
        training_set.service_features, overview.member_ids, trajectories, train, validation, encoder, utility, report
    )


def encode_all(
    parts: Iterable[DecisionTable], spec: Spec, encoder: StateEncoder, utility: UtilityModel, folder: Path | None
) -> Trajectories:
    """Encode all parts: into files in ``folder``, memory-mapped, or into memory where that is None."""
    encoded = (encode(part, spec, encoder, utility) for part in parts)
    if folder is None:
        return concatenate(list(encoded))
    with TrajectoryWriter(folder) as writer:
        for one in encoded:
            writer.append(one)
    return open_trajectories(folder)


def encode(part: DecisionTable, spec: Spec, encoder: StateEncoder, utility: UtilityModel) -> Trajectories:
    """Turn a table into trajectories: states with their scores, predicted rewards in the place of their labels.

    A pure function of one part: parts can be encoded anywhere, in any order.
    """
    base = _base(part, encoder)
    scores = utility.score(base)
    rewards = part.rewards.copy()
    rewards[:, _predicted(spec)] = rewards_of(scores, part.actions)
    states = np.concatenate([base, scores.reshape(len(base), -1)], axis=1)
    return Trajectories(states, part.actions, part.eligible, rewards, part.times_ms, part.starts)


@dataclass(frozen=True)
class _Overview:
    """What must be known of all parts before one of them can be encoded."""

    member_ids: tuple[str, ...]
    candidate: dict[str, NDArray[Any]]
    """The distinct values of candidate features that are text; of numbers nothing."""
    sent: int
    """Rows in which something was sent."""


def _look_over(parts: Iterator[DecisionTable], spec: Spec) -> _Overview:
    members: dict[str, None] = {}
    texts: dict[str, set[str]] = {}
    known = np.zeros(len(spec.rewards), np.bool_)
    sent = 0
    for part in parts:
        twice = next((member for member in part.member_ids if member in members), None)
        if twice is not None:
            raise LogError(f"member {twice!r} stands in two parts of the training set; make the training set anew")
        members.update(dict.fromkeys(part.member_ids))
        for name, values in part.candidate.items():
            if values.dtype == object:
                texts.setdefault(name, set()).update(value for value in values if value is not None)
        known |= np.isfinite(part.rewards).any(axis=0)
        sent += int((part.actions > 0).sum())
    for name, found in zip(spec.reward_names, known, strict=True):
        if not found and spec.rewards[name].kind != "predicted":
            raise LogError(f"reward_{name} is null in every row; a reward that was never known can't be learned")
    columns = {
        name: np.asarray(sorted(texts[name]), dtype=object) if name in texts else np.empty(0)
        for name in spec.state.candidate
    }
    return _Overview(tuple(members), columns, sent)


def _sent_rows(
    parts: Iterator[DecisionTable], spec: Spec, encoder: StateEncoder, train: Ints, share: float
) -> tuple[Sent, Sent]:
    """Collect a share of the rows that the utility model learns from: of training members, and of the others."""
    random = np.random.default_rng([spec.training.seed, 1])
    fitted: list[Sent] = []
    held_out: list[Sent] = []
    first = 0
    for part in parts:
        members = np.arange(first, first + len(part.member_ids))
        first += len(members)
        of_train = np.repeat(np.isin(members, train), np.diff(part.starts))
        base, labels = _base(part, encoder), part.rewards[:, _predicted(spec)]
        drawn = random.random(len(base)) < share
        for kept, rows in ((fitted, of_train & drawn), (held_out, ~of_train & drawn)):
            kept.append(Sent.of(base[rows], part.actions[rows], labels[rows]))
    return Sent.concatenate(fitted), Sent.concatenate(held_out)


def _base(part: DecisionTable, encoder: StateEncoder) -> Floats:
    """State columns without scores: [N, features + candidate columns]."""
    features = encoder.encode_features(part.service_features, part.features)
    return np.concatenate([features, encoder.encode_candidates(part.candidate, len(features))], axis=1)


def _predicted(spec: Spec) -> list[int]:
    return [spec.reward_names.index(name) for name in spec.predicted_rewards]
