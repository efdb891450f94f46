"""From appends to the changes to write: what every store checks before it writes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from contracts.errors import StoreError
from sequence_store import avro, packed
from sequence_store.codec import Codec
from sequence_store.frame import Owner
from sequence_store.keys import check_member_id
from sequence_store.ring import Append

MAX_LOG_ROW_BYTES: Final = 1024 * 1024


def changes_of(appends: Sequence[Append], tenant: str, codec: Codec, capacity: int) -> list[packed.Change | StoreError]:
    """Return what to write for each append: all are encoded at once.

    A StoreError in the result names the field and its value by which that append breaks a limit or contradicts itself.
    """
    errors = [_fault(append, codec) for append in appends]
    sound = [append for append, error in zip(appends, errors, strict=True) if error is None]
    changes = iter(_changes(sound, tenant, codec, capacity))
    return [next(changes) if error is None else error for error in errors]


def change_of(append: Append, tenant: str, codec: Codec, capacity: int) -> packed.Change:
    """Return what to write for one append. Raises the StoreError of ``changes_of``."""
    (change,) = changes_of([append], tenant, codec, capacity)
    if isinstance(change, StoreError):
        raise change
    return change


def _changes(appends: Sequence[Append], tenant: str, codec: Codec, capacity: int) -> list[packed.Change | StoreError]:
    if not appends:
        return []
    try:
        encoded = avro.encode_all([append.entry for append in appends])
    except StoreError as error:
        if len(appends) == 1:
            return [error]
        # Which of them it is shows one by one.
        return [change for append in appends for change in _changes([append], tenant, codec, capacity)]
    changes: list[packed.Change | StoreError] = []
    for append, (head, body) in zip(appends, encoded, strict=True):
        version = append.version
        owner = Owner(tenant, append.member_id, version.generation)
        try:
            frame = owner.seal_encoded(append.entry.cycle_id, head, body, codec)
            changes.append(packed.append(version, version.found, frame, owner, capacity))  # type: ignore[arg-type]
        except StoreError as error:
            changes.append(error)
    return changes


def _fault(append: Append, codec: Codec) -> StoreError | None:
    """Return what is wrong with an append, but for its entry's own fields."""
    member_id, entry, version = append.member_id, append.entry, append.version
    try:
        check_member_id(member_id)
    except StoreError as error:
        return error
    if not isinstance(version.found, packed.Found):
        return StoreError(f"append for member {member_id!r}: {version} was not read from a store; read the ring first")
    if entry.sequence != version.count:
        return StoreError(
            f"append for member {member_id!r}: entry.sequence {entry.sequence} is not version.count {version.count}; "
            "number the entry by the version it was read under"
        )
    if entry.layout is not codec.layout and entry.layout.fingerprint != codec.layout.fingerprint:
        return StoreError(
            f"append for member {member_id!r}: the entry's layout {entry.layout.fingerprint.hex()} is not that of the "
            f"store, {codec.layout.fingerprint.hex()}"
        )
    if append.log_row is not None and not 1 <= len(append.log_row) <= MAX_LOG_ROW_BYTES:
        return StoreError(
            f"append for member {member_id!r}: log_row has {len(append.log_row)} bytes; 1 to {MAX_LOG_ROW_BYTES} are "
            "possible"
        )
    return None
