"""A real Redis Cluster for benchmarks and tests: masters and replicas, killed, promoted, resharded, healed at will."""

from __future__ import annotations

import itertools
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.retry import Retry

from benchmarks.redis_server import RedisServer
from contracts.errors import ServerError

MASTERS = 3
SLOTS = 16384
_DEADLINE_S = 60.0
# Below those that the system hands out, and so are the cluster bus ports, which are 10,000 higher.
_PORTS = range(20_000, 22_768)
_OPTIONS = (
    *("--cluster-enabled", "yes", "--cluster-node-timeout", "3000", "--databases", "1"),
    # So that what is left of a cluster goes on, and a replica need not be up to date to be promoted.
    *("--cluster-require-full-coverage", "no", "--cluster-replica-validity-factor", "0"),
    # A replica that has heard nothing yet is in no one's CLUSTER SLOTS.
    *("--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1"),
)


class RedisCluster:
    """Six redis-server processes on loopback, each with its files in a folder of its own under ``folder``."""

    def __init__(self, folder: Path, *options: str) -> None:
        self._folder = folder
        self._options = options
        self.servers: list[RedisServer] = []
        self._claims: list[socket.socket] = []
        self._down: set[int] = set()

    @property
    def url(self) -> str:
        """URL of a server that runs."""
        return self._running[0].url

    def start(self) -> None:
        """Start the servers and join them; return when all slots are served and all replicas are in step."""
        for number in range(2 * MASTERS):
            self.servers.append(self._start_one(number))
        masters, replicas = self.servers[:MASTERS], self.servers[MASTERS:]
        bounds = [SLOTS * part // MASTERS for part in range(MASTERS + 1)]
        for number, server in enumerate(self.servers):
            # Epochs that differ from the start need not be made to.
            self.call(server, "CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            self.call(self.servers[0], "CLUSTER", "MEET", "127.0.0.1", server.port)
        for master, first, end in zip(masters, bounds, bounds[1:], strict=False):
            self.call(master, "CLUSTER", "ADDSLOTS", *range(first, end))
        _until(lambda: all(len(self._known(server)) == len(self.servers) for server in self.servers))
        for master, replica in zip(masters, replicas, strict=True):
            self.call(replica, "CLUSTER", "REPLICATE", self._id(master))
        _until(self._settled)

    def stop(self) -> None:
        """Stop every server that runs."""
        for server in self.servers:
            server.stop()
        for claim in self._claims:
            claim.close()

    def heal(self) -> None:
        """Start what was killed; return when all slots are served and all replicas are in step."""
        for port in list(self._down):
            self.revive(self._at(port))
        _until(self._settled)

    def call(self, server: RedisServer, *command: Any) -> Any:
        """Return the reply of one server, undecoded."""
        with redis.Redis(port=server.port, socket_timeout=_DEADLINE_S, retry=Retry(NoBackoff(), 0)) as client:
            return client.execute_command(*command)

    def masters(self) -> list[RedisServer]:
        """Return the servers that have slots, according to one that runs."""
        return list(dict.fromkeys(self._at(ports[0]) for _, _, ports in self._slots(self._running[0])))

    def owner(self, key: bytes) -> RedisServer:
        """Return the master of a key's slot."""
        slot, view = key_slot(key), self._slots(self._running[0])
        return next(self._at(ports[0]) for first, last, ports in view if first <= slot <= last)

    def replica(self, master: RedisServer) -> RedisServer:
        """Return a replica of a master."""
        view = self._slots(self._running[0])
        return next(self._at(ports[1]) for _, _, ports in view if ports[0] == master.port)

    def key_on(self, master: RedisServer, prefix: bytes = b"key") -> bytes:
        """Return a key in a slot of that master."""
        ranges = [(first, last) for first, last, ports in self._slots(master) if ports[0] == master.port]
        keys = (prefix + b"-%d" % number for number in itertools.count())
        return next(key for key in keys if any(first <= key_slot(key) <= last for first, last in ranges))

    def kill(self, server: RedisServer) -> None:
        """Kill a server as a crash would."""
        server.kill()
        self._down.add(server.port)

    def revive(self, server: RedisServer) -> None:
        """Start a server that was killed; return when it answers."""
        server.start()
        self._down.remove(server.port)

    def promote(self, replica: RedisServer) -> None:
        """Promote a replica without a vote; return when every server that runs agrees."""
        self.call(replica, "CLUSTER", "FAILOVER", "TAKEOVER")
        self.until_master(replica)

    def until_master(self, server: RedisServer) -> None:
        """Return when every server that runs has it that ``server`` is a master with slots."""
        _until(lambda: all(self._serves(server, view) for view in map(self._slots, self._running)))

    def begin_move(self, slot: int, source: RedisServer, target: RedisServer) -> None:
        """Let a slot begin to move: its keys may be on either server from now on."""
        self.call(target, "CLUSTER", "SETSLOT", slot, "IMPORTING", self._id(source))
        self.call(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", self._id(target))

    def move_keys(self, source: RedisServer, target: RedisServer, *keys: bytes) -> None:
        """Move keys of a slot that is on the move."""
        self.call(source, "MIGRATE", "127.0.0.1", target.port, "", 0, 10_000, "KEYS", *keys)

    def end_move(self, slot: int, target: RedisServer) -> None:
        """Give a slot, whose keys have all been moved, to ``target``, and let every server know."""
        for server in [target, *(server for server in self.masters() if server is not target)]:
            self.call(server, "CLUSTER", "SETSLOT", slot, "NODE", self._id(target))
        _until(self._settled)

    @property
    def _running(self) -> list[RedisServer]:
        return [server for server in self.servers if server.port not in self._down]

    def _start_one(self, number: int) -> RedisServer:
        folder = self._folder / str(number)
        folder.mkdir()
        for port in _PORTS:
            if self._claim(port) and _free(port) and _free(port + 10_000):
                server = RedisServer(folder, *_OPTIONS, *self._options)
                server.port = port
                server.start()
                return server
        raise ServerError(f"no two free ports 10,000 apart for a redis-server of a cluster, from {_PORTS.start} up")

    def _claim(self, port: int) -> bool:
        """Keep a port from other clusters while its server is down: who has it for UDP has it for TCP."""
        claim = socket.socket(type=socket.SOCK_DGRAM)
        self._claims.append(claim)
        try:
            claim.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True

    def _at(self, port: int) -> RedisServer:
        return next(server for server in self.servers if server.port == port)

    def _id(self, server: RedisServer) -> bytes:
        node_id: bytes = self.call(server, "CLUSTER", "MYID")
        return node_id

    def _known(self, server: RedisServer) -> list[bytes]:
        nodes: bytes = self.call(server, "CLUSTER", "NODES")
        return [line for line in nodes.splitlines() if b"handshake" not in line]

    def _slots(self, server: RedisServer) -> list[tuple[int, int, list[int]]]:
        """Return first slot, last slot, and the ports of master and replicas, as ``server`` has it."""
        reply = self.call(server, "CLUSTER", "SLOTS")
        return sorted((first, last, [node[1] for node in nodes]) for first, last, *nodes in reply)

    def _serves(self, server: RedisServer, view: list[tuple[int, int, list[int]]]) -> bool:
        return any(ports[0] == server.port for _, _, ports in view)

    def _settled(self) -> bool:
        views = [self._slots(server) for server in self.servers]
        if any(view != views[0] for view in views) or sum(last - first + 1 for first, last, _ in views[0]) != SLOTS:
            return False
        return all(len(ports) == 2 for _, _, ports in views[0]) and all(map(self._in_step, self.servers))

    def _in_step(self, server: RedisServer) -> bool:
        link = self.call(server, "INFO", "replication")
        up = "up" in link["master_link_status"] if link["role"] == "slave" else "online" in str(link.get("slave0"))
        return up and b"cluster_state:ok" in self.call(server, "CLUSTER", "INFO")


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _DEADLINE_S
    while not condition():
        if time.monotonic() > deadline:
            raise ServerError(f"the cluster did not come to order within {_DEADLINE_S:.0f} s")
        time.sleep(0.02)


def _free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
