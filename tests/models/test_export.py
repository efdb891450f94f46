"""The exported graphs answer as PyTorch does, for any shape of model, any batch, any padding."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.decision_transformer import DecisionTransformer
from models.export import export_onnx
from models.policy import Decisions, Policy
from models.prompts import make_prompts
from models.runtime import EagerRuntime, OnnxRuntime, Runtime
from models.steps import Steps
from tests.models.problems import normalization, random_steps, small_config

pytestmark = pytest.mark.unit

TOLERANCE = 1e-5
THREADS = 2

SHAPES: dict[str, dict[str, object]] = {
    "plain": {},
    "one step, one reward, one level, no state, no gate": {
        "context_length": 1,
        "n_rewards": 1,
        "quantiles": (0.5,),
        "state_dim": 0,
        "eligibility_gate": False,
    },
    "sixteen steps": {"context_length": 16, "layers": 1},
    "h_R alone, three layers, one head": {"action_input": "return", "layers": 3, "heads": 1, "n_actions": 5},
}


@functools.cache  # an export takes seconds
def runtimes(shape: str) -> tuple[DecisionTransformer, OnnxRuntime]:
    torch.manual_seed(3)
    model = DecisionTransformer(small_config(**SHAPES[shape])).eval()
    with torch.no_grad():  # as far from the simple start as a trained one is
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    with tempfile.TemporaryDirectory() as folder:
        export_onnx(model, Path(folder))
        before = torch.get_num_threads()
        torch.set_num_threads(THREADS)
        try:
            return model, OnnxRuntime(Path(folder), model.config.context_length)
        finally:
            torch.set_num_threads(before)


def decide(model: DecisionTransformer, runtime: Runtime | None, steps: Steps) -> Decisions:
    config = model.config
    names = [f"r{j}" for j in range(config.n_rewards)]
    policy = Policy(model, normalization(config.state_dim, config.n_rewards, mean=0.3, scale=2.0), runtime=runtime)
    return policy.decide(steps, make_prompts(names, [dict.fromkeys(names, 0.6)] * len(steps)))


def steps_for(model: DecisionTransformer, windows: int, steps: int, seed: int) -> Steps:
    config = model.config
    return random_steps(
        windows,
        steps,
        seed=seed,
        states=config.state_dim,
        actions=config.n_actions,
        rewards=config.n_rewards,
    )


def assert_same(one: Decisions, other: Decisions) -> None:
    np.testing.assert_allclose(one.probabilities, other.probabilities, atol=TOLERANCE, rtol=0)
    scale = 1.0 + np.abs(one.quantiles).max(initial=0.0)
    np.testing.assert_allclose(one.quantiles, other.quantiles, atol=TOLERANCE * scale, rtol=0)
    np.testing.assert_allclose(one.prompted, other.prompted, atol=TOLERANCE * scale, rtol=0)
    best = np.sort(one.probabilities, axis=1)
    clear = best[:, -1] - best[:, -2] > 2 * TOLERANCE
    assert (one.actions == other.actions)[clear].all()


@pytest.mark.parametrize("shape", SHAPES)
@settings(max_examples=10, deadline=None)
@given(windows=st.integers(1, 70), share=st.floats(0, 1), seed=st.integers(0, 10_000))
def test_onnx_runtime_answers_as_pytorch(shape: str, windows: int, share: float, seed: int) -> None:
    model, runtime = runtimes(shape)
    length = 1 + int(share * (model.config.context_length - 1))  # shorter batches are padded by the runtime
    steps = steps_for(model, windows, length, seed)
    exported = decide(model, runtime, steps)
    assert_same(decide(model, None, steps), exported)
    assert (exported.probabilities[~steps.eligible[:, -1]] == 0.0).all()
    assert (np.diff(exported.quantiles, axis=-1) >= 0).all()


def test_garbage_in_padding_changes_nothing() -> None:
    model, runtime = runtimes("plain")
    steps = steps_for(model, 30, 4, seed=8)
    garbage = Steps(
        np.where(steps.valid[..., None], steps.states, np.float32(np.inf)),
        np.where(steps.valid, steps.actions, 2),
        np.where(steps.valid[..., None], steps.rewards, np.float32(1e9)),
        steps.eligible | ~steps.valid[..., None],
        steps.times_ms,
        steps.valid,
    )
    one, other = (decide(model, runtime, each) for each in (steps, garbage))
    np.testing.assert_array_equal(one.probabilities, other.probabilities)
    np.testing.assert_array_equal(one.quantiles, other.quantiles)


def test_true_returns_take_the_prompts_place() -> None:
    model, runtime = runtimes("plain")
    steps = steps_for(model, 5, 4, seed=1)
    returns = np.full((5, 2), 9.0, np.float32)
    prompts = make_prompts(["a", "b"], [{"a": 0.5, "b": 0.5}] * 5)
    one, other = (
        Policy(model, normalization(3, 2), runtime=each).decide(steps, prompts, returns) for each in (None, runtime)
    )
    assert_same(one, other)


def test_it_has_as_many_threads_as_pytorch() -> None:
    _, runtime = runtimes("plain")
    assert runtime.threads == THREADS


def test_too_many_steps_are_refused() -> None:
    model, runtime = runtimes("plain")
    with pytest.raises(ValueError, match="batch has 5 steps, context_length is 4"):
        decide(model, runtime, steps_for(model, 2, 5, seed=0))


def test_predicted_earlier_returns_stay_in_pytorch(tmp_path: Path) -> None:
    model = DecisionTransformer(small_config(earlier_returns="predicted")).eval()
    with pytest.raises(ValueError, match="not exported"):
        export_onnx(model, tmp_path)
    _, runtime = runtimes("plain")
    with pytest.raises(ValueError, match="run in PyTorch"):
        decide(model, runtime, steps_for(model, 2, 4, seed=0))


@pytest.mark.parametrize("earlier", ["hidden", "predicted"])
def test_bfloat16_is_near_and_never_illegal(earlier: str) -> None:
    torch.manual_seed(2)
    model = DecisionTransformer(small_config(earlier_returns=earlier)).eval()
    steps = steps_for(model, 200, 4, seed=5)
    one, other = (decide(model, each, steps) for each in (None, EagerRuntime(model, torch.bfloat16)))
    np.testing.assert_allclose(one.probabilities, other.probabilities, atol=0.1)
    assert (other.probabilities[~steps.eligible[:, -1]] == 0.0).all()
    assert other.probabilities.dtype == np.float32
    assert not np.array_equal(one.probabilities, other.probabilities)
    assert model.embed_state.weight.dtype == torch.float32  # the model itself is left as it was
