"""The engine on the in-memory twin: once per cycle, history, caps, fallbacks, races, and bodies made to hurt."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from contracts.errors import NotReplicated, OutcomeUnknown, SpecError, StoreError, StoreUnavailable
from models.artifact import Artifact
from sequence_store.memory_ring import MemoryRingStore
from sequence_store.ring import Append, AppendOutcome
from sequence_store.rings import Rings
from serve.engine import Engine
from serve.history import layout_of
from tests.serve.deployment import (
    FEATURES,
    HOUR,
    NOW,
    TableOfFeatures,
    item,
    ring_in,
    spec_with,
    steps_in,
    untrained_artifact,
)

pytestmark = pytest.mark.unit


def store_for(artifact: Artifact, cls: type[MemoryRingStore] = MemoryRingStore) -> MemoryRingStore:
    ring = artifact.spec.ring
    return cls(artifact.spec.name, layout_of(artifact), ring.capacity, ring.ttl_days)


def engine_with(
    artifact: Artifact | None = None, rings: MemoryRingStore | None = None, features: TableOfFeatures | None = None
) -> Engine:
    artifact = artifact or untrained_artifact()
    return Engine(artifact, features or TableOfFeatures(), rings or store_for(artifact), now_ms=lambda: NOW)


def ask(engine: Engine, *items: dict[str, Any]) -> list[dict[str, Any]]:
    (reply,) = engine.answer([json.dumps({"decisions": items}).encode()])
    assert reply.status == 200
    answers: list[dict[str, Any]] = json.loads(reply.body)["decisions"]
    return answers


def test_a_member_never_seen_is_decided_with_an_empty_history() -> None:
    (answer,) = ask(engine_with(), item())
    assert answer["status"] == "decided"
    assert answer["history_used"] == 0
    assert answer["model"] == "notification/v1"
    assert sum(answer["probabilities"].values()) == pytest.approx(1.0)
    assert answer["prompt"] == {"click": 0.7, "visit": 0.7, "volume": 0.7}
    for name, asked in answer["prompted_return"].items():
        assert asked == answer["quantiles"][name]["0.7"]


def test_history_grows_to_the_context_and_no_further() -> None:
    engine = engine_with()
    used = [ask(engine, item(cycle=f"c{k}", at_hours=3 * k))[0]["history_used"] for k in range(6)]
    assert used == [0, 1, 2, 3, 3, 3]


def test_the_same_cycle_is_replayed_with_the_same_answer() -> None:
    engine = engine_with()
    first = ask(engine, item())[0]
    ask(engine, item(cycle="c1", at_hours=3))
    again = ask(engine, item())[0]
    assert again["status"] == "replayed"
    for key in ("action", "notification_id", "probabilities", "model"):
        assert again[key] == first[key]


@pytest.mark.parametrize("storage", ["uint16", "float32"])
def test_many_replays_answer_the_same_probabilities_bit_for_bit(storage: str) -> None:
    spec = spec_with(("{default: float32}", f"{{default: uint8, probabilities: {storage}}}"))
    engine = engine_with(untrained_artifact(spec))
    rng = np.random.default_rng(0)
    asked = [item(f"m{k}") for k in range(200)]
    for one in asked:
        del one["candidates"][1]
        one["candidates"][0]["features"] = {"relevance": float(rng.normal()), "age_hours": float(rng.normal(0, 9))}
    first, again = ask(engine, *asked), ask(engine, *asked)
    assert {answer["status"] for answer in again} == {"replayed"}
    assert [answer["probabilities"] for answer in first] == [answer["probabilities"] for answer in again]
    assert len({answer["probabilities"]["push"] for answer in first}) > 100
    for answer in first:
        assert answer["action"] == max(answer["probabilities"], key=answer["probabilities"].get)
        assert sum(answer["probabilities"].values()) == pytest.approx(1.0, abs=1e-6)


def test_two_callers_in_one_batch_get_one_entry() -> None:
    engine = engine_with()
    body = json.dumps({"decisions": [item()]}).encode()
    replies = [json.loads(reply.body)["decisions"][0] for reply in engine.answer([body, body, body])]
    assert [reply["status"] for reply in replies] == ["decided", "replayed", "replayed"]
    assert len({reply["action"] for reply in replies}) == 1


def test_many_threads_asking_one_cycle_get_one_entry() -> None:
    artifact = untrained_artifact()
    rings = store_for(artifact)
    engines = [engine_with(artifact, rings) for _ in range(8)]
    barrier = threading.Barrier(len(engines))
    answers: list[dict[str, Any]] = []

    def call(engine: Engine) -> None:
        barrier.wait()
        answers.extend(ask(engine, item(cycle="same")))

    threads = [threading.Thread(target=call, args=(engine,)) for engine in engines]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answer["status"] for answer in answers) == ["decided"] + ["replayed"] * 7
    assert len({answer["notification_id"] for answer in answers}) == 1
    assert len(ring_in(rings).entries) == 1
    assert len(rings.drain(100)) == 1


class Racing(MemoryRingStore):
    """Before each of the first appends, another caller's append for the member comes in between."""

    races = 3

    def append(self, appends: Sequence[Append]) -> list[AppendOutcome | StoreError]:
        if self.races > 0:
            self.races -= 1
            other = engine_with(untrained_artifact(), self)
            races, self.races = self.races, 0
            ask(other, item(cycle=f"other{races}"))
            self.races = races
        return super().append(appends)


