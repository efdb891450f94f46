"""Child servers: start one, remember it in a record, find it again, stop it with all it started.

A server lives in a folder of its own, ``var/run/<name>/`` (working directory, ``server.log``, ``tmp/``),
and its record is ``var/run/<name>.json``. Two things identify its processes, so that a recycled pid is
never signalled: pid together with creation time, and an environment variable that names the folder and
that whatever the server starts inherits.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil

from contracts.errors import ServerError

MARK = "PACER_SERVER"
"""Environment variable of every process of a server: the server's folder."""

STOP_TIMEOUT_S = 15.0
"""How long a server may take to end by itself before it is killed."""

_TETHER = Path(__file__).with_name("tether.py")
_POLL_S = 0.05
# A creation time is derived from the boot time, which moves a little when the clock is adjusted.
_CREATE_TIME_TOLERANCE_S = 2.0
# sun_path holds 104 bytes on macOS, 108 on Linux; TorchServe appends "/.ts.sock.<port>".
_LONGEST_TMPDIR = 80
# Popen objects of children that outlive the call that made them: dropping one warns.
_children: dict[int, subprocess.Popen[bytes]] = {}


@dataclass(frozen=True)
class Identity:
    """One process, for good: the pid alone is reused by the system."""

    pid: int
    create_time: float

    @classmethod
    def of(cls, pid: int) -> Identity:
        """Return the identity of the running process ``pid``. Raises psutil.NoSuchProcess."""
        return cls(pid, psutil.Process(pid).create_time())

    def process(self) -> psutil.Process | None:
        """Return the process if it still runs, else None; a zombie does not run."""
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.create_time) < _CREATE_TIME_TOLERANCE_S
            return process if same and _runs(process) else None
        except (psutil.NoSuchProcess, ValueError, OverflowError):  # no such process, or no such number
            return None


@dataclass(frozen=True)
class ServerRecord:
    """What is remembered of a running server; ``details`` are the server's own facts."""

    name: str
    url: str
    identity: Identity
    owner: Identity | None
    """The process the server ends with; None: it stays up until told to stop."""
    details: Mapping[str, str] = field(default_factory=dict)


def server_folder(run_dir: Path, name: str) -> Path:
    """Return the folder of server ``name``."""
    return run_dir.resolve() / name


def make_folder(run_dir: Path, name: str) -> Path:
    """Create the folder of server ``name``, for the user alone: tokens and logs lie there."""
    folder = server_folder(run_dir, name)
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    return folder


def log_path(run_dir: Path, name: str) -> Path:
    """Return the file that holds what server ``name`` printed since its last start."""
    return server_folder(run_dir, name) / "server.log"


