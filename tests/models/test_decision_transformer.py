"""The model as DESIGN section 5 demands: what may see what, padding, eligibility, quantiles, one set of weights."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.batch import Batch, build_batch
from models.decision_transformer import DecisionTransformer, action_loss, pinball_loss
from models.steps import Steps
from tests.models.problems import LEVELS, normalization, random_steps, small_config

pytestmark = pytest.mark.unit

T = 4
IDENTITY = normalization(3, 2)


def model(**changes: object) -> DecisionTransformer:
    torch.manual_seed(1)
    return DecisionTransformer(small_config(**changes)).eval()


def batch_of(steps: Steps) -> Batch:
    return build_batch(steps, IDENTITY)


def earlier_for(dt: DecisionTransformer, batch: Batch) -> torch.Tensor | None:
    return dt.predict_earlier(batch, lambda quantiles: quantiles[..., 1])


def returns_like(steps: Steps, seed: int = 5) -> torch.Tensor:
    return torch.randn(*steps.rewards.shape, generator=torch.Generator().manual_seed(seed))


def replace_rows(batch: Batch, **changes: torch.Tensor) -> Batch:
    return dataclasses.replace(batch, **changes)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), at=st.integers(0, T - 1))
def test_no_true_return_up_to_t_changes_a_quantile_at_t(seed: int, at: int) -> None:
    steps = random_steps(5, T, seed=seed)
    dt, batch, returns = model(), batch_of(steps), returns_like(steps)
    changed = returns.clone()
    changed[:, : at + 1] += 100.0
    before, after = dt(batch, returns), dt(batch, changed)
    assert torch.equal(before.quantiles[:, at], after.quantiles[:, at])
    assert torch.equal(before.quantiles, after.quantiles)  # nor any other: returns are leaves


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), at=st.integers(1, T - 1))
def test_an_earlier_true_return_changes_no_later_action(seed: int, at: int) -> None:
    steps = random_steps(5, T, seed=seed)
    dt, batch, returns = model(), batch_of(steps), returns_like(steps)
    changed = returns.clone()
    changed[:, :at] -= 50.0
    assert torch.equal(dt(batch, returns).logits[:, at:], dt(batch, changed).logits[:, at:])


def test_its_own_return_changes_the_action() -> None:
    steps = random_steps(64, T)
    dt, batch, returns = model(), batch_of(steps), returns_like(steps)
    several = batch.eligible[:, -1].sum(dim=-1) > 1
    before, after = dt(batch, returns).logits[:, -1], dt(batch, returns + 3.0).logits[:, -1]
    assert not torch.equal(before[several].softmax(-1), after[several].softmax(-1))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), at=st.integers(0, T - 2))
def test_a_later_step_changes_nothing_earlier(seed: int, at: int) -> None:
    steps = random_steps(5, T, seed=seed)
    dt, batch, returns = model(), batch_of(steps), returns_like(steps)
    later = torch.arange(T) > at
    changed = replace_rows(
        batch,
        states=torch.where(later[None, :, None], batch.states + 7.0, batch.states),
        rewards=torch.where(later[None, :, None], batch.rewards - 7.0, batch.rewards),
        gaps=torch.where(later[None, :], batch.gaps + 1.0, batch.gaps),
        actions=torch.where(later[None, :], (batch.actions + 1) % 3, batch.actions),
    )
    before, after = dt(batch, returns), dt(changed, returns)
    assert torch.equal(before.quantiles[:, : at + 1], after.quantiles[:, : at + 1])
    assert torch.equal(before.logits[:, : at + 1], after.logits[:, : at + 1])


def test_action_and_reward_of_a_step_do_not_change_its_own_answers() -> None:
    steps = random_steps(5, T)
    dt, batch, returns = model(), batch_of(steps), returns_like(steps)
    for at in range(T):
        actions, rewards = batch.actions.clone(), batch.rewards.clone()
        actions[:, at], rewards[:, at] = (actions[:, at] + 1) % 3, 9.0
        after = dt(replace_rows(batch, actions=actions, rewards=rewards), returns)
        before = dt(batch, returns)
        assert torch.equal(before.quantiles[:, at], after.quantiles[:, at])
        assert torch.equal(before.logits[:, at], after.logits[:, at])


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_garbage_in_padding_changes_nothing(seed: int) -> None:
    steps = random_steps(6, T, seed=seed)
    pad = ~steps.valid
    garbage = dataclasses.replace(
        steps,
        states=np.where(pad[..., None], np.float32(1e9), steps.states),
        rewards=np.where(pad[..., None], np.float32(-1e9), steps.rewards),
        actions=np.where(pad, 2, steps.actions),
        times_ms=np.where(pad, 10**15, steps.times_ms),
        eligible=np.where(pad[..., None], True, steps.eligible),
    )
    dt, returns = model(), returns_like(steps)
    real = torch.from_numpy(steps.valid)
    clean, dirty = dt(batch_of(steps), returns), dt(batch_of(garbage), returns)
    assert torch.equal(clean.quantiles[real], dirty.quantiles[real])
    assert torch.equal(clean.logits[real], dirty.logits[real])
    # Garbage put into the tensors themselves, behind the builder's back, is not attended to either.
    batch = batch_of(steps)
    behind = replace_rows(batch, states=torch.where(real[..., None], batch.states, 1e9))
    assert torch.equal(clean.quantiles[real], dt(behind, returns).quantiles[real])


def test_padding_contributes_nothing_to_the_loss() -> None:
    steps = random_steps(6, T, seed=3)
    dt, batch, returns = model(), batch_of(steps), returns_like(steps)
    out = dt(batch, returns)
    wild = torch.where(batch.valid[..., None], returns, torch.nan)
    for at in (returns, wild):
        assert torch.equal(
            pinball_loss(out.quantiles, at, LEVELS, batch.valid),
            pinball_loss(out.quantiles, returns, LEVELS, batch.valid),
        )
    total = sum(
        action_loss(out.logits[i, t][None, None], batch.actions[i, t][None, None], torch.ones(1, 1, dtype=torch.bool))
        for i, t in torch.argwhere(batch.valid).tolist()
    )
    assert torch.allclose(action_loss(out.logits, batch.actions, batch.valid), total / batch.valid.sum(), atol=1e-6)


def test_gradients_are_finite_with_full_padding_but_the_last_step() -> None:
    steps = random_steps(4, T, seed=1)
    valid = np.zeros_like(steps.valid)
    valid[:, -1] = True
    batch = batch_of(dataclasses.replace(steps, valid=valid))
    dt = model().train()
    out = dt(batch, returns_like(steps))
    (
        pinball_loss(out.quantiles, returns_like(steps), LEVELS, batch.valid)
        + action_loss(out.logits, batch.actions, batch.valid)
    ).backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in dt.parameters())


@pytest.mark.parametrize("gate", [True, False])
def test_an_ineligible_action_has_probability_exactly_zero(gate: bool) -> None:
    steps = random_steps(50, T)
    dt, batch = model(eligibility_gate=gate), batch_of(steps)
    p = dt(batch, returns_like(steps)).logits.softmax(dim=-1)
    real = batch.valid[..., None]
    assert torch.all(p[real & ~batch.eligible] == 0.0)
    assert torch.allclose(p.sum(dim=-1), torch.ones(()))


def test_the_gate_reads_the_eligible_set() -> None:
    steps = random_steps(20, 1)
    everything = dataclasses.replace(steps, eligible=np.ones_like(steps.eligible))
    less = dataclasses.replace(everything, eligible=np.broadcast_to([True, True, False], steps.eligible.shape))
    dt, returns = model(), returns_like(steps)
    full, cut = dt(batch_of(everything), returns).logits[:, 0, :2], dt(batch_of(less), returns).logits[:, 0, :2]
    # More than a mask: the odds between actions that are eligible in both cases move.
    assert not torch.allclose(full[:, 0] - full[:, 1], cut[:, 0] - cut[:, 1])


def test_quantiles_never_cross() -> None:
    steps = random_steps(200, T)
    quantiles = model(quantiles=(0.05, 0.2, 0.5, 0.7, 0.95))(batch_of(steps), returns_like(steps)).quantiles
    assert torch.all(quantiles.diff(dim=-1) >= 0)


@pytest.mark.parametrize("context_length", [1, 2, 4, 16])
def test_deciding_the_last_step_equals_the_training_pass(context_length: int) -> None:
    steps = random_steps(9, context_length)
    dt, batch, returns = model(context_length=context_length), batch_of(steps), returns_like(steps)
    whole = dt(batch, returns)
    history = dt.read(batch, last_only=True)
    logits = dt.choose(history, returns[:, -1:], batch.eligible[:, -1:])
    torch.testing.assert_close(history.quantiles, whole.quantiles[:, -1:], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(logits.softmax(-1), whole.logits[:, -1:].softmax(-1), atol=1e-5, rtol=1e-5)


def test_a_shorter_batch_equals_a_padded_one() -> None:
    steps = random_steps(7, 2)
    padded = Steps(
        *(
            np.concatenate([np.zeros((7, 2, *value.shape[2:]), value.dtype), value], axis=1)
            for value in (steps.states, steps.actions, steps.rewards, steps.eligible, steps.times_ms, steps.valid)
        )
    )
    dt = model()
    short, long = (dt.read(batch_of(each), last_only=True) for each in (steps, padded))
    torch.testing.assert_close(short.quantiles, long.quantiles, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("action_input", ["state_return", "return"])
@pytest.mark.parametrize("gate", [True, False])
def test_every_parameter_is_trained(action_input: str, gate: bool) -> None:
    steps = random_steps(64, T)
    dt = model(action_input=action_input, eligibility_gate=gate).train()
    batch, returns = batch_of(steps), returns_like(steps)
    out = dt(batch, returns)
    (
        action_loss(out.logits, batch.actions, batch.valid) + pinball_loss(out.quantiles, returns, LEVELS, batch.valid)
    ).backward()  # type: ignore[no-untyped-call]
    untrained = [name for name, p in dt.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert untrained == []


def test_it_can_start_from_given_quantiles_whatever_it_sees() -> None:
    steps = random_steps(20, T)
    dt, start = model(), torch.tensor([[-1.5, 0.0, 0.25], [0.0, 2.0, 30.0]])
    assert not torch.equal(dt(batch_of(steps), returns_like(steps)).quantiles, start.expand(20, T, 2, 3))
    dt.start_from(start)
    torch.testing.assert_close(dt(batch_of(steps), returns_like(steps)).quantiles, start.expand(20, T, 2, 3))


def test_pinball_is_the_papers() -> None:
    quantiles = torch.tensor([[[[1.0, 3.0]]]])
    one = torch.ones(1, 1, dtype=torch.bool)
    loss = pinball_loss(quantiles, torch.tensor([[[2.0]]]), (0.1, 0.9), one)
    assert loss.item() == pytest.approx((0.1 * (2 - 1) + (0.9 - 1) * (2 - 3)) / 2)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"width": 10, "heads": 4}, "width 10"),
        ({"quantiles": (0.5, 0.1)}, "quantiles"),
        ({"quantiles": (0.5, 0.5)}, "quantiles"),
        ({"quantiles": (0.5, 1.0)}, "quantiles"),
        ({"context_length": 0}, "context_length"),
    ],
)
def test_an_impossible_shape_is_named(change: dict[str, object], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        small_config(**change)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), at=st.integers(1, T - 1))
def test_with_predicted_history_no_true_return_reaches_a_quantile_and_each_sees_only_the_past(
    seed: int, at: int
) -> None:
    steps = random_steps(5, T, seed=seed)
    dt, batch, returns = model(earlier_returns="predicted"), batch_of(steps), returns_like(steps)
    earlier = earlier_for(dt, batch)
    assert earlier is not None
    before = dt(batch, returns, earlier)
    assert torch.equal(before.quantiles, dt(batch, returns + 9.0, earlier).quantiles)
    changed = earlier.clone()
    changed[:, at:] += 5.0
    assert torch.equal(before.quantiles[:, : at + 1], dt(batch, returns, changed).quantiles[:, : at + 1])


def test_predicted_history_is_what_the_steps_before_it_predict() -> None:
    steps = random_steps(8, T, seed=4)
    dt, batch = model(earlier_returns="predicted"), batch_of(steps)
    earlier = earlier_for(dt, batch)
    assert earlier is not None
    quantiles = dt.read(batch, earlier, last_only=False).quantiles
    torch.testing.assert_close(earlier[:, :-1], quantiles[:, :-1, :, 1])
    last = dt.read(batch, earlier, last_only=True)
    torch.testing.assert_close(last.quantiles[:, 0], quantiles[:, -1], atol=1e-5, rtol=1e-5)


def test_history_that_does_not_fit_the_shape_is_refused() -> None:
    batch = batch_of(random_steps(2, T))
    with pytest.raises(ValueError, match="earlier_returns"):
        model(earlier_returns="predicted").read(batch, last_only=True)
    with pytest.raises(ValueError, match="earlier_returns"):
        model().read(batch, batch.rewards, last_only=True)


def test_without_any_state_column_the_history_still_decides() -> None:
    steps = random_steps(6, T, states=0)
    batch = build_batch(steps, normalization(0, 2))
    out = model(state_dim=0)(batch, returns_like(steps))
    assert torch.isfinite(out.quantiles).all()
