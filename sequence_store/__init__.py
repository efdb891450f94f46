"""Members' recent decisions: framed FLS entries in one ring a member, on Redis or in memory."""

from sequence_store.columns import EntryColumns
from sequence_store.entry import Entry
from sequence_store.frame import Fault, UnreadableFrame
from sequence_store.layout import FloatGroup, Layout
from sequence_store.memory_ring import MemoryRingStore
from sequence_store.redis_ring import RedisRingStore
from sequence_store.ring import Append, AppendOutcome, Cursor, Ring, RingStore, Version
from sequence_store.rings import Appends, RingLongs, Rings
from sequence_store.side_by_side import NewestEntries
from sequence_store.storage import FloatArray

__all__ = [
    "Append",
    "AppendOutcome",
    "Appends",
    "Cursor",
    "Entry",
    "EntryColumns",
    "Fault",
    "FloatArray",
    "FloatGroup",
    "Layout",
    "MemoryRingStore",
    "NewestEntries",
    "RedisRingStore",
    "Ring",
    "RingLongs",
    "RingStore",
    "Rings",
    "UnreadableFrame",
    "Version",
]
