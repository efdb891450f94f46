"""Stored views of many entities as arrays: which Redis hashes hold them, read in one round trip and decoded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np
from feast import FeatureView, RepoConfig
from feast.feature_view import DUMMY_ENTITY_ID, DUMMY_ENTITY_VAL
from feast.infra.online_stores.helpers import _mmh3, compute_versioned_name
from feast.types import Bool, Float32, Float64, Int32, Int64
from numpy.typing import NDArray
from redis.exceptions import MovedError

from contracts.errors import SpecError, StoreError
from feature_repo.entity_keys import EntityKeys
from feature_repo.redis_batches import Client, HashFields, Reply, read_hashes
from feature_repo.stored_values import decode_times_us, decode_values

NUMERIC = (Float64, Float32, Int64, Int32, Bool)
"""Feast's types that an array can hold; for the others there is ``get_online_features``."""

EntityRows = Mapping[str, Sequence[Any]]
"""For each join key the values of n rows, as ``get_online_features`` takes them."""


@dataclass(frozen=True)
class StoredView:
    """A stored feature view and those of its features that are read."""

    definition: FeatureView
    features: tuple[str, ...]

    def __post_init__(self) -> None:
        for field in self.definition.features:
            if field.name in self.features and field.dtype not in NUMERIC:
                raise SpecError(
                    f"{self.definition.name}:{field.name} is {field.dtype}; only numbers can be state or stand in an "
                    "array. Feast's get_online_features reads the others"
                )

    @cached_property
    def join_keys(self) -> dict[str, str]:
        """The columns of entity rows that hold each of the view's join keys."""
        renamed = self.definition.projection.join_key_map
        return {field.name: renamed.get(field.name, field.name) for field in self.definition.entity_columns}


@dataclass(frozen=True)
class StoredValues:
    """What the online store holds of n rows of entities, in V views with K features together."""

    values: NDArray[np.float64]
    """[n, K], view after view; NaN where nothing is stored."""
    times_us: NDArray[np.int64]
    """[n, V], event timestamps, Unix time in µs; -1 where the view holds nothing."""

    @property
    def missing(self) -> NDArray[np.bool_]:
        """[n, K]: no value is stored. A NaN is never stored by way of tables: Feast takes it for a missing value."""
        return np.isnan(self.values)


def entity_columns(view: StoredView, rows: EntityRows, count: int) -> dict[str, Sequence[Any]]:
    """Return the values of each join key of ``view``; raises SpecError where ``rows`` lack one."""
    columns: dict[str, Sequence[Any]] = {}
    for join_key, column in view.join_keys.items():
        if join_key == DUMMY_ENTITY_ID:
            columns[join_key] = [DUMMY_ENTITY_VAL] * count
        elif column in rows:
            columns[join_key] = rows[column]
        else:
            raise SpecError(f"view {view.definition.name!r} needs join key {column!r}; given are {', '.join(rows)}")
    return columns


def count_rows(rows: EntityRows) -> int:
    """Return how many rows of entities there are; raises ValueError where columns differ in length."""
    lengths = {name: len(values) for name, values in rows.items()}
    if len(set(lengths.values())) != 1:
        raise ValueError(f"entity rows need columns of one length, got {lengths}")
    return next(iter(lengths.values()))


class HashReader:
    """Reads views from the hashes of Feast's Redis store: a hash an entity holds all views of that entity."""

    def __init__(self, config: RepoConfig, views: Sequence[StoredView]) -> None:
        self._groups: list[_Group] = []
        versioned = config.registry.enable_online_feature_view_versioning
        by_entity: dict[tuple[tuple[str, str], ...], list[int]] = {}
        for number, view in enumerate(views):
            by_entity.setdefault(tuple(sorted(view.join_keys.items())), []).append(number)
        ends = np.cumsum([len(view.features) for view in views])
        for numbers in by_entity.values():
            names = [compute_versioned_name(views[number].definition, versioned) for number in numbers]
            pairs = [(name, views[number]) for name, number in zip(names, numbers, strict=True)]
            fields = [_mmh3(f"{name}:{feature}") for name, view in pairs for feature in view.features]
            columns = [
                column
                for number in numbers
                for column in range(ends[number] - len(views[number].features), ends[number])
            ]
            first = views[numbers[0]]
            stored = HashFields([*fields, *(b"_ts:" + name.encode() for name in names)])
            keys = EntityKeys.of(config, first.definition)
            self._groups.append(_Group(first, keys, stored, len(fields), _places(columns), _places(numbers)))
        self._shape = (int(ends[-1]) if len(views) else 0, len(views))

    def read(self, client: Client, rows: EntityRows) -> StoredValues:
        """Read ``rows`` in one round trip.

        Raises
        ------
        redis.ConnectionError, redis.TimeoutError
            Redis does not answer; from a cluster RedisClusterException, too.
        StoreError
            Redis refuses to read.
        SpecError, ValueError
            ``rows`` lack a join key, or differ in length.
        """
        count = count_rows(rows)
        columns, views = self._shape
        found = StoredValues(np.full((count, columns), np.nan), np.full((count, views), -1, dtype=np.int64))
        requests = [(group.keys.make(entity_columns(group.view, rows, count)), group.fields) for group in self._groups]
        replies = read_hashes(client, requests)
        for number, group in enumerate(self._groups):
            group.decode(replies[number * count : (number + 1) * count], found)
        return found


@dataclass(frozen=True)
class _Group:
    """Views of one entity."""

    view: StoredView  # the first of them
    keys: EntityKeys
    fields: HashFields  # features, then timestamps
    features: int
    columns: slice | Sequence[int]
    views: slice | Sequence[int]

    def decode(self, replies: Sequence[Reply], into: StoredValues) -> None:
        features, fields = self.features, len(self.fields.names)
        rows = [_fields(reply, fields) for reply in replies]
        values = decode_values(list(chain.from_iterable(rows)))
        into.values[:, self.columns] = values.reshape(len(rows), fields)[:, :features]
        times = decode_times_us(list(chain.from_iterable(row[features:] for row in rows)))
        into.times_us[:, self.views] = times.reshape(len(rows), fields - features)


def _places(numbers: Sequence[int]) -> slice | Sequence[int]:
    """Return columns as numpy finds them fastest: those of one entity are one after the other."""
    first, last = numbers[0], numbers[-1]
    return slice(first, last + 1) if list(numbers) == list(range(first, last + 1)) else numbers


def _fields(reply: Reply, count: int) -> list[bytes | None]:
    """Return the fields of one hash, none where the key holds something else: that is one entity's damage.

    Raises StoreError where Redis refused to read.
    """
    if isinstance(reply, list):
        return reply
    if str(reply).startswith("WRONGTYPE"):
        return [None] * count
    hint = ""
    if isinstance(reply, MovedError):
        hint = "; it is one server of a Redis Cluster: set `redis_type: redis_cluster` in feature_store.yaml"
    raise StoreError(f"Redis refuses to read features: {type(reply).__name__} {reply}{hint}") from reply
