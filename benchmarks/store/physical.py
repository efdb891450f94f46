"""Physical layouts that were not chosen, with the same frames: where a ring could have been kept on Redis.

| name | a member's ring is |
| --- | --- |
| packed | one string: header, and a circular buffer of frames of any length. The one chosen |
| hash_of_slots | a hash: a field a slot, and one for the header |
| fixed_slots | one string: header, and slots as long as the longest frame |
| list_of_slots | a list: the header, then an element a slot, replaced by LSET |

Each appends in one script, by compare-and-set on its header, which is as long as that of the ring.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from benchmarks.store.bytes_used import BATCH, member_id
from benchmarks.store.decisions import Decisions
from benchmarks.store.peers import TENANT, TTL_MS, check, must_be_appended
from benchmarks.store.server import Server
from sequence_store.codec import Codec
from sequence_store.frame import Owner
from sequence_store.keys import Keys
from sequence_store.packed import HEADER_BYTES
from sequence_store.wire import Command, Wire

SCRIPTS: Final = {
    "hash_of_slots": b"""\
if (redis.call('HGET', KEYS[1], 'h') or '') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'h', ARGV[2], ARGV[3], ARGV[4])
""",
    "fixed_slots": b"""\
if redis.call('GETRANGE', KEYS[1], 0, #ARGV[2] - 1) ~= ARGV[1] then return 0 end
if ARGV[1] == '' then redis.call('SETRANGE', KEYS[1], #ARGV[2] + ARGV[6] * ARGV[7] - 1, '\\0') end
redis.call('SETRANGE', KEYS[1], #ARGV[2] + ARGV[3] * ARGV[7], ARGV[4])
redis.call('SETRANGE', KEYS[1], 0, ARGV[2])
""",
    "list_of_slots": b"""\
if (redis.call('LINDEX', KEYS[1], 0) or '') ~= ARGV[1] then return 0 end
if ARGV[1] == '' then redis.call('RPUSH', KEYS[1], ARGV[2]) else redis.call('LSET', KEYS[1], 0, ARGV[2]) end
if redis.call('LLEN', KEYS[1]) > ARGV[3] + 1 then
  redis.call('LSET', KEYS[1], ARGV[3] + 1, ARGV[4])
else
  redis.call('RPUSH', KEYS[1], ARGV[4])
end
""",
}
_EXPIRE: Final = b"redis.call('PEXPIRE', KEYS[1], ARGV[5])\nreturn 1\n"
_LENGTH_BYTES: Final = 1
"""What tells a frame from the rest of its slot."""


@dataclass(frozen=True)
class Measured:
    """One physical layout.

    Attributes
    ----------
    bytes_per_member
        By ``used_memory``.
    bytes_per_append
        Of values.
    appends_per_s
        One process, 64 at a time, frames and commands made beforehand; nothing is read.
    """

    bytes_per_member: float
    bytes_per_append: float
    appends_per_s: float


def measure(server: Server, codec: Codec, decisions: Decisions, members: int, repeats: int) -> dict[str, Measured]:
    """Measure the layouts that were not chosen."""
    frames = [
        [
            Owner(TENANT, member_id(number), 0).seal(decisions.entry(row, i, codec.layout), codec)
            for i, row in enumerate(decisions.runs[number].tolist())
        ]
        for number in range(members)
    ]
    return {name: _measure(server, script, frames, repeats) for name, script in SCRIPTS.items()}


def _measure(server: Server, script: bytes, frames: list[list[bytes]], repeats: int) -> Measured:
    client = server.client()
    wire, capacity = Wire(client), len(frames[0])
    slot_bytes = _LENGTH_BYTES + max(len(frame) for ring in frames for frame in ring)
    body = script + _EXPIRE
    check(wire.exchange([("SCRIPT", "LOAD", body)], writes=False))
    sha = hashlib.sha1(body, usedforsecurity=False).hexdigest()
    before = server.used_memory()

    def command(number: int, count: int) -> Command:
        frame = frames[number][count % capacity]
        value = bytes([len(frame)]) + frame if b"SETRANGE" in script else frame
        header = b"" if count == 0 else _header(count)
        limits = (TTL_MS, capacity, slot_bytes)
        key = Keys(TENANT).ring(member_id(number))
        return ("EVALSHA", sha, 1, key, header, _header(count + 1), count % capacity, value, *limits)

    for count in range(capacity):
        for first in range(0, len(frames), BATCH):
            numbers = range(first, min(first + BATCH, len(frames)))
            _append(wire, [command(number, count) for number in numbers])
    client.connection_pool.disconnect()
    used = server.used_memory() - before
    rates = []
    for repeat in range(repeats):
        batches = [
            [command(number, capacity + repeat) for number in range(first, min(first + 64, len(frames)))]
            for first in range(0, len(frames), 64)
        ]
        started = time.perf_counter()
        for batch in batches:
            _append(wire, batch)
        rates.append(len(frames) / (time.perf_counter() - started))
    written = HEADER_BYTES + np.mean([len(command(number, 0)[7]) for number in range(len(frames))])
    return Measured(used / len(frames), float(written), float(np.median(rates)))


def _header(count: int) -> bytes:
    return count.to_bytes(HEADER_BYTES, "big")


def _append(wire: Wire, commands: list[Any]) -> None:
    must_be_appended([reply == 1 for reply in check(wire.exchange(commands, writes=True))])
