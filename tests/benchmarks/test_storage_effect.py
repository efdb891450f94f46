"""The benchmark rounds as the ring does, decides on exact present steps, and compares within a seed."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from benchmarks import storage_effect
from benchmarks.storage_effect import (
    VARIANTS,
    Variant,
    figures,
    find_training_set,
    kept_by_ring,
    rounded_rows,
    summary,
)
from contracts.settings import CHECKOUT, load_settings
from contracts.spec import Storage, dump_spec, load_spec
from models.artifact import Artifact
from models.config import FitConfig
from models.decision_table import TrainingSet
from models.evaluation import evaluate
from models.trajectories import Trajectories, returns_to_go
from sequence_store.entry import Entry
from sequence_store.layout import SCALED, FloatGroup
from sequence_store.memory_ring import MemoryRingStore
from sequence_store.ring import Append, AppendOutcome
from sequence_store.storage import rounded
from serve.history import HistoryReader
from tests.models.test_training_data import table, write
from tests.serve.deployment import HOUR, NOW, ring_in, spec_with, steps_in, untrained_artifact


@pytest.mark.unit
@settings(max_examples=300, deadline=None)
@given(
    values=st.lists(st.floats(width=32, allow_infinity=False), min_size=1, max_size=12),
    storage=st.sampled_from(get_args(Storage)),
    centre=st.floats(-1e3, 1e3, width=32),
    step=st.floats(1e-3, 1e3),
)
def test_rows_are_rounded_as_the_store_does(values: list[float], storage: Storage, centre: float, step: float) -> None:
    names = tuple(f"c{j}" for j in range(len(values)))
    scales = tuple((centre + j, step * (j + 1)) for j in range(len(values))) if storage in SCALED else ()
    group = FloatGroup("state", names, storage, scales)
    rows = np.stack([np.asarray(values, np.float32), np.asarray(values[::-1], np.float32)])
    expected = np.stack([rounded(row, group).astype(np.float32) for row in rows])
    np.testing.assert_array_equal(rounded_rows(rows, group), expected)


def artifact_of(storage: str = "uint8") -> Artifact:
    return untrained_artifact(spec_with(("storage: {default: float32}", f"storage: {{default: {storage}}}")))


def random_trajectories(artifact: Artifact, lengths: tuple[int, ...], seed: int = 0) -> Trajectories:
    rng = np.random.default_rng(seed)
    n = sum(lengths)
    return Trajectories(
        states=rng.normal(1.0, 3.0, size=(n, len(artifact.encoder.columns))).astype(np.float32),
        actions=rng.integers(0, 3, n),
        eligible=np.ones((n, 3), np.bool_),
        rewards=np.stack([rng.random(n), rng.integers(0, 4, n), -rng.random(n)], axis=1).astype(np.float32),
        times_ms=NOW + np.arange(n) * HOUR,
        starts=np.concatenate([[0], np.cumsum(lengths)]),
    )


@pytest.mark.unit
@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_the_history_is_what_a_ring_gives_back(variant: Variant) -> None:
    artifact = artifact_of()
    layout = variant.layout(artifact)
    exact = random_trajectories(artifact, (4,))
    kept = kept_by_ring(exact, artifact.encoder.columns, artifact.spec.reward_names, layout)
    store = MemoryRingStore("notification", layout, 16, 14)
    visits = np.concatenate([[0.0], np.cumsum(exact.rewards[:, 1])])
    base = len(artifact.encoder.columns) - len(artifact.encoder.scores)
    for row in range(3):
        entry = Entry(
            floats={
                "state": exact.states[row, :base],
                "scores": exact.states[row, base:],
                "rewards": exact.rewards[row, [0, 2]],
                "counters": np.array([0.0, visits[row]]),
                "probabilities": np.array([0.5, 0.25]),
            },
            at_ms=int(exact.times_ms[row]),
            action=int(exact.actions[row]),
            eligible=0b111,
            sequence=row,
            mask_key="utility-v1",
            cycle_id=f"c{row}",
            notification_id="n",
            model="m/1",
            layout=layout,
        )
        assert store.append([Append("a", ring_in(store).version, entry, None)]) == [AppendOutcome.APPENDED]
    counters = np.array([[0.0, visits[3]]])
    at_ms = int(exact.times_ms[3])
    read = steps_in(HistoryReader(artifact), store, exact.states[3:], exact.eligible[3:], at_ms, counters)
    windows = kept.windows(np.array([3]), 4)
    np.testing.assert_array_equal(read.states[:, :3], windows.states[:, :3])
    np.testing.assert_array_equal(read.rewards[:, :3], windows.rewards[:, :3])
    assert read.valid.all()


@pytest.mark.unit
def test_shipped_and_exact_variants_are_what_they_say() -> None:
    artifact = artifact_of("float16")
    exact = random_trajectories(artifact, (30,))

    def error(variant: Variant) -> float:
        kept = kept_by_ring(exact, artifact.encoder.columns, artifact.spec.reward_names, variant.layout(artifact))
        return float(np.abs(kept.states - exact.states).max())

    assert error(Variant("float32")) == 0.0
    assert 0.0 < error(Variant("float16")) < 0.01
    # The scale is 1: a quarter of it, rounded to half of a quarter at most.
    assert 0.1 < error(Variant("uint8")) <= 0.125
    assert 0.4 < error(Variant("uint8", 1.0)) <= 0.5


@pytest.mark.unit
def test_without_rounding_the_figures_are_those_of_the_offline_evaluation() -> None:
    artifact = artifact_of()
    spec = dataclasses.replace(artifact.spec, horizon=2)
    exact = random_trajectories(artifact, (9, 8, 7))
    returns, is_target = returns_to_go(exact.rewards, exact.starts, spec.horizon, spec.discount)
    ends = np.flatnonzero(is_target & (np.arange(len(exact)) >= 9))
    found = figures(artifact.policy, exact, exact, ends, returns, spec)
    expected = evaluate(
        artifact.policy,
        exact,
        np.array([0]),
        np.array([1, 2]),
        spec.prompt,
        FitConfig.of(spec),
        reward_names=spec.reward_names,
        action_names=spec.actions,
    )
    assert found["accuracy"] == expected.accuracy
    assert {name: found[f"pinball {name}"] for name in spec.reward_names} == expected.pinball
    garbled = dataclasses.replace(exact, states=exact.states + 1.0)
    assert figures(artifact.policy, exact, garbled, ends, returns, spec) != found
    # A member's first decision has no history: only the step to decide is seen, and it is exact.
    first = exact.starts[1:3]
    assert figures(artifact.policy, exact, garbled, first, returns, spec) == figures(
        artifact.policy, exact, exact, first, returns, spec
    )


@pytest.mark.unit
def test_differences_are_taken_within_a_seed() -> None:
    seeds = [
        {
            "float32": {"accuracy": 0.9 + seed, "pinball click": 2.0 + seed},
            "uint8": {"accuracy": 0.8 + seed, "pinball click": 2.2 + 1.1 * seed},
        }
        for seed in range(3)
    ]
    result = summary(seeds)
    assert result["uint8"]["accuracy"]["mean"] == pytest.approx(1.8)
    assert result["uint8"]["accuracy"]["sd"] == pytest.approx(1.0)
    assert result["uint8"]["accuracy"]["difference"] == {"mean": pytest.approx(-0.1), "sd": pytest.approx(0.0)}
    assert result["uint8"]["pinball click"]["difference"]["mean"] == pytest.approx(0.1)
    assert result["float32"]["accuracy"]["difference"] == {"mean": 0.0, "sd": 0.0}
    assert summary(seeds[:1])["uint8"]["accuracy"]["sd"] is None


@pytest.mark.unit
def test_the_command_ends_with_one_json_object(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = spec_with(("horizon: 16", "horizon: 4"))
    spec = dataclasses.replace(spec, training=dataclasses.replace(spec.training, epochs=1))
    (tmp_path / "spec.yaml").write_text(dump_spec(spec))
    monkeypatch.setenv("PACER_VAR", str(tmp_path / "var"))
    workspace = load_settings().workspace(spec.name)
    workspace.root.mkdir(parents=True)
    write(workspace.training_set, table(members=8, rows=12))
    assert storage_effect.main(["--spec", str(tmp_path / "spec.yaml"), "--seeds", "2"]) == 0
    said = capsys.readouterr()
    document = json.loads(said.out.splitlines()[-1])
    assert list(document["storage"]) == [variant.name for variant in VARIANTS]
    assert set(document["storage"]["uint8"]) == {"accuracy", "pinball click", "pinball visit", "pinball volume"}
    assert "difference to float32" in " ".join(said.err.split())


@pytest.mark.unit
def test_a_spec_whose_log_is_the_users_is_told_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = spec_with(("feature_service: notification_state_v1", "feature_service: my_state_v1"))
    (tmp_path / "spec.yaml").write_text(dump_spec(spec))
    monkeypatch.setenv("PACER_VAR", str(tmp_path / "var"))
    assert storage_effect.main(["--spec", str(tmp_path / "spec.yaml")]) == 1
    assert "no training set" in " ".join(capsys.readouterr().err.split())


@pytest.mark.integration
def test_where_there_is_no_log_the_simulator_makes_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage_effect, "MEMBERS", 12)
    monkeypatch.setattr(storage_effect, "DAYS", 3)
    monkeypatch.setenv("PACER_VAR", str(tmp_path / "var"))
    spec = load_spec(CHECKOUT / "specs" / "notification.yaml")
    made = find_training_set(spec, load_settings(), Console(quiet=True))
    decisions = TrainingSet.open(made, spec).whole()
    assert (len(decisions.member_ids), len(decisions.actions)) == (12, 12 * 3 * 8)
    (made / "features.json").touch()
    before = (made / "features.json").stat()
    assert find_training_set(spec, load_settings(), Console(quiet=True)) == made
    assert (made / "features.json").stat() == before
