"""The ring store of a deployment: the artifact says which layout, the spec how many entries, how long and how safe."""

from __future__ import annotations

from typing import Final

from contracts.errors import SpecError
from contracts.settings import Settings, find_redis_url
from models.artifact import Artifact
from sequence_store.redis_ring import RedisRingStore
from serve.history import layout_of

TIMEOUT_S: Final = 1.0
"""How long the client waits for a reply, unless the Redis URL has a ``socket_timeout``."""


def open_rings(artifact: Artifact, settings: Settings) -> RedisRingStore:
    """Open the rings that ``artifact`` writes, on the Redis in use.

    Raises ServerError where there is none, and SpecError where ``ring.wait_ms`` reaches the client's timeout: a
    replica that is late would then pass for a master that is gone.
    """
    spec = artifact.spec
    url = find_redis_url(settings)
    try:
        return RedisRingStore(
            url,
            spec.name,
            layout_of(artifact),
            spec.ring.capacity,
            spec.ring.ttl_days,
            timeout_s=TIMEOUT_S,
            replicas=spec.ring.replicas,
            wait_ms=spec.ring.wait_ms,
        )
    except ValueError as error:
        raise SpecError(f"the spec of {artifact.name}: ring: {error}") from error
