"""One small deployment, made by the main job's own steps and served by a real Redis and a real TorchServe."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from rich.console import Console

from contracts.settings import CHECKOUT, Settings, load_settings
from contracts.spec import Spec, load_spec
from serve import process
from serve.client import Client
from serve.redis_server import stop_redis
from serve.torchserve import NAME as TORCHSERVE
from serve.torchserve import stop_torchserve
from simulator.log import simulate
from workflows.main_job import run_main_job

MEMBERS, DAYS = 240, 6


@dataclass(frozen=True)
class Deployment:
    """A tenant that answers over REST."""

    spec: Spec
    spec_path: Path
    settings: Settings
    data: Path
    summary: dict[str, object]

    @property
    def url(self) -> str:
        """Where to post."""
        record = process.read_record(self.settings.run_dir, TORCHSERVE)
        assert record is not None
        return f"{record.url}/predictions/{self.spec.name}"

    def client(self) -> Client:
        """A client with the server's token."""
        return Client.from_settings(self.settings)


def run(var: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the main job as ``make run`` does, under ``var``."""
    command = [sys.executable, "-m", "workflows", "run", *map(str, arguments)]
    environment = {name: value for name, value in os.environ.items() if name != "REDIS_URL"} | {"PACER_VAR": str(var)}
    return subprocess.run(command, cwd=CHECKOUT, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="session")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """The simulator's spec with float32 rings, a short horizon and one epoch, on a log of its own.

    In float32, since the paths that are compared must agree to 1e-5; what uint8 costs is measured in benchmarks.
    """
    folder = tmp_path_factory.mktemp("deployment")
    text = (CHECKOUT / "specs" / "notification.yaml").read_text(encoding="utf-8")
    # Deadlines of a loaded test machine: a fallback here would say nothing about the code.
    text = text.replace("{default: uint8}", "{default: float32, probabilities: float32}")
    assert "float32" in text
    text = text.replace("horizon: 16", "horizon: 6")
    text = text.replace("features: 200, rings: 200", "features: 20000, rings: 20000")
    spec_path = folder / "notification.yaml"
    text = text.replace("training: {batch_size: 256,", "training: {epochs: 1, batch_size: 128,")
    assert "epochs: 1" in text
    spec_path.write_text(text, encoding="utf-8")
    data = folder / "data"
    spec = load_spec(spec_path)
    simulate(data, spec, MEMBERS, DAYS, seed=5, progress=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PACER_VAR", str(folder / "var"))
        patch.delenv("REDIS_URL", raising=False)
        settings = load_settings()
        try:
            summary = run_main_job(spec_path, data, settings, Console(quiet=True), stay_up=True)
            yield Deployment(spec, spec_path, settings, data, summary)
        finally:
            stop_torchserve(settings)
            stop_redis(settings)
