"""The contract suite runs on each store."""

from __future__ import annotations

import pytest

from tests.sequence_store.stores import Harness, MemoryHarness, RedisHarness


@pytest.fixture(
    params=[pytest.param("memory", marks=pytest.mark.unit), pytest.param("redis", marks=pytest.mark.integration)]
)
def harness(request: pytest.FixtureRequest) -> Harness:
    """Each kind of store in turn."""
    return MemoryHarness() if request.param == "memory" else RedisHarness(request.getfixturevalue("redis_url"))