def test_a_lost_race_is_decided_anew_on_the_new_history() -> None:
    artifact = untrained_artifact()
    rings = store_for(artifact, Racing)
    (answer,) = ask(engine_with(artifact, rings), item(cycle="mine"))
    assert answer["status"] == "decided"
    assert answer["history_used"] == 3
    entries = ring_in(rings).entries
    assert [entry.sequence for entry in entries] == [0, 1, 2, 3]
    assert entries[-1].cycle_id == "mine"


class AlwaysLosing(MemoryRingStore):
    """Refuses every append."""

    def append(self, appends: Sequence[Append]) -> list[AppendOutcome | StoreError]:
        return [AppendOutcome.CONFLICT] * len(appends)


def test_a_race_that_can_not_be_won_falls_back() -> None:
    artifact = untrained_artifact()
    (answer,) = ask(engine_with(artifact, store_for(artifact, AlwaysLosing)), item())
    assert answer["status"] == "fallback"
    assert answer["action"] == "none"
    assert "races" in answer["reason"]


class BrokenAfterWriting(MemoryRingStore):
    """Writes, then loses the connection."""

    def append(self, appends: Sequence[Append]) -> list[AppendOutcome | StoreError]:
        super().append(appends)
        raise OutcomeUnknown("connection reset")


def test_an_append_of_unknown_outcome_is_read_back() -> None:
    artifact = untrained_artifact()
    rings = store_for(artifact, BrokenAfterWriting)
    (answer,) = ask(engine_with(artifact, rings), item())
    assert answer["status"] == "replayed"
    assert len(ring_in(rings).entries) == 1


class BrokenBeforeWriting(MemoryRingStore):
    """Loses the connection before anything is written."""

    broken = True

    def append(self, appends: Sequence[Append]) -> list[AppendOutcome | StoreError]:
        if self.broken:
            raise OutcomeUnknown("connection reset")
        return super().append(appends)


def test_after_a_fallback_the_same_cycle_may_be_asked_again() -> None:
    artifact = untrained_artifact()
    rings = store_for(artifact, BrokenBeforeWriting)
    assert isinstance(rings, BrokenBeforeWriting)
    engine = engine_with(artifact, rings)
    assert ask(engine, item())[0]["status"] == "fallback"
    rings.broken = False
    assert ask(engine, item())[0]["status"] == "decided"


class Down(MemoryRingStore):
    """A server that is gone."""

    def read(self, member_ids: Sequence[str], now_ms: Sequence[int]) -> Rings:
        raise StoreUnavailable("redis at 127.0.0.1:1 does not answer")


def test_a_store_that_is_down_gives_fallbacks_that_name_it() -> None:
    artifact = untrained_artifact()
    answers = ask(engine_with(artifact, store_for(artifact, Down)), item("a"), item("b"))
    assert [answer["status"] for answer in answers] == ["fallback", "fallback"]
    assert "127.0.0.1:1" in answers[0]["reason"]


class Slow(TableOfFeatures):
    """Features that come only when released."""

    def __init__(self) -> None:
        super().__init__()
        self.released = threading.Event()

    def read(self, member_ids: Sequence[str], at_ms: Sequence[int]) -> Any:
        assert self.released.wait(60)
        return super().read(member_ids, at_ms)


def test_features_that_miss_their_deadline_give_fallbacks() -> None:
    features = Slow()
    artifact = untrained_artifact(spec_with(("features: 20000", "features: 5")))
    (answer,) = ask(engine_with(artifact, features=features), item())  # comes before the features are released
    features.released.set()
    assert answer["status"] == "fallback"
    assert "deadlines_ms.features = 5" in answer["reason"]


