"""Served equals offline: REST, the engine called directly, and the training side give the same probabilities."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from contracts.api import encode
from contracts.settings import load_settings
from feature_repo.deploy import apply
from feature_repo.online_reader import OnlineReader
from feature_repo.training_set import build_training_set
from importers.run import run_import
from models.artifact import Artifact, load_artifact, newest_artifact
from models.decision_table import TrainingSet
from models.prompts import make_prompts
from models.training_data import encode as encode_table
from sequence_store.memory_ring import MemoryRingStore
from sequence_store.redis_ring import RedisRingStore
from serve.drain import drain
from serve.engine import Engine
from serve.history import layout_of
from serve.rings import open_rings
from serve.skew import check_skew
from tests.workflows.conftest import DAYS, Deployment

pytestmark = pytest.mark.integration

MEMBERS = 200
CYCLES = 5
START = datetime(2026, 1, 5, tzinfo=UTC) + timedelta(days=DAYS)  # where the simulator's log ends
Probabilities = dict[tuple[str, str], dict[str, float]]


def body(cycle: int) -> dict[str, Any]:
    """One request for all members; what is eligible, the candidates and the gaps differ from one to the next."""
    rng = np.random.default_rng(cycle)
    items = []
    for member in range(MEMBERS):
        eligible = [["none", "badge", "push"], ["none", "badge"], ["none"]][rng.choice(3, p=[0.7, 0.2, 0.1])]
        candidates = [
            {
                "notification_id": f"n{cycle}-{k}",
                "type": str(rng.choice(["social", "job", "news", "a type never seen"])),
                "eligible": eligible,
                "features": {"relevance": float(rng.uniform()), "age_hours": float(rng.exponential(8))},
            }
            for k in range(rng.integers(1, 4))
        ]
        at = START + timedelta(hours=3 * cycle, seconds=int(rng.integers(0, 3000)))
        items.append(
            {"member_id": f"m{member:06}", "cycle_id": f"c{cycle}", "at": at.isoformat(), "candidates": candidates}
        )
    return {"decisions": items}


def by_cycle(answers: list[Mapping[str, Any]]) -> Probabilities:
    assert {answer["status"] for answer in answers} == {"decided"}
    return {(answer["member_id"], answer["cycle_id"]): answer["probabilities"] for answer in answers}


@pytest.fixture(scope="module")
def artifact(deployment: Deployment) -> Artifact:
    return load_artifact(newest_artifact(deployment.settings.workspace(deployment.spec.name).artifacts))


@pytest.fixture(scope="module")
def served(deployment: Deployment) -> Probabilities:
    """What REST answers, on rings that begin empty."""
    with store(deployment) as rings:
        rings.empty()
        drain(rings, deployment.spec, deployment.settings.var / "discarded")
    with deployment.client() as client:
        answers = [
            answer
            for cycle in range(CYCLES)
            for answer in client.decide(deployment.spec.name, body(cycle))["decisions"]
        ]
    assert [answer["history_used"] for answer in answers[::MEMBERS]] == [0, 1, 2, 3, 3]
    return by_cycle(answers)


def store(deployment: Deployment) -> RedisRingStore:
    artifacts = deployment.settings.workspace(deployment.spec.name).artifacts
    return open_rings(load_artifact(newest_artifact(artifacts)), deployment.settings)


def test_rest_equals_the_engine_called_directly(
    deployment: Deployment, artifact: Artifact, served: Probabilities
) -> None:

    ring = deployment.spec.ring
    rings = MemoryRingStore(deployment.spec.name, layout_of(artifact), ring.capacity, ring.ttl_days)
    reader = OnlineReader.open(deployment.spec.state.feature_service, deployment.settings)
    engine = Engine(artifact, reader, rings)
    replies = [engine.answer([encode(body(cycle))])[0] for cycle in range(CYCLES)]
    direct = by_cycle([answer for reply in replies for answer in json.loads(reply.body)["decisions"]])
    assert_equal(served, direct)


def test_rest_equals_the_training_side_on_the_log_that_serving_wrote(
    deployment: Deployment, artifact: Artifact, served: Probabilities, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "next-day"
    with store(deployment) as rings:
        assert drain(rings, deployment.spec, data / "decisions") == MEMBERS * CYCLES
        assert drain(rings, deployment.spec, data / "decisions") == 0
    skew = check_skew(deployment.spec, deployment.settings, data / "decisions")
    assert (skew.decisions, skew.skipped, skew.differing) == (MEMBERS * CYCLES, 0, {})
    shutil.copytree(deployment.data / "features", data / "features")
    monkeypatch.setenv("PACER_VAR", str(tmp_path / "var"))
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1")  # the training side needs none
    settings = load_settings()
    report = run_import(deployment.spec, data, settings.workspace(deployment.spec.name))
    assert (report.log.rows, report.log.rejected) == (MEMBERS * CYCLES, 0)
    apply(settings)
    build_training_set(deployment.spec, settings, progress=False)
    table = TrainingSet.open(settings.workspace(deployment.spec.name).training_set, deployment.spec).whole()
    trajectories = encode_table(table, deployment.spec, artifact.encoder, artifact.utility)
    steps = trajectories.windows(np.arange(len(trajectories)), deployment.spec.context_length)
    prompts = make_prompts(deployment.spec.reward_names, [deployment.spec.prompt] * len(steps))
    probabilities = artifact.policy.decide(steps, prompts).probabilities
    offline = {
        (member, f"c{cycle}"): dict(zip(deployment.spec.actions, row.tolist(), strict=True))
        for (member, cycle), row in zip(
            ((member, cycle) for member in table.member_ids for cycle in range(CYCLES)), probabilities, strict=True
        )
    }
    assert_equal(served, offline)


def assert_equal(one: Probabilities, other: Probabilities) -> None:
    assert one.keys() == other.keys()
    assert len(one) == MEMBERS * CYCLES
    for key in one:
        assert one[key] == pytest.approx(other[key], abs=1e-5), key
