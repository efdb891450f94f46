"""The commands on a small workspace: train, evaluate, prompts; their files, their last line, what they refuse."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from contracts.settings import Workspace, load_settings
from contracts.spec import Spec, dump_spec, load_spec
from models.__main__ import main
from models.artifact import newest_artifact
from tests.models.test_training_data import table, write
from tests.serve.deployment import spec_with

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def var(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("var")


@pytest.fixture(scope="module")
def spec_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    spec = spec_with(("horizon: 16", "horizon: 4"), ("[0.1, 0.25, 0.5, 0.7, 0.8, 0.9, 0.95]", "[0.25, 0.5, 0.75]"))
    spec = dataclasses.replace(
        spec,
        training=dataclasses.replace(spec.training, epochs=1),
        cohorts={"keen": {"click": 0.9}},
    )
    path = tmp_path_factory.mktemp("spec") / "spec.yaml"
    path.write_text(dump_spec(spec))
    return path


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any], str]:
    code = main(list(arguments))
    said = capsys.readouterr()
    document = json.loads(said.out.splitlines()[-1]) if code == 0 else {}
    return code, document, " ".join(said.err.split())


@pytest.fixture
def workspace(
    var: Path, spec_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Workspace:
    """A trained one, made once."""
    monkeypatch.setenv("PACER_VAR", str(var))
    made = load_settings().workspace(load_spec(spec_path).name)
    if not made.artifacts.exists():
        made.root.mkdir(parents=True, exist_ok=True)
        write(made.training_set, table(members=10, rows=12))
        assert run(capsys, "train", "--spec", str(spec_path))[0] == 0
    return made


def test_evaluate_writes_the_report_beside_the_artifact(
    workspace: Workspace, spec_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, document, said = run(capsys, "evaluate", "--spec", str(spec_path))
    assert code == 0
    folder = workspace.reports / newest_artifact(workspace.artifacts).name
    assert json.loads((folder / "report.json").read_text()) == document
    page = (folder / "report.html").read_text()
    # Pinball, coverage, two of calibration a reward, four of prompts a reward.
    assert page.count("<svg") == 2 + 3 * 2 + 3 * 4
    assert f"{document['metrics']['accuracy']:.4f}" in page
    assert "report.html" in said
    assert "clustered by member" in said
    metrics = json.loads((newest_artifact(workspace.artifacts) / "metrics.json").read_text())
    assert document["metrics"]["accuracy"] == metrics["accuracy"]
    assert document["metrics"]["coverage"] == metrics["coverage"]
    assert document["metrics"]["utility"] == metrics["utility"]


def test_prompts_shows_levels_cohorts_and_a_requests_own(
    workspace: Workspace, spec_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = '{"visit": {"value": 2.5}}'
    code, document, said = run(capsys, "prompts", "--spec", str(spec_path), "--prompt", own)
    assert code == 0
    assert document["monotone"] is True
    assert list(document["prompts"]) == ["deployment", "cohort keen", own]
    assert document["prompts"][own]["predicted"]["visit"] == 2.5
    click = [row["predicted"] for row in document["rewards"]["click"]["levels"]]
    assert click == sorted(click)
    assert "histogram" not in document["rewards"]["click"]["levels"][0]
    assert "prompts.html" in said
    assert (workspace.reports / newest_artifact(workspace.artifacts).name / "prompts.html").is_file()


def test_a_wrong_prompt_is_named(workspace: Workspace, spec_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, said = run(capsys, "prompts", "--spec", str(spec_path), "--prompt", '{"clik": 0.5}')
    assert code == 1
    assert "did you mean 'click'" in said


def changed(spec_path: Path, folder: Path, spec: Spec) -> Path:
    path = folder / spec_path.name
    path.write_text(dump_spec(spec))
    return path


def test_a_spec_that_changed_since_is_said_so(
    workspace: Workspace, spec_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = dataclasses.replace(load_spec(spec_path), discount=0.5, deadlines_ms=load_spec(spec_path).deadlines_ms)
    code, _, said = run(capsys, "prompts", "--spec", str(changed(spec_path, tmp_path, spec)))
    assert code == 0
    assert "(discount)" in said


def test_a_training_set_made_anew_is_refused(
    workspace: Workspace, spec_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(workspace.training_set, table(members=11, rows=12))
    try:
        code, _, said = run(capsys, "evaluate", "--spec", str(spec_path))
        assert code == 1
        assert "train anew" in said
    finally:
        write(workspace.training_set, table(members=10, rows=12))


def test_no_artifact_is_said_so(
    spec_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PACER_VAR", str(tmp_path))
    code, _, said = run(capsys, "evaluate", "--spec", str(spec_path))
    assert code == 1
    assert "make train" in said
