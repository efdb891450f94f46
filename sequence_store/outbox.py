"""The outbox on Redis: log rows wait in one stream a bucket until a reader has them safe elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sequence_store.keys import Keys
from sequence_store.ring import Cursor
from sequence_store.wire import Command

ROW_FIELD = b"r"


def drain_commands(keys: Keys, limit: int) -> list[Command]:
    """Return the commands that read the oldest rows of every bucket: together ``limit`` of them or a few more."""
    share = -(-limit // keys.buckets)
    return [("XRANGE", keys.outbox(bucket), "-", "+", "COUNT", share) for bucket in range(keys.buckets)]


def parse_drained(replies: Sequence[Any], limit: int) -> list[tuple[Cursor, bytes]]:
    """Return the oldest ``limit`` rows of the replies to ``drain_commands``, so that no bucket waits behind another."""
    rows = [
        (Cursor(bucket, _position(row_id)), dict(zip(fields[::2], fields[1::2], strict=True)).get(ROW_FIELD, b""))
        for bucket, reply in enumerate(replies)
        for row_id, fields in reply
    ]
    return sorted(rows, key=lambda row: (row[0].position, row[0].bucket))[:limit]


def trim_commands(keys: Keys, cursors: Sequence[Cursor]) -> list[Command]:
    """Return the commands that delete the rows up to and including the furthest cursor of each bucket."""
    furthest: dict[int, tuple[int, int]] = {}
    for cursor in cursors:
        furthest[cursor.bucket] = max(cursor.position, furthest.get(cursor.bucket, (0, 0)))
    return [
        ("XTRIM", keys.outbox(bucket), "MINID", f"{milliseconds}-{number + 1}")
        for bucket, (milliseconds, number) in furthest.items()
    ]


def _position(row_id: bytes) -> tuple[int, int]:
    milliseconds, _, number = row_id.partition(b"-")
    return int(milliseconds), int(number)
