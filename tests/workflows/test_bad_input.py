"""The main job on bad input: it stops with a message that names the thing, before it harms anything."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from contracts.settings import CHECKOUT
from contracts.spec import load_spec
from simulator.log import simulate
from tests.workflows.conftest import run

pytestmark = pytest.mark.integration

NOTIFICATION = CHECKOUT / "specs" / "notification.yaml"


def spec_with(tmp_path: Path, old: str, new: str) -> Path:
    text = NOTIFICATION.read_text(encoding="utf-8")
    assert old in text
    path = tmp_path / "mine.yaml"
    path.write_text(text.replace(old, new), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("log") / "data"
    simulate(folder, load_spec(NOTIFICATION), 20, 3, seed=1, progress=False)
    return folder


def copy_with(data: Path, tmp_path: Path, change: pl.Expr) -> Path:
    broken = tmp_path / "broken"
    (broken / "features").mkdir(parents=True)
    pl.read_parquet(data / "decisions.parquet").with_columns(change).write_parquet(broken / "decisions.parquet")
    for table in (data / "features").iterdir():
        (broken / "features" / table.name).write_bytes(table.read_bytes())
    return broken


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("horizon: 16", "horizn: 16", "did you mean 'horizon'"),
        ("[0.1, 0.25,", "[0.25, 0.1,", "quantiles"),
        ("prompt: {click: 0.7", "prompt: {clicks: 0.7", "did you mean 'click'"),
        ("context_length: 4", "context_length: 20", "exceeds ring capacity 16"),
    ],
)
def test_a_wrong_spec_stops_at_once(tmp_path: Path, old: str, new: str, named: str) -> None:
    done = run(tmp_path / "var", "--spec", spec_with(tmp_path, old, new))
    assert done.returncode == 1
    assert named in done.stdout
    assert "mine.yaml" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def test_a_misspelt_feature_stops_before_training(tmp_path: Path, data: Path) -> None:
    spec = spec_with(tmp_path, "grows_with: sends_24h", "grows_with: sends_42h")
    done = run(tmp_path / "var", "--spec", spec, "--data", data)
    assert done.returncode == 1
    assert "did you mean 'sends_24h'" in done.stdout
    assert not (tmp_path / "var" / "notification" / "training_set").exists()


def test_heartsteps_without_data_says_what_to_type(tmp_path: Path) -> None:
    done = run(tmp_path / "var", "--spec", CHECKOUT / "specs" / "heartsteps.yaml")
    assert done.returncode == 1
    assert "DATA=" in done.stdout


def test_data_that_is_not_there_is_named(tmp_path: Path) -> None:
    done = run(tmp_path / "var", "--spec", NOTIFICATION, "--data", tmp_path / "nowhere")
    assert done.returncode == 1
    assert "nowhere" in done.stdout


def test_too_many_rejects_stop_the_run_and_are_kept(tmp_path: Path, data: Path) -> None:
    broken = copy_with(data, tmp_path, pl.lit(2.0).alias("propensity"))
    done = run(tmp_path / "var", "--spec", NOTIFICATION, "--data", broken)
    assert done.returncode == 1
    assert "propensity" in done.stdout
    rejects = pl.read_csv(tmp_path / "var" / "notification" / "log" / "rejects.csv", infer_schema=False)
    assert len(rejects) == len(pl.read_parquet(data / "decisions.parquet"))


def test_a_failed_gate_stops_the_run_and_names_expectation_and_rows(tmp_path: Path, data: Path) -> None:
    # A penalty above zero keeps the log's contract, and makes no sense.
    broken = copy_with(
        data, tmp_path, pl.when(pl.int_range(pl.len()) == 5).then(3.0).otherwise("reward_volume").alias("reward_volume")
    )
    done = run(tmp_path / "var", "--spec", NOTIFICATION, "--data", broken)
    assert done.returncode == 1
    assert "reward_volume" in done.stdout
    assert "row " in done.stdout
    assert (tmp_path / "var" / "notification" / "validation").is_dir()
    assert not (tmp_path / "var" / "notification" / "training_set").exists()
