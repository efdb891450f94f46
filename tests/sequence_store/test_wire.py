"""The wire to a server and to a cluster alike: replies in order, and honest failures."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.exceptions import NoScriptError, ResponseError

from benchmarks.redis_cluster import RedisCluster
from benchmarks.redis_server import RedisServer
from contracts.errors import OutcomeUnknown, StoreError, StoreUnavailable
from sequence_store.wire import Wire, connect

_numbers = itertools.count()


def open_wire(url: str, timeout_s: float = 30.0) -> Wire:
    return Wire(connect(url, timeout_s, timeout_s))


@pytest.fixture(params=["server", "cluster"])
def url(request: pytest.FixtureRequest) -> str:
    """A server and a cluster in turn."""
    if request.param == "server":
        return str(request.getfixturevalue("redis_url"))
    cluster: RedisCluster = request.getfixturevalue("redis_cluster")
    return cluster.url


@pytest.fixture
def wire(url: str) -> Iterator[Wire]:
    wire = open_wire(url)
    yield wire
    wire.close()


@pytest.fixture
def keys() -> list[bytes]:
    """Keys of this test's own, in many slots."""
    test = next(_numbers)
    return [b"wire%d:%d" % (test, number) for number in range(300)]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path)
    server.start()
    yield server
    server.stop()


@pytest.mark.integration
def test_replies_come_undecoded_and_in_the_order_of_the_commands(wire: Wire, keys: list[bytes]) -> None:
    values = [b"\xff\x00%d" % number + b"." * (100_000 if number % 50 == 0 else 0) for number in range(len(keys))]
    sets = [("SET", key, value) for key, value in zip(keys, values, strict=True)]
    assert wire.exchange(sets, writes=True) == [b"OK"] * len(keys)
    assert wire.exchange([("GET", key) for key in reversed(keys)], writes=False) == values[::-1]
    assert wire.exchange([("GET", keys[0])], writes=False) == [values[0]]
    assert wire.exchange([], writes=True) == []


@pytest.mark.integration
def test_commands_for_one_key_run_in_their_order(wire: Wire, keys: list[bytes]) -> None:
    replies = wire.exchange([("INCR", key) for key in keys * 3], writes=True)
    assert replies == [1] * len(keys) + [2] * len(keys) + [3] * len(keys)


@pytest.mark.integration
def test_a_refused_command_harms_no_other(wire: Wire, keys: list[bytes]) -> None:
    wire.exchange([("SET", key, "text") for key in keys[:10]], writes=True)
    replies = wire.exchange(
        [("INCR", keys[0]), ("GET", keys[1]), ("HGETALL", keys[2]), ("EVALSHA", "0" * 40, 1, keys[3])], writes=True
    )
    assert replies[1] == b"text"
    assert [type(reply) for reply in replies] == [ResponseError, bytes, ResponseError, NoScriptError]


@pytest.mark.integration
def test_a_command_that_the_client_cannot_encode_leaves_the_connection_sound(wire: Wire, keys: list[bytes]) -> None:
    with pytest.raises(redis.DataError):
        wire.exchange([("SET", key, "text") for key in keys] + [("SET", keys[0], object())], writes=True)
    assert wire.exchange([("GET", key) for key in keys[:20]], writes=False) == [None] * 20


