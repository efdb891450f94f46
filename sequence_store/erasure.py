"""A member's erasure: the ring, of any generation, and the log rows that wait in the outbox."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

from sequence_store.keys import Keys, check_member_id
from sequence_store.outbox import ROW_FIELD
from sequence_store.wire import Command, Wire, checked

_ROWS = 1_000
_PAGE = 1_000


@dataclass
class Erasure:
    """What was erased of one member.

    Attributes
    ----------
    rings
        Rings deleted, emptied ones included.
    rows
        Log rows deleted from outboxes.
    rows_seen
        Log rows looked at.
    rows_unreadable
        Rows of which nobody can say whose they are: left as they are.
    """

    rings: int = 0
    rows: int = 0
    rows_seen: int = 0
    rows_unreadable: int = 0


OfMember = Callable[[bytes], bool]
"""Tells whether a log row is the member's. Raises ValueError for a row of which it can't tell."""


def erase(wire: Wire, keys: Keys, member_id: str, of_member: OfMember) -> Erasure:
    """Erase one member of a tenant: the ring, and the rows of the member's outbox that ``of_member`` tells.

    Live traffic is not held up: a decision that read the ring before is refused and reads again, and any later decision
    about the member begins a new ring. So stop asking about the member first. Rows that were drained are where they
    were drained to. Raises StoreError.
    """
    done = Erasure()
    _erase(wire, [keys.ring(check_member_id(member_id))], [keys.outbox(keys.bucket(member_id))], of_member, done)
    return done


def erase_everywhere(wire: Wire, member_id: str, of_member: OfMember) -> Erasure:
    """Erase one member of all tenants, whatever their number of buckets: all outboxes are gone through.

    As ``erase`` otherwise. Raises StoreError.
    """
    literal = "".join(f"\\{char}" if char in "*?[]\\" else char for char in check_member_id(member_id))
    found = [
        {key for page in wire.scan(pattern, _PAGE) for key in page}
        for pattern in (f"{{*:*}}:m:{literal}".encode(), b"{*:*}:o")
    ]
    rings = [key for key in found[0] if key.split(b"}:m:", 1)[1] == member_id.encode()]
    done = Erasure()
    _erase(wire, rings, sorted(found[1]), of_member, done)
    return done


def rows_with(field: str, member_id: str) -> OfMember:
    """Return the test for rows that are JSON objects and have the member under ``field``."""

    def of_member(row: bytes) -> bool:
        document = json.loads(row)
        if not isinstance(document, dict) or field not in document:
            raise ValueError(f"no JSON object with {field!r}")
        # Integers are taken as their decimal text, as in a decision log.
        return str(document[field]) == member_id

    return of_member


def _erase(wire: Wire, rings: list[bytes], outboxes: list[bytes], of_member: OfMember, done: Erasure) -> None:
    # The rings first: an append between the two would write another row.
    done.rings = sum(checked(wire.exchange([("UNLINK", ring) for ring in rings], writes=True)))
    for outbox in outboxes:
        start = b"-"
        while rows := _rows(wire, outbox, start):
            done.rows_seen += len(rows)
            going = []
            for row_id, row in rows:
                try:
                    if of_member(row):
                        going.append(row_id)
                except ValueError:
                    done.rows_unreadable += 1
            if going:
                command: Command = ("XDEL", outbox, *going)
                (deleted,) = checked(wire.exchange([command], writes=True))
                done.rows += deleted
            start = b"(" + rows[-1][0]


def _rows(wire: Wire, outbox: bytes, start: bytes) -> list[tuple[bytes, bytes]]:
    (reply,) = checked(wire.exchange([("XRANGE", outbox, start, "+", "COUNT", _ROWS)], writes=False))
    return [(row_id, dict(zip(fields[::2], fields[1::2], strict=True)).get(ROW_FIELD, b"")) for row_id, fields in reply]
