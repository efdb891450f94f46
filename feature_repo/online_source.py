"""Where stored values come from: Feast's Redis hashes directly, or any online store through the SDK, as arrays.

Of use to any repository: ``online_source(store, stored_views(store, "my_service")).fetch({"driver_id": [1001]})``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import redis
from feast import FeatureStore
from feast.feature_view import DUMMY_ENTITY_ID
from feast.infra.online_stores.redis import RedisOnlineStore
from redis.exceptions import ClusterError, RedisClusterException

from contracts.errors import ServerError, StoreUnavailable
from feature_repo.online_arrays import (
    EntityRows,
    HashReader,
    StoredValues,
    StoredView,
    count_rows,
    entity_columns,
)
from feature_repo.online_store import connect
from feature_repo.stored_values import decode_values

JOIN_KEY = "member_id"
UNAVAILABLE = (redis.ConnectionError, redis.TimeoutError, RedisClusterException, ClusterError, ServerError)
"""What is raised where Redis is not there: RedisClusterException where no server of a cluster is."""


class OnlineSource(Protocol):
    """Reads the stored values of entities, all views at once."""

    def fetch(self, rows: EntityRows) -> StoredValues:
        """Read n rows of entities; raises StoreUnavailable where the store does not answer."""


def stored_views(store: FeatureStore, features: str | Sequence[str]) -> list[StoredView]:
    """Return the views that hold ``features``: a feature service's name, or references ``view:feature``.

    Raises SpecError for a feature that is no number, and what Feast raises for an unknown one.
    """
    if isinstance(features, str):
        projections = store.get_feature_service(features).feature_view_projections
        views = [store.get_feature_view(projection.name).with_projection(projection) for projection in projections]
        return [StoredView(view, tuple(feature.name for feature in view.projection.features)) for view in views]
    wanted: dict[str, list[str]] = {}
    for reference in features:
        view_name, feature = reference.split(":")
        wanted.setdefault(view_name, []).append(feature)
    return [StoredView(store.get_feature_view(name), tuple(names)) for name, names in wanted.items()]


def online_source(store: FeatureStore, views: Sequence[StoredView], timeout_seconds: float = 1.0) -> OnlineSource:
    """Return the fastest source for the online store of ``store``.

    Parameters
    ----------
    store
        A feature store of any kind.
    views
        What is read (``stored_views``).
    timeout_seconds
        A read of Redis fails when it takes longer; other stores have time limits of their own.
    """
    online = store.provider.online_store
    if isinstance(online, RedisOnlineStore):
        return RedisSource(store, online, views, timeout_seconds)
    return SdkSource(store, views)


class RedisSource:
    """Reads Feast's hashes, of this project's Redis store or of Feast's own; one round trip a batch."""

    def __init__(
        self, store: FeatureStore, online: RedisOnlineStore, views: Sequence[StoredView], timeout_seconds: float
    ) -> None:
        self._config, self._online, self._timeout_seconds = store.config, online, timeout_seconds
        self._hashes = HashReader(store.config, views)
        self._client: Any = None

    def fetch(self, rows: EntityRows) -> StoredValues:
        """Read n rows of entities."""
        try:
            if self._client is None:
                self._client = connect(self._online, self._config.online_store, self._timeout_seconds)
            return self._hashes.read(self._client, rows)
        except UNAVAILABLE as error:
            self._client = None  # the server that `make up` starts next has another port
            raise StoreUnavailable(f"reading features of {count_rows(rows)} members: {error}") from error


class SdkSource:
    """Reads through Feast's ``get_online_features``, whatever the online store; its time limits are that store's."""

    def __init__(self, store: FeatureStore, views: Sequence[StoredView]) -> None:
        self._store, self._views = store, views

    def fetch(self, rows: EntityRows) -> StoredValues:
        """Read n rows of entities."""
        count = count_rows(rows)
        found = [self._fetch_view(view, rows, count) for view in self._views]
        empty = StoredValues(np.empty((count, 0)), np.empty((count, 0), dtype=np.int64))
        return StoredValues(
            np.concatenate([empty.values, *(one.values for one in found)], axis=1),
            np.concatenate([empty.times_us, *(one.times_us for one in found)], axis=1),
        )

    def _fetch_view(self, view: StoredView, rows: EntityRows, count: int) -> StoredValues:
        keys = entity_columns(view, rows, count)
        keys.pop(DUMMY_ENTITY_ID, None)
        response = self._store.get_online_features(
            features=[f"{view.definition.name}:{feature}" for feature in view.features],
            entity_rows={name: list(values) for name, values in (keys or rows).items()},
            full_feature_names=True,
        ).proto
        vectors = dict(zip(response.metadata.feature_names.val, response.results, strict=True))
        columns = [vectors[f"{view.definition.name}__{feature}"] for feature in view.features]
        values = [decode_values([value.SerializeToString() for value in column.values]) for column in columns]
        # Feast answers the epoch where it holds nothing.
        times = [stamp.seconds * 1_000_000 + stamp.nanos // 1_000 or -1 for stamp in columns[0].event_timestamps]
        return StoredValues(np.column_stack(values), np.array(times, dtype=np.int64)[:, None])
