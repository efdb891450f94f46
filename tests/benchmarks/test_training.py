"""The training benchmark: ways to build trajectories agree, peers get the windows we do, figures are as promised."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from benchmarks.training import rounds, trajectories
from benchmarks.training.__main__ import figures, tasks_of
from benchmarks.training.contender import Log, pace
from benchmarks.training.data import Problem, make_log, write_log
from benchmarks.training.trajectories import Built
from contracts.errors import ServerError

SMALL = Problem(members=6, length=40, states=5, context=3, width=8, layers=1, heads=2)


def whole(parts: Iterable[Built]) -> Built:
    return Built(*(np.concatenate(part) for part in zip(*parts, strict=True)))


@pytest.mark.unit
@pytest.mark.parametrize("way", ["groupby", "loop"])
def test_every_way_builds_the_same_trajectories(way: str) -> None:
    log = make_log(SMALL)
    ours = whole(trajectories.WAYS["pacer"](log, SMALL.context))
    theirs = whole(trajectories.WAYS[way](log, SMALL.context))
    assert len(ours.returns) == SMALL.members * (SMALL.length - 16)
    np.testing.assert_array_equal(ours.states, theirs.states)
    np.testing.assert_array_equal(ours.actions, theirs.actions)
    np.testing.assert_array_equal(ours.rewards, theirs.rewards)
    np.testing.assert_array_equal(ours.valid, theirs.valid)
    np.testing.assert_allclose(ours.returns, theirs.returns, rtol=1e-5, atol=1e-5)


@pytest.mark.unit
def test_peers_draw_the_windows_that_we_train_on(tmp_path: Path) -> None:
    log = make_log(SMALL)
    write_log(log, tmp_path / "log.npz")
    drawn = Log(tmp_path / "log.npz", SMALL.context).draw(200)
    ours = whole(trajectories.pacer(log, SMALL.context))
    known = {states.tobytes() + actions.tobytes() for states, actions in zip(ours.states, ours.actions, strict=True)}
    real = drawn.mask.numpy() > 0
    actions = np.where(real, drawn.actions.numpy(), 0)
    windows = zip(np.ascontiguousarray(drawn.states.numpy()) + 0.0, actions, strict=True)
    assert {states.tobytes() + actions.tobytes() for states, actions in windows} <= known
    assert not real.all()
    assert real[:, -1].all()
    assert (drawn.timesteps.numpy() < SMALL.length).all()


@pytest.mark.unit
def test_pace_counts_what_a_step_did() -> None:
    calls = []
    rate = pace(lambda: calls.append(1) or 7, 0.01)  # type: ignore[func-returns-value]
    assert rate > 0
    assert len(calls) > 3


@pytest.mark.unit
def test_the_last_line_is_the_issues() -> None:
    rates = {title: {"pacer": 3.2, "huggingface": 2.0, "d3rlpy": 1.0} for title in tasks_of(8, 0.1)}
    built = {way: {"rows_per_s": 10.0, "peak_mib": 1.0, "rows": 5} for way in ("pacer", "groupby", "loop")}
    assert figures(rates, built) == {
        "train_windows_per_s": {"pacer": 3, "huggingface": 2, "d3rlpy": 1},
        "infer_decisions_per_s": {
            "pacer": {"1": 3, "64": 3},
            "pacer_bf16": {"1": 3, "64": 3},
            "huggingface": {"1": 2, "64": 2},
            "d3rlpy": {"1": 1, "64": 1},
        },
        "trajectories_rows_per_s": {"pacer": 10, "groupby": 10, "loop": 10},
    }


@pytest.mark.integration
def test_our_own_contender_answers_every_task(tmp_path: Path) -> None:
    write_log(make_log(SMALL), tmp_path / "log.npz")
    tasks = {title: task for title, task in tasks_of(8, 0.01).items() if task.precision == "float32"}
    rates = rounds.measure(["pacer"], tasks, tmp_path / "log.npz", SMALL, 1, 1, Console(quiet=True))
    assert rates.keys() == tasks.keys()
    assert all(rate["pacer"] > 0 for rate in rates.values())


@pytest.mark.integration
def test_a_contender_that_dies_is_named_with_its_last_words(tmp_path: Path) -> None:
    with (
        rounds.Process("pacer", tmp_path / "no.npz", SMALL, 1) as process,
        pytest.raises(ServerError, match=r"(?s)pacer ended .*no\.npz"),
    ):
        process.measure(next(iter(tasks_of(8, 0.01).values())))
