"""Child servers are found again, and nothing but them is ever stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from contracts.errors import ServerError
from serve import process
from serve.process import Identity, ServerRecord

pytestmark = pytest.mark.integration

SLEEP = [sys.executable, "-S", "-c", "import time; print('up', flush=True); time.sleep(600)"]
# A server whose child leaves its session and then outlives it, as a TorchServe worker may.
WITH_CHILD = [
    sys.executable,
    "-S",
    "-c",
    "import subprocess, sys, time\n"
    "child = subprocess.Popen([sys.executable, '-S', '-c', 'import time; time.sleep(600)'], start_new_session=True)\n"
    "print(child.pid, flush=True)\n"
    "time.sleep(600)\n",
]
STUBBORN = [
    sys.executable,
    "-S",
    "-c",
    "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('up', flush=True)\ntime.sleep(600)\n",
]


def start(run_dir: Path, command: list[str] = SLEEP, *, die_with_parent: bool = False) -> Identity:
    """Start a server and wait for its first line."""
    identity = process.launch(run_dir, "server", command, env={}, die_with_parent=die_with_parent)
    process.write_record(run_dir, ServerRecord("server", "url", identity, owner=None, details={"key": "value"}))
    assert process.wait_for(lambda: first_line(run_dir) != "", identity, timeout_s=30)
    return identity


def first_line(run_dir: Path) -> str:
    text = process.log_path(run_dir, "server").read_text()
    return text.splitlines()[0] if text.endswith("\n") else ""


def gone(pid: int) -> bool:
    """Wait until the process has ended; a zombie has."""
    try:
        watched = Identity.of(pid)
    except psutil.NoSuchProcess:
        return True
    process.wait_for(lambda: False, watched, timeout_s=30)
    return watched.process() is None


def test_a_started_server_is_found_by_its_record_and_stopped(tmp_path: Path) -> None:
    identity = start(tmp_path)
    record = process.read_record(tmp_path, "server")
    assert record is not None
    assert (record.url, record.identity, record.details) == ("url", identity, {"key": "value"})
    assert process.stop(tmp_path, "server")
    assert gone(identity.pid)
    assert process.read_record(tmp_path, "server") is None
    assert not process.stop(tmp_path, "server")


def test_stop_takes_down_a_child_whose_parent_died_first(tmp_path: Path) -> None:
    identity = start(tmp_path, WITH_CHILD)
    child = int(first_line(tmp_path))
    os.kill(identity.pid, signal.SIGKILL)
    assert gone(identity.pid)
    assert psutil.pid_exists(child)
    assert process.stop(tmp_path, "server")
    assert gone(child)


def test_a_server_that_ignores_sigterm_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "STOP_TIMEOUT_S", 0.2)
    identity = start(tmp_path, STUBBORN)
    assert process.stop(tmp_path, "server")
    assert gone(identity.pid)


def test_a_recycled_pid_is_neither_reported_nor_killed(tmp_path: Path) -> None:
    with subprocess.Popen(SLEEP, stdout=subprocess.DEVNULL) as innocent:
        created = psutil.Process(innocent.pid).create_time()
        stale = Identity(innocent.pid, created - 3600)
        process.write_record(tmp_path, ServerRecord("server", "url", stale, owner=None))
        assert process.read_record(tmp_path, "server") is None
        assert not process.stop(tmp_path, "server")
        assert innocent.poll() is None
        innocent.kill()


def test_a_zombie_counts_as_gone(tmp_path: Path) -> None:
    identity = start(tmp_path)
    os.kill(identity.pid, signal.SIGKILL)
    assert process.wait_for(lambda: False, identity, timeout_s=30) is False
    assert process.read_record(tmp_path, "server") is None


def test_a_server_whose_owner_died_does_not_count_as_running(tmp_path: Path) -> None:
    identity = start(tmp_path)
    with subprocess.Popen([sys.executable, "-S", "-c", ""]) as owner:
        dead = Identity.of(owner.pid)
    process.write_record(tmp_path, ServerRecord("server", "url", identity, owner=dead))
    assert process.read_record(tmp_path, "server") is None
    again = start(tmp_path)
    assert gone(identity.pid)
    assert process.stop(tmp_path, "server")
    assert gone(again.pid)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": "x"}', '{"url": 1, "pid": 1}', "null"])
def test_a_damaged_record_counts_as_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "server.json").write_text(text)
    assert process.read_record(tmp_path, "server") is None
    assert not process.stop(tmp_path, "server")


def test_servers_of_the_same_name_under_two_folders_do_not_meet(tmp_path: Path) -> None:
    one, two = start(tmp_path / "one"), start(tmp_path / "two")
    assert process.stop(tmp_path / "one", "server")
    assert gone(one.pid)
    assert two.process() is not None
    assert process.stop(tmp_path / "two", "server")


def test_the_callers_environment_does_not_reach_a_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TS_CONFIG_FILE", "/somewhere/else")
    monkeypatch.setenv("HOME", "")
    identity = start(tmp_path)
    environment = psutil.Process(identity.pid).environ()
    process.stop(tmp_path, "server")
    assert "TS_CONFIG_FILE" not in environment
    assert Path(environment["HOME"]).is_dir()


def test_a_long_path_still_leaves_room_for_sockets(tmp_path: Path) -> None:
    run_dir = tmp_path / ("long" * 30) / "run"
    (run_dir / "server").mkdir(parents=True)
    folder = process.temporary_folder(run_dir, "server")
    assert len(os.fsencode(folder / ".ts.sock.65535")) < 100
    assert process.temporary_folder(run_dir, "server") == folder
    process.stop(run_dir, "server")
    assert not folder.exists()
    assert not (run_dir / "server" / "tmp").exists()


def test_a_command_that_cannot_be_executed_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(ServerError, match="/no/such/program"):
        process.launch(tmp_path, "server", ["/no/such/program"], env={}, die_with_parent=False)


STARTER = """
import json, sys, time
from pathlib import Path
from serve import process
run_dir, command, tied = Path(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3] == "True"
identity = process.launch(run_dir, "server", command, env={}, die_with_parent=tied)
process.write_record(run_dir, process.ServerRecord("server", "url", identity, None))
print(identity.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize(
    "tied", [pytest.param(True, marks=pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's")), False]
)
def test_what_a_killed_parent_leaves(tmp_path: Path, tied: bool) -> None:
    command = [sys.executable, "-c", STARTER, str(tmp_path), json.dumps(SLEEP), str(tied)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.kill()
    if tied:
        assert gone(pid)
    else:
        assert process.read_record(tmp_path, "server") is not None
        assert process.stop(tmp_path, "server")
        assert gone(pid)
