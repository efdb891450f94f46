"""From rings to the model's input: each member's accepted entries, their rewards, and the step to decide."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from contracts.spec import Spec
from models.artifact import Artifact
from models.steps import Bools, Floats, Steps
from sequence_store.entry import Entry
from sequence_store.layout import FloatGroup, Layout, Storage
from sequence_store.ring import Ring

DISTORTION = 0.01
"""Largest rounding error that history may have, in standard deviations of its column."""


def layout_of(artifact: Artifact) -> Layout:
    """Return the FLS layout of the entries that this artifact writes (DESIGN 4.3).

    Counters are kept as float64 and probabilities as float32 whatever the spec's storage, since rewards are exact
    differences and a replay answers the same probabilities. A group that float16 would distort is kept as float32,
    lest the model meets another history in service than in training.
    """
    spec, encoder, normalization = artifact.spec, artifact.encoder, artifact.policy.normalization
    base = len(encoder.features) + len(encoder.candidate_columns)
    known = [spec.reward_names.index(name) for name in known_rewards(spec)]
    groups = (
        FloatGroup(
            "state",
            (*encoder.features, *encoder.candidate_columns),
            _storage(spec, "state", normalization.state_mean[:base], normalization.state_scale[:base]),
        ),
        FloatGroup(
            "scores",
            encoder.scores,
            _storage(spec, "scores", normalization.state_mean[base:], normalization.state_scale[base:]),
        ),
        FloatGroup(
            "rewards",
            known_rewards(spec),
            _storage(spec, "rewards", normalization.reward_mean[known], normalization.reward_scale[known]),
        ),
        FloatGroup("counters", spec.counter_features, "float64"),
        FloatGroup("probabilities", spec.actions, "float32"),
    )
    return Layout(groups=groups, actions=spec.actions)


def _storage(spec: Spec, group: str, mean: Floats, scale: Floats) -> Storage:
    """Storage type of a group: the spec's, but float32 where float16 keeps a column to worse than DISTORTION scales.

    float16 has 11 significant bits and ends at 65,504.
    """
    wanted = spec.state.storage_of(group)
    largest = np.abs(mean) + 3.0 * scale
    error = largest * 2.0**-11
    distorted = bool(((error > DISTORTION * scale) | (largest > np.finfo(np.float16).max)).any())
    return "float32" if distorted else wanted


def known_rewards(spec: Spec) -> tuple[str, ...]:
    """Rewards known when the decision is made (predicted ones and penalties), as kept in an entry."""
    return tuple(name for name, reward in spec.rewards.items() if reward.kind != "counter")


def bitmask(eligible: Sequence[int]) -> int:
    """Return action indices as a bitmask."""
    return sum(1 << index for index in set(eligible))


class HistoryReader:
    """Turns rings into Steps for one artifact. Entries of another layout are read by column name."""

    def __init__(self, artifact: Artifact) -> None:
        self._spec = artifact.spec
        self._columns = artifact.encoder.columns
        self._average = artifact.policy.normalization.state_mean
        self._plans: dict[bytes, Plan] = {}

    def history(self, ring: Ring) -> tuple[Entry, ...]:
        """Return the entries the model may see: accepted mask keys, the newest ``context_length - 1``.

        An entry whose action this deployment does not have says nothing to the model, and is left out too.
        """
        accepted = [entry for entry in ring.history(self._spec.ring.accept) if self._plan(entry).action(entry) >= 0]
        return tuple(accepted[max(0, len(accepted) - (self._spec.context_length - 1)) :])

    def steps(
        self,
        rings: Sequence[Ring],
        states: Floats,  # [B, S]
        eligible: Bools,  # [B, A]
        times_ms: Sequence[int],
        counters: NDArray[np.float64],  # [B, C] as read now, NaN = missing
    ) -> Steps:
        """Return B windows of T steps whose last step is the one to decide."""
        b, t = len(rings), self._spec.context_length
        histories = [self.history(ring) for ring in rings]
        all_states = np.zeros((b, t, states.shape[1]), np.float32)
        actions = np.zeros((b, t), np.int64)
        rewards = np.zeros((b, t, len(self._spec.rewards)), np.float32)
        all_eligible = np.zeros((b, t, len(self._spec.actions)), np.bool_)
        all_times = np.zeros((b, t), np.int64)
        all_states[:, -1], all_eligible[:, -1], all_times[:, -1] = states, eligible, times_ms
        for i, (ring, entries) in enumerate(zip(rings, histories, strict=True)):
            by_sequence = {entry.sequence: entry for entry in ring.entries}
            for place, entry in zip(range(t - 1 - len(entries), t - 1), entries, strict=True):
                plan = self._plan(entry)
                all_states[i, place] = plan.state(entry, self._average)
                actions[i, place] = plan.action(entry)
                all_eligible[i, place] = plan.eligible(entry)
                all_times[i, place] = entry.at_ms
                successor = by_sequence.get(entry.sequence + 1)
                if entry.sequence + 1 == ring.version.count:
                    later = counters[i]
                else:
                    later = plan.no_counters if successor is None else self._plan(successor).counters(successor)
                rewards[i, place] = plan.rewards(entry, later)
        used = np.asarray([len(entries) for entries in histories])
        valid = np.arange(t)[None, :] >= (t - 1 - used)[:, None]
        return Steps(all_states, actions, rewards, all_eligible, all_times, valid)

    def _plan(self, entry: Entry) -> Plan:
        plan = self._plans.get(entry.layout.fingerprint)
        if plan is None:
            plan = self._plans[entry.layout.fingerprint] = Plan(entry.layout, self._spec, self._columns)
        return plan


class Plan:
    """Where one layout keeps what this deployment reads: positions by name, -1 where it has no such column."""

    def __init__(self, layout: Layout, spec: Spec, columns: Sequence[str]) -> None:
        self._has = {group.name: group.columns for group in layout.groups}
        self._state = _positions(columns, (*self._has.get("state", ()), *self._has.get("scores", ())))
        self._known = _positions(spec.reward_names, self._has.get("rewards", ()))
        self._counters = _positions(spec.counter_features, self._has.get("counters", ()))
        self._actions = _positions(layout.actions, spec.actions)
        self._n_actions = len(spec.actions)
        features = [reward.feature if reward.kind == "counter" else None for reward in spec.rewards.values()]
        self._reward_counter = _positions([feature or "" for feature in features], spec.counter_features)
        self.no_counters = np.full(len(spec.counter_features), np.nan)

    def state(self, entry: Entry, average: Floats) -> Floats:
        """State columns [S]; one that the layout lacks, or that is not finite, counts as average."""
        kept = np.concatenate([self._group(entry, "state"), self._group(entry, "scores"), [np.nan]])
        row = kept[self._state]
        return np.where(np.isfinite(row), row, average).astype(np.float32)

    def action(self, entry: Entry) -> int:
        """Index of the action in this deployment's actions, -1 if it has no such action."""
        return int(self._actions[entry.action])

    def eligible(self, entry: Entry) -> Bools:
        """Eligible actions [A]."""
        row = np.zeros(self._n_actions, np.bool_)
        bits = [own for index, own in enumerate(self._actions) if entry.eligible >> index & 1 and own >= 0]
        row[[0, *bits]] = True
        return row

    def counters(self, entry: Entry) -> NDArray[np.float64]:
        """Cumulative counters [C] as read at the decision, NaN where not kept."""
        kept: NDArray[np.float64] = np.append(self._group(entry, "counters"), np.nan)[self._counters]
        return kept

    def rewards(self, entry: Entry, later: NDArray[np.float64]) -> Floats:
        """Rewards [R] of the step: known ones as kept, counters as the difference to ``later`` [C], NaN if unknown."""
        known = np.append(self._group(entry, "rewards").astype(np.float64), np.nan)[self._known]
        earned = np.append(later - self.counters(entry), np.nan)
        # A counter that went backwards was reset: what was earned is not known.
        earned = np.where(earned >= 0.0, earned, np.nan)[self._reward_counter]
        return np.where(self._reward_counter >= 0, earned, known).astype(np.float32)

    def _group(self, entry: Entry, name: str) -> NDArray[np.floating]:
        return entry.floats[name] if name in self._has else np.empty(0, np.float64)


def _positions(wanted: Sequence[str], kept: Sequence[str]) -> NDArray[np.int64]:
    where = {name: position for position, name in enumerate(kept)}
    return np.asarray([where.get(name, -1) for name in wanted], dtype=np.int64)
