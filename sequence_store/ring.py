"""What every sequence store offers: rings read whole, appended to by compare-and-set, and an outbox of log rows."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Protocol

from contracts.errors import StoreError
from sequence_store.entry import Entry
from sequence_store.mask import accepted


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
        Random number of this ring since it last began empty; 0 where there is no ring. It tells a ring from one that
        expired and grew to the same count. Absent equals absent, even if a ring came and went in between.
    """

    generation: int
    count: int
    incarnation: int = 0


def new_incarnation() -> int:
    """Return a random number of 31 bits, not 0, for a ring that begins: Redis stores it in 5 bytes."""
    return 1 + secrets.randbelow(2**31 - 1)


@dataclass(frozen=True)
class Ring:
    """A member's recent decisions.

    Attributes
    ----------
    member_id
        The member.
    entries
        In true chronological order, which is that of the sequence numbers; without aged and unreadable entries.
    version
        What an append to this ring gives back.
    skipped
        Reason -> number of stored entries left out: ``expired``, or a ``frame.Fault``. Empty where all is well.
    """

    member_id: str
    entries: tuple[Entry, ...]
    version: Version
    skipped: Mapping[str, int]
    aged: tuple[Entry, ...] = ()
    """Entries too old to be history, but still stored: a cycle is decided once, whatever time a retry names."""

    def cycle(self, cycle_id: str) -> Entry | None:
        """Return the entry of that cycle, whatever its mask key and age, or None."""
        stored = (*reversed(self.entries), *reversed(self.aged))
        return next((entry for entry in stored if entry.cycle_id == cycle_id), None)

    def history(self, accept: Sequence[str]) -> tuple[Entry, ...]:
        """Return the entries whose mask key equals, or matches as a glob, one of ``accept``, in order."""
        return tuple(entry for entry in self.entries if accepted(entry.mask_key, accept))


@dataclass(frozen=True)
class Append:
    """One entry to append to a ring that is still at ``version``, with the decision's log row for the outbox.

    ``entry.sequence`` is ``version.count``. ``log_row`` is opaque to the store; None writes none.
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

    def read(self, member_ids: Sequence[str], now_ms: Sequence[int]) -> list[Ring]:
        """Read the rings of ``member_ids``, in that order, in one round trip.

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
        it was written.

        Raises
        ------
        StoreUnavailable
            The server was not reached; nothing was written.
        OutcomeUnknown
            The connection broke or timed out after the appends were sent; each may have been written or not. Read
            the rings again: ``Ring.cycle`` tells.
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
