"""From Parquet parts to trajectories: order, members, predicted rewards in the place of their labels, clear errors."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from contracts.errors import LogError
from contracts.settings import CHECKOUT
from contracts.spec import Spec, load_spec
from models.decision_table import TrainingSet
from models.training_data import encode, prepare

pytestmark = pytest.mark.unit

SERVICE = ["tenure_days", "visits_total", "clicks_total", "sends_24h"]


@pytest.fixture(scope="module")
def spec() -> Spec:
    return load_spec(CHECKOUT / "specs" / "notification.yaml")


def table(members: int = 6, rows: int = 5) -> pa.Table:
    """A joined log whose rows are shuffled."""
    rng = np.random.default_rng(0)
    n = members * rows
    start = datetime(2026, 1, 1, tzinfo=UTC)
    actions = rng.choice(["none", "badge", "push"], n)
    columns = {
        "member_id": [f"m{i // rows}" for i in range(n)],
        "decided_at": pa.array([start + timedelta(hours=3 * (i % rows)) for i in range(n)], pa.timestamp("us", "UTC")),
        "eligible": [["none", "badge", "push"]] * n,
        "action": actions,
        "reward_click": [None if action == "none" else float(rng.random() < 0.3) for action in actions],
        "reward_visit": [None if i % rows == rows - 1 else float(i % 3) for i in range(n)],
        "reward_volume": [-float(action != "none") for action in actions],
        "type": rng.choice(["job", "news"], n),
        "relevance": rng.random(n),
        "age_hours": rng.random(n),
        **{name: rng.random(n) for name in SERVICE},
    }
    made = pa.table(columns)
    return made.take(pa.array(rng.permutation(n)))


def write(folder: Path, made: pa.Table) -> Path:
    folder.mkdir(exist_ok=True)
    early = pc.less(made["member_id"], "m3")
    pq.write_table(made.filter(early), folder / "part-00000.parquet")
    pq.write_table(made.filter(pc.invert(early)), folder / "part-00001.parquet")
    (folder / "features.json").write_text(json.dumps(SERVICE))
    return folder


def test_rows_come_by_member_and_time(tmp_path: Path, spec: Spec) -> None:
    read = TrainingSet.open(write(tmp_path / "set", table()), spec).whole()
    assert read.member_ids == ("m0", "m1", "m2", "m3", "m4", "m5")
    assert read.starts.tolist() == [0, 5, 10, 15, 20, 25, 30]
    assert (np.diff(read.times_ms.reshape(6, 5), axis=1) == 3 * 3_600_000).all()
    assert read.eligible.all()


def test_predicted_rewards_are_the_utility_scores_of_the_action_taken(tmp_path: Path, spec: Spec) -> None:
    data = prepare(TrainingSet.open(write(tmp_path / "set", table()), spec))
    trajectories = data.trajectories
    scores = trajectories.states[:, -2:]
    expected = np.where(
        trajectories.actions == 0, 0.0, scores[np.arange(len(scores)), np.maximum(trajectories.actions - 1, 0)]
    )
    np.testing.assert_allclose(trajectories.rewards[:, 0], expected)
    assert np.isnan(trajectories.rewards[4::5, 1]).all()
    assert sorted([*data.train_members, *data.validation_members]) == list(range(6))
    again = encode(TrainingSet.open(tmp_path / "set", spec).whole(), spec, data.encoder, data.utility)
    np.testing.assert_allclose(again.states, trajectories.states, rtol=1e-5)


def test_counters_are_no_state(tmp_path: Path, spec: Spec) -> None:
    data = prepare(TrainingSet.open(write(tmp_path / "set", table()), spec))
    assert not {"visits_total", "clicks_total"} & set(data.encoder.columns)


def test_a_column_that_is_not_there_is_named(tmp_path: Path, spec: Spec) -> None:
    with pytest.raises(LogError, match="relevance"):
        TrainingSet.open(write(tmp_path / "set", table().drop_columns("relevance")), spec).whole()


def test_no_training_set_is_said_so(tmp_path: Path, spec: Spec) -> None:
    with pytest.raises(LogError, match="training-set"):
        TrainingSet.open(tmp_path, spec)


def test_half_a_file_is_named(tmp_path: Path, spec: Spec) -> None:
    folder = write(tmp_path / "set", table())
    part = folder / "part-00001.parquet"
    part.write_bytes(part.read_bytes()[:500])
    with pytest.raises(LogError, match="part-00001"):
        TrainingSet.open(folder, spec).whole()


def test_one_member_is_too_few(tmp_path: Path, spec: Spec) -> None:
    with pytest.raises(ValueError, match="at least 2"):
        prepare(TrainingSet.open(write(tmp_path / "set", table(members=1)), spec))


def test_the_fingerprint_follows_the_data(tmp_path: Path, spec: Spec) -> None:
    one = TrainingSet.open(write(tmp_path / "a", table()), spec)
    same = TrainingSet.open(write(tmp_path / "b", table()), spec)
    other = TrainingSet.open(write(tmp_path / "c", table(members=5)), spec)
    assert one.fingerprint == same.fingerprint != other.fingerprint


def test_a_member_in_two_parts_is_named(tmp_path: Path, spec: Spec) -> None:
    folder = write(tmp_path / "set", table())
    pq.write_table(pq.read_table(folder / "part-00000.parquet"), folder / "part-00002.parquet")
    with pytest.raises(LogError, match="member 'm0' stands in two parts"):
        prepare(TrainingSet.open(folder, spec))


def test_trajectories_are_the_same_in_memory_and_in_files_and_in_any_number_of_parts(
    tmp_path: Path, spec: Spec
) -> None:
    in_memory = prepare(TrainingSet.open(write(tmp_path / "set", table()), spec))
    in_files = prepare(TrainingSet.open(tmp_path / "set", spec), tmp_path / "trajectories")
    assert isinstance(in_files.trajectories.states, np.memmap)
    assert not in_files.trajectories.states.flags.writeable
    whole = encode(TrainingSet.open(tmp_path / "set", spec).whole(), spec, in_memory.encoder, in_memory.utility)
    for name in ("states", "actions", "eligible", "rewards", "times_ms", "starts"):
        np.testing.assert_array_equal(getattr(in_memory.trajectories, name), getattr(in_files.trajectories, name))
        # A matrix product's last bit depends on how many rows it has.
        np.testing.assert_allclose(getattr(in_memory.trajectories, name), getattr(whole, name), rtol=1e-5)