def test_an_ineligible_action_is_never_taken() -> None:
    engine = engine_with()
    for k, eligible in enumerate((["none"], ["none", "badge"], ["push", "none"])):
        asked = item(cycle=f"c{k}")
        for candidate in asked["candidates"]:
            candidate["eligible"] = eligible
        (answer,) = ask(engine, asked)
        assert answer["action"] in eligible
        assert all((p == 0.0) == (name not in eligible) for name, p in answer["probabilities"].items())


def test_the_daily_cap_leaves_only_the_safe_action() -> None:
    artifact = untrained_artifact(
        spec_with(("sends_per_day: 6", "sends_per_day: 2"), ("epsilon: 0.0, share: 0.0", "epsilon: 1.0, share: 1.0"))
    )
    engine = engine_with(artifact)
    sent: list[float] = []
    for k in range(40):
        hours = k * 1.5
        (answer,) = ask(engine, item(cycle=f"c{k}", at_hours=hours))
        if answer["action"] != "none":
            sent.append(hours)
    assert len(sent) > 2
    # The ring holds 16 entries, more than a day at this pace: no window of 24 h has more than 2 sends.
    assert all(sum(start <= at < start + 24 for at in sent) <= 2 for start in sent)


def test_the_best_candidate_is_picked_and_one_that_can_not_be_sent_never_beats_one_that_can() -> None:
    engine = engine_with()
    asked = item()
    asked["candidates"][0]["eligible"] = ["none"]
    (answer,) = ask(engine, asked)
    assert answer["notification_id"] == "n1"


def test_exploration_is_logged_with_its_true_propensity() -> None:
    artifact = untrained_artifact(
        spec_with(("epsilon: 0.0, share: 0.0", "epsilon: 0.4, share: 1.0"), ("sends_per_day: 6", "sends_per_day: null"))
    )
    rings = store_for(artifact)
    engine = engine_with(artifact, rings)
    answers = ask(engine, *[item(f"m{k}") for k in range(600)])
    rows = [json.loads(row) for _, row in rings.drain(1000)]
    assert len(rows) == 600
    greedy = {a["member_id"]: max(a["probabilities"], key=a["probabilities"].get) for a in answers}
    strays = [row for row in rows if row["action"] != greedy[row["member_id"]]]
    for row in rows:
        expected = 0.4 / 3 + 0.6 * (row["action"] == greedy[row["member_id"]])
        assert row["propensity"] == pytest.approx(expected)
    # 0.4 x 2/3 of 600 = 160 expected, standard deviation 11.
    assert 110 < len(strays) < 210


def test_without_exploration_the_propensity_is_one() -> None:
    artifact = untrained_artifact()
    rings = store_for(artifact)
    ask(engine_with(artifact, rings), item())
    (row,) = [json.loads(row) for _, row in rings.drain(10)]
    assert row["propensity"] == 1.0
    assert row["member_id"] == "a"
    assert row["sequence"] == 0
    assert row["eligible"] == ["none", "badge", "push"]


def test_history_rewards_are_counter_differences_even_across_entries() -> None:
    features = TableOfFeatures()
    artifact = untrained_artifact()
    rings = store_for(artifact)
    engine = engine_with(artifact, rings, features)
    for k, visits in enumerate((10, 13, 13)):
        features.rows["a"] = {"visits_total": float(visits), "clicks_total": 0.0, "sends_24h": 0.0, "tenure_days": 1.0}
        ask(engine, item(cycle=f"c{k}", at_hours=3 * k))
    zeros, eligible = np.zeros((1, len(artifact.encoder.columns)), np.float32), np.ones((1, 3), np.bool_)
    steps = steps_in(engine._history, rings, zeros, eligible, NOW + 9 * HOUR, np.array([[0.0, 20.0]]))
    assert steps.rewards[0, :3, 1].tolist() == [3.0, 0.0, 7.0]
    reset = steps_in(engine._history, rings, zeros, eligible, NOW + 9 * HOUR, np.array([[0.0, 2.0]]))
    assert np.isnan(reset.rewards[0, 2, 1])


def test_entries_under_another_mask_key_are_not_history_but_count_for_once_per_cycle() -> None:
    old = untrained_artifact()
    rings = store_for(old)
    ask(engine_with(old, rings), item(cycle="c0"))
    new = untrained_artifact(
        spec_with(("mask_key: utility-v1, accept: [utility-v1]", "mask_key: utility-v2, accept: [utility-v2]"))
    )
    engine = engine_with(new, rings)
    assert ask(engine, item(cycle="c0"))[0]["status"] == "replayed"
    assert ask(engine, item(cycle="c1", at_hours=1))[0]["history_used"] == 0
    assert ask(engine, item(cycle="c2", at_hours=2))[0]["history_used"] == 1


