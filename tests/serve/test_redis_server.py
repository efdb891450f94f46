"""The embedded redis-server: started, reused, its data kept through whatever ends it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import redis

from contracts.errors import ServerError
from contracts.settings import Settings, find_redis_url
from serve import process
from serve.redis_server import start_redis, stop_redis
from tests.serve.conftest import make_settings

pytestmark = pytest.mark.integration


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Settings]:
    settings = make_settings(tmp_path / "other")
    yield settings
    stop_redis(settings)


def connect(url: str) -> redis.Redis:
    return redis.Redis.from_url(url, decode_responses=True)


def kill(pid: int | None) -> None:
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    psutil.Process(pid).wait(timeout=30)


def test_a_second_start_finds_the_first_and_its_data_outlives_it(settings: Settings) -> None:
    first = start_redis(settings, die_with_parent=True)
    assert first.started
    assert first.url.startswith("redis://127.0.0.1:")
    assert find_redis_url(settings) == first.url
    with connect(first.url) as client:
        client.set("key", "value")
        assert client.config_get("appendonly") == {"appendonly": "yes"}
        assert client.config_get("bind") == {"bind": "127.0.0.1"}
        assert "graph" not in {module["name"] for module in client.module_list()}
    again = start_redis(settings, die_with_parent=True)
    assert (again.url, again.pid, again.started) == (first.url, first.pid, False)
    assert stop_redis(settings)
    assert not stop_redis(settings)
    with pytest.raises(ServerError, match="make up"):
        find_redis_url(settings)
    with connect(start_redis(settings, die_with_parent=True).url) as client:
        assert client.get("key") == "value"


def test_a_killed_server_whose_file_was_cut_comes_back_with_what_was_whole(settings: Settings) -> None:
    first = start_redis(settings, die_with_parent=True)
    with connect(first.url) as client:
        client.set("old", "whole")
        client.set("new", "x" * 1000)
        # Under appendfsync everysec a write may wait for a running fsync; this waits until all is on disk.
        client.execute_command("WAITAOF", 1, 0, 60_000)
    kill(first.pid)
    (log,) = (settings.var / "redis" / "appendonlydir").glob("*.incr.aof")
    with log.open("r+b") as file:
        file.truncate(log.stat().st_size - 500)
    second = start_redis(settings, die_with_parent=True)
    assert second.started
    with connect(second.url) as client:
        assert client.get("old") == "whole"
        assert client.get("new") is None


def test_data_that_cannot_be_read_is_an_error_with_the_way_out(settings: Settings) -> None:
    first = start_redis(settings, die_with_parent=True)
    with connect(first.url) as client:
        client.set("key", "value")
    stop_redis(settings)
    (log,) = (settings.var / "redis" / "appendonlydir").glob("*.incr.aof")
    log.write_bytes(b"\x00 no append-only file " * 10)
    with pytest.raises(ServerError, match=r"move .* away"):
        start_redis(settings, die_with_parent=True)
    assert process.read_record(settings.run_dir, "redis") is None


def test_two_checkouts_run_side_by_side(settings: Settings, other: Settings) -> None:
    one, two = start_redis(settings, die_with_parent=True), start_redis(other, die_with_parent=True)
    with connect(one.url) as first, connect(two.url) as second:
        first.set("key", "one")
        assert second.get("key") is None
        stop_redis(settings)
        assert second.ping()


def test_a_port_taken_in_between_is_left_for_another(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    ask = process.free_ports
    with socket.create_server(("127.0.0.1", 0)) as taken:
        answers = iter([[taken.getsockname()[1]]])
        monkeypatch.setattr(process, "free_ports", lambda count: next(answers, None) or ask(count))
        server = start_redis(settings, die_with_parent=True)
        assert server.url != f"redis://127.0.0.1:{taken.getsockname()[1]}"


def test_another_servers_redis_on_the_port_is_not_taken_for_ours(
    settings: Settings, other: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign = start_redis(other, die_with_parent=True)
    ask = process.free_ports
    answers = iter([[int(foreign.url.rpartition(":")[2])]])
    monkeypatch.setattr(process, "free_ports", lambda count: next(answers, None) or ask(count))
    assert start_redis(settings, die_with_parent=True).url != foreign.url


def test_a_redis_named_by_the_user_is_used_and_never_stopped(settings: Settings, tmp_path: Path) -> None:
    url = start_redis(settings, die_with_parent=True).url
    theirs = make_settings(tmp_path / "theirs", redis_url=url)
    server = start_redis(theirs, die_with_parent=True)
    assert (server.url, server.pid, server.started) == (url, None, False)
    assert not stop_redis(theirs)
    with connect(url) as client:
        assert client.ping()


@pytest.mark.parametrize("url", ["redis://user:hush@127.0.0.1:1/0", "not a url"])
def test_a_redis_named_by_the_user_that_does_not_answer_is_an_error(tmp_path: Path, url: str) -> None:
    with pytest.raises(ServerError, match="REDIS_URL") as caught:
        start_redis(make_settings(tmp_path, redis_url=url), die_with_parent=True)
    assert "hush" not in str(caught.value)


STARTER = """
import sys, time
from pathlib import Path
from serve.redis_server import start_redis
from tests.serve.conftest import make_settings
print(start_redis(make_settings(Path(sys.argv[1])), die_with_parent=sys.argv[2] == "True").url, flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("tied", [True, False])
def test_after_a_killed_run_the_next_one_starts(settings: Settings, tied: bool) -> None:
    command = [sys.executable, "-c", STARTER, str(settings.var), str(tied)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        url = parent.stdout.readline().strip()
        with connect(url) as client:
            client.set("key", "value")
        parent.kill()
    server = start_redis(settings, die_with_parent=True)
    # A server that was to stay up stays up; one that belonged to the killed run is replaced.
    assert server.started == tied
    with connect(server.url) as client:
        assert client.get("key") == "value"
    assert json.loads((settings.run_dir / "redis.json").read_text())["pid"] == server.pid
