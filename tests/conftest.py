"""Fixtures that several rooms share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from benchmarks.redis_cluster import RedisCluster
from benchmarks.redis_server import RedisServer


def pytest_addoption(parser: pytest.Parser) -> None:
    """Name a server that speaks TLS itself; the tests bring none."""
    parser.addoption("--redis-tls-url", help="rediss:// URL of a server or cluster that TLS is tested on as well")


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One redis-server for the whole session. Wider than function scope? Take your own ``fresh_url()`` of it."""
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """URL of a database of the session's redis-server that is empty and this test's own."""
    return redis_server.fresh_url()


@pytest.fixture(scope="session")
def redis_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
    """One cluster for the whole session, with one database: take keys of your own. Whoever harms it heals it."""
    cluster = RedisCluster(tmp_path_factory.mktemp("cluster"))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
