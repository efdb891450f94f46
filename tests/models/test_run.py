"""A fit from one YAML file: the policy it leaves, the run it says, and clear errors."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from models import Policy
from models.__main__ import main
from models.trajectory_files import TrajectoryWriter
from tests.models.problems import two_arm_trajectories

pytestmark = pytest.mark.unit

SETTINGS = """
horizon: 4
quantiles: [0.25, 0.75]
context_length: 3
model: {width: 16, heads: 2, layers: 1}
training: {epochs: 2, batch_size: 64}
"""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    with TrajectoryWriter(tmp_path / "data") as writer:
        writer.append(two_arm_trajectories(members=20, length=12))
    (tmp_path / "run.yaml").write_text(SETTINGS)
    return tmp_path / "data"


def run(data: Path) -> int:
    folder = data.parent
    return main(["fit", str(folder / "run.yaml"), "--trajectories", str(data), "--out", str(folder / "runs")])


def test_a_fit_leaves_a_policy_and_says_where(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(data) == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    policy = Policy.load(Path(said["policy"]))
    decided = policy.act(policy.new_history(), [0.0, 0.0], None, [0.75, 0.5])
    assert np.isfinite(decided.probabilities).all()
    names = {path.name.split(".")[0] for path in Path(said["run"]).iterdir()}
    assert names == {"run", "events", "policy"}  # and no checkpoint: the run is finished
    assert run(data) == 0
    assert len(list((data.parent / "runs").iterdir())) == 2


def test_wrong_settings_and_missing_data_are_named(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (data.parent / "run.yaml").write_text("horizon: 40\n")
    assert run(data) == 1
    assert "full look-ahead of 40" in " ".join(capsys.readouterr().err.split())
    (data.parent / "run.yaml").write_text("horizons: 4\n")
    assert run(data) == 1
    assert "did you mean 'horizon'" in " ".join(capsys.readouterr().err.split())
    (data.parent / "run.yaml").write_text(SETTINGS)
    (data / "actions.npy").unlink()
    assert run(data) == 1
    assert "actions.npy is missing" in " ".join(capsys.readouterr().err.split())
