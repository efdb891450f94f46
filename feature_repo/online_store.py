"""Feast's Redis online store, keys and values to the byte, written and read by whole columns.

Beside Feast's own interface the store takes tables (``write_table``) and gives arrays (``read_arrays``). Where Redis is
may be said by Pacer's settings instead of by feature_store.yaml.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
from feast import FeatureView, Field, RepoConfig
from feast.infra.online_stores.helpers import _mmh3, _redis_key, compute_versioned_name
from feast.infra.online_stores.redis import RedisOnlineStore, RedisOnlineStoreConfig, RedisType
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.utils import _validate_vector_field_lengths
from numpy.typing import NDArray
from redis import ConnectionError as RedisConnectionError
from redis import Redis, RedisCluster, ResponseError
from redis import asyncio as redis_asyncio
from redis.backoff import NoBackoff
from redis.retry import Retry

from contracts.errors import SpecError
from contracts.settings import Settings, find_redis_url, load_settings
from feature_repo.entity_keys import EntityKeys
from feature_repo.online_arrays import EntityRows, HashReader, StoredValues, StoredView
from feature_repo.redis_batches import HashFields, HashRows, Reply, read_hashes, write_hashes
from feature_repo.stored_values import decode_times_ns
from feature_repo.value_columns import binary, encode_column, encode_times, event_times_us, to_us

ROWS_AT_ONCE = 5_000
"""Rows that one round trip of a write holds: of 50 numbers each about 6 MB."""

ProtoRow = tuple[EntityKey, dict[str, Value], datetime, datetime | None]


class PacerRedisOnlineStoreConfig(RedisOnlineStoreConfig):
    """Feast's configuration of its Redis store; with no ``connection_string`` the server is found at use."""

    type: Any = "feature_repo.online_store.PacerRedisOnlineStore"
    connection_string: str = ""
    """Feast's own form ``host:port,db=0``. Empty: ``REDIS_URL``, else the server that ``make up`` started."""
    socket_timeout_seconds: float = 30.0
    """A command that takes longer raises redis.exceptions.TimeoutError; in ``connection_string``, socket_timeout."""


class PacerRedisOnlineStore(RedisOnlineStore):
    """Feast's Redis store, connected as Feast does it or by a URL, and fast where there are many rows."""

    settings: Settings | None = None
    """Settings to find Redis by; None: those of the environment, read when a connection is first needed."""

    def write_table(self, config: RepoConfig, view: FeatureView, table: pa.Table) -> None:
        """Write the rows of a table as Feast's materialize would, columns at once.

        A row no newer than what is stored of its entity in this view is skipped, as in Feast's store.

        Parameters
        ----------
        config
            The repository's.
        view
            The view that the rows belong to.
        table
            A column a join key and feature, named as in the view, and the batch source's timestamp field.

        Raises
        ------
        ValueError
            A column is missing or does not fit its feature's type, or a row has no event timestamp.
        redis.RedisError
            Redis does not answer, or refuses.
        """
        _validate_vector_field_lengths(table, view)
        if view.batch_source is None:
            raise ValueError(f"feature view {view.name!r} has no batch source to name its timestamp field")
        keys = EntityKeys.of(config, view)
        needed = [*(feature.name for feature in view.features), *keys.join_keys, view.batch_source.timestamp_field]
        for name in needed:
            if name not in table.column_names:
                raise ValueError(f"Column {name} not found in table")
        rows_at_once = config.materialization_config.online_write_batch_size or ROWS_AT_ONCE
        for start in range(0, table.num_rows, rows_at_once):
            # One array a column: a slice may reach over chunks.
            part = table.select(needed).slice(start, rows_at_once).combine_chunks()
            columns = {name: part[name].combine_chunks() for name in needed}
            self._write(
                config,
                view,
                keys.make({name: columns[name].to_numpy(zero_copy_only=False) for name in keys.join_keys}),
                event_times_us(columns[view.batch_source.timestamp_field]),
                {feature.name: _encoded(columns[feature.name], view, feature) for feature in view.features},
            )

    def online_write_batch(
        self,
        config: RepoConfig,
        table: FeatureView,
        data: list[ProtoRow],
        progress: Callable[[int], Any] | None,
    ) -> None:
        """Write rows of protobuf messages, as in Feast's interface."""
        names = list(data[0][1]) if data else []
        if any(list(values) != names for _, values, _, _ in data):
            super().online_write_batch(config, table, data, progress)  # rows of different features
            return
        version = config.entity_key_serialization_version
        for start in range(0, len(data), ROWS_AT_ONCE):
            part = data[start : start + ROWS_AT_ONCE]
            self._write(
                config,
                table,
                [_redis_key(config.project, entity, version) for entity, _, _, _ in part],
                np.array([to_us(moment) for _, _, moment, _ in part], dtype=np.int64),
                {name: binary([values[name].SerializeToString() for _, values, _, _ in part]) for name in names},
            )
            if progress:
                progress(len(part))

    def read_arrays(self, config: RepoConfig, views: Sequence[StoredView], rows: EntityRows) -> StoredValues:
        """Read numbers of many entities in one round trip; see ``HashReader.read``."""
        return HashReader(config, views).read(self._get_client(config.online_store), rows)

    def _write(
        self,
        config: RepoConfig,
        view: FeatureView,
        keys: Sequence[bytes],
        times_us: NDArray[np.int64],
        values: dict[str, pa.LargeBinaryArray],
    ) -> None:
        online = config.online_store
        client = self._get_client(online)
        name = compute_versioned_name(view, config.registry.enable_online_feature_view_versioning)
        ts_field = f"_ts:{name}".encode()
        fields = [ts_field, *(_mmh3(f"{name}:{feature}") for feature in values)]
        columns = [encode_times(times_us), *values.values()]
        if not online.skip_dedup:
            stored = read_hashes(client, [(keys, HashFields([ts_field]))])
            kept = _newer(keys, times_us, decode_times_ns([_first(reply) for reply in stored]))
            if len(kept) < len(keys):
                keys = [keys[row] for row in kept]
                columns = [column.take(pa.array(kept, pa.int64())) for column in columns]
        write_hashes(client, HashRows(keys, fields, columns), online.key_ttl_seconds)

    def _get_client(self, online_store_config: RedisOnlineStoreConfig) -> Any:
        if online_store_config.connection_string:
            return super()._get_client(online_store_config)
        if self._client is None:
            connection = self._connection(online_store_config)
            client: Redis | RedisCluster = Redis.from_url(**connection)
            if online_store_config.redis_type is RedisType.redis_cluster or _is_cluster(client):
                client.close()
                client = RedisCluster.from_url(**connection)
            self._client = client
        return self._client

    async def _get_client_async(self, online_store_config: RedisOnlineStoreConfig) -> Any:
        if online_store_config.connection_string:
            return await super()._get_client_async(online_store_config)
        if self._client_async is None:
            connection = self._connection(online_store_config)
            clustered = isinstance(self._get_client(online_store_config), RedisCluster)
            kind = redis_asyncio.RedisCluster if clustered else redis_asyncio.Redis
            self._client_async = kind.from_url(**connection)
        return self._client_async

    def _connection(self, config: RedisOnlineStoreConfig) -> dict[str, Any]:
        assert isinstance(config, PacerRedisOnlineStoreConfig)
        if config.redis_type is RedisType.redis_sentinel:
            raise SpecError("online_store.redis_type = 'redis_sentinel' needs a connection_string naming the sentinels")
        return {
            "url": find_redis_url(self.settings or load_settings()),
            "socket_timeout": config.socket_timeout_seconds,
            "socket_connect_timeout": config.socket_timeout_seconds,
        }


