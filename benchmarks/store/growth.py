"""What a read costs as members grow to a million."""

from __future__ import annotations

import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from benchmarks.store.bytes_used import BATCH, member_id
from benchmarks.store.decisions import Decisions
from benchmarks.store.peers import TENANT, TTL_MS, check
from benchmarks.store.rings import Rings
from benchmarks.store.server import Server
from contracts.errors import StoreError
from sequence_store.codec import Codec
from sequence_store.frame import Owner
from sequence_store.keys import Keys
from sequence_store.packed import Found, lay_out
from sequence_store.wire import Wire

SIZES: Final = (1_000, 10_000, 100_000, 1_000_000)
READ_BATCH: Final = 64
_DISTINCT = 500
_CHECKSUM_BYTES = 4


@dataclass(frozen=True)
class Read:
    """What reading costs among so many members.

    Attributes
    ----------
    us
        Microseconds a member, in batches of 64 drawn at random: the median of all batches.
    memory_bytes
        The server's ``used_memory``.
    """

    us: float
    memory_bytes: int


def read_costs(
    server: Server, codec: Codec, decisions: Decisions, sizes: Sequence[int], batches: int
) -> dict[int, Read]:
    """Return number of members -> cost of a read, each member with a full ring of its own.

    The rings hold the frames of some hundred members, sealed anew for each that gets them.

    Raises
    ------
    StoreError
        A ring is not read back whole.
    """
    client = server.client()
    peer, wire, keys = Rings(client, codec, decisions.runs.shape[1]), Wire(client), Keys(TENANT)
    _introduce(peer, decisions)
    contents = [_covered(codec, decisions, number) for number in range(min(_DISTINCT, len(decisions.runs)))]
    rng = np.random.default_rng(4)
    costs: dict[int, Read] = {}
    loaded = 0
    for size in sizes:
        while loaded < size:
            numbers = range(loaded, min(loaded + BATCH, size))
            sets = []
            for number in numbers:
                member = member_id(number)
                value = sealed(contents[number % len(contents)], member, codec)
                sets.append(("SET", keys.ring(member), value, "PX", TTL_MS))
            check(wire.exchange(sets, writes=True))
            loaded += len(numbers)
        costs[size] = Read(_read_us(peer, decisions, size, batches, rng), server.used_memory())
    return costs


def sealed(covered: Sequence[bytes], member: str, codec: Codec) -> bytes:
    """Return a full ring of frames without their checksums, which it adds: those of ``member`` (docs/formats.md)."""
    seed = zlib.crc32(codec.fingerprint, zlib.crc32(f"{TENANT}\0{member}\0{0}".encode()))
    frames = [part + zlib.crc32(part, seed).to_bytes(_CHECKSUM_BYTES, "little") for part in covered]
    change = lay_out(Found(), frames, len(frames), Owner(TENANT, member, 0), len(frames))
    return change.patches[0][1]


def _introduce(peer: Rings, decisions: Decisions) -> None:
    """Append once, so that the codec is registered."""
    now = [int(decisions.at_ms[decisions.runs[0, 0]])]
    held = peer.read(["first"], now)
    peer.append(["first"], held, [decisions.entry(int(decisions.runs[0, 0]), 0, peer.layout)])


def _covered(codec: Codec, decisions: Decisions, number: int) -> list[bytes]:
    owner = Owner(TENANT, "", 0)
    entries = (decisions.entry(row, i, codec.layout) for i, row in enumerate(decisions.runs[number].tolist()))
    return [owner.seal(entry, codec)[:-_CHECKSUM_BYTES] for entry in entries]


def _read_us(peer: Rings, decisions: Decisions, size: int, batches: int, rng: np.random.Generator) -> float:
    now = int(decisions.at_ms[decisions.runs].min())
    times = [now] * READ_BATCH
    drawn = [list(map(member_id, rng.integers(0, size, READ_BATCH).tolist())) for _ in range(batches)]
    seconds = []
    for names in drawn:
        started = time.perf_counter()
        rings = peer.read(names, times)
        seconds.append(time.perf_counter() - started)
        if any(ring.skipped or len(ring.longs) != peer.capacity for ring in rings):
            raise StoreError(f"rings of {names[0]} ... are not read back whole: {rings[0].skipped}")
    return float(1e6 * np.median(seconds) / READ_BATCH)
