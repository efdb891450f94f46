"""Feast's Redis online store, told where Redis is by Pacer's settings instead of by feature_store.yaml."""

from __future__ import annotations

from typing import Any

from feast.infra.online_stores.redis import RedisOnlineStore, RedisOnlineStoreConfig
from redis import ConnectionError as RedisConnectionError
from redis import Redis
from redis import asyncio as redis_asyncio
from redis.backoff import NoBackoff
from redis.retry import Retry

from contracts.settings import Settings, find_redis_url, load_settings


class PacerRedisOnlineStoreConfig(RedisOnlineStoreConfig):
    """Feast's configuration of its Redis store; with no ``connection_string`` the server is found at use."""

    type: Any = "feature_repo.online_store.PacerRedisOnlineStore"
    connection_string: str = ""
    """Feast's own form ``host:port,db=0``. Empty: ``REDIS_URL``, else the server that ``make up`` started."""
    socket_timeout_seconds: float = 30.0
    """A command that takes longer raises redis.exceptions.TimeoutError."""


class PacerRedisOnlineStore(RedisOnlineStore):
    """Feast's Redis store, keys and values to the byte, connected by a URL (``redis://``, ``rediss://``)."""

    settings: Settings | None = None
    """Settings to find Redis by; None: those of the environment, read when a connection is first needed."""

    def _get_client(self, online_store_config: RedisOnlineStoreConfig) -> Any:
        if online_store_config.connection_string:
            return super()._get_client(online_store_config)
        if self._client is None:
            self._client = Redis.from_url(**self._connection(online_store_config))
        return self._client

    async def _get_client_async(self, online_store_config: RedisOnlineStoreConfig) -> Any:
        if online_store_config.connection_string:
            return await super()._get_client_async(online_store_config)
        if self._client_async is None:
            self._client_async = redis_asyncio.Redis.from_url(**self._connection(online_store_config))
        return self._client_async

    def _connection(self, config: RedisOnlineStoreConfig) -> dict[str, Any]:
        assert isinstance(config, PacerRedisOnlineStoreConfig)
        return {
            "url": find_redis_url(self.settings or load_settings()),
            "socket_timeout": config.socket_timeout_seconds,
            "socket_connect_timeout": config.socket_timeout_seconds,
        }


def connect(online_store: RedisOnlineStore, config: RedisOnlineStoreConfig, timeout_seconds: float) -> Any:
    """Return a client of its own to the Redis of any of Feast's Redis stores, for reads that must not wait.

    A command or connection that takes longer than ``timeout_seconds`` raises; a connection found closed is opened
    anew once. Raises ServerError where no Redis is known.
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
