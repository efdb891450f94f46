"""From an append to the change to write: what every store checks before it writes."""

from __future__ import annotations

from typing import Final

from contracts.errors import StoreError
from sequence_store import packed
from sequence_store.codec import Codec
from sequence_store.frame import Owner
from sequence_store.keys import check_member_id
from sequence_store.ring import Append

MAX_LOG_ROW_BYTES: Final = 1024 * 1024


def change_of(append: Append, tenant: str, codec: Codec, capacity: int) -> packed.Change:
    """Return what to write for ``append``.

    Raises StoreError, naming the field and its value, if the append breaks a limit or contradicts itself.
    """
    member_id, entry, version = check_member_id(append.member_id), append.entry, append.version
    if not isinstance(version.found, packed.Found):
        raise StoreError(f"append for member {member_id!r}: {version} was not read from a store; read the ring first")
    if entry.sequence != version.count:
        raise StoreError(
            f"append for member {member_id!r}: entry.sequence {entry.sequence} is not version.count {version.count}; "
            "number the entry by the version it was read under"
        )
    if entry.layout.fingerprint != codec.layout.fingerprint:
        raise StoreError(
            f"append for member {member_id!r}: the entry's layout {entry.layout.fingerprint.hex()} is not that of the "
            f"store, {codec.layout.fingerprint.hex()}"
        )
    if append.log_row is not None and not 1 <= len(append.log_row) <= MAX_LOG_ROW_BYTES:
        raise StoreError(
            f"append for member {member_id!r}: log_row has {len(append.log_row)} bytes; 1 to {MAX_LOG_ROW_BYTES} are "
            "possible"
        )
    owner = Owner(tenant, member_id, version.generation)
    return packed.append(version, version.found, owner.seal(entry, codec), owner, capacity)
