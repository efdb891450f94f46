"""The main job: from a decision log to decisions served over REST, on the real components, in nine steps."""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from contracts.errors import LogError, SpecError
from contracts.settings import Settings, Workspace
from contracts.spec import Spec, load_spec
from importers.report import ImportReport
from importers.run import run_import
from models.artifact import load_artifact
from serve import process
from serve.archive import deployed_archives, pack
from serve.client import Client
from serve.redis_server import start_redis, stop_redis
from serve.rings import open_rings
from serve.torchserve import NAME as TORCHSERVE
from serve.torchserve import serve_tenants, stop_torchserve
from simulator.log import simulate
from validation.context import data_docs_index
from workflows.demonstration import DemonstrationReport, demonstrate

STEPS = 9
SIMULATED_SERVICE = "notification_state_v1"
MEMBERS, DAYS, SEED = 2_000, 21, 0
"""What the simulator makes where no log is given: 336,000 decisions."""

MISSING_SHOWN = 0.2
"""Share of missing values above which a feature is named."""


@dataclass(frozen=True)
class Job:
    """One deployment at work."""

    spec: Spec
    spec_path: Path
    settings: Settings
    console: Console
    stay_up: bool
    was_up: bool
    """A deployment was being served when the run began: it is replaced, never taken down."""

    @property
    def workspace(self) -> Workspace:
        """Folders of the deployment."""
        return self.settings.workspace(self.spec.name)

    def step(self, number: int, text: str) -> None:
        """Print the heading of one step."""
        self.console.print(f"[bold]{number}/{STEPS}[/bold] {text}")


def run_main_job(
    spec_path: Path, data: Path | None, settings: Settings, console: Console, *, stay_up: bool
) -> dict[str, Any]:
    """Do the main job and return its summary, the last line that ``make run`` prints.

    Parameters
    ----------
    spec_path
        The deployment.
    data
        Folder (or file) of a decision log; None lets the simulator make one.
    stay_up
        Leave Redis and TorchServe running.

    Raises PacerError where a step cannot go on; servers started here are stopped then, too.
    """
    started = time.monotonic()
    spec = load_spec(spec_path)
    was_up = process.read_record(settings.run_dir, TORCHSERVE) is not None
    job = Job(spec, spec_path, settings, console, stay_up or was_up, was_up)
    if data is None:
        _check_simulated(job)
    job.step(1, "set-up is there; check the spec")
    from feature_repo.catalog import check_service

    check_service(spec, settings, str(spec_path))
    with _servers(job):
        report = _bring_log(job, data)
        _validate(job)
        _fill_feature_store(job)
        metrics, artifact = _train(job)
        _deploy(job, artifact)
        shown = _ask(job, artifact)
        _say_where(job, artifact)
    return {
        "log_rows": report.log.rows,
        "rejected_rows": report.log.rejected,
        "validation": "passed",
        "metrics": metrics,
        "decisions": shown.decisions,
        "replayed": shown.replayed,
        "history_used_max": shown.history_used_max,
        "seconds": round(time.monotonic() - started, 1),
    }


def _check_simulated(job: Job) -> None:
    if job.spec.state.feature_service != SIMULATED_SERVICE or job.spec.log.importer != "contract":
        raise SpecError(
            f"{job.spec_path}: the simulator makes logs for feature service {SIMULATED_SERVICE!r} only; bring the log "
            f"of {job.spec.name!r}: make run SPEC={job.spec_path} DATA=<folder>"
        )


@contextmanager
def _servers(job: Job) -> Iterator[None]:
    """Run Redis for the steps that follow, and stop at the end what was started here unless it shall stay."""
    job.step(2, "start Redis")
    redis = start_redis(job.settings, die_with_parent=not job.stay_up)
    job.console.print(f"  Redis {'started' if redis.started else 'is up'} at {redis.url}")
    done = False
    try:
        yield
        done = True
    finally:
        if not job.stay_up or not (done or job.was_up):
            stop_torchserve(job.settings)
            if redis.started:
                stop_redis(job.settings)


