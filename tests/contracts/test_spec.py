"""The spec: what loads, what is refused, and what the refusal says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.errors import SpecError
from contracts.settings import CHECKOUT
from contracts.spec import Absolute, Spec, check_features, dump_spec, load_spec, nearest, parse_spec
from tests.contracts.logs import SPEC_TEXT

pytestmark = pytest.mark.unit

# As in DESIGN.md, section 4.1 (one comment shortened).
DESIGN_EXAMPLE = """
name: notification            # tenant
actions: [none, badge, push]
state:
  feature_service: notification_state_v1     # member features; their order is the service's
  candidate: [type, relevance, age_hours]    # features of the top-1 candidate; then its utility scores
  missing: {default: 0.0}                    # never seen, stale, never materialised: each has a rule
  storage: {default: float16}                # how the ring keeps each group: float32, float16, uint8 (scaled)
rewards:
  click:  {kind: predicted}                      # utility model's probability for the action taken, 0 for none
  visit:  {kind: counter, feature: visits_total} # difference of a cumulative feature between consecutive decisions
  volume: {kind: penalty, per_action: {push: -1.0, badge: -0.3}, grows_with: sends_24h}  # adaptive
context_length: 4
horizon: 16                   # H, in decisions
discount: 0.97
quantiles: [0.1, 0.25, 0.5, 0.7, 0.8, 0.9, 0.95]
prompt: {click: 0.7, visit: 0.7, volume: 0.7}    # a level per reward, or {value: 3.2}: an absolute return
cohorts: {}                   # cohort name -> prompt
exploration: {epsilon: 0.0, share: 0.0}
limits: {sends_per_day: 6}    # hard caps, applied as eligibility
ring: {capacity: 16, ttl_days: 14, mask_key: utility-v1, accept: ["utility-v1"]}
deadlines_ms: {features: 20, rings: 20}
"""

REMOVED = object()


def changed(**changes: Any) -> str:
    """Return SPEC_TEXT with keys set or REMOVED; ``a__b`` is the key b in the mapping a."""
    tree = yaml.safe_load(SPEC_TEXT)
    for path, value in changes.items():
        *parents, key = path.split("__")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        if value is REMOVED:
            del node[key]
        else:
            node[key] = value
    return str(yaml.safe_dump(tree))


def refusal(text: str) -> str:
    with pytest.raises(SpecError) as caught:
        parse_spec(text, "shop.yaml")
    message = str(caught.value)
    assert all(line.startswith("shop.yaml: ") for line in message.splitlines())
    return message


class TestGoodSpecs:
    def test_the_design_documents_own_example_loads(self) -> None:
        spec = parse_spec(DESIGN_EXAMPLE, "DESIGN.md")
        assert spec.reward_names == ("click", "visit", "volume")
        assert spec.predicted_rewards == ("click",)
        assert spec.counter_features == ("visits_total",)
        assert spec.ring.accept == ("utility-v1",)
        assert spec.limits.sends_per_day == 6

    @pytest.mark.parametrize("name", ["notification", "heartsteps"])
    def test_specs_that_come_with_the_project_load(self, name: str) -> None:
        assert load_spec(CHECKOUT / "specs" / f"{name}.yaml").name == name

    def test_defaults(self) -> None:
        spec = parse_spec(SPEC_TEXT, "shop.yaml")
        assert (spec.context_length, spec.horizon, spec.discount, spec.ring.capacity) == (4, 16, 0.97, 16)
        assert spec.limits.sends_per_day is None
        assert spec.log.max_reject_share == 0.01
        assert [spec.state.storage_of(group) for group in ("state", "rewards", "scores")] == ["float16"] * 3
        assert spec.state.storage_of("probabilities") == "uint16"
        assert (spec.ring.masked, spec.training.masked_share) == ({}, 0.1)
        assert (spec.ring.replicas, spec.ring.wait_ms) == (0, 20)
        assert spec.state.missing_value("anything") == 0.0

    def test_rules_for_one_feature_or_group_go_before_the_default(self) -> None:
        text = changed(state__missing={"default": -1.0, "relevance": 0.5}, state__storage={"rewards": "float32"})
        state = parse_spec(text, "shop.yaml").state
        assert (state.missing_value("relevance"), state.missing_value("other")) == (0.5, -1.0)
        assert (state.storage_of("rewards"), state.storage_of("state")) == ("float32", "float16")

    @pytest.mark.parametrize("storage", ["float32", "float16", "uint16", "uint8"])
    def test_the_default_storage_is_not_that_of_probabilities(self, storage: str) -> None:
        state = parse_spec(changed(state__storage={"default": storage}), "shop.yaml").state
        assert (state.storage_of("scores"), state.storage_of("probabilities")) == (storage, "uint16")
        exact = parse_spec(changed(state__storage={"default": storage, "probabilities": "float32"}), "shop.yaml").state
        assert exact.storage_of("probabilities") == "float32"

    def test_groups_are_masked_by_key(self) -> None:
        ring = parse_spec(changed(ring__masked={"v1": ["scores"], "old-*": ["rewards", "scores"]}), "shop.yaml").ring
        assert ring.masked == {"v1": ("scores",), "old-*": ("rewards", "scores")}

    def test_appends_may_wait_for_replicas(self) -> None:
        ring = parse_spec(changed(ring__replicas=2, ring__wait_ms=1), "shop.yaml").ring
        assert (ring.replicas, ring.wait_ms) == (2, 1)

    def test_a_prompt_is_a_level_or_an_absolute_return(self) -> None:
        spec = parse_spec(changed(prompt__visit={"value": 3.2}, cohorts={"new": {"click": 0.9}}), "shop.yaml")
        assert spec.prompt["visit"] == Absolute(3.2)
        assert spec.cohorts["new"] == {"click": 0.9}

    def test_counter_features_are_named_once_each(self) -> None:
        spec = parse_spec(changed(rewards__click__feature="visits_total"), "shop.yaml")
        assert spec.counter_features == ("visits_total",)

    def test_a_spec_cannot_be_changed(self) -> None:
        with pytest.raises(AttributeError):
            parse_spec(SPEC_TEXT, "shop.yaml").horizon = 3  # type: ignore[misc]

    @settings(max_examples=50, deadline=None)
    @given(
        horizon=st.integers(0, 1000),
        discount=st.floats(0, 1, exclude_min=True),
        level=st.floats(0, 1, exclude_min=True, exclude_max=True),
        value=st.floats(allow_nan=False, allow_infinity=False),
        mask_key=st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1, max_size=128),
        accept=st.lists(st.text(st.characters(codec="utf-8", exclude_categories=["Cs"])), max_size=3),
        ttl_days=st.none() | st.floats(1e-3, 1e6),
    )
    def test_dumped_and_parsed_it_is_the_same(
        self,
        horizon: int,
        discount: float,
        level: float,
        value: float,
        mask_key: str,
        accept: list[str],
        ttl_days: float | None,
    ) -> None:
        spec = parse_spec(
            changed(
                horizon=horizon,
                discount=discount,
                prompt__click=level,
                cohorts={"new": {"visit": {"value": value}}},
                ring__mask_key=mask_key,
                ring__accept=accept,
                state__tables={"day": {"features": ["steps"], "ttl_days": ttl_days}},
            ),
            "shop.yaml",
        )
        again = parse_spec(dump_spec(spec), "dumped")
        assert again == spec
        assert dump_spec(again) == dump_spec(spec)

    def test_a_dump_writes_every_default_out(self) -> None:
        tree = yaml.safe_load(dump_spec(parse_spec(SPEC_TEXT, "shop.yaml")))
        assert set(tree) == set(Spec.__dataclass_fields__)
        assert tree["ring"]["capacity"] == 16


class TestRefusals:
    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"contxt_length": 4}, "contxt_length: unknown key; did you mean 'context_length'?"),
            ({"ring__capcity": 3}, "ring.capcity: unknown key; did you mean 'capacity'?"),
            ({"state__candidates": ["type"]}, "state.candidates: unknown key; did you mean 'candidate'?"),
            ({"rewards__visit__featur": "x"}, "rewards.visit.featur: unknown key; did you mean 'feature'?"),
            ({"name": REMOVED}, "name: required key is missing"),
            ({"quantiles": REMOVED}, "quantiles: required key is missing"),
            ({"state__feature_service": REMOVED}, "state.feature_service: required key is missing"),
            ({"rewards__visit__kind": REMOVED}, "rewards.visit.kind: required key is missing"),
        ],
    )
    def test_unknown_and_missing_keys(self, changes: dict[str, Any], said: str) -> None:
        assert said in refusal(changed(**changes))

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"quantiles": [0.5, 0.1]}, "quantiles = [0.5, 0.1]: levels must rise; write [0.1, 0.5]"),
            ({"quantiles": [0.1, 0.1, 0.5]}, "quantiles: duplicate name 0.1"),
            ({"quantiles": [0.5]}, "quantiles = [0.5]"),
            ({"quantiles": [0.0, 0.5]}, "quantiles.0 = 0.0"),
            ({"quantiles": [0.5, 1.0]}, "quantiles.1 = 1.0"),
            ({"quantiles": [0.1, "0.5"]}, "quantiles.1 = '0.5'"),
            ({"prompt__click": 2}, "prompt.click = 2"),
            ({"prompt__click": 0.0}, "prompt.click = 0.0"),
            ({"prompt__click": float("nan")}, "prompt.click = nan"),
            ({"prompt__click": {"value": float("inf")}}, "prompt.click.value = inf"),
            ({"prompt__click": {"valu": 1.0}}, "prompt.click.valu: unknown key; did you mean 'value'?"),
            ({"prompt__clik": 0.5}, "prompt.clik: no such reward; did you mean 'click'?"),
            ({"prompt": {"click": 0.5}}, "prompt: no level for reward 'visit'"),
            ({"cohorts": {"new": {"clik": 0.5}}}, "cohorts.new.clik: no such reward; did you mean 'click'?"),
            ({"cohorts": {"new": {"click": 2.0}}}, "cohorts.new.click = 2.0"),
        ],
    )
    def test_levels(self, changes: dict[str, Any], said: str) -> None:
        assert said in refusal(changed(**changes))

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"actions": ["none"]}, "actions = ['none']"),
            ({"actions": "none"}, "actions = 'none'"),
            ({"actions": ["none", "badge", "push", "push"]}, "actions: duplicate name push"),
            ({"actions": ["none", "badge", "push", True]}, "actions.3 = True"),
            ({"rewards": {}}, "rewards = {}"),
            ({"rewards__visit": {"kind": "counter"}}, "rewards.visit.feature: a counter reward needs"),
            ({"rewards__visit__kind": "count"}, "rewards.visit.kind = 'count'"),
            ({"rewards__volume__per_action": {}}, "rewards.volume.per_action: a penalty reward names"),
            (
                {"rewards__volume__per_action__pusch": -1.0},
                "rewards.volume.per_action.pusch: no such action; did you mean 'push'?",
            ),
            ({"rewards__volume__per_action__push": float("inf")}, "rewards.volume.per_action.push = inf"),
            ({"rewards__click__grows_with": "x"}, "rewards.click: per_action and grows_with belong to kind penalty"),
            ({"state__candidate": ["type", "type"]}, "state.candidate: duplicate name type"),
            ({"state__categories": {"typ": ["a"]}}, "state.categories.typ: no such candidate feature; did you mean"),
            ({"state__storage": {"default": "float8"}}, "state.storage.default = 'float8'"),
            ({"state__storage": {"stat": "float16"}}, "state.storage.stat: no such group"),
            ({"state__storage": {"counters": "float32"}}, "state.storage.counters: no such group"),
            (
                {"state__storage": {"probabilities": "uint8"}},
                "state.storage.probabilities = 'uint8': callers see them; choose uint16 or float32",
            ),
            ({"state__storage": {"state": "float64"}}, "state.storage.state = 'float64'"),
            ({"state__missing": {"default": "zero"}}, "state.missing.default = 'zero'"),
            ({"state__unknown": {"stale": "keep"}}, "state.unknown.stale = 'keep'"),
            ({"state__unknown": {"never_materialised": "fill"}}, "did you mean 'never_materialized'?"),
            ({"state__tables": {"day": {"features": []}}}, "state.tables.day.features = []"),
            (
                {"state__tables": {"day": {"features": ["x"]}, "week": {"features": ["x"]}}},
                "state.tables.week.features: duplicate name x, also in state.tables.day",
            ),
            (
                {"state__tables": {"day": {"features": ["relevance"]}}},
                "state.tables.day.features: duplicate name relevance, also in state.candidate",
            ),
        ],
    )
    def test_actions_rewards_and_state(self, changes: dict[str, Any], said: str) -> None:
        assert said in refusal(changed(**changes))

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"context_length": 20}, "context_length 20 exceeds ring capacity 16"),
            ({"context_length": 0}, "context_length = 0"),
            ({"context_length": "4"}, "context_length = '4'"),
            ({"context_length": 4.5}, "context_length = 4.5"),
            ({"horizon": -1}, "horizon = -1"),
            ({"discount": 0.0}, "discount = 0.0"),
            ({"discount": 1.01}, "discount = 1.01"),
            ({"discount": float("nan")}, "discount = nan"),
            ({"name": "a b"}, "name = 'a b'"),
            ({"name": "../up"}, "name = '../up'"),
            ({"name": None}, "name = None"),
            ({"exploration__epsilon": 1.5}, "exploration.epsilon = 1.5"),
            ({"limits__sends_per_day": -1}, "limits.sends_per_day = -1"),
            ({"ring__capacity": 0}, "ring.capacity = 0"),
            ({"ring__ttl_days": 0}, "ring.ttl_days = 0"),
            ({"ring__mask_key": ""}, "ring.mask_key = ''"),
            ({"ring__masked": {"v1": ["score"]}}, "ring.masked.v1.0 = 'score'"),
            ({"ring__masked": {"v1": []}}, "ring.masked.v1 = []"),
            ({"ring__masked": {"v1": "scores"}}, "ring.masked.v1 = 'scores'"),
            ({"ring__masked": {"": ["scores"]}}, "ring.masked. = ''"),
            ({"ring__masked": {"v1": ["scores", "scores"]}}, "ring.masked.v1: duplicate name scores"),
            (
                {"ring__masked": {"v1": ["scores"]}, "rewards__click__kind": "counter"},
                "ring.masked.v1: there are no scores, since no reward is of kind predicted",
            ),
            ({"ring__replicas": -1}, "ring.replicas = -1"),
            ({"ring__replicas": 1.5}, "ring.replicas = 1.5"),
            ({"ring__replicas": True}, "ring.replicas = True"),
            ({"ring__wait_ms": 0}, "ring.wait_ms = 0"),
            ({"ring__wait_ms": "20"}, "ring.wait_ms = '20'"),
            ({"ring__wait": 20}, "ring.wait: unknown key; did you mean 'wait_ms'?"),
            ({"training__masked_share": 1.5}, "training.masked_share = 1.5"),
            ({"deadlines_ms__features": 0}, "deadlines_ms.features = 0"),
            ({"log__importer": "heartstep"}, "log.importer = 'heartstep'"),
            ({"log__max_reject_share": 2}, "log.max_reject_share = 2"),
            ({"model__width": 66}, "model.width = 66"),
            ({"model__heads": 7}, "model.width 64 is not a multiple of model.heads 7"),
            ({"training__epochs": 0}, "training.epochs = 0"),
            ({"state": None}, "state = None"),
        ],
    )
    def test_numbers_and_names(self, changes: dict[str, Any], said: str) -> None:
        assert said in refusal(changed(**changes))

    def test_everything_that_is_wrong_is_said_at_once(self) -> None:
        message = refusal(changed(horizn=3, discount=2.0, ring__capacity=0))
        assert len(message.splitlines()) == 3

    @pytest.mark.parametrize("text", ["name: shop\nname: other\n", SPEC_TEXT + "horizon: 3\nhorizon: 4\n"])
    def test_a_key_twice(self, text: str) -> None:
        assert "duplicate name" in refusal(text)

    def test_a_key_twice_further_down(self) -> None:
        text = SPEC_TEXT.replace("click: 0.7, visit", "click: 0.7, click: 0.9, visit")
        assert "duplicate name 'click' in line 10" in refusal(text)

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "null",
            "just text",
            "- a\n- list",
            "a: b: c",
            "\tname: x",
            "name: [",
            "\x00",
            "{" * 5000,
            "a: &a [*a]",
            "when: 2026-01-31",
            "data: !!binary aGk=",
            "!!python/object/apply:os.system [exit]",
            "? [1, 2]\n: 3",
        ],
    )
    def test_text_that_is_no_spec(self, text: str) -> None:
        refusal(text)

    @settings(max_examples=200, deadline=None)
    @given(st.text())
    def test_any_text_is_refused_and_nothing_else_is_raised(self, text: str) -> None:
        with pytest.raises(SpecError):
            parse_spec(text, "shop.yaml")

    def test_files(self, tmp_path: Path) -> None:
        with pytest.raises(SpecError, match=r"no such spec; see specs/"):
            load_spec(tmp_path / "none.yaml")
        with pytest.raises(SpecError, match="cannot be read"):
            load_spec(tmp_path)
        (tmp_path / "latin.yaml").write_bytes("name: caf\xe9".encode("latin-1"))
        with pytest.raises(SpecError, match=r"latin\.yaml: cannot be read as UTF-8"):
            load_spec(tmp_path / "latin.yaml")


class TestFeaturesOfTheService:
    SERVICE = ("clicks_total", "visits_total", "sends_24h", "tenure_days")

    def test_known_features_pass(self) -> None:
        text = changed(state__missing={"default": 0.0, "tenure_days": -1.0, "relevance": 0.5})
        check_features(parse_spec(text, "shop.yaml"), self.SERVICE, "shop.yaml")

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            (
                {"rewards__visit__feature": "visit_total"},
                "shop.yaml: rewards.visit.feature = 'visit_total': feature service 'shop_state_v1' "
                "has no such feature; did you mean 'visits_total'?",
            ),
            ({"rewards__volume__grows_with": "sends_24"}, "rewards.volume.grows_with = 'sends_24'"),
            ({"state__missing": {"tenure_day": 1.0}}, "state.missing.tenure_day = 'tenure_day'"),
        ],
    )
    def test_misspelt_features_are_named(self, changes: dict[str, Any], said: str) -> None:
        with pytest.raises(SpecError) as caught:
            check_features(parse_spec(changed(**changes), "shop.yaml"), self.SERVICE, "shop.yaml")
        assert said in str(caught.value)


def test_nearest_says_nothing_where_nothing_is_near() -> None:
    assert nearest("pusch", ["none", "push"]) == "; did you mean 'push'?"
    assert nearest("pusch", ["abc"]) == nearest("pusch", []) == ""
