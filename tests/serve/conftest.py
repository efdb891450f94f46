"""Real servers for the tests of serve, each under a ``var`` of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from contracts.settings import Settings
from serve import redis_server, torchserve
from serve.archive import pack

HERE = Path(__file__).parent


def make_settings(var: Path, redis_url: str | None = None) -> Settings:
    return Settings(var=var, redis_url=redis_url, java_home=None, heartsteps=var / "none")


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    """Settings of a fresh ``var``; what a test starts under it is stopped."""
    settings = make_settings(tmp_path / "var")
    yield settings
    torchserve.stop_torchserve(settings)
    redis_server.stop_redis(settings)


@pytest.fixture(scope="session")
def archives(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return archives that TorchServe can load: ``echo`` answers, ``broken`` cannot open its model."""
    folder = tmp_path_factory.mktemp("archives")
    artifact = folder / "artifact"
    artifact.mkdir()
    (artifact / "manifest.json").write_text("{}")
    return {name: pack(artifact, name, "1", folder, handler=HERE / f"{name}_handler.py") for name in ("echo", "broken")}
