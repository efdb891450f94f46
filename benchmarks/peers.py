"""The peers' environment, ``.venv-peers``: d3rlpy pins an old Gymnasium, so it cannot live beside ours in ``.venv``.

It holds exactly what ``benchmarks/peers.lock`` lists and nothing of Pacer's: a peer is a script that reads and writes
files. It is made when a benchmark first asks for it.
"""

from __future__ import annotations

import fcntl
import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Final

from contracts.errors import PacerError
from contracts.settings import CHECKOUT

LOCK: Final = Path(__file__).with_name("peers.lock")
ENVIRONMENT: Final = CHECKOUT / ".venv-peers"


def peers_python() -> Path:
    """Return the interpreter of the peers' environment, made now if it is absent or of another lock.

    Making it takes a minute or two and a package index; two callers at once make it once. Raises PacerError with
    pip's last words where that fails.
    """
    python, stamp = ENVIRONMENT / "bin" / "python", ENVIRONMENT / "installed.txt"
    with LOCK.open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        wanted = hashlib.sha256(lock.read()).hexdigest()
        # Written last, so that an interrupted set-up has none and starts anew.
        if not stamp.is_file() or stamp.read_text(encoding="utf-8") != wanted:
            print(f"making {ENVIRONMENT} (once; a minute or two, 1.5 GB)", file=sys.stderr, flush=True)
            _run([sys.executable, "-m", "venv", "--clear", str(ENVIRONMENT)])
            install = ["install", "--disable-pip-version-check", "--no-input", "--requirement", str(LOCK)]
            _run([str(python), "-m", "pip", *install])
            stamp.write_text(wanted, encoding="utf-8")
    return python


def _run(command: list[str]) -> None:
    made = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if made.returncode != 0:
        last = "\n".join(made.stdout.splitlines()[-20:])
        raise PacerError(f"{' '.join(command)} failed:\n{last}\nThe next run of the benchmark tries again")
