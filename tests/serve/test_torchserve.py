"""TorchServe on real archives: up, closed to strangers, alive after garbage, quick to say why a model cannot load."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest

from contracts.errors import ArtifactError, RequestError, ServerError
from contracts.settings import Settings
from serve import process
from serve.client import Client
from serve.key_file import read_keys
from serve.torchserve import RunningTorchServe, start_torchserve, stop_torchserve
from serve.torchserve_config import TorchServeConfig
from tests.serve.conftest import make_settings

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def shared_settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    # Awkward on purpose: a space, a letter beyond ASCII, too long for the path of a socket.
    settings = make_settings(tmp_path_factory.mktemp("a checkout ü") / ("long" * 20))
    yield settings
    stop_torchserve(settings)


@pytest.fixture(scope="module")
def server(shared_settings: Settings, archives: dict[str, Path]) -> RunningTorchServe:
    server = start_torchserve(shared_settings, {"echo": archives["echo"]}, die_with_parent=True)
    server.wait_ready("echo")
    return server


@pytest.fixture
def client(server: RunningTorchServe, shared_settings: Settings) -> Iterator[Client]:
    with Client.from_settings(shared_settings) as client:
        yield client


def post(server: RunningTorchServe, content: bytes, content_type: str = "application/json") -> httpx.Response:
    token = read_keys(server.key_file).inference
    headers = {b"Authorization": f"Bearer {token}".encode(), b"Content-Type": content_type.encode()}
    return httpx.post(f"{server.url}/predictions/echo", content=content, headers=headers, timeout=60, trust_env=False)


def test_a_request_with_the_token_is_answered_by_the_tenants_worker(client: Client, shared_settings: Settings) -> None:
    reply = client.decide("echo", {"decisions": [1]})
    assert (reply["tenant"], reply["var"]) == ("echo", str(shared_settings.var))


@pytest.mark.parametrize("path", ["/predictions/echo", "/ping", "/models/echo/invoke"])
@pytest.mark.parametrize("token", [None, "Bearer wrong", "wrong"])
def test_without_the_token_nothing_is_answered(server: RunningTorchServe, path: str, token: str | None) -> None:
    headers = {"Authorization": token} if token else {}
    reply = httpx.post(server.url + path, content=b"{}", headers=headers, trust_env=False)
    assert (reply.status_code, reply.json()["type"]) == (400, "InvalidKeyException")


def test_no_model_can_be_brought_in_over_rest(server: RunningTorchServe, archives: dict[str, Path]) -> None:
    key = json.loads(server.key_file.read_text())["management"]["key"]
    headers = {"Authorization": f"Bearer {key}"}
    for url in ("https://example.invalid/x.mar", archives["broken"].as_uri(), "echo.mar"):
        reply = httpx.post(f"{server.management_url}/models", params={"url": url}, headers=headers, trust_env=False)
        assert reply.status_code >= 400
    reply = httpx.delete(f"{server.management_url}/models/echo", headers=headers, trust_env=False)
    assert reply.status_code >= 400


def test_only_this_machine_and_this_user_can_reach_it(server: RunningTorchServe) -> None:
    listening = [each for each in psutil.Process(server.pid).net_connections() if each.status == psutil.CONN_LISTEN]
    assert {each.laddr.ip for each in listening} <= {"127.0.0.1", "::ffff:127.0.0.1"}
    assert server.key_file.stat().st_mode & 0o077 == 0
    assert server.log.parent.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"\xff\xfe", b"[" * 100_000, b'"' + b"x" * 5_000_000 + b'"', b'{"a": NaN', b"\x00" * 10],
    ids=["empty", "cut off", "no UTF-8", "deep", "5 MB", "NaN", "zeros"],
)
@pytest.mark.parametrize("kind", ["application/json", "text/plain; charset=x", "multipart/form-data", "", "ü"])
def test_garbage_is_answered_and_leaves_the_worker_alive(
    server: RunningTorchServe, client: Client, body: bytes, kind: str
) -> None:
    before = client.decide("echo", {})["pid"]
    reply = post(server, body, kind)
    assert reply.status_code in {200, 400, 500}
    assert client.decide("echo", {})["pid"] == before


def test_a_body_over_the_limit_is_refused_as_too_large(server: RunningTorchServe, client: Client) -> None:
    assert post(server, b"x" * (TorchServeConfig().max_request_bytes + 1)).status_code == 413
    with pytest.raises(RequestError, match="larger than the server takes"):
        client.decide("echo", {"text": "x" * TorchServeConfig().max_request_bytes})


def test_a_refused_body_is_a_request_error_with_the_field(client: Client) -> None:
    with pytest.raises(RequestError, match=r"^decisions: empty$"):
        client.decide("echo", {"decisions": []})
    with pytest.raises(RequestError, match="JSON"):
        client.decide("echo", {"x": float("nan")})


def test_a_tenant_that_is_not_deployed_is_an_error_with_the_way_out(client: Client) -> None:
    with pytest.raises(ServerError, match=r"no tenant 'other'.*make deploy"):
        client.decide("other", {})


def test_an_answer_that_takes_too_long_is_an_error(server: RunningTorchServe) -> None:
    with (
        Client(server.url, server.key_file, timeout_s=0.2) as hasty,
        pytest.raises(ServerError, match=r"no answer in 0\.2 s"),
    ):
        hasty.decide("echo", {"sleep_s": 1})


def test_a_token_is_enough_and_a_wrong_one_is_named(server: RunningTorchServe) -> None:
    with Client(server.url, read_keys(server.key_file).inference) as client:
        assert client.decide("echo", {})["tenant"] == "echo"
    with Client(server.url, "wrong") as client, pytest.raises(ServerError, match="refuses the token"):
        client.decide("echo", {})


def test_a_token_that_another_client_renewed_is_read_again(server: RunningTorchServe, client: Client) -> None:
    client.decide("echo", {})
    headers = {"Authorization": f"Bearer {read_keys(server.key_file).api}"}
    httpx.get(f"{server.management_url}/token", params={"type": "inference"}, headers=headers, trust_env=False)
    assert client.decide("echo", {})["tenant"] == "echo"


def test_a_killed_worker_is_replaced(server: RunningTorchServe, client: Client) -> None:
    first = int(client.decide("echo", {})["pid"])
    os.kill(first, signal.SIGKILL)
    server.wait_ready("echo")
    assert client.decide("echo", {})["pid"] != first


Small = tuple[RunningTorchServe, Settings]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, archives: dict[str, Path]) -> Iterator[Small]:
    """A second TorchServe at the same time: two tenants, one of them broken, a short queue, a token of seconds."""
    settings = make_settings(tmp_path_factory.mktemp("small") / "var")
    config = TorchServeConfig(job_queue_size=1, batch_size=1, token_expiration_min=0.05)
    yield start_torchserve(settings, archives, die_with_parent=True, config=config), settings
    stop_torchserve(settings)


def test_a_model_that_cannot_load_is_reported_in_its_own_words(small: Small) -> None:
    server, _ = small
    with pytest.raises(ServerError, match=r"'broken': OSError: model.safetensors is cut off") as caught:
        server.wait_ready("broken")
    assert "Traceback" in str(caught.value)
    server.wait_ready("echo")


def test_a_token_that_ran_out_is_renewed_and_a_busy_server_asked_again(
    small: Small,
) -> None:
    server, settings = small
    server.wait_ready("echo")
    with Client.from_settings(settings) as client:
        client.decide("echo", {})
        while post(server, b"{}").status_code != 400:
            pass
        # Eight callers, one worker, room for one to wait: TorchServe answers most of them 503 at first.
        with ThreadPoolExecutor(8) as pool:
            replies = list(pool.map(lambda _: client.decide("echo", {"sleep_s": 0.02}), range(8)))
    assert len(replies) == 8


STARTER = """
import sys, time
from pathlib import Path
from serve.torchserve import start_torchserve
from tests.serve.conftest import make_settings
server = start_torchserve(make_settings(Path(sys.argv[1])), {"echo": Path(sys.argv[2])}, die_with_parent=True)
server.wait_ready("echo")
print(server.pid, flush=True)
time.sleep(600)
"""


def test_after_a_killed_run_nothing_is_left_for_the_next_to_trip_over(
    settings: Settings, archives: dict[str, Path]
) -> None:
    command = [sys.executable, "-c", STARTER, str(settings.var), str(archives["echo"])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        java = psutil.Process(int(parent.stdout.readline()))
        family = [process.Identity.of(each.pid) for each in (java, *java.children(recursive=True))]
        assert len(family) > 1
        parent.kill()
    server = start_torchserve(settings, {"echo": archives["echo"]}, die_with_parent=True)
    assert [each.process() for each in family] == [None] * len(family)
    server.wait_ready("echo")
    assert stop_torchserve(settings)
    assert process.read_record(settings.run_dir, "torchserve") is None
    with pytest.raises(ServerError, match="make up"):
        Client.from_settings(settings)


def test_a_server_that_died_is_not_waited_for(settings: Settings, archives: dict[str, Path]) -> None:
    server = start_torchserve(settings, {"echo": archives["echo"]}, die_with_parent=True)
    os.kill(server.pid, signal.SIGKILL)
    with pytest.raises(ServerError, match="went away with TorchServe"):
        server.wait_ready("echo")


def test_a_java_home_without_java_is_named(settings: Settings, archives: dict[str, Path], tmp_path: Path) -> None:
    wrong = dataclasses.replace(settings, java_home=tmp_path)
    with pytest.raises(ServerError, match=r"JAVA_HOME=.*unset it"):
        start_torchserve(wrong, archives, die_with_parent=True)


def test_a_file_that_is_no_archive_is_refused_before_anything_starts(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "x.mar").write_bytes(b"no zip")
    with pytest.raises(ArtifactError, match=r"x\.mar"):
        start_torchserve(settings, {"x": tmp_path / "x.mar"}, die_with_parent=True)


def test_a_server_that_is_not_there_is_an_error_with_the_way_out() -> None:
    (port,) = process.free_ports(1)
    with Client(f"http://127.0.0.1:{port}", "token") as client, pytest.raises(ServerError, match="make up"):
        client.decide("echo", {})