@pytest.mark.integration
def test_replies_of_an_interrupted_exchange_reach_nobody(
    wire: Wire, keys: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    wire.exchange([("SET", key, key) for key in keys], writes=True)

    def interrupted(*arguments: Any, **options: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(redis.Connection, "read_response", interrupted)
        with pytest.raises(KeyboardInterrupt):
            # Their replies come later than the next exchange is sent.
            wire.exchange([("BLPOP", b"list:" + key, 1) for key in keys[:10]], writes=False)
    assert wire.exchange([("GET", key) for key in keys], writes=False) == keys


@pytest.mark.integration
def test_threads_that_share_a_wire_get_their_own_replies(wire: Wire, keys: list[bytes]) -> None:
    mixed: list[Any] = []

    def work(own: list[bytes]) -> None:
        for _ in range(20):
            wire.exchange([("SET", key, key) for key in own], writes=True)
            mixed.extend(set(wire.exchange([("GET", key) for key in own], writes=False)) - set(own))

    threads = [threading.Thread(target=work, args=(keys[start::8],)) for start in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert mixed == []


@pytest.mark.integration
def test_a_scan_finds_every_key_that_matches_and_no_other(wire: Wire, keys: list[bytes]) -> None:
    prefix = keys[0].split(b":")[0]
    wire.exchange([("SET", key, "") for key in keys], writes=True)
    pages = list(wire.scan(prefix + b":*7", 50))
    assert len(pages) > 1
    assert all(pages)
    assert set(itertools.chain(*pages)) == {key for key in keys if key.endswith(b"7")}
    assert list(wire.scan(prefix + b":nothing", 50)) == []


@pytest.mark.integration
def test_a_script_sent_to_every_master_runs_for_every_key(wire: Wire, keys: list[bytes]) -> None:
    script = f"return 'script {keys[0].decode()} of ' .. KEYS[1]"
    digests = wire.broadcast(("SCRIPT", "LOAD", script), writes=False)
    (digest,) = set(digests.values())
    replies = wire.exchange([("EVALSHA", digest, 1, key) for key in keys], writes=True)
    assert replies == [b"script %s of %s" % (keys[0], key) for key in keys]


@pytest.mark.integration
@pytest.mark.parametrize(("url", "replicas"), [("server", 0), ("cluster", 1)], indirect=["url"])
def test_an_exchange_says_how_many_replicas_have_what_it_wrote(wire: Wire, keys: list[bytes], replicas: int) -> None:
    replies, acknowledged = wire.exchange_replicated([("SET", key, "x") for key in keys], max(replicas, 1), 100)
    assert replies == [b"OK"] * len(keys)
    assert acknowledged == [replicas] * len(keys)
    assert wire.exchange_replicated([], 1, 100) == ([], [])


@pytest.mark.integration
def test_nothing_is_sent_before_the_first_exchange(server: RedisServer) -> None:
    server.kill()
    wire = open_wire(server.url)
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match=f"127.0.0.1:{server.port} cannot be reached"):
            wire.exchange([("GET", "key")], writes=True)
        with pytest.raises(StoreUnavailable, match=f"127.0.0.1:{server.port} cannot be reached"):
            list(wire.scan(b"*", 10))
    server.start()
    assert wire.exchange([("GET", "key")], writes=True) == [None]
    server.kill()
    with pytest.raises(StoreUnavailable, match=f"127.0.0.1:{server.port} cannot be reached"):
        wire.exchange([("GET", "key")], writes=True)


@pytest.mark.integration
@pytest.mark.parametrize(("writes", "kind"), [(True, OutcomeUnknown), (False, StoreUnavailable)])
def test_what_was_answered_before_a_connection_broke_stands(
    server: RedisServer, writes: bool, kind: type[StoreError]
) -> None:
    wire = open_wire(server.url)
    # A client that kills itself gets its replies up to that one.
    suicide = ("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "no")
    replies = wire.exchange([("SET", "a", 1), suicide, ("SET", "b", 1), ("SET", "c", 1)], writes=writes)
    assert replies[:2] == [b"OK", 1]
    assert [type(reply) for reply in replies[2:]] == [kind, kind]
    assert str(server.port) in str(replies[2])
    with pytest.raises(kind):
        wire.exchange([("SHUTDOWN", "NOSAVE")], writes=writes)


@pytest.mark.integration
def test_a_server_that_is_loading_wrote_nothing(tmp_path: Path) -> None:
    # While it loads, a server looks at its connections once in a thousand keys.
    server = RedisServer(tmp_path, "--key-load-delay", "100")  # microseconds
    server.start()
    wire = open_wire(server.url)
    wire.exchange([("SET", f"key{number}", 1) for number in range(50_000)], writes=True)
    server.kill()
    start = threading.Thread(target=server.start)
    start.start()
    try:
        refusal = "cannot be reached"
        while "cannot be reached" in refusal:
            with pytest.raises(StoreUnavailable) as info:
                wire.exchange([("INCR", "key1")] * 3, writes=True)
            refusal = str(info.value)
        assert "loading" in refusal
        wire.broadcast(("CONFIG", "SET", "key-load-delay", 0), writes=True)
        start.join()
        assert wire.exchange([("INCR", "key1")], writes=True) == [2]
    finally:
        start.join()
        server.stop()


@pytest.mark.integration
@pytest.mark.parametrize("clustered", ["no", "yes"])
def test_a_unix_socket_is_a_way_to_a_server_and_not_to_a_cluster(tmp_path: Path, clustered: str) -> None:
    server = RedisServer(tmp_path, "--unixsocket", "./socket", "--cluster-enabled", clustered)
    server.start()
    wire = open_wire(f"unix://{tmp_path}/socket")
    try:
        if clustered == "no":
            assert wire.exchange([("SET", "key", 1)], writes=True) == [b"OK"]
        else:
            with pytest.raises(StoreError, match=r"socket is a server of a Redis Cluster: give its redis:// URL"):
                wire.exchange([("SET", "key", 1)], writes=True)
    finally:
        server.stop()
