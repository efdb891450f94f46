"""What every sequence store offers: rings read whole, appended to by compare-and-set, and an outbox of log rows."""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

from contracts.errors import StoreError
from sequence_store.avro import Longs
from sequence_store.entry import Entry
from sequence_store.frame import Fault, Sealed, UnreadableFrame, cycle_hash
from sequence_store.mask import accepted

if TYPE_CHECKING:
    from sequence_store.rings import Rings

EXPIRED = "expired"


@dataclass(frozen=True)
class Version:
    """The state of a ring, as an append must find it: the compare-and-set token.

    Attributes
    ----------
    generation
        Generation of the namespace; emptying it starts a new one.
    count
        Entries appended so far, which is the next entry's sequence number.
    incarnation
        Random number of this ring since it was last laid out anew; 0 where there is no ring. It tells a ring from one
        that expired and grew to the same count. Absent equals absent, even if a ring came and went in between.
    found
        What the store found there and an append rests on: the store's own. An append needs a version that was read.
    """

    generation: int
    count: int
    incarnation: int = 0
    found: object = field(default=None, compare=False, repr=False)


def new_incarnation() -> int:
    """Return a random number of 16 bits, not 0, for a ring that is laid out.

    It need not be unique: to be taken for another ring, a ring must have the same content as well.
    """
    return 1 + secrets.randbelow(2**16 - 1)


class Ring:
    """A member's recent decisions, decoded as they are asked for.

    Attributes
    ----------
    member_id
        The member.
    version
        What an append to this ring gives back.
    """

    def __init__(
        self, member_id: str, version: Version, frames: Sequence[Sealed], faults: Sequence[Fault], oldest_ms: int
    ) -> None:
        """Hold ``frames``, oldest first, of which those from before ``oldest_ms`` are aged; ``faults`` are missing."""
        self.member_id = member_id
        self.version = version
        self._frames = frames
        self._faults = faults
        self._oldest_ms = oldest_ms
        self._decoded: dict[int, Entry | UnreadableFrame] = {}

    @cached_property
    def entries(self) -> tuple[Entry, ...]:
        """Entries in true chronological order, which is that of the sequence numbers; none aged or unreadable."""
        return tuple(reversed(list(self.newest())))

    @cached_property
    def aged(self) -> tuple[Entry, ...]:
        """Entries too old to be history, but still stored, in order."""
        found = (self._entry(frame) for frame in self._frames if frame.longs.at_ms < self._oldest_ms)
        return tuple(entry for entry in found if entry is not None)

    @cached_property
    def longs(self) -> tuple[Longs, ...]:
        """The Longs of the entries that are not aged, in order: known without decoding an entry."""
        return tuple(frame.longs for frame in self._frames if frame.longs.at_ms >= self._oldest_ms)

    @property
    def skipped(self) -> Mapping[str, int]:
        """Reason -> number of stored entries left out: ``expired``, or a ``frame.Fault``. Empty where all is well."""
        for frame in self._frames:
            self._entry(frame)
        reasons: Counter[str] = Counter(map(str, self._faults))
        reasons.update(str(found.fault) for found in self._decoded.values() if isinstance(found, UnreadableFrame))
        reasons.update([EXPIRED] * len(self.aged))
        return dict(reasons)

    def newest(self) -> Iterator[Entry]:
        """Yield the entries, the newest first, decoding no more than are asked for."""
        for frame in reversed(self._frames):
            if frame.longs.at_ms >= self._oldest_ms:
                entry = self._entry(frame)
                if entry is not None:
                    yield entry

    def at(self, sequence: int) -> Entry | None:
        """Return the entry with that sequence number, unless it is aged, unreadable or gone."""
        for frame in self._frames:
            if frame.sequence == sequence and frame.longs.at_ms >= self._oldest_ms:
                return self._entry(frame)
        return None

    def cycle(self, cycle_id: str) -> Entry | None:
        """Return the newest entry of that cycle, whatever its mask key and age, or None.

        A cycle is decided once, whatever time a retry names.
        """
        hashed = cycle_hash(cycle_id)
        for frame in reversed(self._frames):
            if frame.may_be_cycle(hashed):
                entry = self._entry(frame)
                if entry is not None and entry.cycle_id == cycle_id:
                    return entry
        return None

    def history(self, accept: Sequence[str]) -> tuple[Entry, ...]:
        """Return the entries whose mask key equals, or matches as a glob, one of ``accept``, in order."""
        return tuple(entry for entry in self.entries if accepted(entry.mask_key, accept))

    def _entry(self, frame: Sealed) -> Entry | None:
        found = self._decoded.get(frame.sequence)
        if found is None:
            try:
                found = frame.entry()
            except UnreadableFrame as error:
                found = error
            self._decoded[frame.sequence] = found
        return found if isinstance(found, Entry) else None


