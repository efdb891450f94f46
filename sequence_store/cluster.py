"""A Redis Cluster: each command goes to the server of its key's slot, and after that slot when it moves."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import redis
from redis.cluster import parse_cluster_slots
from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot
from redis.exceptions import AskError, ClusterDownError, MovedError, ReadOnlyError, TryAgainError

from contracts.errors import StoreError, StoreUnavailable
from sequence_store.node import Command, Node, Request

_ROUNDS = 5
"""How often a command is sent at most: it goes out again only after a server that did not run it."""

_KEY_AT = {"EVAL": 3, "EVALSHA": 3, "MEMORY": 2}
_KEYLESS = frozenset(
    {"CLUSTER", "CONFIG", "DBSIZE", "FLUSHALL", "FLUSHDB", "HELLO", "INFO", "PING", "SCAN", "SCRIPT", "WAIT"}
)

Owners = list[Node | None]
"""The master of each slot; None where nobody serves it. Never changed, only replaced."""


class Cluster:
    """The cluster that the server of ``pool`` belongs to; its other servers are reached with the same options."""

    def __init__(self, pool: redis.ConnectionPool) -> None:
        self._pool = pool
        self._seed = Node(pool)
        self._owners: Owners | None = None
        self._nodes: dict[tuple[str, int], Node] = {}
        self._suspects: set[Node] = set()
        self._lock = threading.Lock()

    def exchange(self, commands: Sequence[Command], *, writes: bool) -> list[Any]:
        """Return one reply or failure a command, as ``Wire.exchange`` says."""
        return self._run(commands, writes=writes).outcomes

    def exchange_replicated(self, commands: Sequence[Command], wait: Command) -> tuple[list[Any], list[int]]:
        """Return what ``Wire.exchange_replicated`` says; ``wait`` is sent after each server's share."""
        batch = self._run(commands, writes=True, wait=wait)
        return batch.outcomes, batch.acknowledged

    def broadcast(self, command: Command, *, writes: bool) -> dict[str, Any]:
        """Return the replies or failures of all masters by name."""
        shares = {node: [command] for node in _masters(self._refresh(self._owners))}
        return {node.name: reply for node, (reply,) in _deliver(shares, writes=writes).items()}

    def scan(self, pattern: bytes, count: int) -> Iterator[list[bytes]]:
        """Yield pages of keys as ``Wire.scan`` says."""
        owners = self._refresh(self._owners)
        for node in _masters(owners):
            yield from node.scan(pattern, count)
        if self._refresh(self._owners) != owners:
            raise StoreUnavailable("slots of the Redis Cluster moved while its keys were listed; list them again")

    def close(self) -> None:
        """Close the connections to the servers that were found."""
        for node in self._nodes.values():
            node.close()

    def _run(self, commands: Sequence[Command], *, writes: bool, wait: Command | None = None) -> _Batch:
        batch = _Batch(commands)
        owners = self._owners
        if owners is None or self._suspects:
            owners = self._refresh(owners)
        last = [] if wait is None else [wait]
        for _ in range(_ROUNDS):
            shares = batch.shares(owners)
            requests = {node: [command for _, command in share] + last for node, share in shares.items()}
            for node, replies in _deliver(requests, writes=writes).items():
                if isinstance(replies[-1], StoreError):
                    self._suspects.add(node)
                replicas = replies.pop() if last else 0
                batch.take(node, [number for number, _ in shares[node]], replies, replicas)
            owners = self._follow(batch, owners)
            if not batch.pending:
                break
        batch.settle()
        return batch

    def _follow(self, batch: _Batch, owners: Owners) -> Owners:
        """Decide which commands of ``batch`` to send again; return the owners to send them to."""
        sent, batch.pending = batch.pending, {}
        unserved: list[int] = []
        new_owner: Node | None = None
        for number in sent:
            outcome = batch.outcomes[number]
            if isinstance(outcome, MovedError):
                new_owner = self._node(outcome.host, outcome.port)
                batch.pending[number] = None
            elif isinstance(outcome, AskError):
                batch.pending[number] = self._node(outcome.host, outcome.port)
            elif isinstance(outcome, TryAgainError):
                batch.pending[number] = None
            elif isinstance(outcome, ClusterDownError | ReadOnlyError | StoreUnavailable):
                unserved.append(number)
        if new_owner is None and not unserved:
            return owners
        try:
            fresh = self._refresh(owners, new_owner)
        except StoreUnavailable:
            batch.pending = {}
            return owners
        # Whoever did not serve a slot will not serve it at once: only another server may.
        for number in unserved:
            slot = batch.slots[number]
            if fresh[slot] is not owners[slot]:
                batch.pending[number] = None
        return fresh

    def _refresh(self, seen: Owners | None, first: Node | None = None) -> Owners:
        """Return owners newer than ``seen``, as told by ``first`` or another server. Raises StoreUnavailable."""
        with self._lock:
            if self._owners is not None and self._owners is not seen:
                return self._owners  # another thread was faster
            known = sorted(self._nodes.values(), key=self._suspects.__contains__)
            failure = None
            for node in [*([] if first is None else [first]), *known, self._seed]:
                try:
                    self._owners = self._ask(node)
                except StoreUnavailable as error:
                    failure = error
                else:
                    self._suspects.clear()
                    return self._owners
            raise StoreUnavailable(f"no server of the Redis Cluster answers; the last: {failure}") from failure

    def _ask(self, node: Node) -> Owners:
        (reply,) = node.exchange([("CLUSTER", "SLOTS")], writes=False)
        if isinstance(reply, Exception):
            raise StoreUnavailable(f"Redis at {node.name} does not tell who serves its cluster: {reply}") from reply
        nodes: dict[tuple[str, int], Node] = {}
        owners: Owners = [None] * REDIS_CLUSTER_HASH_SLOTS
        for (first, last), servers in parse_cluster_slots(reply, current_host=node.host).items():
            for address in (servers["primary"], *servers["replicas"]):
                nodes[address] = self._node(*address)
            owners[first : last + 1] = [nodes[servers["primary"]]] * (last + 1 - first)
        if not nodes:
            raise StoreUnavailable(f"Redis at {node.name} knows of no slot that its cluster serves")
        self._nodes = nodes
        return owners

    def _node(self, host: str, port: int) -> Node:
        node = self._nodes.get((host, port))
        if node is None:
            options = {**self._pool.connection_kwargs, "host": host, "port": port}
            pool = type(self._pool)(
                connection_class=self._pool.connection_class, max_connections=self._pool.max_connections, **options
            )
            node = self._nodes.setdefault((host, port), Node(pool))
        return node


