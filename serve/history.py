"""From rings to the model's input: each member's accepted entries, their rewards, and the step to decide."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from contracts.spec import MaskedGroup, Spec
from models.artifact import Artifact
from models.masking import GROUPS, MaskableColumns, mask_history
from models.steps import Bools, Floats, Steps
from sequence_store.entry import Entry
from sequence_store.layout import SCALED, FloatGroup, Layout
from sequence_store.mask import accepted
from sequence_store.ring import Ring

DISTORTION: Final = 0.01
"""Largest rounding error that float16 may make, in standard deviations of the column."""
STEP: Final[Mapping[str, float]] = {"uint8": 1 / 4, "uint16": 1 / 256}
"""Step of a scaled storage type, in standard deviations of the column."""
PROBABILITY_SCALE: Final = (0.5, 1 / 65532)
"""Centre and step of a probability in uint16: 0 and 1 are a whole number of steps away."""


def layout_of(artifact: Artifact, step: Mapping[str, float] = STEP) -> Layout:
    """Return the FLS layout of the entries that this artifact writes (DESIGN 4.3).

    Counters are kept as float64 whatever the spec's storage, since rewards are exact differences. Of the probabilities
    the first action's is what remains of 1. A group that float16 would distort is kept as float32, lest the model meets
    another history in service than in training. uint8 and uint16 keep whole ``step``s (in standard deviations) from
    the column's median; a column of whole numbers has whole ones, of at least 1.
    """
    spec, encoder, fitted = artifact.spec, artifact.encoder, artifact.policy.normalization
    base = len(encoder.features) + len(encoder.candidate_columns)
    known = [spec.reward_names.index(name) for name in known_rewards(spec)]
    states = _Seen(fitted.state_mean, fitted.state_scale, fitted.state_centre, fitted.state_whole)
    rewards = _Seen(fitted.reward_mean, fitted.reward_scale, fitted.reward_centre, fitted.reward_whole)
    groups = (
        _group(spec, "state", encoder.columns[:base], states.of(slice(base)), step),
        _group(spec, "scores", encoder.scores, states.of(slice(base, None)), step),
        _group(spec, "rewards", known_rewards(spec), rewards.of(known), step),
        FloatGroup("counters", spec.counter_features, "float64"),
        _probabilities(spec),
    )
    return Layout(groups=groups, actions=spec.actions)


class _Seen(NamedTuple):
    """What training saw of some columns."""

    mean: Floats
    scale: Floats
    centre: Floats
    whole: Bools

    def of(self, columns: slice | list[int]) -> _Seen:
        return _Seen(self.mean[columns], self.scale[columns], self.centre[columns], self.whole[columns])


def _group(spec: Spec, name: str, columns: tuple[str, ...], seen: _Seen, step: Mapping[str, float]) -> FloatGroup:
    storage = spec.state.storage_of(name)
    if storage == "float16" and _float16_distorts(seen):
        storage = "float32"
    if storage not in SCALED:
        return FloatGroup(name, columns, storage)
    steps = step[storage] * seen.scale.astype(np.float64)
    steps = np.where(seen.whole, np.maximum(np.rint(steps), 1.0), steps)
    if (np.abs(seen.centre) + SCALED[storage] * steps > np.finfo(np.float32).max / 2).any():
        return FloatGroup(name, columns, "float32")
    return FloatGroup(name, columns, storage, tuple(zip(seen.centre.tolist(), steps.tolist(), strict=True)))


def _float16_distorts(seen: _Seen) -> bool:
    """Tell whether float16, with its 11 significant bits up to 65,504, keeps a column to worse than DISTORTION."""
    largest = np.abs(seen.mean) + 3.0 * seen.scale
    error = largest * 2.0**-11
    return bool(((error > DISTORTION * seen.scale) | (largest > np.finfo(np.float16).max)).any())


def _probabilities(spec: Spec) -> FloatGroup:
    storage, sends = spec.state.storage_of("probabilities"), spec.actions[1:]
    return FloatGroup("probabilities", sends, storage, (PROBABILITY_SCALE,) * len(sends) if storage in SCALED else ())


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
        self._maskable = MaskableColumns.of(artifact.spec, artifact.encoder)
        self._masked_groups: dict[str, tuple[MaskedGroup, ...]] = {}
        self._plans: dict[bytes, Plan] = {}

    def history(self, ring: Ring) -> tuple[Entry, ...]:
        """Return the entries the model may see: accepted mask keys, the newest ``context_length - 1``.

        An entry whose action this deployment does not have says nothing to the model, and is left out too.
        """
        wanted = self._spec.context_length - 1
        found = (
            entry
            for entry in ring.newest()
            if accepted(entry.mask_key, self._spec.ring.accept) and self._plan(entry).action(entry) >= 0
        )
        return tuple(reversed(list(itertools.islice(found, wanted))))

    def steps(
        self,
        rings: Sequence[Ring],
        states: Floats,  # [B, S]
        eligible: Bools,  # [B, A]
        times_ms: Sequence[int],
        counters: NDArray[np.float64],  # [B, C] as read now, NaN = missing
    ) -> Steps:
        """Return B windows of T steps whose last step is the one to decide; ``ring.masked`` groups are not known."""
        b, t = len(rings), self._spec.context_length
        histories = [self.history(ring) for ring in rings]
        all_states = np.zeros((b, t, states.shape[1]), np.float32)
        actions = np.zeros((b, t), np.int64)
        rewards = np.zeros((b, t, len(self._spec.rewards)), np.float32)
        all_eligible = np.zeros((b, t, len(self._spec.actions)), np.bool_)
        all_times = np.zeros((b, t), np.int64)
        masked = {group: np.zeros((b, t), np.bool_) for group in GROUPS if self._spec.ring.masked}
        all_states[:, -1], all_eligible[:, -1], all_times[:, -1] = states, eligible, times_ms
        for i, (ring, entries) in enumerate(zip(rings, histories, strict=True)):
            for place, entry in zip(range(t - 1 - len(entries), t - 1), entries, strict=True):
                plan = self._plan(entry)
                all_states[i, place] = plan.state(entry)
                actions[i, place] = plan.action(entry)
                all_eligible[i, place] = plan.eligible(entry)
                all_times[i, place] = entry.at_ms
                if entry.sequence + 1 == ring.version.count:
                    later = counters[i]
                else:
                    successor = ring.at(entry.sequence + 1)
                    later = plan.no_counters if successor is None else self._plan(successor).counters(successor)
                rewards[i, place] = plan.rewards(entry, later)
                for group in self._masked_of(entry.mask_key) if masked else ():
                    masked[group][i, place] = True
        used = np.asarray([len(entries) for entries in histories])
        valid = np.arange(t)[None, :] >= (t - 1 - used)[:, None]
        steps = Steps(all_states, actions, rewards, all_eligible, all_times, valid)
        return mask_history(steps, masked, self._maskable) if masked else steps

    def _masked_of(self, mask_key: str) -> tuple[MaskedGroup, ...]:
        """Return the groups that the model is not shown of entries under ``mask_key``."""
        if mask_key not in self._masked_groups:
            rules = self._spec.ring.masked.items()
            found = {group for pattern, groups in rules if accepted(mask_key, [pattern]) for group in groups}
            self._masked_groups[mask_key] = tuple(sorted(found))
        return self._masked_groups[mask_key]

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

    def state(self, entry: Entry) -> Floats:
        """State columns [S], NaN where the layout has no such column."""
        kept = np.concatenate([self._group(entry, "state"), self._group(entry, "scores"), [np.nan]])
        return kept[self._state].astype(np.float32)

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
