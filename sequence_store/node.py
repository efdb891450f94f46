"""One Redis server, honest about failure: commands go out once, and are never sent again by themselves."""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Sequence
from typing import Any

import redis
from redis.exceptions import AuthenticationError, BusyLoadingError, NoPermissionError, RedisError, ResponseError

from contracts.errors import OutcomeUnknown, StoreUnavailable

Command = tuple[Any, ...]


class Node:
    """A pool of connections to one server."""

    def __init__(self, pool: redis.ConnectionPool) -> None:
        self._pool = pool
        self.release = pool.release
        options = pool.connection_kwargs
        self.host = str(options.get("host", "localhost"))
        self.name = str(options.get("path") or f"{self.host}:{options.get('port', 6379)}")

    def exchange(self, commands: Sequence[Command], *, writes: bool) -> list[Any]:
        """Return one reply or failure a command, as ``Wire.exchange`` says. Raises StoreUnavailable: nothing sent."""
        return self.send(commands, writes=writes).receive()

    def exchange_replicated(self, commands: Sequence[Command], wait: Command) -> tuple[list[Any], list[int]]:
        """Return what ``Wire.exchange_replicated`` says; ``wait`` is sent after ``commands``."""
        *replies, replicas = self.exchange([*commands, wait], writes=True)
        return replies, [replicas if isinstance(replicas, int) else 0] * len(commands)

    def broadcast(self, command: Command, *, writes: bool) -> dict[str, Any]:
        """Return the reply of this server under its name."""
        return {self.name: self.exchange([command], writes=writes)[0]}

    def send(self, commands: Sequence[Command], *, writes: bool) -> Request:
        """Send ``commands`` at once. Raises StoreUnavailable if there is no connection, so that nothing was sent."""
        try:
            # The pool replaces a connection that broke while it lay idle before anything is sent on it.
            connection: Any = self._pool.get_connection()
        except (RedisError, OSError) as error:
            raise StoreUnavailable(f"Redis at {self.name} cannot be reached: {self._explain(error)}") from error
        request = Request(self, connection, len(commands), writes)
        try:
            packed = connection.pack_commands(commands)
            try:
                connection.send_packed_command(packed, check_health=False)
            except (RedisError, OSError) as error:
                request.failure = error
        except BaseException:
            request.abandon()
            raise
        return request

    def scan(self, pattern: bytes, count: int) -> Iterator[list[bytes]]:
        """Yield the keys that match, a page at a time, as ``Wire.scan`` says."""
        cursor: Any = 0
        while True:
            (reply,) = self.exchange([("SCAN", cursor, "MATCH", pattern, "COUNT", count)], writes=False)
            if isinstance(reply, Exception):
                raise StoreUnavailable(f"Redis at {self.name} does not list its keys: {reply}") from reply
            cursor, page = reply
            if page:
                yield page
            if not int(cursor):
                return

    def close(self) -> None:
        """Close all connections."""
        self._pool.disconnect()

    def refused(self, error: RedisError) -> StoreUnavailable:
        """Return the error for a command that the server would not run."""
        return StoreUnavailable(f"Redis at {self.name} did not serve the request: {self._explain(error)}")

    def denied(self, error: NoPermissionError) -> NoPermissionError:
        """Return ``error`` with the way out."""
        return NoPermissionError(f"{error}; grant it to the user on Redis at {self.name} (ACL SETUSER)")

    def lost(self, error: Exception, writes: bool) -> StoreUnavailable | OutcomeUnknown:
        """Return the error for commands that were sent and whose replies are missing."""
        lost: StoreUnavailable | OutcomeUnknown
        if writes:
            lost = OutcomeUnknown(
                f"the connection to Redis at {self.name} failed after an append was sent: {error}; "
                "read the ring again to see what was written"
            )
        else:
            lost = StoreUnavailable(f"Redis at {self.name} did not serve the request: {error}")
        lost.__cause__ = error
        return lost

    def _explain(self, error: Exception) -> str:
        """Return redis-py's words, which never hold the password, with the way out, where there is one."""
        tls = issubclass(self._pool.connection_class, redis.SSLConnection)
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, AuthenticationError):
                return f"{error}; check the user and the password in its URL"
            if isinstance(cause, ssl.SSLError) or (tls and isinstance(cause, TimeoutError)):
                return f"{error}; check that the port speaks TLS, and the ssl_ options of its URL"
            if not tls and (isinstance(cause, ConnectionResetError) or "closed by server" in str(cause)):
                return f"{error}; if the port speaks TLS, write rediss:// in its URL"
            if tls and isinstance(cause, FileNotFoundError | PermissionError):
                return f"{error} Check the files that the ssl_ options of its URL name"
            cause = cause.__context__
        if isinstance(error, ResponseError) and self._pool.connection_kwargs.get("db"):
            return f"{error}; check the database in its URL: a cluster has 0 only"
        return str(error)


class Request:
    """Commands under way on one connection. ``failure`` is why they may not all have been sent."""

    __slots__ = ("_connection", "_count", "_node", "_writes", "failure")

    def __init__(self, node: Node, connection: Any, count: int, writes: bool) -> None:
        self._node = node
        self._connection = connection
        self._count = count
        self._writes = writes
        self.failure: Exception | None = None

    def receive(self) -> list[Any]:
        """Return one reply or failure a command, and give the connection back."""
        connection, replies = self._connection, []
        read, failure = connection.read_response, self.failure
        try:
            if failure is None:
                for _ in range(self._count):
                    try:
                        replies.append(read(disable_decoding=True, disconnect_on_error=False))
                    except NoPermissionError as refusal:
                        replies.append(self._node.denied(refusal))
                    except ResponseError as refusal:
                        replies.append(refusal)
                    except (AuthenticationError, BusyLoadingError) as refusal:
                        # A reply as well, though redis-py takes it for a broken connection.
                        replies.append(self._node.refused(refusal))
        except (RedisError, OSError) as error:
            failure = error
        except BaseException:
            self.abandon()
            raise
        if failure is not None:
            connection.disconnect()
            replies += [self._node.lost(failure, self._writes)] * (self._count - len(replies))
        self._connection = None
        self._node.release(connection)
        return replies

    def abandon(self) -> None:
        """Give up on the replies: those under way must not reach the next user of the connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.disconnect()
            self._node.release(connection)