def test_entries_of_an_older_layout_are_read_by_name() -> None:
    old = untrained_artifact()
    rings = store_for(old)
    ask(engine_with(old, rings), item(cycle="c0"))
    new = untrained_artifact(
        spec_with(("candidate: [type, relevance, age_hours]", "candidate: [age_hours, type, relevance]"))
    )
    engine = engine_with(new, rings)
    ring = ring_in(rings)
    n = len(new.encoder.columns)
    steps = steps_in(
        engine._history, rings, np.zeros((1, n), np.float32), np.ones((1, 3), np.bool_), NOW, np.full((1, 2), np.nan)
    )
    before = dict(
        zip(
            old.encoder.columns,
            np.concatenate([ring.entries[0].floats["state"], ring.entries[0].floats["scores"]]),
            strict=True,
        )
    )
    assert steps.states[0, -2].tolist() == [before[name] for name in new.encoder.columns]


def test_clocks_that_jump_and_entries_from_the_future_do_no_harm() -> None:
    engine = engine_with()
    used = [
        ask(engine, item(cycle=f"c{k}", at_hours=hours))[0]["history_used"]
        for k, hours in enumerate((0, 10_000, -200, 0, 0))
    ]
    # 14 days are 336 hours: at -200 h the entry of 0 h is in the future, and stays.
    assert used == [0, 0, 2, 3, 3]


def test_wrong_items_and_bodies_do_not_harm_the_others() -> None:
    engine = engine_with()
    good = json.dumps({"decisions": [item("a"), {"member_id": "b"}, item("c")]}).encode()
    replies = engine.answer([b"nonsense", good, b'{"decisions": []}', json.dumps({"decisions": [item("d")] * 5000})])
    assert [reply.status for reply in replies] == [400, 200, 400, 400]
    assert [answer["status"] for answer in json.loads(replies[1].body)["decisions"]] == [
        "decided",
        "rejected",
        "decided",
    ]
    assert "1,024" in json.loads(replies[3].body)["error"]["reason"]


def test_1024_items_and_strange_ids_are_answered_in_order() -> None:
    engine = engine_with()
    names = ["\x00", "🦊", "a b", "{curly}", "'quote\"", "x" * 256, *[f"m{k}" for k in range(1018)]]
    answers = ask(engine, *[item(name) for name in names])
    assert [answer["member_id"] for answer in answers] == names
    assert {answer["status"] for answer in answers} == {"decided"}


def test_extreme_feature_values_still_give_probabilities() -> None:
    features = TableOfFeatures(
        {"a": dict.fromkeys(("tenure_days", "visits_total", "clicks_total", "sends_24h"), 1e300)}
    )
    engine = engine_with(features=features)
    asked = item()
    asked["candidates"][0]["features"] = {"relevance": 1e308, "age_hours": -1e308}
    for k in range(3):
        (answer,) = ask(engine, asked | {"cycle_id": f"c{k}"})
        assert answer["status"] == "decided"
        assert sum(answer["probabilities"].values()) == pytest.approx(1.0)


def test_a_service_that_lost_a_feature_is_named() -> None:
    features = TableOfFeatures(feature_names=("visits_total", "clicks_total", "sends_24h"))
    with pytest.raises(SpecError, match="tenure_days"):
        engine_with(features=features)
    renamed = TableOfFeatures(feature_names=("tenure_in_days", "visits_total", "clicks_total", "sends_24h"))
    with pytest.raises(SpecError, match=r"trained with: 'tenure_days'; did you mean 'tenure_in_days'\?"):
        engine_with(features=renamed)


def test_a_cycle_is_decided_once_whatever_time_the_retry_names() -> None:
    artifact = untrained_artifact()
    rings = store_for(artifact)
    engine = engine_with(artifact, rings)
    ask(engine, item(cycle="c0"))
    for moment in ("2199-01-01T00:00:00Z", "1999-01-01T00:00:00Z"):
        (again,) = ask(engine, item(cycle="c0") | {"at": moment})
        assert again["status"] == "replayed"
    assert len(rings.drain(10)) == 1


class CountingReads(BrokenAfterWriting):
    """Counts its round trips."""

    reads = 0

    def read(self, member_ids: Sequence[str], now_ms: Sequence[int]) -> Rings:
        self.reads += 1
        return super().read(member_ids, now_ms)


