"""The REST API of a live server: bodies made to hurt, retries, callers at once, a store that stops, OpenAPI."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest
import yaml
from openapi_spec_validator import validate as validate_openapi

from contracts.settings import CHECKOUT
from serve import process
from serve.key_file import read_keys
from serve.redis_server import NAME as REDIS
from serve.torchserve import NAME as TORCHSERVE
from tests.workflows.conftest import Deployment, run

pytestmark = pytest.mark.integration

OPENAPI = yaml.safe_load((CHECKOUT / "docs" / "openapi.yaml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def http(deployment: Deployment) -> Iterator[httpx.Client]:
    record = process.read_record(deployment.settings.run_dir, TORCHSERVE)
    assert record is not None

    token = read_keys(Path(record.details["key_file"])).inference
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    with httpx.Client(headers=headers, timeout=120.0, trust_env=False) as client:
        yield client


def item(member: str, cycle: str, **more: Any) -> dict[str, Any]:
    candidate = {
        "notification_id": "n1",
        "type": "job",
        "eligible": ["none", "badge", "push"],
        "features": {"relevance": 0.5, "age_hours": 1.5},
    }
    return {"member_id": member, "cycle_id": cycle, "at": "2026-02-01T08:00:00Z", "candidates": [candidate], **more}


def conforms(document: object, name: str) -> None:
    schema = {"$ref": f"#/components/schemas/{name}", "components": OPENAPI["components"]}
    jsonschema.validate(document, schema)


def ask(http: httpx.Client, deployment: Deployment, *items: object) -> list[dict[str, Any]]:
    response = http.post(deployment.url, content=json.dumps({"decisions": items}))
    assert response.status_code == 200, response.text
    conforms(response.json(), "Response")
    answers: list[dict[str, Any]] = response.json()["decisions"]
    return answers


def test_the_openapi_document_is_valid() -> None:
    validate_openapi(OPENAPI)


def test_without_a_token_nothing_is_answered(deployment: Deployment) -> None:
    assert httpx.post(deployment.url, json={"decisions": [item("a", "b")]}, trust_env=False).status_code in {400, 401}


def test_statuses_conform_to_the_openapi_document(deployment: Deployment, http: httpx.Client) -> None:
    good = item("m000001", "conform")
    conforms({"decisions": [good]}, "Request")
    answers = ask(http, deployment, good, {"member_id": 3})
    assert [answer["status"] for answer in answers] == ["decided", "rejected"]
    assert [answer["status"] for answer in ask(http, deployment, good)] == ["replayed"]


def test_a_prompt_of_the_request_is_answered_with_its_quantile(deployment: Deployment, http: httpx.Client) -> None:
    (answer,) = ask(http, deployment, item("m000002", "prompt", prompt={"click": 0.9, "visit": {"value": 3.25}}))
    assert answer["prompt"] == {"click": 0.9, "visit": {"value": 3.25}, "volume": 0.7}
    assert answer["prompted_return"]["click"] == answer["quantiles"]["click"]["0.9"]
    assert answer["prompted_return"]["visit"] == 3.25


def test_an_unknown_member_is_decided(deployment: Deployment, http: httpx.Client) -> None:
    (answer,) = ask(http, deployment, item("nobody has this id", "c"))
    assert (answer["status"], answer["history_used"]) == ("decided", 0)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"push it",
        b"null",
        b"[1, 2]",
        b"{}",
        b'{"decisions": []}',
        b'{"decisions": 3}',
        b"\xff\xfe\x00",
        b"[" * 200_000,
        b"9" * 10_000,
        json.dumps({"decisions": [item("m", "c")] * 10_000}).encode(),
    ],
    ids=["empty", "text", "null", "list", "object", "none", "number", "binary", "deep", "digits", "10,000 items"],
)
def test_a_body_that_is_no_request_gets_400(deployment: Deployment, http: httpx.Client, body: bytes) -> None:
    response = http.post(deployment.url, content=body)
    assert response.status_code == 400
    conforms(response.json(), "Error")
    assert ask(http, deployment, item("m000003", "alive"))[0]["status"] in {"decided", "replayed"}


@pytest.mark.parametrize(
    "wrong",
    [
        item("m", "c", candidates=[]),
        item("m", "c", candidates=[{"notification_id": "n", "eligible": []}]),
        item("m", "c", candidates=[{"notification_id": "n", "eligible": ["none"], "features": {"relevance": 1e999}}]),
        item("m", "c", prompt={"click": 2}),
        item("m", "c", prompt={"clicks": 0.5}),
        item("m" * 5_000_000, "c"),
        item("m", "c", member_id={}),
        item("m", "c", at="yesterday"),
        None,
    ],
    ids=["no candidates", "no action", "infinity", "level 2", "no such reward", "5 MB", "object", "time", "null"],
)
def test_a_wrong_item_is_rejected_alone(deployment: Deployment, http: httpx.Client, wrong: object) -> None:
    answers = ask(http, deployment, wrong, item("m000004", "beside"))
    assert answers[0]["status"] == "rejected"
    assert answers[0]["reason"]
    assert answers[1]["status"] in {"decided", "replayed"}


def test_nan_in_an_item_is_rejected(deployment: Deployment, http: httpx.Client) -> None:
    body = json.dumps({"decisions": [item("m000005", "nan", prompt={"click": float("nan")})]})
    response = http.post(deployment.url, content=body)
    assert response.status_code == 200
    assert response.json()["decisions"][0]["status"] == "rejected"


def test_a_body_beyond_the_limit_does_not_harm_the_server(deployment: Deployment, http: httpx.Client) -> None:
    # The server may hang up before it has read so much.
    with contextlib.suppress(httpx.TransportError):
        assert http.post(deployment.url, content=b" " * 60_000_000).status_code == 413
    assert ask(http, deployment, item("m000006", "alive"))[0]["status"] in {"decided", "replayed"}


def test_callers_at_once_get_one_decision(deployment: Deployment, http: httpx.Client) -> None:
    barrier = threading.Barrier(16)
    answers: list[dict[str, Any]] = []

    def call() -> None:
        barrier.wait()
        answers.extend(ask(http, deployment, item("m000007", "at once")))

    threads = [threading.Thread(target=call) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answer["status"] for answer in answers) == ["decided"] + ["replayed"] * 15
    assert len({json.dumps(answer["probabilities"]) + answer["action"] for answer in answers}) == 1


def test_a_redis_that_stops_gives_fallbacks_and_the_cycle_can_be_asked_again(
    deployment: Deployment, http: httpx.Client
) -> None:
    record = process.read_record(deployment.settings.run_dir, REDIS)
    assert record is not None
    os.kill(record.identity.pid, signal.SIGSTOP)
    try:
        (answer,) = ask(http, deployment, item("m000008", "stopped"))
    finally:
        os.kill(record.identity.pid, signal.SIGCONT)
    assert (answer["status"], answer["action"]) == ("fallback", "none")
    assert answer["reason"]
    assert ask(http, deployment, item("m000008", "stopped"))[0]["status"] == "decided"


def test_the_main_jobs_summary(deployment: Deployment) -> None:
    summary = deployment.summary
    assert list(summary) == [
        "log_rows",
        "rejected_rows",
        "validation",
        "metrics",
        "decisions",
        "replayed",
        "history_used_max",
        "seconds",
    ]
    assert summary["validation"] == "passed"
    assert summary["decisions"] == 40
    assert summary["replayed"] == 8
    assert summary["history_used_max"] == 3
    metrics = summary["metrics"]
    assert isinstance(metrics, dict)
    assert metrics["illegal_action_rate"] == 0.0
    json.dumps(summary, allow_nan=False)


def test_a_failed_run_leaves_a_live_deployment_up(deployment: Deployment, http: httpx.Client, tmp_path: Path) -> None:
    done = run(deployment.settings.var, "--spec", deployment.spec_path, "--data", tmp_path / "nowhere")
    assert done.returncode == 1
    assert "nowhere" in done.stdout
    assert ask(http, deployment, item("m000009", "still up"))[0]["status"] == "decided"


def test_a_redis_that_stops_in_the_middle_of_many_appends_ends_no_worker(
    deployment: Deployment, http: httpx.Client
) -> None:
    record = process.read_record(deployment.settings.run_dir, REDIS)
    assert record is not None
    items = [item(f"many {k}", "stop") for k in range(300)]
    answers: list[dict[str, Any]] = []
    caller = threading.Thread(target=lambda: answers.extend(ask(http, deployment, *items)))
    caller.start()
    os.kill(record.identity.pid, signal.SIGSTOP)
    caller.join()
    os.kill(record.identity.pid, signal.SIGCONT)
    assert {answer["status"] for answer in answers} <= {"decided", "replayed", "fallback"}
    settled = ask(http, deployment, *items)
    assert {answer["status"] for answer in settled} <= {"decided", "replayed"}
    for before, after in zip(answers, settled, strict=True):
        if before["status"] != "fallback":
            assert after["status"] == "replayed"
            assert after["action"] == before["action"]
