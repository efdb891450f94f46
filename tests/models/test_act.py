"""``Policy.act`` on the fly is ``Policy.decide`` on the windows of the same log, and says what it cannot take."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.spec import Absolute, Prompt
from models.decision_transformer import DecisionTransformer
from models.history import PastSteps
from models.policy import Decisions, Policy
from models.prompts import Prompts, make_prompts
from models.trajectories import Trajectories
from tests.models.problems import normalization, small_config

pytestmark = pytest.mark.unit

NAMES = ("gain", "cost")
PROMPT: dict[str, Prompt] = {"gain": 0.8, "cost": Absolute(-1.5)}


def policy_of(seed: int = 0, **changes: object) -> Policy:
    torch.manual_seed(seed)
    config = small_config(**changes)
    return Policy(DecisionTransformer(config).eval(), normalization(config.state_dim, config.n_rewards), NAMES)


POLICY = policy_of()


def random_log(members: int, length: int, seed: int) -> Trajectories:
    """Members of equal length, so that each step of all of them is one batch, as it is on the fly."""
    rng = np.random.default_rng(seed)
    n = members * length
    actions = rng.integers(0, 3, n)
    eligible = rng.random((n, 3)) < 0.5
    eligible[np.arange(n), actions] = True
    rewards = rng.normal(size=(n, 2)).astype(np.float32)
    rewards[rng.random((n, 2)) < 0.2] = np.nan
    return Trajectories(
        rng.normal(size=(n, 3)).astype(np.float32),
        actions,
        eligible,
        rewards,
        rng.integers(-(10**6), 10**9, (members, length)).cumsum(axis=1).reshape(-1),
        np.arange(members + 1) * length,
    )


def at(log: Trajectories, t: int, rows: np.ndarray) -> dict[str, Any]:
    here = rows + t
    return {
        "state": log.states[here],
        "eligible": log.eligible[here],
        "time": log.times_ms[here].astype("datetime64[ms]"),
    }


@settings(max_examples=25, deadline=None)
@given(
    members=st.integers(1, 5),
    length=st.integers(1, 9),
    seed=st.integers(0, 10**6),
    context_length=st.sampled_from([1, 2, 4]),
    earlier=st.sampled_from(["hidden", "predicted"]),
    forgetful=st.booleans(),
)
def test_act_is_decide_on_the_windows_of_the_log(
    members: int, length: int, seed: int, context_length: int, earlier: str, forgetful: bool
) -> None:
    policy = policy_of(context_length=context_length, earlier_returns=earlier)
    log = random_log(members, length, seed)
    rows = log.starts[:-1]
    history = policy.new_history(members) if forgetful else PastSteps.empty(members, 3, 3, 2)
    for t in range(length):
        step = at(log, t, rows)
        windows = log.windows(rows + t, context_length)
        expected = policy.decide(windows, make_prompts(NAMES, [PROMPT] * members))
        answered = policy.act(history, **step, prompt=PROMPT)
        for name in ("probabilities", "quantiles", "prompted"):
            np.testing.assert_array_equal(getattr(answered, name), getattr(expected, name))
        history = history.append(action=log.actions[rows + t], reward=log.rewards[rows + t], **step)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), steps=st.integers(0, 6), gone=st.lists(st.booleans(), min_size=3, max_size=3))
def test_a_cleared_member_is_decided_as_one_never_seen(seed: int, steps: int, gone: list[bool]) -> None:
    log = random_log(3, steps + 1, seed)
    rows, nobody = log.starts[:-1], POLICY.new_history(3)
    history = nobody
    for t in range(steps):
        step = at(log, t, rows)
        history = history.append(action=log.actions[rows + t], reward=log.rewards[rows + t], **step)
    last = at(log, steps, rows)
    anew, known, cleared = (
        POLICY.act(past, **last, prompt=PROMPT).probabilities for past in (nobody, history, history.cleared(gone))
    )
    np.testing.assert_array_equal(cleared, np.where(np.array(gone)[:, None], anew, known))
    assert history.cleared(gone).lengths.tolist() == [0 if g else min(steps, 3) for g in gone]


def test_one_member_is_asked_for_with_its_state_alone() -> None:
    history = POLICY.new_history()
    one = POLICY.act(history, [0.1, 0.2, 0.3], None, PROMPT)
    same = POLICY.act(history, [[0.1, 0.2, 0.3]], [True, True, True], PROMPT)
    np.testing.assert_array_equal(one.probabilities, same.probabilities)
    assert one.action == one.actions[0]
    history = history.append([0.1, 0.2, 0.3], one.action, [1.0, -0.5])
    assert history.lengths.tolist() == [1]
    assert history.times_ms.tolist() == [[0]]
    assert history.append([0, 0, 0], 1, [0, 0]).times_ms.tolist() == [[0, 1000]]


def test_a_history_never_changes() -> None:
    history = POLICY.new_history(2)
    longer = history.append(np.zeros((2, 3)), [0, 1], np.zeros((2, 2)))
    cleared = longer.cleared([True, False])
    assert (history.lengths.tolist(), longer.lengths.tolist(), cleared.lengths.tolist()) == ([0, 0], [1, 1], [0, 1])


def test_any_form_of_a_prompt_asks_the_same() -> None:
    state = np.linspace(-1.0, 1.0, 6).reshape(2, 3)
    history = POLICY.new_history(2)
    by_name = POLICY.act(history, state, None, {"cost": 0.3, "gain": Absolute(2.0)}).probabilities
    forms: list[Any] = [
        {0: Absolute(2.0), 1: 0.3},
        [Absolute(2.0), 0.3],
        (Absolute(2.0), np.float64(0.3)),
        Prompts(np.array([[np.nan, 0.3]]), np.array([[2.0, np.nan]])),
        make_prompts(NAMES, [{"gain": Absolute(2.0), "cost": 0.3}] * 2),
    ]
    for form in forms:
        np.testing.assert_array_equal(POLICY.act(history, state, None, form).probabilities, by_name)
    rows = POLICY.act(history, state, None, np.array([[0.1, 0.9], [0.5, 0.5]])).prompted
    for i, levels in enumerate([[0.1, 0.9], [0.5, 0.5]]):
        np.testing.assert_array_equal(rows[i], POLICY.act(history, state, None, levels).prompted[i])


def test_draws_follow_the_probabilities_and_never_take_what_is_not_eligible() -> None:
    rng = np.random.default_rng(0)
    one = Decisions(
        np.array([[0.25, 0.0, 0.75]], np.float32), np.zeros((1, 1, 1), np.float32), np.zeros((1, 1), np.float32)
    )
    many = Decisions(np.repeat(one.probabilities, 4000, axis=0), one.quantiles, one.prompted)
    drawn = np.bincount(many.sample(rng), minlength=3)
    assert drawn[1] == 0
    assert abs(drawn[2] / 4000 - 0.75) < 0.03
    with pytest.raises(ValueError, match="4000 decisions"):
        _ = many.action


STATE = np.zeros((2, 3), np.float32)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"state": STATE[:1]}, r"state has shape \(1, 3\), expected \[B, S\] with B=2, S=3"),
        ({"state": STATE[:, :2]}, "state has shape"),
        ({"state": np.full((2, 3), np.nan)}, r"state\[0, 0\] is nan; fill missing values first"),
        ({"state": [[0.0, 0.0, np.inf], [0.0, 0.0, 0.0]]}, r"state\[0, 2\] is inf"),
        ({"state": [[0.0, 0.0, 0.0], [0.0, 1e300, 0.0]]}, r"state\[1, 1\] is 1e\+300; float32 holds"),
        ({"state": [["a", "b", "c"]] * 2}, "state has dtype"),
        ({"state": [[0.0, 0.0, 0.0], [0.0]]}, "state is no rectangular array"),
        ({"eligible": np.ones((2, 4))}, "eligible has shape"),
        ({"eligible": [[True, False, True], [False, False, False]]}, r"eligible\[1\] allows no action"),
        ({"eligible": [[0, 1, 2], [1, 1, 1]]}, r"eligible\[0, 2\] is 2"),
        ({"time": [1.0, 2.0, 3.0]}, "time has shape"),
        ({"time": 1.7e12}, "time is 1700000000000.0; give seconds"),
        ({"prompt": {"gain": 0.5}}, "missing: .'cost'"),
        ({"prompt": {"gain": 0.5, "cost": 0.5, "volume": 0.5}}, "names the reward 'volume'; the policy's are"),
        ({"prompt": {"gain": 0.5, 0: 0.5, 1: 0.5}}, "must name each reward once"),
        ({"prompt": [0.5]}, r"asks for 1 reward\(s\), the policy was trained with 2"),
        ({"prompt": 0.5}, r"asks for 1 reward\(s\)"),
        ({"prompt": [0.5, 1.0]}, r"levels\[0, 1\] is 1.0; a level lies in \(0, 1\)"),
        ({"prompt": [0.0, 0.5]}, r"levels\[0, 0\] is 0.0"),
        ({"prompt": [float("nan"), 0.5]}, "either a level or an absolute value"),
        ({"prompt": [None, 0.5]}, "None is neither a level"),
        ({"prompt": Prompts(np.full((3, 2), 0.5), np.full((3, 2), np.nan))}, "prompt has shape"),
    ],
)
def test_what_act_cannot_take_is_named(changes: dict[str, Any], named: str) -> None:
    asked: dict[str, Any] = {"state": STATE, "eligible": None, "prompt": [0.5, 0.5]} | changes
    with pytest.raises(ValueError, match=named):
        POLICY.act(POLICY.new_history(2), **asked)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"state": np.full((2, 3), np.nan)}, r"state\[0, 0\] is nan"),
        ({"action": [0]}, "action has shape"),
        ({"action": [0, 3]}, r"action\[1\] is 3; actions are whole numbers from 0 to 2"),
        ({"action": [0, 0.5]}, r"action\[1\] is 0.5"),
        ({"action": [0, -1]}, r"action\[1\] is -1"),
        ({"action": [1, 0], "eligible": [[1, 0, 1]] * 2}, r"action\[0\] = 1 is not eligible"),
        ({"reward": [0.0, 1.0]}, "reward has shape"),
        ({"reward": [[0.0, np.inf], [0.0, 0.0]]}, r"reward\[0, 1\] is inf; use NaN for what is not known"),
    ],
)
def test_what_a_history_cannot_hold_is_named(changes: dict[str, Any], named: str) -> None:
    step: dict[str, Any] = {"state": STATE, "action": [0, 1], "reward": np.zeros((2, 2))} | changes
    with pytest.raises(ValueError, match=named):
        POLICY.new_history(2).append(**step)


def test_a_history_of_another_problem_is_refused() -> None:
    with pytest.raises(ValueError, match=r"history\.rewards has 1 columns, the policy was trained with 2"):
        POLICY.act(PastSteps.empty(1, 3, 3, 1), [0.0, 0.0, 0.0], None, PROMPT)
