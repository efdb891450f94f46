"""From rings to the model's input: each member's accepted entries, their rewards, and the step to decide."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from contracts.errors import StoreError
from contracts.spec import MaskedGroup, Spec
from models.artifact import Artifact
from models.masking import GROUPS, MaskableColumns, mask_history
from models.steps import Bools, Floats, Steps
from sequence_store.columns import EntryColumns
from sequence_store.entry import Entry
from sequence_store.joined import Ints
from sequence_store.layout import SCALED, FloatGroup, Layout
from sequence_store.mask import accepted
from sequence_store.ring import Ring
from sequence_store.rings import Rings
from sequence_store.storage import FloatArray

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


def bitmasks(eligible: Bools) -> Ints:
    """Return eligible actions [B, A] as bitmasks [B]."""
    bits: Ints = (eligible.astype(np.int64) << np.arange(eligible.shape[1])).sum(axis=1)
    return bits


class HistoryReader:
    """Turns rings into Steps for one artifact. Entries of another layout are read by column name."""

    def __init__(self, artifact: Artifact) -> None:
        self._spec = artifact.spec
        self._columns = artifact.encoder.columns
        self._maskable = MaskableColumns.of(artifact.spec, artifact.encoder)
        self._masked_groups: dict[str, tuple[MaskedGroup, ...]] = {}
        self._accepts: dict[str, bool] = {}
        self._plans: dict[bytes, Plan] = {}

    def history(self, ring: Ring) -> tuple[Entry, ...]:
        """Return the entries the model may see: accepted mask keys, the newest ``context_length - 1``.

        An entry whose action this deployment does not have says nothing to the model, and is left out too.
        """
        wanted = self._spec.context_length - 1
        found = (
            entry
            for entry in ring.newest()
            if self._is_accepted(entry.mask_key) and self._plan(entry.layout).actions[entry.action] >= 0
        )
        return tuple(reversed(list(itertools.islice(found, wanted))))

    def steps(
        self,
        rings: Rings,
        numbers: Sequence[int],
        states: Floats,  # [B, S]
        eligible: Bools,  # [B, A]
        times_ms: Sequence[int],
        counters: NDArray[np.float64],  # [B, C] as read now, NaN = missing
    ) -> Steps:
        """Return a window of T steps for each of the B rings ``numbers``, whose last step is the one to decide.

        ``ring.masked`` groups are not known. Raises the StoreError of a ring that could not be read.
        """
        b, t = len(numbers), self._spec.context_length
        history = _History(b, t - 1, states.shape[1], self._spec)
        for entries, rows, places in self._entries(rings, numbers):
            history.put(entries, rows, t - 2 - places, self._plan(entries.layout))
        versions = [rings.version(number) for number in numbers]
        unsettled = history.settle(np.asarray([version.count for version in versions]), counters)
        for row, place in unsettled:
            self._settle(history, rings[numbers[row]], row, place)
        masked = self._masked(history) if self._spec.ring.masked else None

        def with_last(past: NDArray[Any], last: Any) -> NDArray[Any]:
            return np.concatenate([past, np.asarray(last, past.dtype)[:, None]], axis=1)

        steps = Steps(
            with_last(history.states, states),
            with_last(history.actions, np.zeros(b)),
            with_last(history.rewards, np.zeros((b, len(self._spec.rewards)))),
            with_last(history.eligible, eligible),
            with_last(history.times_ms, np.asarray(times_ms).reshape(b)),
            with_last(history.valid, np.ones(b, np.bool_)),
        )
        return steps if masked is None else mask_history(steps, masked, self._maskable)

    def _entries(self, rings: Rings, numbers: Sequence[int]) -> Iterator[tuple[EntryColumns, Ints, Ints]]:
        """Yield the history of the rings by layout: entries [N], rows [N] of ``numbers``, places [N], 0 the newest."""
        row_of = np.full(len(rings), -1)
        row_of[list(numbers)] = np.arange(len(numbers))
        taken = rings.newest(self._spec.context_length - 1)
        others: set[int] = set()
        for found in taken:
            known = self._plan(found.entries.layout).actions[found.entries.action] >= 0
            known &= np.fromiter(map(self._is_accepted, found.entries.mask_key), np.bool_, len(found.entries))
            others.update(row_of[found.ring[~known]].tolist())
        # Where one of the newest is no history, older ones may be.
        others.discard(-1)
        by_layout: dict[Layout, list[tuple[Entry, int, int]]] = {}
        for row in others:
            ring = rings[numbers[row]]
            assert isinstance(ring, Ring)
            for place, entry in enumerate(reversed(self.history(ring))):
                by_layout.setdefault(entry.layout, []).append((entry, row, place))
        for found in taken:
            rows = row_of[found.ring]
            kept = np.flatnonzero((rows >= 0) & ~np.isin(rows, list(others)))
            entries = found.entries if len(kept) == len(rows) else found.entries.take(kept)
            yield entries, rows[kept], found.place[kept]
        for listed in by_layout.values():
            of_layout, in_rows, at_places = zip(*listed, strict=True)
            yield EntryColumns.of(of_layout), np.asarray(in_rows), np.asarray(at_places)

    def _settle(self, history: _History, ring: Ring | StoreError, row: int, place: int) -> None:
        """Let the rewards of a step be known by its successor, which the model does not see."""
        assert isinstance(ring, Ring)
        successor = ring.at(int(history.sequences[row, place]) + 1)
        if successor is not None:
            later = self._plan(successor.layout).counters(EntryColumns.of([successor]))
            history.earn(np.asarray([row]), np.asarray([place]), later)

    def _masked(self, history: _History) -> dict[MaskedGroup, Bools]:
        """Return the groups that the model is not shown, each [B, T]."""
        b, past = history.valid.shape
        masked = {group: np.zeros((b, past + 1), np.bool_) for group in GROUPS}
        for row, place in zip(*np.nonzero(history.valid), strict=True):
            for group in self._masked_of(history.mask_keys[row, place]):
                masked[group][row, place] = True
        return masked

    def _masked_of(self, mask_key: str) -> tuple[MaskedGroup, ...]:
        """Return the groups that the model is not shown of entries under ``mask_key``."""
        if mask_key not in self._masked_groups:
            rules = self._spec.ring.masked.items()
            found = {group for pattern, groups in rules if accepted(mask_key, [pattern]) for group in groups}
            self._masked_groups[mask_key] = tuple(sorted(found))
        return self._masked_groups[mask_key]

    def _is_accepted(self, mask_key: str) -> bool:
        is_accepted = self._accepts.get(mask_key)
        if is_accepted is None:
            is_accepted = self._accepts[mask_key] = accepted(mask_key, self._spec.ring.accept)
        return is_accepted

    def _plan(self, layout: Layout) -> Plan:
        plan = self._plans.get(layout.fingerprint)
        if plan is None:
            plan = self._plans[layout.fingerprint] = Plan(layout, self._spec, self._columns)
        return plan


class _History:
    """The steps before the one to decide: arrays [B, P, ...] of P places, the last of which is the newest."""

    def __init__(self, b: int, p: int, columns: int, spec: Spec) -> None:
        self._reward_counter = reward_counters(spec)
        self.states = np.zeros((b, p, columns), np.float32)
        self.actions = np.zeros((b, p), np.int64)
        self.rewards = np.zeros((b, p, len(spec.rewards)), np.float32)
        self.eligible = np.zeros((b, p, len(spec.actions)), np.bool_)
        self.times_ms = np.zeros((b, p), np.int64)
        self.valid = np.zeros((b, p), np.bool_)
        self.sequences = np.zeros((b, p), np.int64)
        self.counters = np.full((b, p, len(spec.counter_features)), np.nan)
        self.mask_keys = np.zeros((b, p), np.object_)

    def put(self, entries: EntryColumns, rows: Ints, places: Ints, plan: Plan) -> None:
        """Put entries [N] at ``rows`` and ``places`` [N], with the rewards that they hold."""
        at = rows, places
        self.states[at] = plan.states(entries)
        self.actions[at] = plan.actions[entries.action]
        self.rewards[at] = plan.rewards(entries)
        self.eligible[at] = plan.eligible(entries.eligible)
        self.times_ms[at] = entries.at_ms
        self.valid[at] = True
        self.sequences[at] = entries.sequence
        self.counters[at] = plan.counters(entries)
        self.mask_keys[at] = [*entries.mask_key]

    def settle(self, counts: Ints, now: NDArray[np.float64]) -> list[tuple[int, int]]:
        """Let what was earned from one step to the next be known; return the steps whose successor is not here.

        Parameters
        ----------
        counts
            [B] entries appended so far.
        now
            [B, C] counters as read now: what the newest entry's are compared with.
        """
        if not self._reward_counter.size or not self.valid.size:
            return []
        following = np.concatenate([self.sequences[:, 1:], counts[:, None]], axis=1)
        later = np.concatenate([self.counters[:, 1:], now[:, None]], axis=1)
        there = np.concatenate([self.valid[:, 1:], np.ones((len(counts), 1), np.bool_)], axis=1)
        is_next = self.valid & there & (following == self.sequences + 1)
        later[~is_next] = np.nan
        rows, places = np.nonzero(self.valid)
        self.earn(rows, places, later[rows, places])
        rows, places = np.nonzero(self.valid & ~is_next)
        return list(zip(rows.tolist(), places.tolist(), strict=True))

    def earn(self, rows: Ints, places: Ints, later: NDArray[np.float64]) -> None:
        """Let counter rewards [N] be the difference to the counters ``later`` [N, C]."""
        earned = later - self.counters[rows, places]
        # A counter that went backwards was reset: what was earned is not known.
        earned = np.where(earned >= 0.0, earned, np.nan)
        for reward, counter in self._reward_counter.tolist():
            self.rewards[rows, places, reward] = earned[:, counter]


class Plan:
    """Where one layout keeps what this deployment reads: positions by name, -1 where it has no such column.

    Attributes
    ----------
    actions
        [layout's actions] index of each in this deployment's actions, -1 if it has no such action.
    """

    def __init__(self, layout: Layout, spec: Spec, columns: Sequence[str]) -> None:
        self._has = {group.name: group.columns for group in layout.groups}
        self._state = _positions(columns, (*self._has.get("state", ()), *self._has.get("scores", ())))
        self._known = _positions(spec.reward_names, self._has.get("rewards", ()))
        self._counters = _positions(spec.counter_features, self._has.get("counters", ()))
        self.actions = _positions(layout.actions, spec.actions)
        self._n_actions = len(spec.actions)

    def states(self, entries: EntryColumns) -> Floats:
        """State columns [N, S], NaN where the layout has no such column."""
        return _by_name([self._group(entries, "state"), self._group(entries, "scores")], self._state).astype(np.float32)

    def eligible(self, bits: Ints) -> Bools:
        """Eligible actions [N, A]."""
        eligible = np.zeros((len(bits), self._n_actions), np.bool_)
        for index, own in enumerate(self.actions.tolist()):
            if own >= 0:
                eligible[:, own] = bits >> index & 1
        eligible[:, 0] = True
        return eligible

    def counters(self, entries: EntryColumns) -> NDArray[np.float64]:
        """Cumulative counters [N, C] as read at the decision, NaN where not kept."""
        return _by_name([self._group(entries, "counters")], self._counters)

    def rewards(self, entries: EntryColumns) -> Floats:
        """Rewards [N, R] that were known at the decision, NaN for the others."""
        return _by_name([self._group(entries, "rewards")], self._known).astype(np.float32)

    def _group(self, entries: EntryColumns, name: str) -> FloatArray:
        return entries.floats[name] if name in self._has else np.empty((len(entries), 0))


def reward_counters(spec: Spec) -> Ints:
    """Return (reward, counter) of every counter reward, [K, 2], as places in ``rewards`` and ``counter_features``."""
    pairs = [
        (place, spec.counter_features.index(reward.feature))
        for place, reward in enumerate(spec.rewards.values())
        if reward.kind == "counter" and reward.feature is not None
    ]
    return np.asarray(pairs, np.int64).reshape(-1, 2)


def _by_name(groups: Sequence[FloatArray], positions: Ints) -> NDArray[np.float64]:
    """Return columns [N, P] of ``groups``, each [N, ...], by position; NaN at -1."""
    unknown = np.full((len(groups[0]), 1), np.nan)
    kept: NDArray[np.float64] = np.concatenate([*groups, unknown], axis=1)[:, positions]
    return kept


def _positions(wanted: Sequence[str], kept: Sequence[str]) -> NDArray[np.int64]:
    where = {name: position for position, name in enumerate(kept)}
    return np.asarray([where.get(name, -1) for name in wanted], dtype=np.int64)
