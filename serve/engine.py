"""The decision engine: requests in, decisions out, the ring and the outbox written. Knows nothing of TorchServe.

One batch: parse -> [features of all members | rings of all members], each in one round trip and under its deadline
-> candidates -> model -> append of entry and log row -> reply. DESIGN, section 3.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from contracts.api import DecisionRequest, Rejection, Reply, encode, parse_body, parse_items
from contracts.attribution import penalties
from contracts.errors import NotReplicated, OutcomeUnknown, PacerError, RequestError, SpecError, StoreError
from contracts.settings import Settings
from contracts.spec import Spec, nearest
from models.artifact import Artifact, load_artifact
from models.encoding import to_float32
from models.prompts import make_prompts
from models.steps import Bools
from models.utility import rewards_of
from sequence_store.columns import EntryColumns
from sequence_store.ring import AppendOutcome, Ring, RingStore, Version
from sequence_store.rings import Appends, Rings
from sequence_store.storage import rounded
from serve import answers as answers_of
from serve.answers import Answer
from serve.candidates import TopCandidates, pick_candidates
from serve.exploration import choose_action
from serve.history import HistoryReader, bitmasks, known_rewards, layout_of
from serve.log_rows import Seen, log_row
from serve.member_state import MemberState, OnlineValues
from serve.rings import open_rings

logger = logging.getLogger(__name__)

ATTEMPTS = 8
"""How often one item is decided anew when another caller's append for the member came first."""
READ_THREADS = 8
DAY_MS = 86_400_000

Result = TypeVar("Result")


class FeatureReader(Protocol):
    """What the engine asks of the feature store (feature_repo.online_reader)."""

    @property
    def feature_names(self) -> tuple[str, ...]:
        """All features of the service, in its order."""

    @property
    def view_names(self) -> tuple[str, ...]:
        """The V stored views they come from."""

    def read(self, member_ids: Sequence[str], at_ms: Sequence[int]) -> OnlineValues:
        """Read all members in one round trip; raises StoreError."""


@dataclass(frozen=True)
class Read:
    """What both stores said of members who are to be decided."""

    features: NDArray[np.float64]  # [B, F]
    event_us: NDArray[np.int64]  # [B, V]
    rings: Rings
    numbers: Sequence[int]
    """Which B of the rings they are."""

    @cached_property
    def versions(self) -> list[Version]:
        """What appends to them rest on."""
        return [self.rings.version(number) for number in self.numbers]


