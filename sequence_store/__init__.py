"""Members' recent decisions: framed FLS entries in one ring a member, on Redis or in memory."""

from sequence_store.entry import Entry
from sequence_store.frame import Fault, UnreadableFrame
from sequence_store.layout import FloatGroup, Layout
from sequence_store.memory_ring import MemoryRingStore
from sequence_store.redis_ring import RedisRingStore
from sequence_store.ring import Append, AppendOutcome, Cursor, Ring, RingStore, Version
from sequence_store.storage import FloatArray

__all__ = [
    "Append",
    "AppendOutcome",
    "Cursor",
    "Entry",
    "Fault",
    "FloatArray",
    "FloatGroup",
    "Layout",
    "MemoryRingStore",
    "RedisRingStore",
    "Ring",
    "RingStore",
    "UnreadableFrame",
    "Version",
]
