"""Many hashes read or written in one round trip: commands made as whole buffers, for a server or for a cluster."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from redis import Redis
from redis.cluster import RedisCluster
from redis.exceptions import ResponseError

Client = Redis | RedisCluster
Reply = list[bytes | None] | ResponseError

_BYTES = pa.large_binary()


class HashFields:
    """Fields to read of hashes; what a command says of them is made once."""

    def __init__(self, names: Sequence[bytes]) -> None:
        self.names = tuple(names)
        self._head = b"*%d\r\n$5\r\nHMGET\r\n$" % (2 + len(names))
        self._tail = b"\r\n" + b"".join(b"$%d\r\n%b\r\n" % (len(name), name) for name in names)

    def packed(self, keys: Sequence[bytes]) -> list[bytes]:
        """Return the command for each key as Redis's protocol writes it."""
        head, tail = self._head, self._tail
        return [b"%b%d\r\n%b%b" % (head, len(key), key, tail) for key in keys]


def read_hashes(client: Client, requests: Sequence[tuple[Sequence[bytes], HashFields]]) -> list[Reply]:
    """Read hashes in one round trip.

    Parameters
    ----------
    client
        Of a server or of a cluster.
    requests
        Keys, and the fields to read of each of them.

    Returns
    -------
    The fields of each key of each request, in order, or what Redis said instead.

    Raises
    ------
    redis.ConnectionError, redis.TimeoutError
        Redis does not answer; from a cluster RedisClusterException, too.
    """
    count = sum(len(keys) for keys, _ in requests)
    if not count:
        return []
    if isinstance(client, RedisCluster):
        return _through_cluster(client, (("HMGET", key, *fields.names) for keys, fields in requests for key in keys))
    return _exchange(client, b"".join(part for keys, fields in requests for part in fields.packed(keys)), count)


@dataclass(frozen=True)
class HashRows:
    """Rows to write: row i sets each of ``fields`` of the hash ``keys[i]`` to ``columns[field][i]``."""

    keys: Sequence[bytes]
    fields: Sequence[bytes]
    columns: Sequence[pa.LargeBinaryArray]

    def commands(self, expire_s: int | None) -> Iterator[tuple[Any, ...]]:
        """Yield the commands one by one."""
        values = zip(*(column.to_pylist() for column in self.columns), strict=True)
        for key, row in zip(self.keys, values, strict=True):
            yield ("HSET", key, *(part for pair in zip(self.fields, row, strict=True) for part in pair))
            if expire_s:
                yield ("EXPIRE", key, expire_s)

    def packed(self, expire_s: int | None) -> pa.Buffer:
        """Return all commands as Redis's protocol writes them."""
        keys = pa.array(self.keys, _BYTES)
        parts: list[Any] = [b"*%d\r\n$4\r\nHSET\r\n" % (2 + 2 * len(self.fields)), *_text(keys)]
        for field, column in zip(self.fields, self.columns, strict=True):
            parts += [b"$%d\r\n%b\r\n" % (len(field), field), *_text(column)]
        if expire_s:
            parts += [b"*3\r\n$6\r\nEXPIRE\r\n", *_text(keys), b"$%d\r\n%d\r\n" % (len(str(expire_s)), expire_s)]
        joined = pc.binary_join_element_wise(*_merged(parts), pa.scalar(b"", _BYTES))
        # One command after the other: the buffer of the strings is what goes over the wire.
        return joined.buffers()[2]


def write_hashes(client: Client, rows: HashRows, expire_s: int | None = None) -> None:
    """Write ``rows`` in their order, each whole; with ``expire_s`` the keys expire after so many seconds.

    Raises
    ------
    redis.ResponseError
        Redis refused a row; those after it may have been written.
    redis.ConnectionError, redis.TimeoutError
        Or, from a cluster, RedisClusterException: an unknown part was written. Writing again is safe.
    """
    if not rows.keys:
        return
    if isinstance(client, RedisCluster):
        replies = _through_cluster(client, rows.commands(expire_s))
    else:
        replies = _exchange(client, rows.packed(expire_s), len(rows.keys) * (2 if expire_s else 1))
    for number, reply in enumerate(replies):
        if isinstance(reply, ResponseError):
            key = rows.keys[number // 2 if expire_s else number]
            raise type(reply)(f"{reply} (key {key!r})") from reply


def _text(column: pa.LargeBinaryArray) -> list[Any]:
    """Return the parts of a column's bulk strings: length, contents, ends of lines."""
    lengths = pc.binary_length(column)
    bounds = pc.min_max(lengths)
    if bounds["min"] == bounds["max"]:
        return [b"$%d\r\n" % bounds["min"].as_py(), column, b"\r\n"]
    return [b"$", lengths.cast(pa.large_string()).cast(_BYTES), b"\r\n", column, b"\r\n"]


def _merged(parts: Sequence[Any]) -> Iterator[Any]:
    """Yield parts with constants that follow each other joined."""
    constant = b""
    for part in parts:
        if isinstance(part, bytes):
            constant += part
            continue
        if constant:
            yield pa.scalar(constant, _BYTES)
        yield part
        constant = b""
    if constant:
        yield pa.scalar(constant, _BYTES)


def _through_cluster(client: RedisCluster, commands: Iterable[tuple[Any, ...]]) -> list[Any]:
    """Return one reply a command: redis-py sends each server its share, and follows slots that move."""
    pipe: Any = client.pipeline()  # type: ignore[no-untyped-call]
    for command in commands:
        pipe.execute_command(*command)
    replies: list[Any] = pipe.execute(raise_on_error=False)
    for reply in replies:
        # Redis refused one command; anything else means that its server was not reached.
        if isinstance(reply, Exception) and not isinstance(reply, ResponseError):
            raise reply
    return replies


def _exchange(client: Redis, buffer: Any, count: int) -> list[Any]:
    """Send a buffer of ``count`` commands and return their replies; a connection found closed is opened anew."""
    pool = client.connection_pool
    connection: Any = pool.get_connection()

    def once() -> list[Any]:
        connection.send_packed_command([buffer])
        return [_reply(connection) for _ in range(count)]

    try:
        replies: list[Any] = connection.retry.call_with_retry(once, lambda _: connection.disconnect())
        return replies
    except BaseException:
        connection.disconnect()  # replies that nobody read shall not answer the next command
        raise
    finally:
        pool.release(connection)


def _reply(connection: Any) -> Any:
    try:
        return connection.read_response(disable_decoding=True)
    except ResponseError as error:
        return error
