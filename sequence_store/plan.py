"""What a pass over the rings does to one of them, what it counts, and which codecs it learns to be in use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields

from sequence_store import packed
from sequence_store.codec import Codec
from sequence_store.frame import Fault, Sealed, UnreadableFrame
from sequence_store.layout import Layout
from sequence_store.registry import Registered
from sequence_store.stored import FOREIGN, StoredRing, recoded


@dataclass
class Report:
    """What a pass saw and did, since it was first begun.

    Attributes
    ----------
    rings
        Rings looked at.
    freed
        Emptied rings that were freed.
    deleted
        Rings that went because all their entries were aged.
    rewritten
        Rings laid out anew, because some of their entries were aged or recoded.
    left
        Rings left to the next pass, since they changed each time they were read, or Redis had no memory to write them.
    entries_aged, entries_recoded
        Entries that went, and that were sealed anew under the current dictionary.
    foreign
        Entries, or rings as a whole, of a format, codec or generation that is not known here: left as they are.
    damaged
        Rings with something damaged in them, which appends overwrite in time.
    misplaced
        Keys that look like a ring's but are not where this number of buckets has them.
    bytes_freed
        By how much the rings' values have become shorter.
    seconds
        Time taken.
    resumed
        Whether the pass went on from where another was stopped.
    """

    rings: int = 0
    freed: int = 0
    deleted: int = 0
    rewritten: int = 0
    left: int = 0
    entries_aged: int = 0
    entries_recoded: int = 0
    foreign: int = 0
    damaged: int = 0
    misplaced: int = 0
    bytes_freed: int = 0
    seconds: float = 0.0
    resumed: bool = False

    def add(self, other: Report) -> None:
        """Add what ``other`` counts."""
        for counted in fields(self):
            if counted.name != "resumed":
                setattr(self, counted.name, getattr(self, counted.name) + getattr(other, counted.name))


@dataclass
class Seen:
    """What a whole pass saw in use: the evidence for the retirement of codecs. Plain values, kept as JSON.

    Attributes
    ----------
    started_ms
        When the pass was first begun, milliseconds since 1970.
    codecs
        Fingerprints, in hex, of the codecs of all entries as they were read, aged ones left out; and of those that an
        entry which cannot be read here may have.
    is_opaque
        Whether there was something that may be under any codec.
    """

    started_ms: int
    codecs: list[str] = field(default_factory=list)
    is_opaque: bool = False

    def note(self, ring: StoredRing, oldest_ms: int, registered: Registered) -> None:
        """Take ``ring`` into account, which was read with ``registered`` at hand."""
        codecs = {sealed.codec.fingerprint.hex() for sealed in ring.held.frames if not _is_aged(sealed, oldest_ms)}
        readable = {sealed.frame for sealed in ring.held.frames}
        if tags := {frame[1:2].hex() for frame in ring.found.frames if frame not in readable}:
            # A checksum that does not hold may be that of a codec, known to a later release, that has the same tag.
            codecs.update(name for name in registered.foreign if name[:2] in tags)
        if not codecs.issubset(self.codecs):
            self.codecs = sorted(codecs.union(self.codecs))
        self.is_opaque |= ring.is_foreign or Fault.FOREIGN_VERSION in ring.held.faults


def plan(
    ring: StoredRing, oldest_ms: int, writing: Callable[[Layout], Codec] | None
) -> tuple[packed.Change | None, Report]:
    """Return what to write for ``ring``, None for nothing, and what is then done.

    Parameters
    ----------
    oldest_ms
        Entries from before then are aged.
    writing
        Tells the codec to write entries of a layout with; None: leave entries under the codec they have.
    """
    done = Report(rings=int(bool(ring.value)))
    if not ring.value:
        return None, done
    if ring.is_foreign:
        done.foreign = 1
        return None, done
    found, held = ring.found, ring.held
    if ring.is_emptied:
        done.freed, done.bytes_freed = 1, len(ring.value)
        return packed.remove(found), done
    readable = {sealed.frame: sealed for sealed in held.frames}
    kept: list[bytes] = []
    for frame in found.frames:
        sealed = readable.get(frame)
        if sealed is None:
            pass  # it may be of a later release
        elif _is_aged(sealed, oldest_ms):
            done.entries_aged += 1
            continue
        elif writing is not None and (codec := writing(sealed.codec.layout)) != sealed.codec:
            frame = recoded(sealed, ring.owner, codec)
            done.entries_recoded += frame != sealed.frame
        kept.append(frame)
    done.foreign = sum(fault in FOREIGN for fault in held.faults)
    done.damaged = int(ring.is_damaged)
    if kept == list(found.frames):
        return None, done
    if not kept:
        done.deleted, done.bytes_freed = 1, len(ring.value)
        return packed.remove(found), done
    # Room for as many entries as it had: it has lost some, and goes on to grow.
    change = packed.lay_out(found, kept, held.version.count, ring.owner, len(found.frames))
    done.rewritten, done.bytes_freed = 1, len(ring.value) - len(change.apply(ring.value))
    return change, done


def _is_aged(sealed: Sealed, oldest_ms: int) -> bool:
    try:
        return sealed.longs.at_ms < oldest_ms
    except UnreadableFrame:
        return False
