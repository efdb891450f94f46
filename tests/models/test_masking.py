"""Masked groups: what is masked is not seen, the rest is, and the step to decide is never masked."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.spec import MaskedGroup, Training
from models.batch import build_batch
from models.config import FitConfig
from models.masking import GROUPS, NO_COLUMNS, MaskableColumns, draw_masks, mask_history
from models.policy import Policy
from models.prompts import make_prompts
from models.steps import Floats, Steps
from models.training import fit
from tests.models.problems import normalization, random_steps, small_config, two_arm_trajectories
from tests.serve.deployment import spec_with, untrained_artifact

pytestmark = pytest.mark.unit

T = 4
COLUMNS = MaskableColumns(rewards=np.array([0]), scores=np.array([2]))
HISTORY = np.arange(T) < T - 1


def masks(b: int, *groups: MaskedGroup) -> dict[MaskedGroup, np.ndarray]:
    return {group: np.broadcast_to(HISTORY, (b, T)) for group in groups}


def changed(steps: Steps, **columns: tuple[int, float]) -> Steps:
    """Steps with something added to one column of the history."""
    fields = {}
    for name, (column, more) in columns.items():
        values = getattr(steps, name).copy()
        values[:, :-1, column] += np.float32(more)
        fields[name] = values
    return dataclasses.replace(steps, **fields)


def answer(steps: Steps) -> Floats:
    torch.manual_seed(1)
    from models.decision_transformer import DecisionTransformer

    policy = Policy(DecisionTransformer(small_config()), normalization(3, 2))
    return policy.decide(steps, make_prompts(["a", "b"], [{"a": 0.5, "b": 0.5}] * len(steps))).quantiles


def test_columns_are_found_by_spec_and_encoder() -> None:
    artifact = untrained_artifact()
    columns = MaskableColumns.of(artifact.spec, artifact.encoder)
    assert [artifact.encoder.columns[place] for place in columns.scores] == ["click:badge", "click:push"]
    assert [artifact.spec.reward_names[place] for place in columns.rewards] == ["click"]


def test_nothing_is_maskable_where_no_reward_is_predicted() -> None:
    artifact = untrained_artifact(spec_with(("kind: predicted", "kind: counter")))
    columns = MaskableColumns.of(artifact.spec, artifact.encoder)
    assert (len(columns.scores), len(columns.rewards)) == (0, 0)


@pytest.mark.parametrize("groups", [("rewards",), ("scores",), GROUPS])
def test_masked_values_change_nothing_and_the_others_do(groups: tuple[MaskedGroup, ...]) -> None:
    steps = random_steps(8, T)
    steps = dataclasses.replace(steps, valid=np.ones((8, T), np.bool_))

    def masked(steps: Steps) -> Floats:
        return answer(mask_history(steps, masks(8, *groups), COLUMNS))

    before = masked(steps)
    assert not np.array_equal(before, answer(steps))
    for group, change in (("rewards", {"rewards": (0, 1.0)}), ("scores", {"states": (2, 1.0)})):
        same = np.array_equal(masked(changed(steps, **change)), before)
        assert same == (group in groups)
    assert not np.array_equal(masked(changed(steps, states=(0, 1.0))), before)
    assert not np.array_equal(masked(changed(steps, rewards=(1, 1.0))), before)
    other_actions = dataclasses.replace(
        steps, actions=np.where(HISTORY, (steps.actions + 1) % 3, steps.actions), eligible=np.ones_like(steps.eligible)
    )
    assert not np.array_equal(
        masked(other_actions), masked(dataclasses.replace(steps, eligible=np.ones_like(steps.eligible)))
    )


def test_masked_counts_as_average() -> None:
    steps = random_steps(5, T)
    batch = build_batch(mask_history(steps, masks(5, *GROUPS), COLUMNS), normalization(3, 2, mean=0.3))
    assert float(batch.states[:, :-1, 2].abs().max()) == 0.0
    assert float(batch.rewards[:, :-1, 0].abs().max()) == 0.0
    whole = build_batch(steps, normalization(3, 2, mean=0.3))
    assert torch.equal(batch.states[..., :2], whole.states[..., :2])
    assert torch.equal(batch.states[:, -1], whole.states[:, -1])
    assert torch.equal(batch.rewards[..., 1], whole.rewards[..., 1])


def test_masking_leaves_the_steps_given_alone() -> None:
    steps = random_steps(3, T)
    mask_history(steps, masks(3, *GROUPS), COLUMNS)
    assert np.isfinite(steps.states).all()
    assert np.isfinite(steps.rewards).all()


def test_the_step_to_decide_can_not_be_masked() -> None:
    steps = random_steps(3, T)
    with pytest.raises(ValueError, match="'scores'"):
        mask_history(steps, {"scores": np.ones((3, T), np.bool_)}, COLUMNS)


@settings(max_examples=50, deadline=None)
@given(share=st.floats(0.0, 1.0), context_length=st.integers(1, 6), seed=st.integers(0, 99))
def test_masks_are_drawn_for_the_share_asked_and_the_oldest_steps(share: float, context_length: int, seed: int) -> None:
    n = 4000
    drawn = draw_masks(np.random.default_rng(seed), n, context_length, share)
    any_masked = drawn["rewards"] | drawn["scores"]
    assert any_masked.shape == (n, context_length)
    assert not any_masked[:, -1].any()
    assert not (any_masked[:, 1:] & ~any_masked[:, :-1]).any()
    if context_length == 1:
        return
    found = any_masked[:, 0]
    # 6 standard deviations of a share of 4,000.
    assert abs(found.mean() - share) <= 6 * 0.5 / np.sqrt(n)
    for group in GROUPS:
        of_group = drawn[group][:, 0]
        assert abs(of_group.sum() - 2 / 3 * found.sum()) <= 6 * 0.5 * np.sqrt(n)
        assert np.array_equal(drawn[group][of_group], any_masked[of_group])
    lengths = any_masked.sum(axis=1)[found]
    if len(lengths) > 500:
        assert set(lengths.tolist()) == set(range(1, context_length))


def test_masking_in_training_changes_the_model_and_no_share_does_not() -> None:
    trajectories = two_arm_trajectories(members=30, length=12)
    columns = MaskableColumns(rewards=np.array([0]), scores=np.array([1]))

    def weights(share: float, maskable: MaskableColumns = NO_COLUMNS) -> torch.Tensor:
        training = Training(epochs=1, batch_size=64, masked_share=share)
        config = FitConfig(4, 0.9, (0.1, 0.5, 0.9), T, training=training)
        policy = fit(trajectories, config, members=np.arange(20), maskable=maskable)
        return policy.model.embed_state.weight

    plain = weights(0.0)
    assert torch.equal(weights(0.0, columns), plain)
    assert torch.equal(weights(1.0), plain)
    assert not torch.equal(weights(1.0, columns), plain)
