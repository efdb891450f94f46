"""The contract suite runs on each store."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.sequence_store.stores import Harness, MemoryHarness, RedisHarness


@pytest.fixture(
    params=[
        pytest.param("memory", marks=pytest.mark.unit),
        pytest.param("redis", marks=pytest.mark.integration),
        pytest.param("cluster", marks=pytest.mark.integration),
    ]
)
def harness(request: pytest.FixtureRequest) -> Iterator[Harness]:
    """Each kind of store in turn."""
    harness: Harness
    if request.param == "memory":
        harness = MemoryHarness()
    elif request.param == "redis":
        harness = RedisHarness(request.getfixturevalue("redis_url"))
    else:
        harness = RedisHarness(request.getfixturevalue("redis_cluster").url)
    yield harness
    harness.close()