class Engine:
    """Decides for one artifact. Safe to call from one thread at a time; many engines may share the stores."""

    def __init__(
        self,
        artifact: Artifact,
        features: FeatureReader,
        rings: RingStore,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        absent = [name for name in artifact.service_features if name not in features.feature_names]
        if absent:
            gone = ", ".join(f"{name!r}{nearest(name, features.feature_names)}" for name in absent)
            raise SpecError(
                f"feature service {artifact.spec.state.feature_service!r} no longer has what {artifact.name} was "
                f"trained with: {gone} (train and deploy anew)"
            )
        self.artifact = artifact
        self.spec: Spec = artifact.spec
        self._features, self._rings, self._now_ms = features, rings, now_ms
        self._history = HistoryReader(artifact)
        self._layout = layout_of(artifact)
        self._kept_probabilities = next(group for group in self._layout.groups if group.name == "probabilities")
        self._text_features = frozenset(artifact.encoder.categories)
        self._column = {name: i for i, name in enumerate(features.feature_names)}
        self.state = MemberState(artifact.spec, artifact.service_features, features.feature_names)
        """Counts what was not known of members."""
        self._logged = [self._column[name] for name in artifact.service_features]
        self._pool = ThreadPoolExecutor(READ_THREADS, thread_name_prefix="read")

    @classmethod
    def open(cls, folder: Path, settings: Settings) -> Engine:
        """Open the artifact in ``folder`` on the feature store and the Redis that ``settings`` name.

        Raises ArtifactError, SpecError, ServerError. A Redis that is down is no error: decisions fall back until
        it is there.
        """
        # Feast takes seconds to import, which tests of the engine alone need not pay.
        from feature_repo.online_reader import OnlineReader

        artifact = load_artifact(folder)
        spec = artifact.spec
        features = OnlineReader.open(spec.state.feature_service, settings)
        rings = open_rings(artifact, settings)
        engine = cls(artifact, features, rings)
        engine.warm_up()
        return engine

    def warm_up(self) -> None:
        """Read and compute once for a member who is not there, writing nothing: the first caller shall not wait."""
        probe = DecisionRequest("\x00warm-up", "warm-up", (), self._now_ms(), self.spec.prompt)
        try:
            features = self._features.read([probe.member_id], [probe.at_ms]).values
            rings = self._rings.read([probe.member_id], [probe.at_ms])
        except StoreError as error:
            logger.warning("warm-up without stores: %s", error)
            return
        if rings.error(0) is not None:
            logger.warning("warm-up without rings: %s", rings.error(0))
            return
        n = len(self.artifact.encoder.columns)
        steps = self._history.steps(
            rings,
            [0],
            np.zeros((1, n), np.float32),
            np.ones((1, len(self.spec.actions)), np.bool_),
            [probe.at_ms],
            self._counters(features),
        )
        self.artifact.policy.decide(steps, make_prompts(self.spec.reward_names, [self.spec.prompt]))

    def answer(self, bodies: Sequence[bytes | str | object]) -> list[Reply]:
        """Answer HTTP bodies, one Reply each; the items of all of them share the round trips. Never raises."""
        parsed: list[list[DecisionRequest | Rejection] | Reply] = []
        now = self._now_ms()
        for body in bodies:
            try:
                parsed.append(parse_items(parse_body(body), self.spec, now, self._text_features))
            except RequestError as error:
                parsed.append(answers_of.error(400, error.field, error.reason))
        requests = [
            item for items in parsed if isinstance(items, list) for item in items if isinstance(item, DecisionRequest)
        ]
        try:
            answers = iter(self.decide(requests))

            def reply(items: list[DecisionRequest | Rejection]) -> Reply:
                decisions = [
                    next(answers) if isinstance(item, DecisionRequest) else answers_of.rejected(item) for item in items
                ]
                return Reply(200, encode({"decisions": decisions}))

            return [reply(items) if isinstance(items, list) else items for items in parsed]
        except Exception:
            logger.exception("a batch of %d items failed", len(requests))
            failed = answers_of.error(
                500, "server", "internal error; the log has it. Ask again under the same cycle_id"
            )
            return [failed if isinstance(items, list) else items for items in parsed]

    def decide(self, requests: Sequence[DecisionRequest]) -> list[Answer]:
        """Decide every request; answers in the same order, as DESIGN 4.4 writes them.

        Two requests for one member (of two callers in one batch) are decided one after the other.
        """
        answers: list[Answer | None] = [None] * len(requests)
        waiting = list(range(len(requests)))
        attempts = 0
        while waiting:
            turn, later = _one_a_member(requests, waiting)
            refused = self._decide_turn(requests, turn, answers)
            attempts = attempts + 1 if refused else 0
            if attempts >= ATTEMPTS:
                for i in refused:
                    answers[i] = answers_of.fallback(
                        self.artifact, requests[i], f"lost {ATTEMPTS} races against other callers for this member"
                    )
                refused, attempts = [], 0
            waiting = sorted(refused + later)
        return [answer for answer in answers if answer is not None]

    def _decide_turn(
        self, requests: Sequence[DecisionRequest], turn: Sequence[int], answers: list[Answer | None]
    ) -> list[int]:
        """Decide requests of distinct members; fill ``answers``; return those refused by the compare-and-set.

        An append that too few replicas are known to have falls back: it may be on its master, and be lost with it. Who
        asks again is answered from the master's ring, ``replayed`` if it is there, without another wait for replicas.
        """
        batch = [requests[i] for i in turn]
        try:
            features, rings = self._read(batch)
        except StoreError as error:
            for i in turn:
                answers[i] = answers_of.fallback(self.artifact, requests[i], str(error))
            return []
        open_: list[int] = []
        decided_before = rings.cycles([request.cycle_id for request in batch])
        for row, (i, entry) in enumerate(zip(turn, decided_before, strict=True)):
            if (unread := rings.error(row)) is not None:
                answers[i] = answers_of.fallback(self.artifact, requests[i], f"rings could not be read: {unread}")
            elif entry is not None:
                answers[i] = answers_of.replayed(requests[i], entry)
            else:
                open_.append(row)
        unknown_state = self.state.check(features, open_, self._now_ms())
        for row, reason in zip(open_, unknown_state, strict=True):
            if reason is not None:
                answers[turn[row]] = answers_of.fallback(self.artifact, requests[turn[row]], reason)
        open_ = [row for row, reason in zip(open_, unknown_state, strict=True) if reason is None]
        if not open_:
            return []
        fresh = [batch[row] for row in open_]
        kept = Read(features.values[open_], features.event_us[open_], rings, open_)
        decided, appends = self._compute(fresh, kept)
        refused: list[int] = []
        unknown: list[int] = []
        for row, answer, outcome in zip(open_, decided, self._append(appends), strict=True):
            i = turn[row]
            if outcome is AppendOutcome.APPENDED:
                answers[i] = answer
            elif outcome is AppendOutcome.CONFLICT:
                refused.append(i)
            elif isinstance(outcome, OutcomeUnknown) and not isinstance(outcome, NotReplicated):
                unknown.append(i)
            else:  # nothing of it was written, or a read of its master cannot tell whether it will stay
                answers[i] = answers_of.fallback(self.artifact, requests[i], str(outcome))
        for i, answer in zip(unknown, self._read_back([requests[i] for i in unknown]), strict=True):
            answers[i] = answer
        return refused

    def _read(self, batch: Sequence[DecisionRequest]) -> tuple[OnlineValues, Rings]:
        """Read features and rings of all members side by side, each under its deadline. Raises StoreError."""
        members, times = [request.member_id for request in batch], [request.at_ms for request in batch]
        started = time.monotonic()
        features = self._pool.submit(self._features.read, members, times)
        rings = self._pool.submit(self._rings.read, members, times)
        deadlines = self.spec.deadlines_ms
        values = _within(features, "features", deadlines.features, started)
        return values, _within(rings, "rings", deadlines.rings, started)

    def _compute(self, batch: Sequence[DecisionRequest], read: Read) -> tuple[list[Answer], Appends]:
        """Score, decide and build entries for a batch whose reads are there."""
        artifact = self.artifact
        features = artifact.encoder.encode_features(tuple(self._column), read.features)
        capped = self._at_cap(batch, read)
        top = pick_candidates(artifact, batch, features, capped)
        counters = self._counters(read.features)
        times_ms = [request.at_ms for request in batch]
        steps = self._history.steps(read.rings, read.numbers, top.states, top.eligible, times_ms, counters)
        prompts = make_prompts(self.spec.reward_names, [request.prompt for request in batch])
        decisions = artifact.policy.decide(steps, prompts)
        # As the ring keeps them: a replay answers the same bit for bit, and the action taken fits what is answered.
        probabilities = [rounded(row[1:], self._kept_probabilities) for row in decisions.probabilities]
        taken = [
            choose_action(
                self.spec,
                request.member_id,
                request.cycle_id,
                answers_of.all_probabilities(self._layout, probabilities[i]),
                top.eligible[i],
            )
            for i, request in enumerate(batch)
        ]
        actions = np.asarray([action for action, _ in taken])
        rewards = self._known_rewards(actions, top, read.features)
        chosen = [request.candidates[k] for request, k in zip(batch, top.chosen.tolist(), strict=True)]
        base = top.states.shape[1] - len(artifact.encoder.scores)
        entries = EntryColumns(
            floats={
                "state": top.states[:, :base],
                "scores": top.states[:, base:],
                "rewards": rewards,
                "counters": counters,
                "probabilities": np.stack(probabilities),
            },
            sequence=np.asarray([version.count for version in read.versions]),
            at_ms=np.asarray(times_ms),
            action=actions,
            eligible=bitmasks(top.eligible),
            mask_key=[self.spec.ring.mask_key] * len(batch),
            cycle_id=[request.cycle_id for request in batch],
            notification_id=[candidate.notification_id for candidate in chosen],
            model=[artifact.name] * len(batch),
            layout=self._layout,
        )
        answers, rows, views = [], [], self._features.view_names
        for i, request in enumerate(batch):
            entry, history_used = entries.entry(i), int(steps.valid[i].sum()) - 1
            answers.append(answers_of.decided(artifact, request, entry, decisions, i, history_used))
            seen = Seen(read.features[i, self._logged], dict(zip(views, read.event_us[i].tolist(), strict=True)))
            rows.append(log_row(self.spec, request, chosen[i], entry, taken[i][1], seen))
        return answers, Appends([request.member_id for request in batch], read.versions, entries, rows)

    def _append(self, appends: Appends) -> Sequence[AppendOutcome | StoreError]:
        try:
            return self._rings.append(appends)
        except StoreError as error:
            return [error] * len(appends)

    def _read_back(self, batch: Sequence[DecisionRequest]) -> list[Answer]:
        """Settle appends whose outcome is unknown, all in one read: the rings say whether they happened."""
        if not batch:
            return []
        members, times = [request.member_id for request in batch], [request.at_ms for request in batch]
        started = time.monotonic()
        try:
            rings = _within(
                self._pool.submit(self._rings.read, members, times), "rings", self.spec.deadlines_ms.rings, started
            )
        except StoreError as error:
            reason = f"outcome of the append unknown: {error}"
            return [answers_of.fallback(self.artifact, request, reason) for request in batch]
        return [self._settle(request, ring) for request, ring in zip(batch, rings, strict=True)]

    def _settle(self, request: DecisionRequest, ring: Ring | StoreError) -> Answer:
        if isinstance(ring, StoreError):
            return answers_of.fallback(self.artifact, request, f"outcome of the append unknown: {ring}")
        entry = ring.cycle(request.cycle_id)
        if entry is None:
            return answers_of.fallback(self.artifact, request, "the append was lost with its connection")
        return answers_of.replayed(request, entry)

    def _at_cap(self, batch: Sequence[DecisionRequest], read: Read) -> Bools:
        """Return which members [B] got as many sends in the 24 hours before as they may."""
        cap = self.spec.limits.sends_per_day
        if cap is None:
            return np.zeros(len(batch), np.bool_)
        since = np.asarray([request.at_ms - DAY_MS for request in batch])[:, None]
        longs = read.rings.longs
        sends = longs.there & (longs.action != 0)
        capped: Bools = (sends[read.numbers] & (since < longs.at_ms[read.numbers])).sum(axis=1) >= cap
        return capped

    def _counters(self, features: NDArray[np.float64]) -> NDArray[np.float64]:
        return features[:, [self._column[name] for name in self.spec.counter_features]]

    def _known_rewards(
        self, actions: NDArray[np.int64], top: TopCandidates, features: NDArray[np.float64]
    ) -> NDArray[np.float32]:
        """Rewards known at the decision, [B, known rewards]: predicted ones and penalties."""
        predicted = dict(zip(self.spec.predicted_rewards, rewards_of(top.scores, actions).T, strict=True))
        columns = []
        for name in known_rewards(self.spec):
            if name in predicted:
                columns.append(predicted[name])
                continue
            grows_with = self.spec.rewards[name].grows_with
            values = None
            if grows_with is not None:
                values = features[:, self._column[grows_with]]
                values = np.where(np.isfinite(values), values, self.spec.state.missing_value(grows_with))
            columns.append(to_float32(penalties(self.spec, name, actions, values)))
        return np.stack(columns, axis=1) if columns else np.zeros((len(actions), 0), np.float32)


def _one_a_member(requests: Sequence[DecisionRequest], waiting: Sequence[int]) -> tuple[list[int], list[int]]:
    """Split indices into the first of each member, and the rest."""
    seen: set[str] = set()
    turn: list[int] = []
    later: list[int] = []
    for i in waiting:
        (later if requests[i].member_id in seen else turn).append(i)
        seen.add(requests[i].member_id)
    return turn, later


def _within(future: Future[Result], what: str, deadline_ms: float, started: float) -> Result:
    """Wait for a read until its deadline. Raises StoreError naming the deadline, or the store's own."""
    try:
        return future.result(timeout=max(0.0, started + deadline_ms / 1000.0 - time.monotonic()))
    except TimeoutError:
        future.cancel()
        raise StoreError(f"{what} not read within deadlines_ms.{what} = {deadline_ms:g}") from None
    except PacerError as error:
        raise StoreError(f"{what} could not be read: {error}") from error
