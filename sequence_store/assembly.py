"""From the values found in a ring's slots to a Ring: what is left out, counted, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from contracts.errors import StoreError
from sequence_store.entry import Entry
from sequence_store.frame import Fault, Sealed, UnreadableFrame, owner, unseal
from sequence_store.layout import Layout
from sequence_store.ring import Ring, Version

MAX_MEMBER_ID_BYTES = 512
EXPIRED = "expired"


@dataclass(frozen=True)
class Stored:
    """A ring as its physical layout gives it.

    ``frames`` are (sequence number the slot stands for, value); ``faults`` are reasons why the whole ring is missing.
    """

    version: Version
    frames: Sequence[tuple[int, bytes]] = ()
    faults: Sequence[str] = ()


@dataclass(frozen=True)
class Checked:
    """A ring whose frames are checked but not yet decoded, because their layouts may have to be fetched first."""

    member_id: str
    version: Version
    sealed: Sequence[Sealed]
    """In order of sequence number, aged ones included."""
    skipped: Counter[str]
    oldest_ms: int
    """Entries from before it are aged."""


def check_member_id(member_id: str) -> str:
    """Return ``member_id``. Raises StoreError if it is not 1 to 512 bytes of UTF-8."""
    try:
        size = len(member_id.encode()) if len(member_id) <= MAX_MEMBER_ID_BYTES else len(member_id)
    except UnicodeEncodeError as error:
        raise StoreError(f"member_id {member_id!r}: not encodable as UTF-8: {error.reason}") from None
    if not 1 <= size <= MAX_MEMBER_ID_BYTES:
        raise StoreError(f"member_id {member_id[:40]!r} has {size} bytes; 1 to {MAX_MEMBER_ID_BYTES} are possible")
    return member_id


def check(tenant: str, member_id: str, stored: Stored, oldest_ms: int) -> Checked:
    """Check the frames of one ring, leaving out the damaged ones."""
    key = owner(tenant, member_id)
    skipped: Counter[str] = Counter(stored.faults)
    sealed: list[Sealed] = []
    for sequence, value in sorted(stored.frames):
        try:
            frame = unseal(value, key)
            if frame.sequence != sequence:
                raise UnreadableFrame(Fault.MISPLACED, f"entry {frame.sequence} in the slot of {sequence}")
        except UnreadableFrame as error:
            skipped[error.fault] += 1
            continue
        sealed.append(frame)
    return Checked(member_id, stored.version, sealed, skipped, oldest_ms)


def assemble(checked: Checked, layouts: Mapping[bytes, Layout | None]) -> Ring:
    """Decode the frames of one ring by their layouts, given by fingerprint; None stands for one not understood."""
    skipped = checked.skipped.copy()
    entries: list[Entry] = []
    aged: list[Entry] = []
    for frame in checked.sealed:
        try:
            entry = frame.entry(layouts.get(frame.fingerprint))
        except UnreadableFrame as error:
            skipped[error.fault] += 1
            continue
        if entry.at_ms < checked.oldest_ms:
            skipped[EXPIRED] += 1
            aged.append(entry)
        else:
            entries.append(entry)
    reasons = {str(why): n for why, n in skipped.items()}
    return Ring(checked.member_id, tuple(entries), checked.version, reasons, tuple(aged))
