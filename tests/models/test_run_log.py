"""Training runs: an unfinished one is found again, and TensorBoard reads what was written."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from contracts.errors import SpecError
from contracts.spec import EarlyStopping, Model, Training
from models.config import FitConfig, dump_fit_config, load_fit_config
from models.run_log import SETTINGS, close_run, open_run, tensorboard
from models.training import CHECKPOINT, Progress

pytestmark = pytest.mark.unit

CONFIG = FitConfig(horizon=4, training=Training(seed=3, early_stopping=EarlyStopping(patience=1)))


def test_an_unfinished_run_goes_on_and_a_finished_one_does_not(tmp_path: Path) -> None:
    first = open_run(tmp_path, CONFIG, "data")
    assert open_run(tmp_path, CONFIG, "data") != first  # no checkpoint yet: nothing to go on from
    (first / CHECKPOINT).touch()
    assert open_run(tmp_path, CONFIG, "data") == first
    assert open_run(tmp_path, CONFIG, "other data") != first
    assert open_run(tmp_path, FitConfig(horizon=5), "data") != first
    close_run(first)
    assert open_run(tmp_path, CONFIG, "data") != first


def test_a_run_says_in_yaml_how_it_was_made(tmp_path: Path) -> None:
    about = yaml.safe_load((open_run(tmp_path, CONFIG, "abc") / SETTINGS).read_text())
    assert about["data_fingerprint"] == "abc"
    assert about["training"]["early_stopping"] == {"patience": 1, "share": 0.1}
    assert about["model"]["width"] == Model().width


def test_a_config_survives_yaml_and_a_wrong_key_is_named(tmp_path: Path) -> None:
    path = tmp_path / "fit.yaml"
    path.write_text(dump_fit_config(CONFIG))
    assert load_fit_config(path) == CONFIG
    path.write_text("horizon: 4\ntraining: {epoch: 3}\n")
    with pytest.raises(SpecError, match=r"fit.yaml: training.epoch: unknown key; did you mean 'epochs'"):
        load_fit_config(path)
    path.write_text("context_length: 0\n")
    with pytest.raises(SpecError, match="context_length = 0"):
        load_fit_config(path)
    with pytest.raises(SpecError, match=r"absent.yaml"):
        load_fit_config(tmp_path / "absent.yaml")


def test_tensorboard_reads_the_log_of_a_run_that_was_resumed(tmp_path: Path) -> None:
    def progress(step: int, loss: float, watched: float | None = None) -> Progress:
        return Progress(step, 4, 1, loss, 2.0, 1e-3, watched)

    with tensorboard(tmp_path) as write:
        for step in (1, 2, 3):
            write(progress(step, 10.0))
    with tensorboard(tmp_path) as write:
        for step in (3, 4):
            write(progress(step, 5.0, watched=7.0 if step == 4 else None))
    log = EventAccumulator(str(tmp_path)).Reload()
    losses = {event.step: event.value for event in log.Scalars("loss/action")}
    assert losses == {1: 10.0, 2: 10.0, 3: 5.0, 4: 5.0}
    assert [(event.step, event.value) for event in log.Scalars("loss/watched")] == [(4, 7.0)]
    assert {"loss/return_to_go", "learning_rate", "epoch"} <= set(log.Tags()["scalars"])
