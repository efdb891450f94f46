"""The commands: what they print, and that an error is a message and an exit code."""

from __future__ import annotations

from pathlib import Path

import pytest

from contracts.settings import CHECKOUT
from serve.__main__ import main

pytestmark = pytest.mark.integration

SPEC = str(CHECKOUT / "specs" / "notification.yaml")


@pytest.fixture(autouse=True)
def var(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PACER_VAR", str(tmp_path))
    monkeypatch.delenv("REDIS_URL", raising=False)
    return tmp_path


def test_status_and_down_where_nothing_runs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status"]) == 0
    assert capsys.readouterr().out == "redis: down\ntorchserve: down\n"
    assert main(["down"]) == 0
    assert capsys.readouterr().out == "TorchServe: did not run\nRedis: did not run\n"


@pytest.mark.parametrize(
    ("arguments", "way_out"),
    [
        (["archive", "--spec", SPEC], "make train"),
        (["archive", "--spec", "none.yaml"], "specs/"),
        (["deploy", "--spec", SPEC], "make up"),
        (["decide", "--spec", SPEC, "none.json"], "none.json"),
    ],
)
def test_a_step_taken_too_early_says_what_comes_first(
    arguments: list[str], way_out: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 1
    assert way_out in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "[]", "{", "\xff"])
def test_a_request_file_that_holds_no_object_is_named(
    tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    request = tmp_path / "request.json"
    request.write_text(text, encoding="latin-1")
    assert main(["decide", "--spec", SPEC, str(request)]) == 1
    assert "request.json" in capsys.readouterr().err


def test_a_request_without_a_server_says_how_to_start_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "request.json").write_text("{}")
    assert main(["decide", "--spec", SPEC, str(tmp_path / "request.json")]) == 1
    assert "make up" in capsys.readouterr().err
