"""Trajectories from columns and from episodes: the same log whatever its form, and errors that name the row."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.trajectories import Trajectories

pytestmark = pytest.mark.unit

FIELDS = ("states", "actions", "eligible", "rewards", "times_ms", "starts")


def assert_same(one: Trajectories, other: Trajectories) -> None:
    for name in FIELDS:
        a, b = getattr(one, name), getattr(other, name)
        assert a.dtype == b.dtype, name
        np.testing.assert_array_equal(a, b, err_msg=name)
    assert one.reward_names == other.reward_names
    np.testing.assert_array_equal(np.asarray(one.ended), np.asarray(other.ended))


@given(lengths=st.lists(st.integers(1, 5), min_size=1, max_size=5), seed=st.integers(0, 10**6))
def test_columns_in_any_order_and_episodes_in_order_are_the_same_log(lengths: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = sum(lengths)
    member = np.repeat(np.arange(len(lengths)), lengths)
    time = np.concatenate([np.sort(rng.integers(0, 3, k)) for k in lengths]).astype(np.float64)  # with ties
    state, action = rng.normal(size=(n, 2)), rng.integers(0, 3, n)
    reward = rng.normal(size=n)
    cuts = np.cumsum(lengths)[:-1]
    ended = rng.random(len(lengths)) < 0.5
    terminated = np.zeros(n, np.bool_)
    terminated[np.cumsum(lengths) - 1] = ended
    by_episode = Trajectories.from_episodes(
        states=np.split(state, cuts),
        actions=np.split(action, cuts),
        rewards=np.split(reward, cuts),
        times=np.split(time, cuts),
        terminated=list(ended),
        n_actions=3,
    )
    # Rows of equal time keep their order, so members alone are mixed.
    mixed = np.argsort(rng.random(len(lengths)))[member].argsort(kind="stable")
    by_column = Trajectories.from_columns(
        member=member[mixed],
        state=state[mixed],
        action=action[mixed],
        reward=reward[mixed],
        time=time[mixed],
        terminated=terminated[mixed],
        n_actions=3,
    )
    assert_same(by_column, by_episode)


def test_rows_are_sorted_by_member_and_time() -> None:
    log = Trajectories.from_columns(
        member=["b", "a", "b", "a"], state=[3, 1, 2, 0], action=[1, 0, 0, 1], reward=[1, 2, 3, 4], time=[9, 5, 2.5, 1]
    )
    assert log.states[:, 0].tolist() == [0.0, 1.0, 2.0, 3.0]
    assert log.actions.tolist() == [1, 0, 0, 1]
    assert log.rewards[:, 0].tolist() == [4.0, 2.0, 3.0, 1.0]
    assert log.times_ms.tolist() == [1000, 5000, 2500, 9000]
    assert log.starts.tolist() == [0, 2, 4]
    assert log.eligible.all()
    assert log.ended is None


def test_a_data_frame_brings_its_columns_and_names() -> None:
    table = pd.DataFrame(
        {
            "who": ["x", "y", "x"],
            "at": pd.to_datetime(["2026-01-02", "2026-01-01", "2026-01-01"], utc=True),
            "age": [3, 4, 5],
            "hot": [True, False, True],
            "chosen": [0, 1, 2],
            "gain": [1.0, None, 3.0],
            "cost": [0, -1, -2],
        }
    )
    log = Trajectories.from_columns(
        member=table["who"],
        time=table["at"],
        state=table[["age", "hot"]].astype(float),
        action=table["chosen"],
        reward={"gain": table["gain"], "cost": table["cost"]},
    )
    assert log.states.tolist() == [[5.0, 1.0], [3.0, 1.0], [4.0, 0.0]]
    assert log.reward_names == ("gain", "cost")
    assert np.isnan(log.rewards[2, 0])
    assert log.times_ms[0] == datetime(2026, 1, 1, tzinfo=UTC).timestamp() * 1000


def test_without_times_steps_are_a_second_apart_in_the_order_given() -> None:
    log = Trajectories.from_columns(member=[7, 3, 7], state=np.zeros((3, 0)), action=[0, 1, 1], reward=[1, 2, 3])
    assert log.times_ms.tolist() == [0, 0, 1000]
    assert log.rewards[:, 0].tolist() == [2.0, 1.0, 3.0]
    assert log.states.shape == (3, 0)


def test_the_final_observation_of_an_episode_is_left_out() -> None:
    log = Trajectories.from_episodes(
        states=[np.arange(4), np.arange(2)],
        actions=[[0, 1, 0], [1]],
        rewards=[[1, 2, 3], [4]],
        terminated=[[0, 0, 1], 0],
    )
    assert log.states[:, 0].tolist() == [0.0, 1.0, 2.0, 0.0]
    assert log.ended is not None
    assert log.ended.tolist() == [True, False]


def test_an_episode_that_ended_needs_no_look_ahead() -> None:
    episodes: dict[str, Any] = {"states": [np.zeros(3)] * 2, "actions": [[0, 0, 0]] * 2, "rewards": [[1, 2, 4]] * 2}
    log = Trajectories.from_episodes(**episodes, terminated=[True, False])
    returns, is_target = log.returns_to_go(1, 0.5)
    assert is_target.tolist() == [True, True, True, True, True, False]
    assert returns[:5, 0].tolist() == [2.0, 4.0, 4.0, 2.0, 4.0]
    returns, is_target = log.returns_to_go(10, 1.0)
    assert is_target.tolist() == [True, True, True, False, False, False]
    assert returns[:3, 0].tolist() == [7.0, 6.0, 4.0]


def test_what_is_given_is_read_and_not_written() -> None:
    given_arrays: dict[str, Any] = {
        "member": np.array([1, 0]),
        "state": np.array([[1, 2], [3, 4]], np.int16),
        "action": np.array([1, 0], np.uint8),
        "reward": np.array([1.5, 2.5]),
        "eligible": np.ones((2, 2), np.int8),
    }
    for array in given_arrays.values():
        array.setflags(write=False)
    log = Trajectories.from_columns(**given_arrays)
    assert log.states.tolist() == [[3.0, 4.0], [1.0, 2.0]]
    assert [str(array.dtype) for array in (log.states, log.actions, log.eligible)] == ["float32", "int64", "bool"]


COLUMNS: dict[str, Any] = {
    "member": [0, 0, 1],
    "state": [[0.0], [1.0], [2.0]],
    "action": [0, 1, 0],
    "reward": [1.0, 2.0, 3.0],
    "time": [0.0, 1.0, 0.0],
}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"member": [[0, 0, 1]]}, "member has shape"),
        ({"member": ["a", None, "b"]}, r"member\[1\] is missing"),
        ({"member": [0.0, np.nan, 1.0]}, r"member\[1\] is missing"),
        ({"member": np.array(["a", 1, 2], dtype=object)}, "cannot be sorted together"),
        ({"state": [[0.0], [1.0]]}, r"state has shape \(2, 0\), expected 3 rows"),
        ({"state": [[0.0], [np.nan], [1.0]]}, r"state\[1, 0\] is nan; fill missing values first"),
        ({"state": {"a": [1, 2, 3], "b": [1, np.inf, 3]}}, r"state\['b'\]\[1\] is inf"),
        ({"state": {"a": [1, 2, 3], "b": [1, 2]}}, "state has columns of the shapes"),
        ({"state": np.zeros((3, 2, 2))}, "flatten what has more axes"),
        ({"state": ["a", "b", "c"]}, "state has dtype"),
        ({"action": [0, 1]}, "action has shape"),
        ({"action": [0, 1, -1]}, r"action\[2\] is -1"),
        ({"action": [0, 1, 0.5]}, r"action\[2\] is 0.5"),
        ({"action": ["push", "none", "push"]}, "action has dtype"),
        ({"action": [0, 2, 0], "n_actions": 2}, r"action\[1\] is 2; actions are whole numbers from 0 to 1"),
        ({"reward": [1.0, np.inf, 3.0]}, r"reward\[1\] is inf; use NaN"),
        ({"time": [0.0, np.nan, 0.0]}, r"time\[1\] is nan"),
        ({"time": np.array(["2026-01-01", "NaT", "2026-01-01"], "datetime64[s]")}, r"time\[1\] is not a time"),
        ({"time": [0, 1.7e12, 0]}, "give seconds"),
        ({"time": [0.0]}, "time has shape"),
        ({"eligible": np.ones((2, 2))}, "eligible has shape"),
        ({"eligible": [[1, 1], [1, 0], [1, 1]]}, r"action\[1\] = 1 is not eligible in that row \(eligible: \[0\]\)"),
        ({"eligible": np.ones((3, 3)), "n_actions": 4}, "eligible has 3 columns, n_actions is 4"),
        ({"eligible": np.ones((3, 1))}, r"action\[1\] is 1"),
        ({"terminated": [True, False, False]}, r"terminated\[0\] is True, and its member goes on"),
    ],
)
def test_a_wrong_column_is_named_with_its_row(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        Trajectories.from_columns(**COLUMNS | changes)


EPISODES: dict[str, Any] = {
    "states": [np.zeros((2, 2)), np.zeros((1, 2))],
    "actions": [[0, 1], [1]],
    "rewards": [[0.0, 1.0], [1.0]],
}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"rewards": [[0.0, 1.0]]}, "rewards holds 1 episodes, actions holds 2"),
        ({"rewards": [[0.0, 1.0], [1.0, 2.0]]}, r"rewards\[1\] has 2 rows, actions\[1\] has 1"),
        ({"states": [np.zeros((2, 2)), np.zeros((3, 2))]}, r"states\[1\] has 3 rows, actions\[1\] has 1"),
        ({"states": [np.zeros((2, 2)), np.zeros((1, 3))]}, r"states\[1\] has rows of shape \(3,\), others have \(2,\)"),
        ({"states": [np.zeros((2, 2)), np.full((1, 2), np.nan)]}, r"states\[1\]\[0, 0\] is nan"),
        ({"actions": [[0, 1], [-1]]}, r"actions\[1\]\[0\] is -1"),
        ({"reward_names": ["a", "b"]}, "reward_names"),
        ({"states": [], "actions": [], "rewards": []}, "holds no episode"),
    ],
)
def test_a_wrong_episode_is_named(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        Trajectories.from_episodes(**EPISODES | changes)


def test_naive_datetimes_are_refused() -> None:
    times = np.array([datetime(2026, 1, 1)] * 3, dtype=object)  # noqa: DTZ001
    with pytest.raises(ValueError, match=r"time\[0\] is datetime.* time zone"):
        Trajectories.from_columns(**COLUMNS | {"time": times})
