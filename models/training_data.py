"""From the training set's Parquet parts to a fitted utility model and encoded trajectories."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from contracts.errors import LogError
from contracts.spec import Spec
from models.encoding import StateEncoder, to_float32
from models.steps import Bools, Floats, Ints
from models.trajectories import Trajectories, split_members
from models.utility import Sent, UtilityModel, UtilityReport, evaluate_utility, fit_utility, rewards_of


@dataclass(frozen=True)
class DecisionTable:
    """A joined log as arrays: N decisions of M members, members one after the other, each in order of time."""

    service_features: tuple[str, ...]
    member_ids: tuple[str, ...]  # [M]
    starts: Ints  # [M + 1]
    features: Floats  # [N, F] in the service's order, NaN where missing
    candidate: Mapping[str, NDArray[Any]]  # each [N], numbers or text
    actions: Ints  # [N]
    eligible: Bools  # [N, A]
    rewards: Floats  # [N, R] as logged, NaN where not known
    times_ms: Ints  # [N]
    fingerprint: str
    """SHA-256 of the files."""


@dataclass(frozen=True)
class TrainingData:
    """Everything a fit needs, and what a server must know to build the same states."""

    table: DecisionTable
    trajectories: Trajectories
    train_members: Ints
    validation_members: Ints
    encoder: StateEncoder
    utility: UtilityModel
    utility_report: UtilityReport


def prepare(table: DecisionTable, spec: Spec, split: tuple[Ints, Ints] | None = None) -> TrainingData:
    """Split members, fit encoder and utility model on the training ones, and encode everything.

    ``split`` gives the positions of training and held-out members; without it the spec's share is held out at random.
    Raises ValueError with fewer than two members, LogError where labels or categories do not fit the spec.
    """
    if split is None:
        split = split_members(len(table.member_ids), spec.training.validation_share, spec.training.seed)
    train, validation = split
    for name, column in zip(spec.reward_names, table.rewards.T, strict=True):
        if not np.isfinite(column).any() and spec.rewards[name].kind != "predicted":
            raise LogError(f"reward_{name} is null in every row; a reward that was never known can't be learned")
    encoder = StateEncoder.fit(spec, table.service_features, table.candidate)
    base, labels = _base(table, encoder), table.rewards[:, _predicted(spec)]
    rows, others = (
        np.concatenate([np.arange(table.starts[m], table.starts[m + 1]) for m in members])
        for members in (train, validation)
    )
    utility = fit_utility(
        base[rows], table.actions[rows], labels[rows], len(spec.actions), spec.predicted_rewards, spec.training.seed
    )
    fitted, held_out = (Sent.of(base[part], table.actions[part], labels[part]) for part in (rows, others))
    report = evaluate_utility(utility, fitted, held_out)
    return TrainingData(table, encode(table, spec, encoder, utility), train, validation, encoder, utility, report)


def encode(table: DecisionTable, spec: Spec, encoder: StateEncoder, utility: UtilityModel) -> Trajectories:
    """Turn a table into trajectories: states with their scores, predicted rewards in the place of their labels."""
    base = _base(table, encoder)
    scores = utility.score(base)
    rewards = table.rewards.copy()
    rewards[:, _predicted(spec)] = rewards_of(scores, table.actions)
    states = np.concatenate([base, scores.reshape(len(base), -1)], axis=1)
    return Trajectories(states, table.actions, table.eligible, rewards, table.times_ms, table.starts)


def read_decision_table(folder: Path, spec: Spec) -> DecisionTable:
    """Read the training set in ``folder``: ``part-*.parquet``, and ``features.json`` with the service's features.

    Raises LogError where the folder is empty, a file is torn, or a column is missing.
    """
    parts = sorted(folder.glob("part-*.parquet"))
    listing = folder / "features.json"
    if not parts or not listing.is_file():
        raise LogError(
            f"{folder} holds no training set; `make run`, or `python -m feature_repo training-set`, makes it"
        )
    try:
        service_features = tuple(map(str, json.loads(listing.read_text(encoding="utf-8"))))
    except (ValueError, TypeError) as error:
        raise LogError(f"{listing} is no list of names ({error}); make the training set anew") from None
    columns = _needed_columns(spec, service_features)
    table = pa.concat_tables([_read(part, columns) for part in parts], promote_options="permissive")
    table = table.sort_by([("member_id", "ascending"), ("decided_at", "ascending")])
    member_ids, starts = _members(table)
    return DecisionTable(
        service_features=service_features,
        member_ids=member_ids,
        starts=starts,
        features=_matrix(table, service_features),
        candidate={name: _candidate(table[name]) for name in spec.state.candidate},
        actions=_indices(table, spec),
        eligible=_eligible(table["eligible"], spec),
        rewards=_matrix(table, [f"reward_{name}" for name in spec.reward_names]),
        times_ms=table["decided_at"].cast(pa.timestamp("ms", "UTC"), safe=False).cast(pa.int64()).to_numpy(),
        fingerprint=_fingerprint(parts),
    )


def _base(table: DecisionTable, encoder: StateEncoder) -> Floats:
    """State columns without scores: [N, features + candidate columns]."""
    features = encoder.encode_features(table.service_features, table.features)
    return np.concatenate([features, encoder.encode_candidates(table.candidate, len(features))], axis=1)


def _predicted(spec: Spec) -> list[int]:
    return [spec.reward_names.index(name) for name in spec.predicted_rewards]


def _needed_columns(spec: Spec, service_features: Sequence[str]) -> list[str]:
    rewards = [f"reward_{name}" for name in spec.reward_names]
    wanted = ["member_id", "decided_at", "eligible", "action", *rewards, *spec.state.candidate, *service_features]
    return list(dict.fromkeys(wanted))


def _read(part: Path, columns: list[str]) -> pa.Table:
    try:
        schema = pq.read_schema(part)
        absent = [name for name in columns if name not in schema.names]
        if absent:
            raise LogError(f"{part} lacks the columns {absent}; make the training set anew")
        return pq.read_table(part, columns=columns)
    except (pa.ArrowInvalid, OSError) as error:
        raise LogError(f"{part} is not a whole Parquet file ({error}); make the training set anew") from error


def _members(table: pa.Table) -> tuple[tuple[str, ...], Ints]:
    ids = table["member_id"].combine_chunks().dictionary_encode()
    codes = ids.indices.to_numpy(zero_copy_only=False).astype(np.int64)  # rising: the table is sorted
    starts = np.flatnonzero(np.diff(codes, prepend=-1))
    return tuple(ids.dictionary.to_pylist()), np.append(starts, len(codes)).astype(np.int64)


def _indices(table: pa.Table, spec: Spec) -> Ints:
    indices = pc.index_in(table["action"], value_set=pa.array(spec.actions))
    if indices.null_count:
        row = pc.index(pc.is_null(indices), True).as_py()
        raise LogError(f"training set row {row}: action {table['action'][row].as_py()!r} is not in the spec's actions")
    result: Ints = indices.to_numpy().astype(np.int64)
    return result


def _eligible(column: pa.ChunkedArray, spec: Spec) -> NDArray[np.bool_]:
    lists = column.combine_chunks()
    rows = pc.list_parent_indices(lists).to_numpy()
    values = pc.index_in(pc.list_flatten(lists), value_set=pa.array(spec.actions)).to_numpy()
    eligible = np.zeros((len(lists), len(spec.actions)), dtype=np.bool_)
    eligible[rows, values] = True
    return eligible


def _matrix(table: pa.Table, names: Sequence[str]) -> Floats:
    """Columns as float32 [N, len(names)], NaN where null."""
    matrix = np.empty((table.num_rows, len(names)), dtype=np.float32)
    for j, name in enumerate(names):
        matrix[:, j] = to_float32(table[name].cast(pa.float64()).to_numpy())
    return matrix


def _candidate(column: pa.ChunkedArray) -> NDArray[Any]:
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return np.asarray(column.to_pylist(), dtype=object)
    numbers: NDArray[Any] = column.cast(pa.float64()).to_numpy()
    return numbers


def _fingerprint(parts: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        with part.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
