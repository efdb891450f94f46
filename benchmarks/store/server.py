"""A redis-server for one benchmark: its defaults but for snapshots, a free port, a temporary folder, always stopped."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import psutil
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from benchmarks.redis_server import RedisServer

OPTIONS: Final = ("--save", "", "--appendonly", "no", "--databases", "64")
"""No snapshots, whose forks would be in the way, and no file; a database for every layout."""
_POLL_S = 0.02
_TIMEOUT_S = 60.0


@dataclass
class Meter:
    """What one client sent."""

    exchanges: int = 0
    """Round trips: requests sent, each with as many commands as fit it."""


class Server:
    """The running server. Use it in a ``with`` statement."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="pacer-bench-")
        self._server = RedisServer(Path(self._folder.name), *OPTIONS)
        self._used_databases = 0

    def __enter__(self) -> Self:
        try:
            self._server.start()
        except BaseException:
            self._stop()
            raise
        self._control = redis.Redis(port=self._server.port, socket_timeout=_TIMEOUT_S, retry=Retry(NoBackoff(), 0))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._control.close()
        self._stop()

    def client(self, meter: Meter | None = None) -> redis.Redis:
        """Return a client with one connection to a database of its own, which is empty."""
        self._used_databases += 1
        return self._client_of(self._used_databases, meter or Meter())

    def same_database(self, client: redis.Redis) -> redis.Redis:
        """Return another client of the same database."""
        return self._client_of(client.connection_pool.connection_kwargs["db"], Meter())

    def _client_of(self, database: int, meter: Meter) -> redis.Redis:

        class Metered(redis.Connection):
            def send_packed_command(self, command: Any, check_health: bool = True) -> None:
                meter.exchanges += 1
                super().send_packed_command(command, check_health)  # type: ignore[no-untyped-call]

        pool = redis.ConnectionPool(
            connection_class=Metered,
            max_connections=1,
            port=self._server.port,
            db=database,
            socket_timeout=_TIMEOUT_S,
            retry=Retry(NoBackoff(), 0),
        )
        return redis.Redis(connection_pool=pool)

    def used_memory(self) -> int:
        """Return ``used_memory`` once the server has nothing left to free or to rehash.

        A client that still is connected counts with its buffers.
        """
        before = -1
        while True:
            info = self._info("memory")
            settled = not info["lazyfree_pending_objects"] and not info.get("mem_overhead_db_hashtable_rehashing")
            if settled and info["used_memory"] == before:
                return before
            before = info["used_memory"]
            time.sleep(10 * _POLL_S)

    def network_bytes(self) -> int:
        """Return how many bytes went in and out so far."""
        info = self._info("stats")
        return int(info["total_net_input_bytes"]) + int(info["total_net_output_bytes"])

    def cpu_s(self) -> float:
        """Return the CPU time that the server used so far."""
        times = psutil.Process(self._info("server")["process_id"]).cpu_times()
        return float(times.user + times.system)

    def version(self) -> str:
        """Return the server's version."""
        return str(self._info("server")["redis_version"])

    def flush(self) -> None:
        """Empty every database."""
        self._control.flushall()

    def _info(self, section: str) -> dict[str, Any]:
        info: Any = self._control.info(section)
        assert isinstance(info, dict)
        return info

    def _stop(self) -> None:
        self._server.stop()
        self._folder.cleanup()
