"""Feast's own servers here: a push over HTTP is there at the next read, and the UI shows what is defined."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import httpx
import pytest

from contracts.settings import CHECKOUT, Settings
from feature_repo.deploy import materialize
from feature_repo.store import open_store
from tests.feature_repo.conftest import MEMBERS
from tests.feature_repo.tables import NOTIFICATION
from tests.feature_repo.test_ingest import LAST, read

pytestmark = pytest.mark.integration


@contextmanager
def feast_server(command: str, log: Path, *arguments: str) -> Iterator[httpx.Client]:
    """Run ``feast <command>`` as a person does inside feature_repo/, on a free port, until the block ends."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    feast = str(Path(sys.executable).with_name("feast"))
    line = [feast, command, "--host", "127.0.0.1", "--port", str(port), *arguments]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(CHECKOUT), os.environ.get("PYTHONPATH", "")])}
    with log.open("w") as output:
        server = subprocess.Popen(
            line, cwd=CHECKOUT / "feature_repo", env=environment, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60.0, trust_env=False) as client:
                while True:  # until it answers, or ends
                    assert server.poll() is None, log.read_text()
                    try:
                        client.get("/health")
                        break
                    except httpx.TransportError:
                        time.sleep(0.1)
                yield client
        finally:
            server.terminate()
            server.wait()


def test_a_row_posted_to_the_feature_server_is_there_at_the_next_read(on_repo: Settings, tmp_path: Path) -> None:
    materialize(NOTIFICATION, on_repo)
    names = [feature.name for feature in open_store(on_repo).get_feature_view("member_live").features]
    moment = LAST + timedelta(minutes=1)
    row = {"member_id": [MEMBERS[0]], "event_timestamp": [moment.isoformat()], **{name: [8] for name in names}}
    body = {"push_source_name": "member_live_push", "df": row, "to": "online"}
    with feast_server("serve", tmp_path / "serve.log") as client:
        answer = client.post("/push", json=body)
        assert answer.status_code == 200, answer.text
        assert read(on_repo, "visits_total", MEMBERS[:2]) == [8.0, 2.0]
        row["event_timestamp"] = [(moment - timedelta(seconds=1)).isoformat()]
        row["visits_total"] = [7]
        assert client.post("/push", json=body).status_code == 200
        assert read(on_repo, "visits_total", MEMBERS[:1]) == [8.0]  # a late row moves nothing back
        body["push_source_name"] = "member_live_psh"
        assert client.post("/push", json=body).status_code >= 400


def test_the_ui_serves_its_page_and_the_definitions(on_repo: Settings, tmp_path: Path) -> None:
    with feast_server("ui", tmp_path / "ui.log") as client:
        page = client.get("/")
        assert page.status_code == 200
        assert "<html" in page.text
        (project,) = client.get("/projects-list.json").json()["projects"]
        assert project["id"] == "pacer"
        for kind, name in (
            ("entities", "notification_type"),
            ("data_sources", "member_live_push"),
            ("feature_views", "member_live"),
            ("feature_views", "member_recency"),
            ("feature_services", "heartsteps_state_v1"),
        ):
            listed = client.get(f"{project['registryPath']}/{kind}", params={"project": "pacer"})
            assert listed.status_code == 200, listed.text
            assert f'"{name}"' in listed.text
