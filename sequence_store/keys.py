"""The names of a tenant's keys on Redis.

| key | type | holds |
| --- | --- | --- |
| ``{tenant:bucket}:r:member`` | hash | a member's ring (see ``slots``) |
| ``{tenant:bucket}:g`` | string | the bucket's generation; absent means 0 |
| ``{tenant:bucket}:o`` | stream | the outbox: log rows in field ``r`` |
| ``{tenant}:layouts`` | hash | layout fingerprint in hex -> the layout's JSON |

The braces are a Redis Cluster hash tag: what one append touches lives on one node. Names are short because every
member pays for them.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass

DEFAULT_BUCKETS = 64
"""Spreads a tenant over the nodes of a cluster. Another number finds none of the rings written under this one."""

_TENANT = re.compile(r"[A-Za-z0-9_.-]{1,128}")


@dataclass(frozen=True)
class Keys:
    """Key names of one tenant.

    Raises
    ------
    ValueError
        The tenant is no name, or there is no bucket.
    """

    tenant: str
    buckets: int = DEFAULT_BUCKETS

    def __post_init__(self) -> None:
        if not _TENANT.fullmatch(self.tenant):
            raise ValueError(f"tenant {self.tenant!r}: a name is 1 to 128 letters, digits, _, . and -")
        if self.buckets < 1:
            raise ValueError(f"buckets = {self.buckets}: there must be at least 1")

    def bucket(self, member_id: str) -> int:
        """Return the bucket of a member: 0 to ``buckets`` - 1, the same on every machine."""
        return zlib.crc32(member_id.encode()) % self.buckets

    def ring(self, member_id: str) -> bytes:
        """Return the key of a member's ring."""
        return f"{{{self.tenant}:{self.bucket(member_id)}}}:r:{member_id}".encode()

    def generation(self, bucket: int) -> bytes:
        """Return the key of a bucket's generation."""
        return f"{{{self.tenant}:{bucket}}}:g".encode()

    def outbox(self, bucket: int) -> bytes:
        """Return the key of a bucket's outbox."""
        return f"{{{self.tenant}:{bucket}}}:o".encode()

    @property
    def layouts(self) -> bytes:
        """Key of the registered layouts."""
        return f"{{{self.tenant}}}:layouts".encode()

    @property
    def rings_pattern(self) -> bytes:
        """Glob that matches the keys of all rings of the tenant."""
        return f"{{{self.tenant}:*}}:r:*".encode()
