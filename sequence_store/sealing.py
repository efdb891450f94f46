"""From appends to the changes to write: what every store checks before it writes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from contracts.errors import StoreError
from sequence_store import avro_columns, packed
from sequence_store.codec import Codec
from sequence_store.frame import Owner
from sequence_store.keys import check_member_id
from sequence_store.layout import Layout
from sequence_store.ring import Append, Version
from sequence_store.rings import Appends

MAX_LOG_ROW_BYTES: Final = 1024 * 1024


def changes_of(appends: Sequence[Append], tenant: str, codec: Codec, capacity: int) -> list[packed.Change | StoreError]:
    """Return what to write for each append. Many are encoded at once, ``Appends`` without being taken apart.

    A StoreError in the result names the field and its value by which that append breaks a limit or contradicts itself.
    """
    if len(appends) >= avro_columns.FEW:
        try:
            together = appends if isinstance(appends, Appends) else Appends.of(appends)
            return list(_changes_together(together, tenant, codec, capacity))
        except (StoreError, ValueError):
            pass  # which of them it is shows one by one
    changes: list[packed.Change | StoreError] = []
    for append in appends:
        try:
            changes.append(change_of(append, tenant, codec, capacity))
        except StoreError as error:
            changes.append(error)
    return changes


def change_of(append: Append, tenant: str, codec: Codec, capacity: int) -> packed.Change:
    """Return what to write for one append. Raises the StoreError of ``changes_of``."""
    member_id, entry, version = append.member_id, append.entry, append.version
    found = _checked(member_id, version, entry.sequence, entry.layout, append.log_row, codec)
    owner = Owner(tenant, member_id, version.generation)
    return packed.append(version, found, owner.seal(entry, codec), owner, capacity)


def _changes_together(appends: Appends, tenant: str, codec: Codec, capacity: int) -> Iterator[packed.Change]:
    entries = appends.entries
    sequences, layout = entries.sequence.tolist(), entries.layout
    items = zip(appends.member_ids, appends.versions, sequences, appends.log_rows, strict=True)
    found = [_checked(member, version, sequence, layout, row, codec) for member, version, sequence, row in items]
    encoded = zip(entries.cycle_id, avro_columns.encode_all(entries), strict=True)
    for member_id, version, of_ring, (cycle_id, (head, body)) in zip(
        appends.member_ids, appends.versions, found, encoded, strict=True
    ):
        owner = Owner(tenant, member_id, version.generation)
        frame = owner.seal_encoded(cycle_id, head, body, codec)
        yield packed.append(version, of_ring, frame, owner, capacity)


def _checked(
    member_id: str, version: Version, sequence: int, layout: Layout, log_row: bytes | None, codec: Codec
) -> packed.Found:
    """Return what the store found where an append goes. Raises StoreError."""
    check_member_id(member_id)
    if not isinstance(version.found, packed.Found):
        raise StoreError(f"append for member {member_id!r}: {version} was not read from a store; read the ring first")
    if sequence != version.count:
        raise StoreError(
            f"append for member {member_id!r}: entry.sequence {sequence} is not version.count {version.count}; "
            "number the entry by the version it was read under"
        )
    if layout is not codec.layout and layout.fingerprint != codec.layout.fingerprint:
        raise StoreError(
            f"append for member {member_id!r}: the entry's layout {layout.fingerprint.hex()} is not that of the "
            f"store, {codec.layout.fingerprint.hex()}"
        )
    if log_row is not None and not 1 <= len(log_row) <= MAX_LOG_ROW_BYTES:
        raise StoreError(
            f"append for member {member_id!r}: log_row has {len(log_row)} bytes; 1 to {MAX_LOG_ROW_BYTES} are possible"
        )
    return version.found
