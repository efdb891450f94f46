"""The way to Redis: one round trip a batch, to a server or to a cluster alike, and honest about failure.

Which of the two answers behind a URL is asked at the first use. Commands name their key as Redis defines them, and a
cluster's are sent to the servers of those keys (see ``cluster``). An ACL user needs the commands that are exchanged;
``cluster|slots`` and ``asking`` in a cluster, where every server must know the user; ``scan`` and ``wait`` for what is
named after them; and nothing for what is asked at the first use.

Replication, in a cluster or not, is asynchronous: a master acknowledges a write before its replicas have it. If it
dies in between, or is cut off while a replica is promoted, acknowledged writes are lost, and rings go back to an
earlier version that appends are then checked against. ``exchange_replicated`` waits for replicas (``WAIT``): what a
replica acknowledged survives the loss of the master's machine as long as that replica, or one that has it as well, is
the one promoted, which is likely but not certain. Neither makes a cluster strongly consistent.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError
from redis.retry import Retry

from contracts.errors import StoreError
from sequence_store.cluster import Cluster
from sequence_store.node import Command, Node

__all__ = ["Command", "Wire", "checked", "connect"]


def connect(url: str, timeout_s: float, connect_timeout_s: float) -> redis.Redis:
    """Return a client for ``url`` that never retries by itself. Nothing is sent yet.

    Parameters
    ----------
    url
        ``redis://[user:password@]host:port/0``; ``rediss://`` for TLS, with redis-py's ``ssl_`` options as query
        parameters (``ssl_ca_certs``, ``ssl_certfile``, ``ssl_keyfile``, ``ssl_check_hostname``); or ``unix://path``.
        Any one server of a cluster stands for the cluster.
    timeout_s, connect_timeout_s
        How long to wait for the next bytes of a reply, and for a connection, unless ``url`` says otherwise.

    Raises
    ------
    StoreError
        ``url`` is no such URL.
    """
    try:
        client = redis.Redis.from_url(
            url,
            socket_timeout=timeout_s,
            socket_connect_timeout=connect_timeout_s,
            retry=Retry(NoBackoff(), 0),
            decode_responses=False,
        )
        pool = client.connection_pool
        pool.connection_class(**pool.connection_kwargs)  # checks the options, and connects to nothing
    except (ValueError, TypeError, RedisError) as error:
        # Where the password is not encoded, the message may hold a part of it: only those that can't are shown.
        text = str(error)
        reason = f" ({text})" if isinstance(error, RedisError) or "'ssl_" in text or "Invalid value" in text else ""
        raise StoreError(
            f"no Redis URL{reason}: write redis://[user:password@]host:port/0, or rediss:// with ssl_ options for TLS; "
            "percent-encode special characters of the password"
        ) from None
    return client


class Wire:
    """Exchanges with the Redis server or the Redis Cluster that ``client`` connects to. Safe to share by threads."""

    def __init__(self, client: redis.Redis) -> None:
        self._pool = client.connection_pool
        self._server: Node | Cluster | None = None
        self._lock = threading.Lock()

    def exchange(self, commands: Sequence[Command], *, writes: bool) -> list[Any]:
        """Send ``commands`` at once and return their replies, undecoded, in order.

        In a cluster that is one batch a server, all of them sent before the first reply is read. A command is sent
        again only after its server said that it did not run, or could not be reached; then to the server that has
        taken its place.

        Returns
        -------
        list
            One reply a command. Where a command has none, an exception stands in its place:

            - ResponseError: Redis refused this command.
            - StoreUnavailable: it was not run, or, unless ``writes``, its reply did not come in time.
            - OutcomeUnknown: with ``writes``, the connection broke or timed out before its reply came.

        Raises
        ------
        StoreUnavailable, OutcomeUnknown
            All commands failed in this one way.
        ValueError
            In a cluster: a command names no key. ``broadcast`` is for those.
        """
        if not commands:
            return []
        return _raise_common((self._server or self._ask()).exchange(commands, writes=writes))

    def exchange_replicated(
        self, commands: Sequence[Command], replicas: int, timeout_ms: int
    ) -> tuple[list[Any], list[int]]:
        """Send writes as ``exchange`` does, then wait until ``replicas`` replicas have them, ``timeout_ms`` at most.

        ``timeout_ms`` must be less than the connection's own timeout, and not 0, which is for ever.

        Returns
        -------
        tuple
            The replies; and for each command how many replicas acknowledged it in time: fewer than asked for, or 0
            if it was not run, is no error here.
        """
        if not commands:
            return [], []
        wait = ("WAIT", replicas, timeout_ms)
        replies, acknowledged = (self._server or self._ask()).exchange_replicated(commands, wait)
        return _raise_common(replies), acknowledged

    def broadcast(self, command: Command, *, writes: bool) -> dict[str, Any]:
        """Send one command to every master; return the replies, or failures as ``exchange`` does, by ``host:port``."""
        return (self._server or self._ask()).broadcast(command, writes=writes)

    def scan(self, pattern: bytes, count: int) -> Iterator[list[bytes]]:
        """Yield the keys that match the glob ``pattern``, a page of about ``count`` looked at a time, server by server.

        A key that is there from beginning to end comes once or more often. Pages without a match are left out.

        Raises
        ------
        StoreUnavailable
            A server did not answer; or, after the last page, servers or slots changed meanwhile, so that keys may
            have been passed over: list them again. Keys of a slot that is being moved all the while are not noticed.
        """
        return (self._server or self._ask()).scan(pattern, count)

    def close(self) -> None:
        """Close the connections to a cluster's servers; those of the client are the client's."""
        if isinstance(self._server, Cluster):
            self._server.close()

    def _ask(self) -> Node | Cluster:
        with self._lock:
            if self._server is None:
                node = Node(self._pool)
                # Any user may send HELLO. INFO tells of clusters whose HELLO does not.
                hello, info = node.exchange([("HELLO",), ("INFO", "cluster")], writes=False)
                is_cluster = _mode(hello) == b"cluster" or (isinstance(info, bytes) and b"cluster_enabled:1" in info)
                if is_cluster and "path" in self._pool.connection_kwargs:
                    raise StoreError(f"{node.name} is a server of a Redis Cluster: give its redis:// URL, to reach all")
                self._server = Cluster(self._pool) if is_cluster else node
            return self._server


def _mode(hello: Any) -> Any:
    if isinstance(hello, StoreError):
        raise hello
    if isinstance(hello, Exception):
        return None  # a server or proxy that does not know the command
    fields = hello if isinstance(hello, Mapping) else dict(zip(hello[::2], hello[1::2], strict=True))
    return fields.get(b"mode")


def _raise_common(replies: list[Any]) -> list[Any]:
    first = replies[0]
    if isinstance(first, StoreError) and all(type(reply) is type(first) for reply in replies):
        raise first
    return replies


def checked(replies: list[Any]) -> list[Any]:
    """Return ``replies``. Raises StoreError if one of them is a failure."""
    for reply in replies:
        if isinstance(reply, StoreError):
            raise reply
        if isinstance(reply, ResponseError):
            raise StoreError(f"refused by Redis: {reply}") from reply
    return replies
