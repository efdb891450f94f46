"""Steps, batches, windows and returns-to-go."""

from __future__ import annotations

import dataclasses
import itertools
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.batch import Normalization, build_batch
from models.trajectories import Trajectories, returns_to_go, split_members
from tests.models.problems import normalization, random_steps, two_arm_trajectories

pytestmark = pytest.mark.unit


@settings(max_examples=100, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=5),
    horizon=st.integers(0, 14),
    discount=st.floats(0.1, 1.0),
    seed=st.integers(0, 1000),
    unknown=st.booleans(),
)
def test_returns_to_go_are_the_sum_as_the_paper_writes_it(
    lengths: list[int], horizon: int, discount: float, seed: int, unknown: bool
) -> None:
    starts = np.concatenate([[0], np.cumsum(lengths)])
    rewards = np.random.default_rng(seed).normal(size=(starts[-1], 2))
    if unknown:
        rewards[seed % len(rewards), 0] = np.nan
    returns, is_target = returns_to_go(rewards, starts, horizon, discount)
    for start, end in itertools.pairwise(starts.tolist()):
        for t in range(start, end):
            full = t + horizon < end and bool(np.isfinite(rewards[t : t + horizon + 1]).all())
            assert is_target[t] == full
            if full:
                expected = sum(discount**ahead * rewards[t + ahead] for ahead in range(horizon + 1))
                np.testing.assert_allclose(returns[t], expected, rtol=1e-5, atol=1e-5)
            else:
                assert np.isnan(returns[t]).all()


def test_windows_stay_within_a_member_and_pad_on_the_left() -> None:
    trajectories = two_arm_trajectories(members=3, length=5)
    ends = np.arange(15)
    windows = trajectories.windows(ends, 4)
    for i, end in enumerate(ends.tolist()):
        known = min(end % 5 + 1, 4)
        assert windows.valid[i].tolist() == [False] * (4 - known) + [True] * known
        np.testing.assert_array_equal(windows.states[i, 4 - known :], trajectories.states[end - known + 1 : end + 1])


def test_gaps_are_zero_at_the_start_and_for_a_clock_that_jumps_back() -> None:
    steps = random_steps(1, 4)
    steps = dataclasses.replace(
        steps, valid=np.array([[False, True, True, True]]), times_ms=np.array([[99, 10_000, 4_000, 7_500]])
    )
    assert steps.gaps_s.tolist() == [[0.0, 0.0, 0.0, 3.5]]


@pytest.mark.parametrize("field", ["states", "actions", "rewards", "eligible", "times_ms"])
def test_a_wrong_shape_is_named(field: str) -> None:
    steps = random_steps(3, 4)
    with pytest.raises(ValueError, match=field):
        dataclasses.replace(steps, **{field: getattr(steps, field)[:, :-1]})


def test_padding_on_the_right_is_refused() -> None:
    steps = random_steps(1, 3)
    for valid in ([[True, True, False]], [[True, False, True]]):
        with pytest.raises(ValueError, match="valid"):
            dataclasses.replace(steps, valid=np.array(valid))


def test_a_batch_of_another_width_is_named() -> None:
    with pytest.raises(ValueError, match="states has 3 columns, the model was trained with 4"):
        build_batch(random_steps(2, 4), normalization(4, 2))


def test_a_constant_feature_and_an_unknown_reward_become_zero_not_nan() -> None:
    states = np.full((10, 3), 5.0, np.float32)
    rewards = np.full((10, 2), np.nan, np.float32)
    fitted = Normalization.fit(states, rewards, np.zeros((10, 2), np.float32))
    steps = random_steps(2, 4)
    steps = dataclasses.replace(
        steps, rewards=np.full_like(steps.rewards, np.nan), states=np.full_like(steps.states, 5.0)
    )
    batch = build_batch(steps, fitted)
    assert float(batch.states.abs().max()) == 0.0
    assert float(batch.rewards.abs().max()) == 0.0
    assert (fitted.reward_centre.tolist(), fitted.reward_whole.tolist()) == ([0.0, 0.0], [False, False])


def test_a_state_column_that_is_not_known_counts_as_average() -> None:
    steps = random_steps(2, 4)
    fitted = normalization(3, 2, mean=2.0, scale=4.0)
    unknown, average = (
        build_batch(dataclasses.replace(steps, states=np.where(np.arange(3) == 1, value, steps.states)), fitted)
        for value in (np.float32(np.nan), np.float32(2.0))
    )
    assert torch.equal(unknown.states, average.states)
    assert float(average.states[..., 0].abs().max()) > 0.0


