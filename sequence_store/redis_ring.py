"""Rings on Redis: one string a member, one script an append, one round trip a batch."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import redis
from redis.exceptions import NoScriptError, ResponseError

from contracts.errors import NotReplicated, OutcomeUnknown, StoreError, StoreUnavailable
from sequence_store import outbox, packed, registry
from sequence_store.codec import Codec
from sequence_store.frame import Owner
from sequence_store.keys import DEFAULT_BUCKETS, Keys, check_member_id
from sequence_store.layout import Layout
from sequence_store.registry import Registered
from sequence_store.retention import Retention
from sequence_store.ring import Append, AppendOutcome, Cursor, Ring
from sequence_store.sealing import change_of
from sequence_store.wire import Command, Wire, checked, connect

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

    def read(self, member_ids: Sequence[str], now_ms: Sequence[int]) -> list[Ring | StoreError]:
        """Read rings as ``RingStore.read`` says. A second round trip is made where the registered codecs changed."""
        if len(member_ids) != len(now_ms):
            raise ValueError(f"{len(member_ids)} member_ids but {len(now_ms)} now_ms: give one time a member")
        keys = self._keys
        buckets = [keys.bucket(check_member_id(member_id)) for member_id in member_ids]
        distinct = list(dict.fromkeys(buckets))
        # One key a command: a cluster serves those also while their slot moves.
        commands: list[Command] = [("GET", keys.generation(bucket)) for bucket in distinct]
        commands += [("GET", keys.ring(member_id)) for member_id in member_ids]
        # Last: a codec is registered before the first entry under it is written.
        commands.append(registry.epoch_command(keys))
        *found, epoch = self._wire.exchange(commands, writes=False)
        self._keep_up(epoch)
        generations = dict(zip(distinct, found, strict=False))
        replies = list(zip(map(generations.__getitem__, buckets), found[len(distinct) :], strict=True))
        rings, unknown = self._rings(member_ids, now_ms, replies)
        if unknown - self._unknown_tags:
            # On a cluster, the epoch may have been read before the rings were.
            try:
                (epoch,) = self._wire.exchange([registry.epoch_command(keys)], writes=False)
                if self._keep_up(epoch):
                    rings, unknown = self._rings(member_ids, now_ms, replies)
            except StoreUnavailable:
                return rings  # all that is known by now
            self._unknown_tags |= unknown
        return rings

    def append(self, appends: Sequence[Append]) -> list[AppendOutcome | StoreError]:
        """Append as ``RingStore.append`` says; the first use of a server takes a second round trip."""
        outcomes: dict[int, AppendOutcome | StoreError] = {}
        commands: dict[int, Command] = {}
        codec, introduced = self._writing
        for number, append in enumerate(appends):
            try:
                change = change_of(append, self._keys.tenant, codec, self._retention.capacity)
                commands[number] = self._append_command(append, change)
            except StoreError as error:
                outcomes[number] = error
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
        self, member_ids: Sequence[str], now_ms: Sequence[int], replies: Sequence[tuple[Any, Any]]
    ) -> tuple[list[Ring | StoreError], frozenset[int]]:
        """Return the rings, and the tags of the codecs that are not known."""
        codecs, retention, tenant = self._registered.codecs, self._retention, self._keys.tenant
        rings: list[Ring | StoreError] = []
        unknown: set[int] = set()
        for member_id, now, reply in zip(member_ids, now_ms, replies, strict=True):
            try:
                generation, value = _generation_and_value(reply, member_id)
            except StoreError as error:
                rings.append(error)
                continue
            held = packed.parse(value, Owner(tenant, member_id, generation), codecs, retention.capacity)
            unknown.update(held.unknown_tags)
            rings.append(Ring(member_id, held.version, held.frames, held.faults, now - retention.ttl_ms))
        return rings, frozenset(unknown)

    def _append_command(self, append: Append, change: packed.Change) -> Command:
        bucket = self._keys.bucket(append.member_id)
        return (
            *("EVALSHA", APPEND_SHA, 3),
            *(self._keys.ring(append.member_id), self._keys.generation(bucket), self._keys.outbox(bucket)),
            *(append.version.generation, change.expected, self._retention.ttl_ms),
            append.log_row or b"",
            *(part for patch in change.patches for part in patch),
        )

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


def _generation_and_value(replies: tuple[Any, Any], member_id: str) -> tuple[int, bytes]:
    """Return what the replies to a read say: the bucket's generation, and the ring's value. Raises StoreError."""
    for reply in replies:
        if isinstance(reply, StoreError):
            raise reply
        if isinstance(reply, ResponseError):
            raise StoreUnavailable(f"Redis refuses to read the ring of member {member_id!r}: {reply}") from reply
    generation, value = replies
    try:
        return int(generation or 0), value or b""
    except ValueError:
        raise StoreError(
            f"the generation key of member {member_id!r} holds {generation[:40]!r} instead of a number; delete it"
        ) from None
