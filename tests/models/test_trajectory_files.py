"""Trajectories in files: what comes back is what was written, whatever the parts; half a file is named."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.trajectories import Trajectories, concatenate
from models.trajectory_files import FIELDS, TrajectoryWriter, open_trajectories
from tests.models.problems import two_arm_trajectories

pytestmark = pytest.mark.unit


def write(folder: Path, parts: list[Any]) -> None:
    with TrajectoryWriter(folder) as writer:
        for part in parts:
            writer.append(part)


@given(sizes=st.lists(st.tuples(st.integers(1, 5), st.integers(1, 7)), min_size=1, max_size=4))
@settings(max_examples=20, deadline=None)
def test_what_is_read_is_what_was_written(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[tuple[int, int]]
) -> None:
    parts = [two_arm_trajectories(members, length, seed) for seed, (members, length) in enumerate(sizes)]
    folder = tmp_path_factory.mktemp("written") / "trajectories"
    write(folder, parts)
    found, whole = open_trajectories(folder), concatenate(parts)
    for name in (*FIELDS, "starts", "has_ended"):
        np.testing.assert_array_equal(getattr(found, name), getattr(whole, name))
        assert getattr(found, name).dtype == getattr(whole, name).dtype


def test_an_error_leaves_what_was_there_and_no_half(tmp_path: Path) -> None:
    folder = tmp_path / "trajectories"
    write(folder, [two_arm_trajectories(3, 4)])
    parts = [two_arm_trajectories(2, 4), None]
    with pytest.raises(AttributeError):
        write(folder, parts)
    assert len(open_trajectories(folder)) == 12
    assert [path.name for path in tmp_path.iterdir()] == ["trajectories"]
    write(folder, [two_arm_trajectories(2, 4)])
    assert len(open_trajectories(folder)) == 8
    assert [path.name for path in tmp_path.iterdir()] == ["trajectories"]


def test_parts_of_unlike_widths_are_refused(tmp_path: Path) -> None:
    one = two_arm_trajectories(2, 4)
    wider = Trajectories(np.zeros((8, 3), np.float32), one.actions, one.eligible, one.rewards, one.times_ms, one.starts)
    with pytest.raises(ValueError, match="states of this partition"):
        write(tmp_path / "t", [one, wider])


@pytest.mark.parametrize("name", [*FIELDS, "starts", "ended"])
def test_half_a_file_and_no_file_are_named(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "trajectories"
    write(folder, [two_arm_trajectories(30, 40)])
    path = folder / f"{name}.npy"
    path.write_bytes(path.read_bytes()[:150])
    with pytest.raises(ValueError, match=f"{name}.npy is not a whole"):
        open_trajectories(folder)
    path.unlink()
    with pytest.raises(ValueError, match=f"{name}.npy is missing"):
        open_trajectories(folder)


PEAK = """
import resource, sys
from pathlib import Path
import numpy as np
from contracts.spec import Model, Training
from models.config import FitConfig
from models.training import fit
from models.trajectory_files import TrajectoryWriter, open_trajectories
from models.trajectories import Trajectories

folder, parts = Path(sys.argv[1]), int(sys.argv[2])
rows, length = 40_000, 20
with TrajectoryWriter(folder) as writer:
    for part in range(parts):
        random = np.random.default_rng(part)
        writer.append(Trajectories(
            random.normal(size=(rows, 500)).astype(np.float32),
            random.integers(0, 2, rows),
            np.ones((rows, 2), np.bool_),
            random.normal(size=(rows, 1)).astype(np.float32),
            np.tile(np.arange(length) * 1000, rows // length),
            np.arange(rows // length + 1) * length,
        ))
        del random
resource.setrlimit(resource.RLIMIT_DATA, (int(sys.argv[3]) * 2**20,) * 2)
config = FitConfig(4, 0.9, (0.5,), 2, Model(width=8, layers=1, heads=1), Training(epochs=1, batch_size=4096))
fit(open_trajectories(folder), config)
"""


def test_a_log_larger_than_the_memory_allowed_is_fitted(tmp_path: Path) -> None:
    """1.2 GB of states under a limit of 1,000 MiB of data for the whole process, PyTorch's own included."""
    done = subprocess.run(
        [sys.executable, "-c", PEAK, str(tmp_path / "t"), "15", "1000"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
