"""Rings on Redis: one string a member, one script an append, one round trip a batch."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import redis
from redis.exceptions import NoScriptError, ResponseError

from contracts.errors import NotReplicated, OutcomeUnknown, StoreError, StoreUnavailable
from sequence_store import outbox, packed, registry
from sequence_store.codec import Codec
from sequence_store.keys import DEFAULT_BUCKETS, Keys
from sequence_store.layout import Layout
from sequence_store.registry import Registered
from sequence_store.retention import Retention
from sequence_store.ring import Append, AppendOutcome, Cursor, Version
from sequence_store.rings import Appends, Rings
from sequence_store.sealing import changes_of
from sequence_store.side_by_side import RingValue
from sequence_store.wire import Command, Wire, checked, connect

_PLACES: Final = 16_384
APPEND_SCRIPT: Final = Path(__file__).with_name("append.lua").read_bytes()
APPEND_SHA: Final = hashlib.sha1(APPEND_SCRIPT, usedforsecurity=False).hexdigest()


class RedisRingStore:
    """The RingStore of one tenant on one Redis, or Redis Cluster, 6.2 or later.

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
        Hash tags that members are spread over; the same for everyone who uses the tenant's keys.
    timeout_s, connect_timeout_s
        How long to wait for the next bytes of a reply, and for a connection; only with a URL.
    replicas, wait_ms
        How many replicas an append must have reached to count as made, and how long to wait for them, which must be
        less than the client's timeout. One that has not, as far as is known, is NotReplicated: it may be there, but
        is lost if its master is.

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
        replicas: int = 0,
        wait_ms: int = 100,
    ) -> None:
        if replicas < 0 or wait_ms < 1:
            raise ValueError(f"replicas = {replicas}, wait_ms = {wait_ms}: must be at least 0, and at least 1")
        self._keys = Keys(tenant, buckets)
        # A member who is read is appended to.
        self._places = lru_cache(maxsize=_PLACES)(self._keys.places)
        self._layout = layout
        self._retention = Retention.of_days(capacity, ttl_days)
        self._owns_client = isinstance(server, str)
        self._client = connect(server, timeout_s, connect_timeout_s) if isinstance(server, str) else server
        # A URL may have another timeout than the one given here, and a client has its own.
        limit_s = self._client.connection_pool.connection_kwargs.get("socket_timeout")
        if replicas and limit_s is not None and wait_ms >= 1000 * limit_s:
            raise ValueError(f"wait_ms = {wait_ms}: must be less than the client's timeout, {1000 * limit_s:g} ms")
        self._wire = Wire(self._client)
        self._replicas, self._wait_ms = replicas, wait_ms
        self._registered = Registered()
        # Codec and whether the server knows it belong together: threads take both in one look.
        self._writing = Codec(layout), False
        self._unknown_tags: frozenset[int] = frozenset()

    def read(self, member_ids: Sequence[str], now_ms: Sequence[int]) -> Rings:
        """Read rings as ``RingStore.read`` says. A second round trip is made where the registered codecs changed."""
        if len(member_ids) != len(now_ms):
            raise ValueError(f"{len(member_ids)} member_ids but {len(now_ms)} now_ms: give one time a member")
        places = [self._places(member_id) for member_id in member_ids]
        distinct = list(dict.fromkeys(place.generation for place in places))
        # One key a command: a cluster serves those also while their slot moves.
        commands: list[Command] = [("GET", key) for key in distinct]
        commands += [("GET", place.ring) for place in places]
        # Last: a codec is registered before the first entry under it is written.
        commands.append(registry.epoch_command(self._keys))
        *found, epoch = self._wire.exchange(commands, writes=False)
        self._keep_up(epoch)
        generations = dict(zip(distinct, found, strict=False))
        values = [
            _ring_value(generations[place.generation], reply, member_id)
            for place, reply, member_id in zip(places, found[len(distinct) :], member_ids, strict=True)
        ]
        rings = self._rings(member_ids, now_ms, values)
        if rings.unknown_tags - self._unknown_tags:
            # On a cluster, the epoch may have been read before the rings were.
            try:
                (epoch,) = self._wire.exchange([registry.epoch_command(self._keys)], writes=False)
                if self._keep_up(epoch):
                    rings = self._rings(member_ids, now_ms, values)
            except StoreUnavailable:
                return rings  # all that is known by now
            self._unknown_tags |= rings.unknown_tags
        return rings

    def append(self, appends: Sequence[Append]) -> list[AppendOutcome | StoreError]:
        """Append as ``RingStore.append`` says; the first use of a server takes a second round trip."""
        outcomes: dict[int, AppendOutcome | StoreError] = {}
        commands: dict[int, Command] = {}
        codec, introduced = self._writing
        changes = changes_of(appends, self._keys.tenant, codec, self._retention.capacity)
        written = _written(appends)
        for number, ((member_id, version, log_row), change) in enumerate(zip(written, changes, strict=True)):
            if isinstance(change, StoreError):
                outcomes[number] = change
            else:
                commands[number] = self._append_command(member_id, version.generation, change, log_row)
        if commands and not introduced:
            self._introduce(codec)
        replies = self._send(commands)
        unknown = {number: commands[number] for number, reply in replies.items() if isinstance(reply, NoScriptError)}
        if unknown:
            # A server that does not know the script is new to us, so it may have lost the codecs, too. The script
            # did not run for these appends: sending them again is safe.
            try:
                self._introduce(codec)
                replies |= self._send(unknown)
            except StoreError as error:
                # Not raised: other appends of the batch may have gone through.
                replies |= dict.fromkeys(unknown, error)
        for number, reply in replies.items():
            if isinstance(reply, StoreError):
                outcomes[number] = reply
            elif isinstance(reply, ResponseError):
                outcomes[number] = StoreError(f"append for member {written[number][0]!r}: refused by Redis: {reply}")
            else:
                outcomes[number] = AppendOutcome.APPENDED if reply == 1 else AppendOutcome.CONFLICT
        return [outcomes[number] for number in range(len(appends))]

    def drain(self, limit: int) -> list[tuple[Cursor, bytes]]:
        """Return the oldest log rows of the outbox, as ``RingStore.drain`` says, in one round trip."""
        if limit < 1:
            raise ValueError(f"limit = {limit}: must be at least 1")
        replies = self._wire.exchange(outbox.drain_commands(self._keys, limit), writes=False)
        return outbox.parse_drained(checked(replies), limit)

    def trim(self, cursors: Sequence[Cursor]) -> int:
        """Forget drained log rows, as ``RingStore.trim`` says, in one round trip."""
        replies = self._wire.exchange(outbox.trim_commands(self._keys, cursors), writes=True)
        return sum(checked(replies))

    def empty(self) -> None:
        """Empty every ring, as ``RingStore.empty`` says: ``maintenance.sweep`` frees the storage behind it."""
        generations = [("INCR", self._keys.generation(bucket)) for bucket in range(self._keys.buckets)]
        checked(self._wire.exchange(generations, writes=True))

    def close(self) -> None:
        """Close the connections, unless the client was given."""
        if self._owns_client:
            self._wire.close()
            self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _rings(
        self, member_ids: Sequence[str], now_ms: Sequence[int], values: Sequence[RingValue | StoreError]
    ) -> Rings:
        codecs, tenant = self._registered.codecs, self._keys.tenant
        return Rings(tenant, member_ids, now_ms, values, codecs, self._retention)

    def _append_command(self, member_id: str, generation: int, change: packed.Change, log_row: bytes | None) -> Command:
        _, ring, generation_key, outbox_key = self._places(member_id)
        ttl_ms = self._retention.ttl_ms
        start = ("EVALSHA", APPEND_SHA, 3, ring, generation_key, outbox_key, generation, change.expected, ttl_ms)
        return (*start, log_row or b"", *chain.from_iterable(change.patches))

    def _send(self, commands: Mapping[int, Command]) -> dict[int, Any]:
        ordered = list(commands.values())
        if not self._replicas:
            return dict(zip(commands, self._wire.exchange(ordered, writes=True), strict=True))
        try:
            replies, reached = self._wire.exchange_replicated(ordered, self._replicas, self._wait_ms)
        except OutcomeUnknown as error:
            raise NotReplicated(f"{error}, which does not tell what replicas have") from error
        for place, number in enumerate(reached):
            if isinstance(replies[place], OutcomeUnknown):
                replies[place] = NotReplicated(f"{replies[place]}, which does not tell what replicas have")
            elif replies[place] == 1 and number < self._replicas:
                replies[place] = NotReplicated(
                    f"an append reached {number} of {self._replicas} replicas in {self._wait_ms} ms: it is there, but "
                    "lost if its master is"
                )
        return dict(zip(commands, replies, strict=True))

    def _keep_up(self, epoch: Any) -> bool:
        """Load the registry if ``epoch``, as read, says that it changed; return whether it did."""
        if isinstance(epoch, Exception):
            if not self._registered.codecs:
                raise StoreUnavailable(f"the registered codecs cannot be read: {epoch}") from epoch
            return False  # what is known still holds
        if epoch == self._registered.epoch:
            return False
        (reply,) = checked(self._wire.exchange([registry.load_command(self._keys)], writes=False))
        self._registered = registry.parse(reply)
        codec = self._registered.writing(self._layout)
        self._writing = codec, self._registered.has(codec)
        self._unknown_tags = frozenset()
        return True

    def _introduce(self, codec: Codec) -> None:
        """Bring to the server what appends rest on: the script, and the codec for those who read."""
        replies = list(self._wire.broadcast(("SCRIPT", "LOAD", APPEND_SCRIPT), writes=False).values())
        # Of a cluster, a master may be away: only the appends that are for it fail, and by themselves.
        if all(isinstance(reply, Exception) for reply in replies):
            checked(replies)
        checked(self._wire.exchange([registry.register_command(self._keys, codec)], writes=False))
        if self._writing[0] == codec:
            self._writing = codec, True
            # No epoch: the next read loads the registry, whatever has become of this registration meanwhile.
            self._registered = replace(self._registered, epoch=b"")


def _written(appends: Sequence[Append]) -> list[tuple[str, Version, bytes | None]]:
    """Return what an append's command says beside the change."""
    if isinstance(appends, Appends):
        return list(zip(appends.member_ids, appends.versions, appends.log_rows, strict=True))
    return [(append.member_id, append.version, append.log_row) for append in appends]


def _ring_value(generation: Any, value: Any, member_id: str) -> RingValue | StoreError:
    """Return what the replies to a read say: the bucket's generation and the ring's value, or why they do not."""
    for reply in (generation, value):
        if isinstance(reply, StoreError):
            return reply
        if isinstance(reply, ResponseError):
            refused = StoreUnavailable(f"Redis refuses to read the ring of member {member_id!r}: {reply}")
            refused.__cause__ = reply
            return refused
    try:
        return RingValue(int(generation or 0), value or b"")
    except ValueError:
        return StoreError(
            f"the generation key of member {member_id!r} holds {generation[:40]!r} instead of a number; delete it"
        )
