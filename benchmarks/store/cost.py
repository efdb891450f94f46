"""What it costs to serve 150,000 decisions a second, layout by layout: the sum behind the choice of the default."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from benchmarks.store.speed import Pace

DECISIONS_PER_S: Final = 150_000
CORE_MONTH: Final = 25.0
"""US dollars for a core and month: about what clouds ask for one of a general-purpose machine, on demand."""
GIB_MONTH: Final = 3.5
"""US dollars for a GiB of memory and month, likewise."""
_GIB: Final = 2**30
_DAY_S: Final = 86_400


@dataclass(frozen=True)
class Cost:
    """One layout at work, without replicas.

    Attributes
    ----------
    members
        Who make the decisions, at as many a member and day as in the log.
    client_cores, server_cores
        Kept busy by reading and appending, as measured in batches of 64 on this machine.
    memory_gib
        ``used_memory``.
    network_gbit_s
        In and out of the servers.
    written_mb_s
        Value bytes written: what an append-only file and the replicas get, but for commands and keys.
    """

    members: float
    client_cores: float
    server_cores: float
    memory_gib: float
    network_gbit_s: float
    written_mb_s: float

    @classmethod
    def of(cls, pace: Pace, bytes_per_member: float, bytes_written: float, decisions_per_day: float) -> Cost:
        """Return what the layout takes at DECISIONS_PER_S."""
        members = DECISIONS_PER_S * _DAY_S / decisions_per_day
        return cls(
            members,
            DECISIONS_PER_S * pace.client_us / 1e6,
            DECISIONS_PER_S * pace.server_us / 1e6,
            members * bytes_per_member / _GIB,
            DECISIONS_PER_S * pace.network_bytes * 8 / 1e9,
            DECISIONS_PER_S * bytes_written / 1e6,
        )

    @property
    def usd_month(self) -> float:
        """US dollars a month for cores and memory."""
        return (self.client_cores + self.server_cores) * CORE_MONTH + self.memory_gib * GIB_MONTH