@dataclass(frozen=True)
class Append:
    """One entry to append to a ring that is still at ``version``, with the decision's log row for the outbox.

    ``entry.sequence`` is ``version.count``. ``log_row`` is opaque to the store, and not empty; None writes none.
    """

    member_id: str
    version: Version
    entry: Entry
    log_row: bytes | None


class AppendOutcome(Enum):
    """What became of one append."""

    APPENDED = auto()
    CONFLICT = auto()
    """The ring is no longer at the version given: nothing was written. Read it again."""


@dataclass(frozen=True)
class Cursor:
    """Place of one row in the outbox. ``position`` orders the rows of one ``bucket``."""

    bucket: int
    position: tuple[int, int]


class RingStore(Protocol):
    """A store of rings, one a member, and an outbox, under one tenant. Safe to share between threads."""

    def read(self, member_ids: Sequence[str], now_ms: Sequence[int]) -> Rings:
        """Read the rings of ``member_ids``, in that order, in one round trip.

        What comes back is a sequence of Ring, and offers all of them a column at a time, too. A StoreError in it is
        that member's alone: of a cluster, one node may be away.

        Parameters
        ----------
        member_ids
            1 to 512 bytes of UTF-8 each. A member never seen has an empty ring.
        now_ms
            Time of each member's decision, milliseconds since 1970: entries older than the store's time to live are
            left out. Entries from the future are not.

        Raises
        ------
        StoreError
            A member id is no such text; the message names it.
        StoreUnavailable
            The server did not answer.
        ValueError
            The two sequences differ in length.
        """
        ...

    def append(self, appends: Sequence[Append]) -> list[AppendOutcome | StoreError]:
        """Append each entry to its ring if the ring is still at the version given, in one round trip.

        Entry and log row are written together or not at all. The newest entry takes the place of the oldest where
        the ring is full; no other entry is rewritten. A StoreError in the result is that item's alone: nothing of
        it was written, unless it is an OutcomeUnknown.

        Raises
        ------
        StoreUnavailable
            The server was not reached; nothing was written.
        OutcomeUnknown
            The connection broke or timed out after the appends were sent; each may have been written or not. Read
            the rings again: ``Ring.cycle`` tells. Of a NotReplicated it tells nothing: that one may be lost yet.
        """
        ...

    def drain(self, limit: int) -> list[tuple[Cursor, bytes]]:
        """Return up to ``limit`` of the oldest log rows in the outbox; none if it is empty.

        The rows stay until ``trim`` confirms them, so each is seen at least once. A member's rows come in the order
        of its appends.

        Raises StoreUnavailable.
        """
        ...

    def trim(self, cursors: Sequence[Cursor]) -> int:
        """Forget the drained rows at ``cursors``, and those before them in their buckets; return how many went.

        Call it once the rows are safe elsewhere. Repeating it is harmless. Raises StoreUnavailable, OutcomeUnknown.
        """
        ...

    def empty(self) -> None:
        """Empty every ring of the tenant, by starting a new generation. The outbox stays.

        Repeating it is harmless. Raises StoreUnavailable, OutcomeUnknown.
        """
        ...

    def close(self) -> None:
        """Give back the connections that the store opened itself."""
        ...
