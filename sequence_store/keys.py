"""The names of a tenant's keys on Redis.

| key | type | holds |
| --- | --- | --- |
| ``{tenant:bucket}:m:member`` | string | a member's ring (see ``packed``) |
| ``{tenant:bucket}:g`` | string | the bucket's generation; absent means 0 |
| ``{tenant:bucket}:o`` | stream | the outbox: log rows in field ``r`` |
| ``{tenant}:codecs`` | hash | layouts and dictionaries (see ``registry``) |
| ``{tenant}:lock`` | string | who does the tenant's maintenance now (see ``lock``) |
| ``{tenant}:pass`` | hash | how far a pass over the rings is, and what the last whole one saw (see ``maintenance``) |

The braces are a Redis Cluster hash tag: what one append touches lives on one node. Names are short because every
member pays for them.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass
from typing import NamedTuple

from contracts.errors import StoreError

MAX_MEMBER_ID_BYTES = 512
DEFAULT_BUCKETS = 64
"""Spreads a tenant over the nodes of a cluster. Another number finds none of the rings written under this one."""

_TENANT = re.compile(r"[A-Za-z0-9_.-]{1,128}")


class Places(NamedTuple):
    """The bucket of a member, and the keys of the ring, and of the bucket's generation and outbox."""

    bucket: int
    ring: bytes
    generation: bytes
    outbox: bytes


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

    def places(self, member_id: str) -> Places:
        """Return where a member's ring and what goes with it are. Raises StoreError if that is no member id."""
        bucket = self.bucket(check_member_id(member_id))
        tag = f"{{{self.tenant}:{bucket}}}:".encode()
        return Places(bucket, tag + b"m:" + member_id.encode(), tag + b"g", tag + b"o")

    def bucket(self, member_id: str) -> int:
        """Return the bucket of a member: 0 to ``buckets`` - 1, the same on every machine."""
        return zlib.crc32(member_id.encode()) % self.buckets

    def ring(self, member_id: str) -> bytes:
        """Return the key of a member's ring."""
        return f"{{{self.tenant}:{self.bucket(member_id)}}}:m:{member_id}".encode()

    def generation(self, bucket: int) -> bytes:
        """Return the key of a bucket's generation."""
        return f"{{{self.tenant}:{bucket}}}:g".encode()

    def outbox(self, bucket: int) -> bytes:
        """Return the key of a bucket's outbox."""
        return f"{{{self.tenant}:{bucket}}}:o".encode()

    @property
    def codecs(self) -> bytes:
        """Key of the registered layouts and dictionaries."""
        return f"{{{self.tenant}}}:codecs".encode()

    @property
    def lock(self) -> bytes:
        """Key of the maintenance lock."""
        return f"{{{self.tenant}}}:lock".encode()

    @property
    def notes(self) -> bytes:
        """Key of what maintenance notes for the next one."""
        return f"{{{self.tenant}}}:pass".encode()

    @property
    def rings_pattern(self) -> bytes:
        """Glob that matches the keys of all rings of the tenant."""
        return f"{{{self.tenant}:*}}:m:*".encode()

    def member_of(self, ring_key: bytes) -> str:
        """Return the member whose ring has that key."""
        return ring_key.split(b"}:m:", 1)[1].decode()


def check_member_id(member_id: str) -> str:
    """Return ``member_id``. Raises StoreError if it is not 1 to 512 bytes of UTF-8."""
    try:
        size = len(member_id.encode()) if len(member_id) <= MAX_MEMBER_ID_BYTES else len(member_id)
    except UnicodeEncodeError as error:
        raise StoreError(f"member_id {member_id!r}: not encodable as UTF-8: {error.reason}") from None
    if not 1 <= size <= MAX_MEMBER_ID_BYTES:
        raise StoreError(f"member_id {member_id[:40]!r} has {size} bytes; 1 to {MAX_MEMBER_ID_BYTES} are possible")
    return member_id