# Columns of a log: anything finite in float32, whole numbers, one value; with gaps.
columns = st.lists(
    st.one_of(
        st.just(float("nan")),
        st.integers(-1000, 1000).map(float),
        st.floats(-1e6, 1e6, width=32),
    ),
    min_size=1,
    max_size=40,
)


@settings(max_examples=200, deadline=None)
@given(columns, st.booleans())
def test_mean_scale_median_and_wholeness_are_those_of_the_known_values(values: list[float], of_reward: bool) -> None:
    column, nothing = np.asarray(values, np.float32)[:, None], np.zeros((len(values), 0), np.float32)
    states, rewards = (nothing, column) if of_reward else (column, nothing)
    fitted = Normalization.fit(states, rewards, nothing)
    mean, scale, centre, whole = (
        (fitted.reward_mean, fitted.reward_scale, fitted.reward_centre, fitted.reward_whole)
        if of_reward
        else (fitted.state_mean, fitted.state_scale, fitted.state_centre, fitted.state_whole)
    )
    known = sorted(column[np.isfinite(column)].astype(np.float64).tolist())
    if not known:
        assert (mean[0], scale[0], centre[0], whole[0]) == (0.0, 1.0, 0.0, False)
        return
    assert mean[0] == pytest.approx(np.mean(known), rel=1e-5, abs=1e-5)
    assert centre[0] == known[(len(known) - 1) // 2]
    assert whole[0] == all(value == round(value) for value in known)
    if np.std(known) > 2e-6 * max(abs(np.mean(known)), 1.0):
        assert scale[0] == pytest.approx(np.std(known), rel=1e-5)
    if len(set(known)) == 1:
        assert scale[0] == 1.0


def test_a_normalization_in_json_is_read_back_the_same() -> None:
    rng = np.random.default_rng(0)
    values = np.stack([rng.normal(size=50), rng.integers(0, 9, 50)], axis=1).astype(np.float32)
    fitted = Normalization.fit(values, values[:, ::-1], values)
    again = Normalization.from_json(json.loads(json.dumps(fitted.to_json())))
    for name, value in dataclasses.asdict(fitted).items():
        read = getattr(again, name)
        assert read.dtype == value.dtype
        np.testing.assert_array_equal(read, value)
    assert fitted.state_whole.tolist() == [False, True]


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("states", np.float32(np.nan), "states"),
        ("states", np.float32(np.inf), "states"),
        ("rewards", np.float32(np.inf), "rewards"),
        ("actions", 2, "actions"),
        ("actions", -1, "actions"),
    ],
)
def test_bad_numbers_are_named(field: str, value: object, named: str) -> None:
    trajectories = two_arm_trajectories(2, 4)
    broken = getattr(trajectories, field).copy()
    broken[3] = value
    with pytest.raises(ValueError, match=named):
        dataclasses.replace(trajectories, **{field: broken})


def test_an_action_that_was_not_eligible_is_named() -> None:
    trajectories = two_arm_trajectories(2, 4)
    eligible = trajectories.eligible.copy()
    eligible[3, trajectories.actions[3]] = False
    with pytest.raises(ValueError, match=r"actions\[3\]"):
        dataclasses.replace(trajectories, eligible=eligible)


@given(members=st.integers(2, 60), share=st.floats(0.01, 0.99), seed=st.integers(0, 99))
def test_members_are_split_whole_and_neither_part_is_empty(members: int, share: float, seed: int) -> None:
    train, validation = split_members(members, share, seed)
    assert len(train) >= 1
    assert len(validation) >= 1
    assert sorted([*train, *validation]) == list(range(members))


def test_one_member_cannot_be_split() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        split_members(1, 0.3, 0)


def test_trajectories_of_no_member_are_allowed() -> None:
    empty = Trajectories(
        np.zeros((0, 2), np.float32),
        np.zeros(0, np.int64),
        np.zeros((0, 2), np.bool_),
        np.zeros((0, 1), np.float32),
        np.zeros(0, np.int64),
        np.zeros(1, np.int64),
    )
    returns, is_target = returns_to_go(empty.rewards, empty.starts, 3, 0.9)
    assert len(returns) == len(is_target) == 0
