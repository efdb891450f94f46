"""One maintenance pass of a tenant at a time: a lock that expires, and notes that outlive whoever held it."""

from __future__ import annotations

import json
import os
import secrets
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from redis.exceptions import OutOfMemoryError

from contracts.errors import StoreError
from sequence_store.keys import Keys
from sequence_store.retention import MS_PER_DAY
from sequence_store.wire import Wire, checked

LOCK_SCRIPT: Final = Path(__file__).with_name("lock.lua").read_bytes()
LOCK_MS: Final = 60_000
"""How long a lock outlives its holder's last sign of life."""
NOTES_MS: Final = 7 * MS_PER_DAY


class Lock:
    """The maintenance lock of one tenant. Two that work at once would do no harm, but all the work twice.

    On a Redis whose memory is full, there is no lock, and there are no new notes.
    """

    def __init__(self, wire: Wire, keys: Keys) -> None:
        self._wire = wire
        self._keys = keys
        self._holder = f"process {os.getpid()} on {socket.gethostname()} ({secrets.token_hex(4)})"

    def hold(self, *, rest_ms: int = 0, **notes: Any) -> None:
        """Take the lock, or keep it, for ``rest_ms`` and ``LOCK_MS``, and write notes, as JSON; None strikes one out.

        Raises StoreError, naming the holder, if another has it.
        """
        self._call(LOCK_MS + rest_ms, notes)

    def give_back(self, **notes: Any) -> None:
        """Write notes as ``hold`` does, and let others have the lock. Raises StoreError."""
        self._call(0, notes)

    def _call(self, lock_ms: int, notes: Mapping[str, Any]) -> None:
        written = [
            part
            for name, note in notes.items()
            for part in (name, "" if note is None else json.dumps(note, separators=(",", ":")))
        ]
        command = ("EVAL", LOCK_SCRIPT, 2, self._keys.lock, self._keys.notes, self._holder, lock_ms, NOTES_MS, *written)
        (reply,) = self._wire.exchange([command], writes=True)
        if isinstance(reply, OutOfMemoryError):
            return  # what frees memory must go on, if need be without a lock
        (other,) = checked([reply])
        if other:
            holder, left_ms = other
            raise StoreError(
                f"maintenance of tenant {self._keys.tenant!r} is done by {holder.decode()} now. If that was killed, "
                f"its lock expires in {max(0, left_ms) / 1000:.0f} s: run this again then"
            )


def read_note(wire: Wire, keys: Keys, name: str) -> Any:
    """Return what was last noted under ``name``; None if nothing is. Raises StoreError."""
    (note,) = checked(wire.exchange([("HGET", keys.notes, name)], writes=False))
    return None if note is None else json.loads(note)
