"""The training set as arrays: Parquet parts that hold whole members each, read one at a time or together."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
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
from models.encoding import to_float32
from models.steps import Bools, Floats, Ints


@dataclass(frozen=True)
class DecisionTable:
    """A joined log, or one part of it: N decisions of M members, members one after the other, each in order of time."""

    service_features: tuple[str, ...]
    member_ids: tuple[str, ...]  # [M]
    starts: Ints  # [M + 1]
    features: Floats  # [N, F] in the service's order, NaN where missing
    candidate: Mapping[str, NDArray[Any]]  # each [N], numbers or text
    actions: Ints  # [N]
    eligible: Bools  # [N, A]
    rewards: Floats  # [N, R] as logged, NaN where not known
    times_ms: Ints  # [N]


@dataclass(frozen=True)
class TrainingSet:
    """The folder of a training set. Iterating gives its parts, one in memory at a time."""

    spec: Spec
    folder: Path
    parts: tuple[Path, ...]
    service_features: tuple[str, ...]

    @staticmethod
    def open(folder: Path, spec: Spec) -> TrainingSet:
        """Open ``folder``: ``part-*.parquet``, and ``features.json`` with the service's features.

        Raises LogError where it is empty; reading a part raises LogError where it is torn or lacks a column.
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
        return TrainingSet(spec, folder, tuple(parts), service_features)

    def __iter__(self) -> Iterator[DecisionTable]:
        """Yield the parts in order."""
        for part in self.parts:
            yield self._arrays(self._read(part))

    def whole(self) -> DecisionTable:
        """Return all parts as one table."""
        return self._arrays(pa.concat_tables([self._read(part) for part in self.parts], promote_options="permissive"))

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the files."""
        digest = hashlib.sha256()
        for part in self.parts:
            with part.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()

    def _read(self, part: Path) -> pa.Table:
        rewards = [f"reward_{name}" for name in self.spec.reward_names]
        fixed = ["member_id", "decided_at", "eligible", "action"]
        wanted = list(dict.fromkeys([*fixed, *rewards, *self.spec.state.candidate, *self.service_features]))
        try:
            schema = pq.read_schema(part)
            absent = [name for name in wanted if name not in schema.names]
            if absent:
                raise LogError(f"{part} lacks the columns {absent}; make the training set anew")
            return pq.read_table(part, columns=wanted)
        except (pa.ArrowInvalid, OSError) as error:
            raise LogError(f"{part} is not a whole Parquet file ({error}); make the training set anew") from error

    def _arrays(self, table: pa.Table) -> DecisionTable:
        table = table.sort_by([("member_id", "ascending"), ("decided_at", "ascending")])
        member_ids, starts = _members(table)
        return DecisionTable(
            service_features=self.service_features,
            member_ids=member_ids,
            starts=starts,
            features=_matrix(table, self.service_features),
            candidate={name: _candidate(table[name]) for name in self.spec.state.candidate},
            actions=_indices(table, self.spec),
            eligible=_eligible(table["eligible"], self.spec),
            rewards=_matrix(table, [f"reward_{name}" for name in self.spec.reward_names]),
            times_ms=table["decided_at"].cast(pa.timestamp("ms", "UTC"), safe=False).cast(pa.int64()).to_numpy(),
        )


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
