"""Real redis-servers for a scenario, with their files in a folder of their own, stopped whatever happens."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.redis_cluster import RedisCluster
from benchmarks.redis_server import RedisServer


@contextmanager
def redis_server(*options: str) -> Iterator[RedisServer]:
    """Give a redis-server with an append-only file and these options."""
    with tempfile.TemporaryDirectory(prefix="pacer-soak-") as folder:
        server = RedisServer(Path(folder), *options)
        try:
            server.start()
            yield server
        finally:
            server.stop()


@contextmanager
def redis_cluster(*options: str) -> Iterator[RedisCluster]:
    """Give a Redis Cluster of three masters with a replica each."""
    with tempfile.TemporaryDirectory(prefix="pacer-soak-") as folder:
        cluster = RedisCluster(Path(folder), *options)
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.stop()