def _bring_log(job: Job, data: Path | None) -> ImportReport:
    if data is None:
        job.step(3, f"simulate a decision log: {MEMBERS:,} members, {DAYS} days")
        data = job.workspace.root / "simulated"
        simulate(data, job.spec, MEMBERS, DAYS, SEED)
    else:
        job.step(3, f"import the decision log in {data}")
    report = run_import(job.spec, data, job.workspace)
    report.show(job.console)
    return report


def _validate(job: Job) -> None:
    job.step(4, "validate log and feature tables with Great Expectations")
    from validation.gate import validate

    report = validate(job.spec, job.settings, progress=lambda line: job.console.print(f"  {line}"))
    report.show(job.console)
    report.raise_if_failed()


def _fill_feature_store(job: Job) -> None:
    job.step(5, "feast apply, materialize into Redis")
    from feature_repo.deploy import apply, materialize, service_features

    apply(job.settings)
    features = service_features(job.spec.state.feature_service, job.settings)
    with contextlib.redirect_stdout(io.StringIO()):  # Feast prints escape codes
        report = materialize(job.spec, job.settings)
    for view, load in report.loads.items():
        job.console.print(f"  {view}: {load}")
    job.console.print(
        f"  {len(features)} features of {job.spec.state.feature_service} online up to {report.end:%Y-%m-%d %H:%M} UTC"
    )


def _train(job: Job) -> tuple[dict[str, Any], Path]:
    job.step(6, "join the training set point in time, train, evaluate offline as in service")
    from feature_repo.training_set import build_training_set
    from models.report import show_metrics
    from models.train import train

    missing = build_training_set(job.spec, job.settings).missing
    if missing and min(missing.values()) == 1.0:
        raise LogError(
            f"{job.workspace.log}: at no decision is any feature known; do the member ids and times of log and tables "
            "agree, and is event_timestamp the moment from which a row was known?"
        )
    for feature, share in missing.items():
        if share > MISSING_SHOWN:
            job.console.print(f"  {feature}: missing at {share:.0%} of the decisions")
    result = train(job.spec, job.workspace, job.console)
    show_metrics(result.metrics, job.console)
    return result.metrics, result.artifact


def _deploy(job: Job, artifact: Path) -> None:
    job.step(7, "pack the archive, start TorchServe, wait until it answers")
    _empty_rings(job, artifact)
    archive = pack(artifact, job.spec.name, artifact.name, job.workspace.archives)
    # Other tenants stay up where servers stay up.
    others = deployed_archives(job.settings) if job.stay_up else {}
    for url in serve_tenants(job.settings, {**others, job.spec.name: archive}, die_with_parent=not job.stay_up):
        job.console.print(f"  ready at {url}")


def _empty_rings(job: Job, artifact: Path) -> None:
    """Empty the rings: the history of a log that was replaced is nobody's, nor is that of a demonstration.

    A Redis that is not ours, and a deployment that was being served before the run, are left alone.
    """
    if job.settings.redis_url is None and not job.was_up:
        with open_rings(load_artifact(artifact), job.settings) as rings:
            rings.empty()


def _ask(job: Job, artifact: Path) -> DemonstrationReport:
    job.step(8, "ask for decisions over REST")
    with Client.from_settings(job.settings) as client:
        report = demonstrate(job.spec, job.workspace, client, job.console)
    _empty_rings(job, artifact)
    return report


def _say_where(job: Job, artifact: Path) -> None:
    job.step(9, "done; servers stay up" if job.stay_up else "done; servers stopped")
    docs = data_docs_index(job.workspace.data_docs)
    job.console.print(f"  Data Docs: {docs}", soft_wrap=True)
    job.console.print(f"  artifact:  {artifact}", soft_wrap=True)
    following = (
        f"make decide SPEC={job.spec_path}, make status, make down"
        if job.stay_up
        else f"make up SPEC={job.spec_path} (serve it), make help (all commands)"
    )
    job.console.print(f"  next:      {following}")
