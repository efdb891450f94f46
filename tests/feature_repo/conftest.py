"""A feature repository applied once, on tables of its own and on the session's Redis."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.redis_server import RedisServer
from contracts.settings import CHECKOUT, Settings, load_settings
from tests.feature_repo.tables import at, deploy_spec, shop, write_notification, write_table

MEMBERS = tuple(f"m{i:02}" for i in range(20))


def run_feast(*arguments: str) -> str:
    """Run ``feast`` as a person does inside feature_repo/, with the package installed; return what it prints."""
    command = [str(Path(sys.executable).with_name("feast")), *arguments]
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    done = subprocess.run(
        command, cwd=CHECKOUT / "feature_repo", env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="session")
def repo(tmp_path_factory: pytest.TempPathFactory, redis_server: RedisServer) -> Settings:
    """Settings of a repository to which `feast apply` was typed; HeartSteps was never imported. Leave its tables be."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PACER_VAR", str(tmp_path_factory.mktemp("applied") / "var"))
        patch.setenv("REDIS_URL", redis_server.fresh_url())
        settings = load_settings()
        write_notification(settings, MEMBERS)
        deploy_spec(settings, shop())
        write_table(settings, "shop", "orders", ["7"], [at(1)], {"spent": [2.5], "orders_total": [3]})
        write_table(settings, "shop", "member_profile", ["7"], [at(0)], {"age": [40]})
        run_feast("apply")
    return settings


@pytest.fixture
def on_repo(repo: Settings, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The applied repository with a Redis of the test's own, also for what reads the environment."""
    monkeypatch.setenv("PACER_VAR", str(repo.var))
    monkeypatch.setenv("REDIS_URL", redis_url)
    return replace(repo, redis_url=redis_url)


@pytest.fixture
def elsewhere(tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """An empty state folder and an empty Redis."""
    monkeypatch.setenv("PACER_VAR", str(tmp_path / "var"))
    monkeypatch.setenv("REDIS_URL", redis_url)
    return load_settings()
