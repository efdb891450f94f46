"""The ring store of a deployment: its artifact says which layout, its spec how many entries and for how long."""

from __future__ import annotations

from contracts.settings import Settings, find_redis_url
from models.artifact import Artifact
from sequence_store.redis_ring import RedisRingStore
from serve.history import layout_of


def open_rings(artifact: Artifact, settings: Settings) -> RedisRingStore:
    """Open the rings that ``artifact`` writes, on the Redis in use. Raises ServerError where there is none."""
    spec = artifact.spec
    return RedisRingStore(
        find_redis_url(settings), spec.name, layout_of(artifact), spec.ring.capacity, spec.ring.ttl_days
    )
