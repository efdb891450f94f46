"""One round trip to Redis, honest about failure: commands go out once, and are never sent again by themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, AuthorizationError, BusyLoadingError, RedisError, ResponseError
from redis.retry import Retry

from contracts.errors import OutcomeUnknown, StoreError, StoreUnavailable

Command = tuple[Any, ...]

_REFUSALS = (AuthenticationError, AuthorizationError, BusyLoadingError)


def connect(url: str, timeout_s: float, connect_timeout_s: float) -> redis.Redis:
    """Return a client for ``url`` (``redis://``, ``rediss://`` or ``unix://``) that never retries by itself.

    Nothing is sent yet. Raises StoreError if ``url`` is no such URL.
    """
    try:
        return redis.Redis.from_url(
            url,
            socket_timeout=timeout_s,
            socket_connect_timeout=connect_timeout_s,
            retry=Retry(NoBackoff(), 0),
            decode_responses=False,
        )
    except ValueError as error:
        # The message of redis-py names the schemes, not the URL with its password.
        raise StoreError(f"no Redis URL: {error}") from None


class Wire:
    """A pool of connections to one Redis."""

    def __init__(self, client: redis.Redis) -> None:
        self._pool = client.connection_pool
        options = self._pool.connection_kwargs
        self._name = str(options.get("path") or f"{options.get('host', 'localhost')}:{options.get('port', 6379)}")

    def exchange(self, commands: Sequence[Command], *, writes: bool) -> list[Any]:
        """Send ``commands`` at once and return their replies, undecoded, in order.

        A command that Redis refuses has its ResponseError as its reply.

        Raises
        ------
        StoreUnavailable
            No connection, or Redis refuses to serve it; or, unless ``writes``, the replies did not come in time.
        OutcomeUnknown
            With ``writes``: the connection broke or timed out after sending began.
        """
        if not commands:
            return []
        try:
            # The pool replaces a connection that broke while it lay idle before anything is sent on it.
            connection: Any = self._pool.get_connection()
        except (RedisError, OSError) as error:
            raise StoreUnavailable(f"Redis at {self._name} cannot be reached: {error}") from error
        replies: list[Any] = []
        try:
            connection.send_packed_command(connection.pack_commands(commands), check_health=False)
            for _ in commands:
                try:
                    replies.append(connection.read_response(disable_decoding=True))
                except ResponseError as refusal:
                    replies.append(refusal)
        except (RedisError, OSError) as error:
            connection.disconnect()
            if not writes or (not replies and isinstance(error, _REFUSALS)):
                raise StoreUnavailable(f"Redis at {self._name} did not serve the request: {error}") from error
            raise OutcomeUnknown(
                f"the connection to Redis at {self._name} failed after an append was sent: {error}; "
                "read the ring again to see what was written"
            ) from error
        except BaseException:
            # Replies still under way must not reach the next user of this connection.
            connection.disconnect()
            raise
        finally:
            self._pool.release(connection)
        return replies
