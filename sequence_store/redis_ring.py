"""Rings on Redis: one hash a member, one script an append, one round trip a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import redis
from redis.exceptions import NoScriptError, ResponseError

from contracts.errors import StoreError, StoreUnavailable
from sequence_store import outbox, slots
from sequence_store.assembly import assemble, check, check_member_id
from sequence_store.keys import DEFAULT_BUCKETS, Keys
from sequence_store.layout import Layout
from sequence_store.registry import Registry
from sequence_store.retention import Retention
from sequence_store.ring import Append, AppendOutcome, Cursor, Ring
from sequence_store.sealing import seal_append
from sequence_store.wire import Command, Wire, connect


class RedisRingStore:
    """The RingStore of one tenant on one Redis, 6.2 or later.

    Parameters
    ----------
    server
        A URL (``redis://``, ``rediss://``, ``unix://``) or a redis-py client, whose pool and timeouts are then used.
    tenant
        The deployment; its keys are apart from those of any other.
    layout
        Layout of the entries that are appended. Entries under other layouts are read as well.
    capacity
        Entries kept a member, 1 to 1,024. A ring met with another capacity keeps its newest entries.
    ttl_days
        Age at which entries are no longer returned, and idle time after which a ring expires.
    buckets
        Hash slots that members are spread over; the same for everyone who uses the tenant's keys.
    timeout_s, connect_timeout_s
        How long to wait for the next bytes of a reply, and for a connection; only with a URL.

    Raises
    ------
    ValueError
        An argument is out of range.
    StoreError
        The URL is none.
    """

    def __init__(
        self,
        server: str | redis.Redis,
        tenant: str,
        layout: Layout,
        capacity: int,
        ttl_days: float,
        *,
        buckets: int = DEFAULT_BUCKETS,
        timeout_s: float = 1.0,
        connect_timeout_s: float = 1.0,
    ) -> None:
        self._keys = Keys(tenant, buckets)
        self._layout = layout
        self._retention = Retention.of_days(capacity, ttl_days)
        self._owns_client = isinstance(server, str)
        self._client = connect(server, timeout_s, connect_timeout_s) if isinstance(server, str) else server
        self._wire = Wire(self._client)
        self._registry = Registry(self._wire, self._keys, [layout])
        self._registered = False

    def read(self, member_ids: Sequence[str], now_ms: Sequence[int]) -> list[Ring]:
        """Read rings as ``RingStore.read`` says. A second round trip is made where a layout is met for the first time.

        A key that holds no ring at all gives an empty one, with ``wrong_type`` counted.
        """
        if len(member_ids) != len(now_ms):
            raise ValueError(f"{len(member_ids)} member_ids but {len(now_ms)} now_ms: give one time a member")
        keys = self._keys
        buckets = [keys.bucket(check_member_id(member_id)) for member_id in member_ids]
        distinct = list(dict.fromkeys(buckets))
        replies = self._wire.exchange(
            [
                *(("GET", keys.generation(bucket)) for bucket in distinct),
                *(slots.read_command(keys.ring(member_id)) for member_id in member_ids),
                self._registry.is_registered_command(self._layout),
            ],
            writes=False,
        )
        if replies.pop() == 0:
            self._registered = False  # emptied since: the next append brings the layout again
        generations = dict(zip(distinct, map(_generation, replies[: len(distinct)]), strict=True))
        checked = []
        for member_id, now, bucket, reply in zip(member_ids, now_ms, buckets, replies[len(distinct) :], strict=True):
            stored = slots.parse(reply, generations[bucket], self._retention.capacity)
            checked.append(check(keys.tenant, member_id, stored, now - self._retention.ttl_ms))
        layouts = self._registry.resolve({frame.fingerprint for ring in checked for frame in ring.sealed})
        return [assemble(ring, layouts) for ring in checked]

    def append(self, appends: Sequence[Append]) -> list[AppendOutcome | StoreError]:
        """Append as ``RingStore.append`` says; the first use of a server takes a second round trip."""
        outcomes: dict[int, AppendOutcome | StoreError] = {}
        commands: dict[int, Command] = {}
        for number, append in enumerate(appends):
            try:
                commands[number] = self._append_command(append)
            except StoreError as error:
                outcomes[number] = error
        replies = self._send(commands)
        unknown = {number: commands[number] for number, reply in replies.items() if isinstance(reply, NoScriptError)}
        if unknown:
            # A server that does not know the script is new to us, so it may have lost the layouts, too. The script
            # did not run for these appends: sending them again is safe.
            try:
                self._introduce()
                replies |= self._send(unknown)
            except StoreUnavailable as error:
                # Not raised: other appends of the batch may have gone through.
                replies |= dict.fromkeys(unknown, error)
        for number, reply in replies.items():
            if isinstance(reply, StoreUnavailable):
                outcomes[number] = reply
            elif isinstance(reply, ResponseError):
                member_id = appends[number].member_id
                outcomes[number] = StoreError(f"append for member {member_id!r}: refused by Redis: {reply}")
            else:
                outcomes[number] = AppendOutcome.APPENDED if reply == 1 else AppendOutcome.CONFLICT
        return [outcomes[number] for number in range(len(appends))]

    def drain(self, limit: int) -> list[tuple[Cursor, bytes]]:
        """Return the oldest log rows of the outbox, as ``RingStore.drain`` says, in one round trip."""
        if limit < 1:
            raise ValueError(f"limit = {limit}: must be at least 1")
        replies = self._wire.exchange(outbox.drain_commands(self._keys, limit), writes=False)
        return outbox.parse_drained(_without_errors(replies), limit)

    def trim(self, cursors: Sequence[Cursor]) -> int:
        """Forget drained log rows, as ``RingStore.trim`` says, in one round trip."""
        replies = self._wire.exchange(outbox.trim_commands(self._keys, cursors), writes=True)
        return sum(_without_errors(replies))

    def empty(self) -> None:
        """Empty every ring, as ``RingStore.empty`` says. What they took is freed as they expire or are appended to."""
        generations = [("INCR", self._keys.generation(bucket)) for bucket in range(self._keys.buckets)]
        _without_errors(self._wire.exchange(generations, writes=True))

    def close(self) -> None:
        """Close the connections, unless the client was given."""
        if self._owns_client:
            self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _append_command(self, append: Append) -> Command:
        frame = seal_append(append, self._keys.tenant, self._layout)
        bucket = self._keys.bucket(append.member_id)
        place = slots.Place(self._keys.ring(append.member_id), self._keys.generation(bucket), self._keys.outbox(bucket))
        retention = self._retention
        return slots.append_command(place, append.version, frame, append.log_row, retention.capacity, retention.ttl_ms)

    def _send(self, commands: Mapping[int, Command]) -> dict[int, Any]:
        if commands and not self._registered:
            self._introduce()
        return dict(zip(commands, self._wire.exchange(list(commands.values()), writes=True), strict=True))

    def _introduce(self) -> None:
        """Bring to the server what appends rest on: the script, and the layout for those who read."""
        commands: list[Command] = [
            ("SCRIPT", "LOAD", slots.APPEND_SCRIPT),
            self._registry.register_command(self._layout),
        ]
        _without_errors(self._wire.exchange(commands, writes=False))
        self._registered = True


def _generation(reply: Any) -> int:
    if isinstance(reply, ResponseError):
        raise StoreUnavailable(f"Redis refuses to read rings: {reply}") from reply
    try:
        return int(reply or 0)
    except ValueError:
        raise StoreError(f"a generation key holds {reply[:40]!r} instead of a number; delete it") from None


def _without_errors(replies: list[Any]) -> list[Any]:
    for reply in replies:
        if isinstance(reply, ResponseError):
            raise StoreError(f"refused by Redis: {reply}") from reply
    return replies