def connect(online_store: RedisOnlineStore, config: RedisOnlineStoreConfig, timeout_seconds: float) -> Any:
    """Return a client of its own to the Redis of any of Feast's Redis stores, for reads that must not wait.

    A command or connection that takes longer than ``timeout_seconds`` raises; a connection found closed is opened
    anew once. Raises ServerError where no Redis is known, and redis.ConnectionError where a cluster does not answer.
    """
    changed: dict[str, str | float] = {"socket_timeout_seconds": timeout_seconds}
    if config.connection_string:
        timeouts = f",socket_timeout={timeout_seconds},socket_connect_timeout={timeout_seconds}"
        changed = {"connection_string": config.connection_string + timeouts}
    fresh = type(online_store)()
    if isinstance(online_store, PacerRedisOnlineStore) and isinstance(fresh, PacerRedisOnlineStore):
        fresh.settings = online_store.settings
    client = fresh._get_client(config.model_copy(update=changed))
    client.set_retry(Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,)))
    return client


def _encoded(column: pa.Array, view: FeatureView, feature: Field) -> pa.LargeBinaryArray:
    try:
        return encode_column(column, feature.dtype.to_value_type())
    except (TypeError, ValueError) as error:
        raise ValueError(f"{view.name}:{feature.name} is {feature.dtype}, its column {column.type}: {error}") from error


def _first(reply: Reply) -> bytes | None:
    if isinstance(reply, ResponseError):
        raise reply
    return reply[0]


def _is_cluster(client: Any) -> bool:
    try:
        return bool(client.info("cluster").get("cluster_enabled"))
    except ResponseError:
        return False  # a user who may not ask: `redis_type` says it


def _newer(keys: Sequence[bytes], times_us: NDArray[np.int64], stored_ns: Sequence[int]) -> list[int]:
    """Return the rows that are newer than what is stored and than earlier rows of their key: Feast's rule, exactly.

    Its 0 stands for nothing stored, so that rows at the epoch or before replace whatever is as old.
    """
    latest_ns: dict[bytes, int] = {}
    kept = []
    for row, (key, time_us, stored) in enumerate(zip(keys, times_us.tolist(), stored_ns, strict=True)):
        time_ns, seen = time_us * 1_000, max(stored, latest_ns.get(key, 0))
        if not seen or time_ns > seen:
            latest_ns[key] = time_ns
            kept.append(row)
    return kept
