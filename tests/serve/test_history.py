"""What history keeps: the layout's storage, the probabilities answered, and groups masked by mask key."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.spec import MaskedGroup
from models.artifact import Artifact
from models.batch import Normalization
from models.masking import MaskableColumns, mask_history
from models.policy import Decisions
from models.prompts import make_prompts
from models.steps import Floats, Steps
from sequence_store.entry import Entry
from sequence_store.layout import FloatGroup, Layout
from sequence_store.memory_ring import MemoryRingStore
from sequence_store.ring import Append, AppendOutcome
from sequence_store.storage import rounded
from serve.answers import all_probabilities
from serve.history import HistoryReader, layout_of
from tests.serve.deployment import HOUR, NOW, ring_in, spec_with, steps_in, untrained_artifact

pytestmark = pytest.mark.unit

STORAGE = "storage: {default: float32}"
ACCEPT = "accept: [utility-v1]"


def fitted_to(artifact: Artifact, **fields: Any) -> Artifact:
    """The artifact with other training statistics, by name of the field."""
    normalization = dataclasses.replace(artifact.policy.normalization, **fields)
    return dataclasses.replace(artifact, policy=dataclasses.replace(artifact.policy, normalization=normalization))


def groups_of(artifact: Artifact) -> dict[str, FloatGroup]:
    return {group.name: group for group in layout_of(artifact).groups}


class TestLayout:
    def test_every_column_has_its_group_and_the_specs_storage(self) -> None:
        spec = spec_with((STORAGE, "storage: {default: uint8, scores: uint16, rewards: float16}"))
        artifact = untrained_artifact(spec)
        groups = groups_of(artifact)
        assert groups["state"].columns + groups["scores"].columns == artifact.encoder.columns
        assert {name: group.storage for name, group in groups.items()} == {
            "state": "uint8",
            "scores": "uint16",
            "rewards": "float16",
            "counters": "float64",
            "probabilities": "uint16",
        }
        assert groups["rewards"].columns == ("click", "volume")
        assert groups["probabilities"].columns == ("badge", "push")

    def test_steps_are_shares_of_the_scale_and_whole_for_whole_numbers(self) -> None:
        artifact = untrained_artifact(spec_with((STORAGE, "storage: {default: uint8, rewards: uint16}")))
        n = len(artifact.encoder.columns)
        scale, centre, whole = np.full(n, 2.0, np.float32), np.full(n, 7.0, np.float32), np.zeros(n, np.bool_)
        # Not whole; whole with a step below 1; whole with a step of 4.9.
        scale[:3], whole[1:3] = (3.0, 2.0, 19.6), True
        artifact = fitted_to(
            artifact,
            state_scale=scale,
            state_centre=centre,
            state_whole=whole,
            reward_scale=np.array([512.0, 1.0, 512.0], np.float32),
            reward_centre=np.array([0.25, 9.0, -3.0], np.float32),
            reward_whole=np.array([False, True, True]),
        )
        groups = groups_of(artifact)
        assert groups["state"].scales[:4] == ((7.0, 0.75), (7.0, 1.0), (7.0, 5.0), (7.0, 0.5))
        assert groups["scores"].scales == ((7.0, 0.5), (7.0, 0.5))
        # Of the rewards, click and volume are kept: a counter's is a difference.
        assert groups["rewards"].scales == ((0.25, 2.0), (-3.0, 2.0))

    @settings(max_examples=100, deadline=None)
    @given(
        values=st.lists(
            st.one_of(st.floats(-1e6, 1e6, width=32), st.integers(-300, 300).map(float)), min_size=2, max_size=60
        ),
        storage=st.sampled_from(["uint8", "uint16"]),
    )
    def test_what_training_saw_is_kept_to_half_a_step(self, values: list[float], storage: str) -> None:
        artifact = untrained_artifact(spec_with((STORAGE, f"storage: {{default: {storage}}}")))
        n = len(artifact.encoder.columns)
        column = np.asarray(values, np.float32)
        nothing = np.zeros((len(column), 3), np.float32)
        normalization = Normalization.fit(np.repeat(column[:, None], n, axis=1), nothing, nothing)
        policy = dataclasses.replace(artifact.policy, normalization=normalization)
        artifact = dataclasses.replace(artifact, policy=policy)
        group = groups_of(artifact)["state"]
        centre, step = group.scales[0]
        for value in column:
            (kept, *_) = rounded(np.full(len(group.columns), value, np.float32), group).tolist()
            assert abs(kept - value) <= 0.5 * step + 1e-6 * abs(value)
            if normalization.state_whole[0]:
                assert kept == round(kept)
                if step == 1.0:
                    assert kept == value
        assert centre in column.tolist()

    def test_float16_gives_way_where_it_distorts_and_scaled_types_do_not(self) -> None:
        for storage, kept in (("float16", "float32"), ("uint8", "uint8"), ("uint16", "uint16")):
            artifact = untrained_artifact(spec_with((STORAGE, f"storage: {{default: {storage}}}")))
            mean = np.ones(len(artifact.encoder.columns), np.float32)
            mean[0] = 2026.0  # a year, with a standard deviation of 1
            groups = groups_of(fitted_to(artifact, state_mean=mean))
            assert (groups["state"].storage, groups["scores"].storage) == (kept, storage)


class TestProbabilities:
    @pytest.mark.parametrize("storage", ["uint16", "float32"])
    def test_certainty_is_kept_exactly(self, storage: str) -> None:
        spec = spec_with((STORAGE, f"storage: {{probabilities: {storage}}}"))
        layout = layout_of(untrained_artifact(spec))
        for certain in np.eye(3, dtype=np.float32):
            kept = rounded(certain[1:], layout.groups[-1])
            assert all_probabilities(layout, kept).tolist() == certain.tolist()

    @settings(max_examples=200, deadline=None)
    @given(st.lists(st.floats(0.0, 1.0), min_size=3, max_size=3).filter(lambda weights: sum(weights) > 0))
    def test_they_are_kept_to_a_step_and_sum_to_one(self, weights: list[float]) -> None:
        layout = layout_of(untrained_artifact())
        exact = (np.asarray(weights) / sum(weights)).astype(np.float32)
        shown = all_probabilities(layout, rounded(exact[1:], layout.groups[-1]))
        assert shown.dtype == np.float32
        assert (shown >= 0.0).all()
        np.testing.assert_allclose(shown[1:], exact[1:], atol=0.5 / 65532 + 1e-7)
        assert abs(shown[0] - exact[0]) <= 1.0 / 65532 + 1e-6
        assert abs(float(shown.sum()) - 1.0) <= 1.0 / 65532 + 1e-6

    def test_entries_that_keep_every_action_are_read_by_name(self) -> None:
        group = FloatGroup("probabilities", ("push", "none", "badge"), "float32")
        layout = Layout((group,), ("none", "badge", "push"))
        assert all_probabilities(layout, np.array([0.5, 0.25, 0.125], np.float32)).tolist() == [0.25, 0.125, 0.5]


def entry_of(artifact: Artifact, seed: int, mask_key: str, **floats: Mapping[int, float]) -> Entry:
    """A decision made by nobody; ``floats`` replaces values of a group by position."""
    layout = layout_of(artifact)
    rng = np.random.default_rng(seed)
    values = {group.name: rng.uniform(0.1, 0.9, len(group.columns)) for group in layout.groups}
    values["counters"] = np.full(len(values["counters"]), float(seed))
    for name, places in floats.items():
        for place, value in places.items():
            values[name][place] = value
    return Entry(
        floats=values,
        at_ms=NOW + seed * HOUR,
        action=seed % 3,
        eligible=0b111,
        sequence=seed,
        mask_key=mask_key,
        cycle_id=f"c{seed}",
        notification_id="n",
        model="m/1",
        layout=layout,
    )


def store_of(artifact: Artifact, entries: Sequence[Entry]) -> MemoryRingStore:
    store = MemoryRingStore("notification", layout_of(artifact), artifact.spec.ring.capacity, 14)
    for entry in entries:
        assert store.append([Append("a", ring_in(store).version, entry, None)]) == [AppendOutcome.APPENDED]
    return store


def steps_of(artifact: Artifact, store: MemoryRingStore) -> Steps:
    states, eligible = np.full((1, len(artifact.encoder.columns)), 0.5, np.float32), np.ones((1, 3), np.bool_)
    return steps_in(HistoryReader(artifact), store, states, eligible, NOW + 9 * HOUR, np.array([[3.0, 4.0]]))


def masking(*rules: str, accept: str = '["utility-v1", "old-*"]') -> Artifact:
    return untrained_artifact(spec_with((ACCEPT, f"accept: {accept}, masked: {{{', '.join(rules)}}}")))


def assert_same(one: Steps, other: Steps) -> None:
    for field in dataclasses.fields(Steps):
        np.testing.assert_array_equal(getattr(one, field.name), getattr(other, field.name))


class TestMasking:
    KEYS = ("old-a", "old-b", "utility-v1")

    @pytest.mark.parametrize(
        ("rules", "rewards", "scores"),
        [
            (["old-a: [scores]"], [], [0]),
            (["'old-*': [rewards]"], [0, 1], []),
            (["'old-*': [scores, rewards]"], [0, 1], [0, 1]),
            (["old-a: [scores]", "'*': [rewards]"], [0, 1, 2], [0]),
            (["nobody: [scores, rewards]"], [], []),
        ],
    )
    def test_serving_masks_as_training_does(self, rules: list[str], rewards: list[int], scores: list[int]) -> None:
        artifact = masking(*rules)
        plain = untrained_artifact(spec_with((ACCEPT, 'accept: ["*"]')))
        store = store_of(artifact, [entry_of(artifact, seed, key) for seed, key in enumerate(self.KEYS)])
        masked: dict[MaskedGroup, np.ndarray] = {
            "rewards": np.isin(np.arange(4), rewards)[None],
            "scores": np.isin(np.arange(4), scores)[None],
        }
        columns = MaskableColumns.of(artifact.spec, artifact.encoder)
        steps = steps_of(artifact, store)
        assert_same(steps, mask_history(steps_of(plain, store), masked, columns))
        # Penalties and counters stay; state, action and the step to decide too.
        assert np.isnan(steps.rewards[0, :3]).tolist() == [[place in rewards, False, False] for place in range(3)]
        assert np.isnan(steps.states[0, :, -2:]).all(axis=1).tolist() == [place in scores for place in range(4)]
        assert np.isfinite(steps.states[0, :, :-2]).all()

    def test_masked_values_change_nothing_and_state_and_action_do(self) -> None:
        artifact = masking("'old-*': [rewards, scores]")

        def decide(first: Entry) -> Decisions:
            store = store_of(artifact, [first, entry_of(artifact, 1, "utility-v1")])
            prompts = make_prompts(artifact.spec.reward_names, [artifact.spec.prompt])
            return artifact.policy.decide(steps_of(artifact, store), prompts)

        def differs(one: Floats, other: Floats) -> bool:
            return not np.array_equal(one, other)

        before = decide(entry_of(artifact, 0, "old-a")).quantiles
        masked = entry_of(artifact, 0, "old-a", scores={0: 40.0, 1: -3.0}, rewards={0: 17.0})
        assert not differs(decide(masked).quantiles, before)
        for name, place in (("state", 0), ("rewards", 1), ("counters", 1)):
            changed = entry_of(artifact, 0, "old-a", **{name: {place: 0.55}})
            assert differs(decide(changed).quantiles, before)
        assert differs(
            decide(dataclasses.replace(entry_of(artifact, 0, "old-a"), action=2)).quantiles,
            before,
        )
        assert differs(decide(entry_of(artifact, 0, "utility-v1")).quantiles, before)

    def test_what_is_not_accepted_is_no_history_though_masked(self) -> None:
        artifact = masking("'old-*': [scores]", accept="[utility-v1]")
        store = store_of(artifact, [entry_of(artifact, seed, key) for seed, key in enumerate(self.KEYS)])
        assert steps_of(artifact, store).valid.tolist() == [[False, False, True, True]]

    def test_nothing_is_accepted_by_an_empty_list(self) -> None:
        artifact = masking("'*': [scores]", accept="[]")
        store = store_of(artifact, [entry_of(artifact, seed, key) for seed, key in enumerate(self.KEYS)])
        assert steps_of(artifact, store).valid.tolist() == [[False, False, False, True]]