def test_unknown_outcomes_of_a_whole_batch_are_read_back_in_one_round_trip() -> None:
    artifact = untrained_artifact()
    rings = store_for(artifact, CountingReads)
    assert isinstance(rings, CountingReads)
    answers = ask(engine_with(artifact, rings), *[item(f"m{k}") for k in range(50)])
    assert {answer["status"] for answer in answers} == {"replayed"}
    assert rings.reads == 2


class OnItsMasterAlone(CountingReads):
    """Writes what no replica acknowledges."""

    def append(self, appends: Sequence[Append]) -> list[AppendOutcome | StoreError]:
        MemoryRingStore.append(self, appends)
        return [NotReplicated("an append reached 0 of 1 replicas in 20 ms")] * len(appends)


def test_an_append_that_replicas_may_lack_falls_back_and_is_replayed_once_asked_again() -> None:
    artifact = untrained_artifact()
    rings = store_for(artifact, OnItsMasterAlone)
    assert isinstance(rings, OnItsMasterAlone)
    engine = engine_with(artifact, rings)
    (answer,) = ask(engine, item())
    assert (answer["status"], answer["action"]) == ("fallback", "none")
    assert "reached 0 of 1 replicas" in answer["reason"]
    assert rings.reads == 1, "its master has it: to read it back would prove nothing"
    (again,) = ask(engine, item())
    assert again["status"] == "replayed"
    assert len(rings.drain(10)) == 1


def test_a_feature_renamed_since_the_model_was_trained_is_named() -> None:
    renamed = tuple(name.replace("tenure_days", "days_here") for name in FEATURES)
    with pytest.raises(SpecError, match=r"no longer has .*'tenure_days'.*train and deploy anew"):
        engine_with(features=TableOfFeatures(feature_names=renamed))


@pytest.mark.parametrize("state", ["missing", "stale", "never_materialized"])
@pytest.mark.parametrize("rule", ["fill", "fallback"])
def test_each_reason_why_a_feature_is_not_known_has_a_rule_and_a_counter(state: str, rule: str) -> None:
    everything = dict.fromkeys(FEATURES, 1.0)
    features = TableOfFeatures({"a": everything, "b": everything})
    if state == "missing":
        features.rows["a"] = {name: 1.0 for name in FEATURES if name != FEATURES[0]}
    else:
        setattr(features, state, frozenset({FEATURES[0]}))
    spec = spec_with(("state:", f"state:\n  unknown: {{{state}: {rule}}}"))
    engine = engine_with(untrained_artifact(spec), features=features)
    answers = ask(engine, item("a"), item("b"))
    spoilt = 1 if state == "missing" else 2
    expected = ["fallback" if rule == "fallback" and i < spoilt else "decided" for i in range(2)]
    assert [answer["status"] for answer in answers] == expected
    if rule == "fallback":
        assert f"{FEATURES[0]} {state.replace('_', ' ')} (state.unknown.{state} = fallback)" in answers[0]["reason"]
    counted = {name: dict(counter) for name, counter in engine.state.counts.items()}
    assert counted == {"missing": {}, "stale": {}, "never_materialized": {}} | {state: {FEATURES[0]: spoilt}}
    assert engine.state.decisions == 2


def test_a_view_never_materialized_falls_back_unless_the_spec_says_otherwise_and_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    features = TableOfFeatures({"a": dict.fromkeys(FEATURES, 1.0)}, never_materialized=frozenset(FEATURES[:4]))
    engine = engine_with(features=features)
    with caplog.at_level(logging.INFO, "serve.member_state"):
        assert ask(engine, item())[0]["status"] == "fallback"
        assert ask(engine, item())[0]["status"] == "fallback"
    (record,) = caplog.records  # one line a minute
    assert record.levelno == logging.WARNING
    assert "never_materialized 4 (" in record.getMessage()
    assert "make materialize" in ask(engine, item())[0]["reason"]


def test_missing_values_are_logged_for_information_a_line_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    now = [NOW]
    artifact = untrained_artifact()
    engine = Engine(artifact, TableOfFeatures(), store_for(artifact), now_ms=lambda: now[0])
    with caplog.at_level(logging.INFO, "serve.member_state"):
        for k in range(3):
            ask(engine, item(cycle=f"c{k}", at_hours=k))
        now[0] += 60_000
        ask(engine, item(cycle="c3", at_hours=3))
    assert [record.levelno for record in caplog.records] == [logging.INFO] * 2
    n = len(artifact.service_features)
    assert f"of {4 * n} values in 4 decisions missing {4 * n} (" in caplog.text
