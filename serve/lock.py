"""The run lock: at most one command at a time starts and stops servers under one ``var``."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from contracts.errors import ServerError

WAIT_S = 10.0
"""How long a run that was told to end may take to stop its servers."""

_POLL_S = 0.1


@contextmanager
def run_lock(run_dir: Path, wait_s: float = WAIT_S) -> Iterator[None]:
    """Hold the lock of ``run_dir`` (``Settings.run_dir``) for the ``with`` block.

    Where another process holds it, wait ``wait_s`` seconds: it may be on its way out. The kernel releases
    it when the holder dies, however it dies. It is not reentrant: commands take it, library functions
    such as ``start_redis`` do not.

    Raises ServerError, naming the process that holds it, or why ``run_dir`` cannot be written.
    """
    try:
        run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = (run_dir / "lock").open("a+", encoding="ascii")
    except OSError as error:
        raise ServerError(f"{run_dir} cannot be written ({error}); set PACER_VAR to a folder that can") from error
    with file:
        deadline = time.monotonic() + wait_s
        while not _taken(file):
            if time.monotonic() > deadline:
                file.seek(0)
                holder = file.read().strip() or "another"
                raise ServerError(
                    f"process {holder} is at work on the servers of {run_dir}: "
                    "wait for it, stop it, or set PACER_VAR to another folder"
                )
            time.sleep(_POLL_S)
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def _taken(file: TextIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
