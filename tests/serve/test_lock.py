"""The run lock: one command at a time, released however its holder dies."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from contracts.errors import ServerError
from serve.lock import run_lock

pytestmark = pytest.mark.integration

HOLDER = """
import sys, time
from pathlib import Path
from serve.lock import run_lock
with run_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_second_command_is_told_who_holds_the_lock_until_it_dies(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(ServerError, match=f"process {holder.pid} "), run_lock(tmp_path, wait_s=0):
            pass
        holder.kill()
    with run_lock(tmp_path):
        pass


def test_a_command_waits_for_one_that_is_on_its_way_out(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        death = threading.Timer(0.3, holder.kill)
        death.start()
        with run_lock(tmp_path, wait_s=60):
            death.join()


def test_a_held_lock_keeps_out_the_same_process_too(tmp_path: Path) -> None:
    with run_lock(tmp_path), pytest.raises(ServerError, match="PACER_VAR"), run_lock(tmp_path, wait_s=0):
        pass
    with run_lock(tmp_path):
        pass


def test_two_folders_do_not_meet(tmp_path: Path) -> None:
    with run_lock(tmp_path / "one"), run_lock(tmp_path / "two"):
        pass


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ServerError, match=r"file.run cannot be written"), run_lock(tmp_path / "file" / "run"):
        pass
