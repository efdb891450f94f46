"""Make or repair ``.venv``, the project's environment: exactly what ``requirements.lock`` lists, and the project.

Standard library only; called by ``make setup``. A stamp inside ``.venv`` holds fingerprints of what was
installed. It is written after each finished part, so a second call finds nothing to do, and whatever an
interrupted call left behind is cleared and made anew.
"""

from __future__ import annotations

import collections
import fcntl
import hashlib
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "installed.json"
LOCK = ROOT / "requirements.lock"


def main() -> None:
    """Bring ``.venv`` up to date; end with a message where that is impossible."""
    if sys.version_info[:2] != (3, 11):
        sys.exit(
            f"Pacer needs Python 3.11; {sys.executable} is {platform.python_version()}. "
            "Name another: make PYTHON=/path/to/python3.11 ..."
        )
    directory = os.open(ROOT, os.O_RDONLY)
    # A pip that outlives a killed set-up keeps the lock until it ends, too.
    os.set_inheritable(directory, True)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print("another set-up of this checkout is at work; waiting for it", flush=True)
        fcntl.flock(directory, fcntl.LOCK_EX)
    # A virtual environment does not survive being moved, nor another Python under it.
    environment = fingerprint(platform.python_version(), str(ROOT), LOCK.read_text(encoding="utf-8"))
    project = fingerprint((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    installed = read_stamp()
    if installed.get("environment") != environment or not works():
        make_environment()
        installed = {"environment": environment}
        write_stamp(installed)
    if installed.get("project") != project:
        pip("--no-deps", "--no-index", "--no-build-isolation", "--editable", str(ROOT))
        write_stamp({**installed, "project": project})


def fingerprint(*texts: str) -> str:
    """Return a hash of ``texts``."""
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()


def read_stamp() -> dict[str, str]:
    """Return what the stamp says was installed; empty if there is none, or half of one."""
    try:
        stamp = json.loads(STAMP.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) else {}


def write_stamp(installed: dict[str, str]) -> None:
    """Write the stamp in one step."""
    draft = STAMP.with_suffix(".draft")
    draft.write_text(json.dumps(installed), encoding="utf-8")
    draft.replace(STAMP)


def works() -> bool:
    """Return whether the environment's interpreter still starts; an upgrade of Python may have taken it away."""
    try:
        return subprocess.run([PYTHON, "-c", ""], check=False, stderr=subprocess.DEVNULL).returncode == 0
    except OSError:
        return False


def make_environment() -> None:
    """Clear ``.venv`` and install the locked packages."""
    STAMP.unlink(missing_ok=True)
    started = time.monotonic()
    print(f"making {VENV} (once; about a minute with a fast package index, 2 GB)", flush=True)
    made = subprocess.run([sys.executable, "-m", "venv", "--clear", VENV], capture_output=True, text=True, check=False)
    if made.returncode != 0:
        sys.exit(
            f"{sys.executable} -m venv failed:\n{made.stdout}{made.stderr}"
            "On Debian and Ubuntu: install python3.11-venv, or name another Python: make PYTHON=..."
        )
    pip("--requirement", str(LOCK))
    print(f"done in {time.monotonic() - started:.0f} s", flush=True)


def pip(*arguments: str) -> None:
    """Run ``pip install`` in the environment, showing how far it is; end with its last words if it fails."""
    command = [
        str(PYTHON),
        "-m",
        "pip",
        "install",
        "--disable-pip-version-check",
        "--no-user",
        "--no-input",
        *arguments,
    ]
    if not home_is_usable():
        command.append("--no-cache-dir")
    total = sum(1 for line in LOCK.read_text(encoding="utf-8").splitlines() if "==" in line)
    last: collections.deque[str] = collections.deque(maxlen=20)
    found = 0
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, close_fds=False
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            last.append(line)
            if line.startswith("Collecting "):
                found += 1
                show(f"  {found}/{total} {line.split()[1]}")
            elif line.startswith(("Installing collected", "  Downloading", "Downloading")):
                show(f"  {' '.join(line.split())}")
        show("")
    if process.returncode != 0:
        sys.exit(f"pip failed:\n{''.join(last)}`make setup` tries again from the start")


def show(text: str) -> None:
    """Show ``text`` as the state of affairs on a terminal, in place of what stood there before."""
    if sys.stdout.isatty():
        print(f"\r\x1b[K{text[:78]}", end="", flush=True)


def home_is_usable() -> bool:
    """Return whether pip may keep its cache at home: HOME may be empty, unset, or not this user's."""
    # Path.home() raises where there is none.
    home = os.path.expanduser("~")
    return home not in ("/", "~") and os.access(home, os.W_OK)


if __name__ == "__main__":
    main()
