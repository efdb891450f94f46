"""Where the reader's stored values come from: Feast's Redis hashes directly, or any online store through the SDK."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Protocol

import numpy as np
import redis
from feast import FeatureStore, FeatureView
from feast.infra.online_stores.helpers import _mmh3, _redis_key, compute_versioned_name
from feast.infra.online_stores.redis import RedisOnlineStore
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from numpy.typing import NDArray

from contracts.errors import ServerError, StoreUnavailable
from feature_repo.online_store import connect
from feature_repo.stored_values import decode_times_us, decode_values

JOIN_KEY = "member_id"


@dataclass(frozen=True)
class StoredView:
    """A stored feature view and those of its features that are read."""

    definition: FeatureView
    features: tuple[str, ...]


@dataclass(frozen=True)
class StoredValues:
    """What the online store holds of n members in V views with K features together."""

    values: NDArray[np.float64]  # [n, K], view after view; NaN where nothing is stored
    times_us: NDArray[np.int64]  # [n, V], event times, Unix time in µs; -1 where the view holds nothing


class OnlineSource(Protocol):
    """Reads the stored values of members, all views at once."""

    def fetch(self, member_ids: Sequence[str]) -> StoredValues:
        """Read ``member_ids``; raises StoreUnavailable where the store does not answer."""


def online_source(store: FeatureStore, views: Sequence[StoredView], timeout_seconds: float) -> OnlineSource:
    """Return the fastest source for the online store of ``store``."""
    online = store.provider.online_store
    if isinstance(online, RedisOnlineStore):
        return RedisSource(store, online, views, timeout_seconds)
    return SdkSource(store, views)


class RedisSource:
    """Reads Feast's hashes: one a member, which holds all views; one pipelined HMGET a member."""

    def __init__(
        self, store: FeatureStore, online: RedisOnlineStore, views: Sequence[StoredView], timeout_seconds: float
    ) -> None:
        self._config, self._online, self._timeout_seconds = store.config, online, timeout_seconds
        self._client: Any = None
        versioned = store.config.registry.enable_online_feature_view_versioning
        names = [compute_versioned_name(view.definition, versioned) for view in views]
        pairs = list(zip(names, views, strict=True))
        self._features = sum(len(view.features) for view in views)
        self._views = len(views)
        self._fields = [_mmh3(f"{name}:{feature}") for name, view in pairs for feature in view.features]
        self._fields += [f"_ts:{name}" for name in names]

    def fetch(self, member_ids: Sequence[str]) -> StoredValues:
        """Read ``member_ids`` in one round trip."""
        keys = [self._key(member_id) for member_id in member_ids]
        try:
            if self._client is None:
                self._client = connect(self._online, self._config.online_store, self._timeout_seconds)
            with self._client.pipeline(transaction=False) as pipe:
                for key in keys:
                    pipe.hmget(key, self._fields)
                rows = pipe.execute(raise_on_error=False)
        except (redis.ConnectionError, redis.TimeoutError, ServerError) as error:
            self._client = None  # the server that `make up` starts next has another port
            raise StoreUnavailable(f"reading features of {len(keys)} members: {error}") from error
        # A key that holds no hash is one member's damage: nothing is known of that member.
        nothing: list[bytes | None] = [None] * len(self._fields)
        rows = [nothing if isinstance(row, redis.ResponseError) else row for row in rows]
        values = decode_values(list(chain.from_iterable(row[: self._features] for row in rows)))
        times_us = decode_times_us(list(chain.from_iterable(row[self._features :] for row in rows)))
        return StoredValues(values.reshape(len(rows), self._features), times_us.reshape(len(rows), self._views))

    def _key(self, member_id: str) -> bytes:
        entity = EntityKey(join_keys=[JOIN_KEY], entity_values=[Value(string_val=member_id)])
        key: bytes = _redis_key(self._config.project, entity, self._config.entity_key_serialization_version)
        return key


class SdkSource:
    """Reads through Feast's ``get_online_features``, whatever the online store; its time limits are that store's."""

    def __init__(self, store: FeatureStore, views: Sequence[StoredView]) -> None:
        self._store = store
        self._references = [f"{view.definition.name}:{feature}" for view in views for feature in view.features]
        self._first = np.cumsum([0, *(len(view.features) for view in views)])[:-1]

    def fetch(self, member_ids: Sequence[str]) -> StoredValues:
        """Read ``member_ids``."""
        response = self._store.get_online_features(
            features=self._references, entity_rows={JOIN_KEY: list(member_ids)}, full_feature_names=True
        ).proto
        vectors = dict(zip(response.metadata.feature_names.val, response.results, strict=True))
        columns = [vectors[reference.replace(":", "__")] for reference in self._references]
        values = [decode_values([value.SerializeToString() for value in column.values]) for column in columns]
        times = [
            # Feast answers the epoch where it holds nothing.
            [stamp.seconds * 1_000_000 + stamp.nanos // 1_000 or -1 for stamp in columns[first].event_timestamps]
            for first in self._first
        ]
        return StoredValues(np.column_stack(values), np.array(times, dtype=np.int64).T)