class _Batch:
    """Commands on their way, and what has become of them.

    Attributes
    ----------
    slots
        The slot of each command.
    outcomes
        The reply to each command, or its failure.
    acknowledged
        How many replicas have what each command wrote.
    pending
        Numbers of the commands still to send, each with the server that the slot's owner refers it to (ASK), if any.
    """

    def __init__(self, commands: Sequence[Command]) -> None:
        self._commands = commands
        self.slots = [_slot(command) for command in commands]
        self.outcomes: list[Any] = [None] * len(commands)
        self.acknowledged = [0] * len(commands)
        self.pending: dict[int, Node | None] = dict.fromkeys(range(len(commands)))

    def shares(self, owners: Owners) -> dict[Node, list[tuple[int, Command]]]:
        """Return what each server is to get: commands, in their order, with their numbers."""
        shares: dict[Node, list[tuple[int, Command]]] = defaultdict(list)
        for number in sorted(self.pending):
            slot, referred, command = self.slots[number], self.pending[number], self._commands[number]
            self.outcomes[number] = None
            if referred is not None:
                shares[referred] += [(number, ("ASKING",)), (number, command)]
            elif (owner := owners[slot]) is not None:
                shares[owner].append((number, command))
            else:
                self.outcomes[number] = StoreUnavailable(f"no server of the Redis Cluster serves slot {slot}")
        return shares

    def take(self, node: Node, numbers: Sequence[int], replies: Sequence[Any], replicas: Any) -> None:
        """Note the replies of one server to its share, and how many replicas acknowledged it."""
        for number, reply in zip(numbers, replies, strict=True):
            if isinstance(reply, AskError):
                reply.host = reply.host or node.host
            # A failure of the ASKING before a command is that command's.
            if not isinstance(self.outcomes[number], Exception):
                self.outcomes[number] = reply
                self.acknowledged[number] = replicas if isinstance(replicas, int) else 0

    def settle(self) -> None:
        """Put StoreUnavailable in place of the replies by which servers sent commands elsewhere."""
        for number, outcome in enumerate(self.outcomes):
            if isinstance(outcome, AskError | TryAgainError | ClusterDownError | ReadOnlyError):
                unavailable = StoreUnavailable(
                    f"slot {self.slots[number]} of the Redis Cluster is not served now, ask again: "
                    f"{outcome.status_code} {outcome}"
                )
                unavailable.__cause__ = outcome
                self.outcomes[number] = unavailable


def _deliver(requests: Mapping[Node, Sequence[Command]], *, writes: bool) -> dict[Node, list[Any]]:
    """Send to all servers before the first reply is read; return the replies, or failures, of each."""
    under_way: dict[Node, Request] = {}
    answers: dict[Node, list[Any]] = {}
    try:
        for node, commands in requests.items():
            try:
                under_way[node] = node.send(commands, writes=writes)
            except StoreUnavailable as error:
                answers[node] = [error] * len(commands)
        for node, request in under_way.items():
            answers[node] = request.receive()
    except BaseException:
        for request in under_way.values():
            request.abandon()
        raise
    return answers


def _slot(command: Command) -> int:
    """Return the slot of a command's (first) key."""
    name = command[0]
    at = _KEY_AT.get(name, 1)
    if name in _KEYLESS or len(command) <= at:
        raise ValueError(f"{name} names no key that says which server of the cluster it is for; use Wire.broadcast")
    key = command[at]
    slot: int = key_slot(key if isinstance(key, bytes) else str(key).encode())
    return slot


def _masters(owners: Owners) -> list[Node]:
    return [node for node in dict.fromkeys(owners) if node is not None]