def log_tail(path: Path, lines: int = 15) -> str:
    """Return the last lines of a log, for an error message."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "(no log)"
    return "\n".join(text.splitlines()[-lines:]) or "(the log is empty)"


def free_ports(count: int) -> list[int]:
    """Return ``count`` distinct loopback TCP ports that were free a moment ago.

    Nothing holds them: a caller whose server finds one taken asks again.
    """
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]


def launch(
    run_dir: Path, name: str, command: Sequence[str], *, env: Mapping[str, str], die_with_parent: bool
) -> Identity:
    """Start ``command`` as server ``name`` in a folder and a session of its own.

    Whatever is left of an earlier one is stopped first. The environment is made from nothing, so that no
    variable of the caller's shell changes a server: PATH, HOME, TMPDIR, a UTF-8 locale, the mark, and
    ``env``. With ``die_with_parent`` the server gets SIGTERM when the *thread* that called this ends
    (Linux): call it from the main thread.

    Raises ServerError if the command cannot be executed.
    """
    stop(run_dir, name)
    folder = make_folder(run_dir, name)
    log = log_path(run_dir, name)
    with contextlib.suppress(FileNotFoundError):
        log.replace(log.with_suffix(".log.previous"))
    tie = [sys.executable, "-I", "-S", str(_TETHER), str(os.getpid())] if die_with_parent else []
    environment = {
        "PATH": os.defpath,
        "HOME": str(folder),
        "TMPDIR": str(temporary_folder(run_dir, name)),
        "LC_ALL": "C.UTF-8",
        MARK: str(folder),
        **env,
    }
    with log.open("wb") as output:
        try:
            child = subprocess.Popen(
                [*tie, *command],
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                umask=0o077,
            )
        except OSError as error:
            raise ServerError(f"{name} cannot be started: {command[0]}: {error}") from error
    _children[child.pid] = child
    return Identity.of(child.pid)


def temporary_folder(run_dir: Path, name: str) -> Path:
    """Return the server's folder for temporary files and sockets; ``stop`` removes it.

    It is ``<folder>/tmp`` unless that is too long for the path of a Unix socket; then it lies under the
    system's temporary folder, and ``<folder>/tmp`` is a link to it.
    """
    link = server_folder(run_dir, name) / "tmp"
    if link.exists():
        return link.resolve()
    # A link whose target the system has swept away.
    link.unlink(missing_ok=True)
    if len(os.fsencode(link)) <= _LONGEST_TMPDIR:
        link.mkdir(mode=0o700)
        return link
    elsewhere = Path(tempfile.mkdtemp(prefix="pacer-"))
    link.symlink_to(elsewhere)
    return elsewhere


def wait_for(ready: Callable[[], bool], server: Identity, timeout_s: float) -> bool:
    """Poll ``ready`` until it is true; return False once the server has ended or time is up."""
    deadline = time.monotonic() + timeout_s
    while not ready():
        if server.process() is None or time.monotonic() > deadline:
            return False
        time.sleep(_POLL_S)
    return True


def write_record(run_dir: Path, record: ServerRecord) -> None:
    """Write ``var/run/<name>.json`` in one step; ``url`` and ``pid`` stand at the top level."""
    document = {
        "url": record.url,
        "pid": record.identity.pid,
        "create_time": record.identity.create_time,
        "owner": asdict(record.owner) if record.owner else None,
        **record.details,
    }
    path = run_dir / f"{record.name}.json"
    draft = path.with_suffix(f".{os.getpid()}.draft")
    draft.write_text(json.dumps(document, indent=1), encoding="utf-8")
    draft.replace(path)


def read_record(run_dir: Path, name: str) -> ServerRecord | None:
    """Return the record of server ``name`` if its process runs, and so does its owner; else None."""
    record = _parse_record(run_dir, name)
    if record is None or record.identity.process() is None:
        return None
    return record if record.owner is None or record.owner.process() is not None else None


def stop(run_dir: Path, name: str) -> bool:
    """Stop server ``name`` with all it started, remove its record and its temporary files.

    Processes first get SIGTERM and STOP_TIMEOUT_S to end, then SIGKILL. Returns whether any ran.
    """
    record = _parse_record(run_dir, name)
    main = record.identity.process() if record else None
    processes = {process.pid: process for process in _marked(server_folder(run_dir, name))}
    if main is not None:
        processes[main.pid] = main
        with contextlib.suppress(psutil.Error):
            processes.update((child.pid, child) for child in main.children(recursive=True))
    # A server takes its workers down in good order; a worker without its server is only in the way.
    heads = [main] if main is not None else list(processes.values())
    for process in heads:
        with contextlib.suppress(psutil.Error):
            process.terminate()
    for process in _wait_until_gone(processes.values(), STOP_TIMEOUT_S):
        with contextlib.suppress(psutil.Error):
            process.kill()
    _wait_until_gone(processes.values(), STOP_TIMEOUT_S)
    for pid in processes:
        if child := _children.pop(pid, None):
            child.wait()
    (run_dir / f"{name}.json").unlink(missing_ok=True)
    _clear_temporary(run_dir, name)
    return bool(processes)


def _wait_until_gone(processes: Iterable[psutil.Process], timeout_s: float) -> list[psutil.Process]:
    """Wait until all have ended; return those that have not. psutil.wait_procs would wait for zombies too."""
    deadline = time.monotonic() + timeout_s
    while (alive := [process for process in processes if _runs(process)]) and time.monotonic() < deadline:
        time.sleep(_POLL_S)
    return alive


def _runs(process: psutil.Process) -> bool:
    # Who reaps a zombie, and when, is not ours to decide: its parent may be the init of a container.
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _marked(folder: Path) -> Iterator[psutil.Process]:
    """Yield the running processes that belong to the server of ``folder``."""
    for process in psutil.process_iter():
        # Other users' processes cannot be asked, and are never ours.
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get(MARK) == str(folder) and _runs(process):
                yield process


def _parse_record(run_dir: Path, name: str) -> ServerRecord | None:
    try:
        document = json.loads((run_dir / f"{name}.json").read_text(encoding="utf-8"))
        identity = Identity(int(document.pop("pid")), float(document.pop("create_time")))
        owner = document.pop("owner")
        url = str(document.pop("url"))
        return ServerRecord(name, url, identity, Identity(**owner) if owner else None, document)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _clear_temporary(run_dir: Path, name: str) -> None:
    folder = server_folder(run_dir, name) / "tmp"
    if folder.is_symlink():
        shutil.rmtree(folder.resolve(), ignore_errors=True)
        folder.unlink()
    else:
        shutil.rmtree(folder, ignore_errors=True)
