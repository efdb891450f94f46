"""Sums by member: pooled as if counted at once, compared on the same decisions alone, the same after a save."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.sums import Spread, Sums
from models.clustered import ratios

pytestmark = pytest.mark.unit


def sums_of(members: np.ndarray, seed: int = 0) -> tuple[Sums, dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    rows = {
        "decisions": np.ones(len(members)),
        "right": rng.random(len(members)) < 0.6,
        "loss": rng.random(len(members)),
    }
    return Sums.of(rows, members), rows


@given(members=st.lists(st.integers(0, 5), min_size=4, max_size=30), cut=st.integers(1, 3))
def test_pooled_parts_are_the_whole(members: list[int], cut: int) -> None:
    codes = np.array(members)
    whole, rows = sums_of(codes)
    parts = [
        Sums.of({name: column[part] for name, column in rows.items()}, codes[part])
        for part in (slice(0, cut), slice(cut, None))
    ]
    pooled = Sums.pooled(parts)
    np.testing.assert_array_equal(pooled.members, whole.members)
    for name in rows:
        np.testing.assert_allclose(pooled.columns[name], whole.columns[name])


def test_ratios_are_those_over_decisions() -> None:
    members = np.random.default_rng(1).integers(0, 9, 200)
    sums, rows = sums_of(members)
    expected = ratios(rows["loss"][:, None], np.ones((200, 1)), members).at(0)
    found = sums.ratio("loss")
    assert found.value == pytest.approx(expected.value)
    assert found.interval == pytest.approx(expected.interval)


def test_gains_are_paired_and_refuse_other_decisions() -> None:
    members = np.repeat(np.arange(10), 5)
    one, rows = sums_of(members, 0)
    other, others = sums_of(members, 1)
    gain = one.gain(other, "right")
    assert gain.value == pytest.approx(rows["right"].mean() - others["right"].mean())
    assert one.gain(one, "right").interval == (0.0, 0.0)
    assert one.relative(other, "loss").value == pytest.approx(rows["loss"].sum() / others["loss"].sum())
    with pytest.raises(ValueError, match="same decisions"):
        one.gain(sums_of(members[:-1])[0], "right")
    with pytest.raises(ValueError, match="same decisions"):
        one.relative(sums_of(members + 1)[0], "loss")


def test_a_save_is_read_back(tmp_path: Path) -> None:
    sums, _ = sums_of(np.array([3, 1, 3]))
    sums.save(tmp_path / "runs" / "a.npz")
    read = Sums.load(tmp_path / "runs" / "a.npz")
    np.testing.assert_array_equal(read.members, sums.members)
    assert {name: column.tolist() for name, column in read.columns.items()} == {
        name: column.tolist() for name, column in sums.columns.items()
    }
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["a.npz"]


def test_spread_over_seeds() -> None:
    assert Spread.of([1.0, 3.0]).to_json() == {"mean": 2.0, "sd": pytest.approx(2.0**0.5)}
    assert Spread.of([1.0]).to_json() == {"mean": 1.0, "sd": None}
