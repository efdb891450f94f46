"""From an append to the value to store: what every store checks before it writes."""

from __future__ import annotations

from typing import Final

from contracts.errors import StoreError
from sequence_store.assembly import check_member_id
from sequence_store.frame import owner, seal
from sequence_store.layout import Layout
from sequence_store.ring import Append

MAX_LOG_ROW_BYTES: Final = 1024 * 1024


def seal_append(append: Append, tenant: str, layout: Layout) -> bytes:
    """Return the frame to store for ``append``.

    Raises StoreError, naming the field and its value, if the append breaks a limit or contradicts itself.
    """
    member_id, entry, version = check_member_id(append.member_id), append.entry, append.version
    if entry.sequence != version.count:
        raise StoreError(
            f"append for member {member_id!r}: entry.sequence {entry.sequence} is not version.count {version.count}; "
            "number the entry by the version it was read under"
        )
    if entry.layout != layout:
        raise StoreError(
            f"append for member {member_id!r}: the entry's layout {entry.layout.fingerprint.hex()} is not that of the "
            f"store, {layout.fingerprint.hex()}"
        )
    if append.log_row is not None and len(append.log_row) > MAX_LOG_ROW_BYTES:
        raise StoreError(
            f"append for member {member_id!r}: log_row has {len(append.log_row)} bytes; at most {MAX_LOG_ROW_BYTES} go"
        )
    return seal(entry, owner(tenant, member_id))
