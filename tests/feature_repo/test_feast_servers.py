"""Feast's own servers here: a push over HTTP is there at the next read, and the UI shows what is defined."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import threading
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
def feast_server(command: str) -> Iterator[httpx.Client]:
    """Run ``feast <command>`` as a person does inside feature_repo/, on a free port, until the block ends."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    feast = str(Path(sys.executable).with_name("feast"))
    line = [feast, command, "--host", "127.0.0.1", "--port", str(port)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(CHECKOUT), os.environ.get("PYTHONPATH", "")])}
    with subprocess.Popen(
        line,
        cwd=CHECKOUT / "feature_repo",
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as server:
        assert server.stdout is not None
        try:
            said = []
            for text in server.stdout:  # ends when the server does
                said.append(text)
                if re.search(rf"(listening at|running on):? {address}", text, re.IGNORECASE):
                    break
            else:
                pytest.fail("".join(said))
            # A pipe that nobody reads would fill up and stop the server.
            threading.Thread(target=server.stdout.read, daemon=True).start()
            with httpx.Client(base_url=address, timeout=60.0, trust_env=False) as client:
                yield client
        finally:
            server.terminate()
            server.wait()


def test_a_row_posted_to_the_feature_server_is_there_at_the_next_read(on_repo: Settings) -> None:
    materialize(NOTIFICATION, on_repo)
    names = [feature.name for feature in open_store(on_repo).get_feature_view("member_live").features]
    moment = LAST + timedelta(minutes=1)
    row = {"member_id": [MEMBERS[0]], "event_timestamp": [moment.isoformat()], **{name: [8] for name in names}}
    body = {"push_source_name": "member_live_push", "df": row, "to": "online"}
    with feast_server("serve") as client:
        answer = client.post("/push", json=body)
        assert answer.status_code == 200, answer.text
        assert read(on_repo, "visits_total", MEMBERS[:2]) == [8.0, 2.0]
        row["event_timestamp"] = [(moment - timedelta(seconds=1)).isoformat()]
        row["visits_total"] = [7]
        assert client.post("/push", json=body).status_code == 200
        assert read(on_repo, "visits_total", MEMBERS[:1]) == [8.0]  # a late row moves nothing back
        body["push_source_name"] = "member_live_psh"
        assert client.post("/push", json=body).status_code >= 400


def test_the_ui_serves_its_page_and_the_definitions(on_repo: Settings) -> None:
    with feast_server("ui") as client:
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
