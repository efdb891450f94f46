"""The rings of a deployment as its spec has them: appends that wait for replicas, and how long they may."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from contracts.errors import SpecError
from models.artifact import Artifact
from serve.engine import Engine
from serve.rings import open_rings
from tests.serve.conftest import make_settings
from tests.serve.deployment import NOW, TableOfFeatures, item, ring_in, spec_with, untrained_artifact


def artifact_with(ring: str) -> Artifact:
    return untrained_artifact(spec_with(("accept: [utility-v1]}", f"accept: [utility-v1], {ring}}}")))


def ask(engine: Engine) -> dict[str, Any]:
    (reply,) = engine.answer([json.dumps({"decisions": [item()]}).encode()])
    answer: dict[str, Any] = json.loads(reply.body)["decisions"][0]
    return answer


@pytest.mark.integration
def test_a_decision_that_its_replica_lacks_falls_back_and_stays_the_decision_of_its_cycle(
    redis_url: str, tmp_path: Path
) -> None:
    artifact = artifact_with("replicas: 1, wait_ms: 1")
    with open_rings(artifact, make_settings(tmp_path, redis_url)) as rings:
        engine = Engine(artifact, TableOfFeatures(), rings, now_ms=lambda: NOW)
        answer = ask(engine)
        assert (answer["status"], answer["action"], answer["notification_id"]) == ("fallback", "none", None)
        assert "reached 0 of 1 replicas in 1 ms" in answer["reason"]
        again = ask(engine)
        (entry,) = ring_in(rings).entries
        assert (again["status"], again["notification_id"]) == ("replayed", entry.notification_id)
        assert len(rings.drain(10)) == 1


@pytest.mark.unit
@pytest.mark.parametrize(
    ("url", "wait_ms", "timeout_ms"), [("redis://h/0", 1000, 1000), ("redis://h/0?socket_timeout=0.05", 50, 50)]
)
def test_a_wait_that_reaches_the_timeout_is_named(url: str, wait_ms: int, timeout_ms: int, tmp_path: Path) -> None:
    settings = make_settings(tmp_path, url)
    message = rf"notification/v1: ring: wait_ms = {wait_ms}: must be less than .* {timeout_ms} ms"
    with pytest.raises(SpecError, match=message):
        open_rings(artifact_with(f"replicas: 1, wait_ms: {wait_ms}"), settings)
    open_rings(artifact_with(f"replicas: 1, wait_ms: {wait_ms - 1}"), settings).close()
    open_rings(artifact_with(f"replicas: 0, wait_ms: {wait_ms}"), settings).close()
