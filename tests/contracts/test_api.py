"""Requests: what is taken, and what each wrong body or item is told."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.api import DecisionRequest, Rejection, encode, parse_body, parse_item, parse_items
from contracts.errors import RequestError
from contracts.settings import CHECKOUT
from contracts.spec import Absolute, load_spec, parse_spec

pytestmark = pytest.mark.unit

SPEC = load_spec(CHECKOUT / "specs" / "notification.yaml")
NOW = 1_700_000_000_000
GOOD: dict[str, Any] = {
    "member_id": "m7",
    "cycle_id": "2026-01-31/8",
    "candidates": [
        {
            "notification_id": "n1",
            "type": "job",
            "eligible": ["push", "none"],
            "features": {"relevance": 0.5, "age_hours": 1},
        }
    ],
    "at": "2026-01-31T08:00:00Z",
    "prompt": {"click": 0.9, "visit": {"value": 3}},
}


def parse(item: object) -> DecisionRequest:
    return parse_item(item, SPEC, NOW, {"type"})


def changed(change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    item = copy.deepcopy(GOOD)
    change(item)
    return item


def test_a_good_item() -> None:
    request = parse(GOOD)
    assert request.member_id == "m7"
    assert request.at_ms == 1_769_846_400_000
    assert request.candidates[0].eligible == (0, 2)
    assert request.candidates[0].features == {"type": "job", "relevance": 0.5, "age_hours": 1.0}
    assert request.prompt == {"click": 0.9, "visit": Absolute(3.0), "volume": 0.7}


def test_what_may_be_left_out() -> None:
    item = {"member_id": 7, "cycle_id": 8, "candidates": [{"notification_id": 9, "eligible": ["none"]}]}
    request = parse(item)
    assert (request.member_id, request.cycle_id, request.candidates[0].notification_id) == ("7", "8", "9")
    assert request.at_ms == NOW
    assert request.prompt == SPEC.prompt


def test_a_cohort_stands_between_the_spec_and_the_item() -> None:
    text = (CHECKOUT / "specs" / "notification.yaml").read_text() + "cohorts: {new: {click: 0.5, visit: 0.25}}\n"

    spec = parse_spec(text, "here")
    request = parse_item(GOOD | {"cohort": "new", "prompt": {"click": 0.9}}, spec, NOW, {"type"})
    assert request.prompt == {"click": 0.9, "visit": 0.25, "volume": 0.7}


@pytest.mark.parametrize(
    ("change", "field", "reason"),
    [
        (lambda i: i.pop("member_id"), "member_id", "required"),
        (lambda i: i.update(member_id=True), "member_id", "text or an integer"),
        (lambda i: i.update(member_id=1.5), "member_id", "text or an integer"),
        (lambda i: i.update(member_id=""), "member_id", "at least 1"),
        (lambda i: i.update(member_id="x" * 257), "member_id", "256"),
        (lambda i: i.update(member_id="\ud800"), "member_id", ""),
        (lambda i: i.update(member_id=10**50), "member_id", "digits"),
        (lambda i: i.update(cycle_id=None), "cycle_id", "text or an integer"),
        (lambda i: i.update(membr=1), "membr", "unknown key"),
        (lambda i: i.update(candidates=[]), "candidates", "at least 1"),
        (lambda i: i.update(candidates={}), "candidates", "list"),
        (lambda i: i["candidates"].append(3), "candidates[1]", "object"),
        (lambda i: i["candidates"][0].pop("notification_id"), "candidates[0].notification_id", "required"),
        (lambda i: i["candidates"][0].update(eligible=[]), "candidates[0].eligible", "at least 1"),
        (lambda i: i["candidates"][0].update(eligible=["push"]), "candidates[0].eligible", "'none'"),
        (lambda i: i["candidates"][0].update(eligible=["none", "psh"]), "candidates[0].eligible", "'push'"),
        (lambda i: i["candidates"][0].update(features=[]), "candidates[0].features", "object"),
        (
            lambda i: i["candidates"][0]["features"].update(relevanc=1),
            "candidates[0].features.relevanc",
            "'relevance'",
        ),
        (lambda i: i["candidates"][0]["features"].update(relevance="x"), "candidates[0].features.relevance", "number"),
        (lambda i: i["candidates"][0]["features"].update(relevance=True), "candidates[0].features.relevance", ""),
        (
            lambda i: i["candidates"][0]["features"].update(relevance=float("nan")),
            "candidates[0].features.relevance",
            "finite",
        ),
        (
            lambda i: i["candidates"][0]["features"].update(relevance=float("inf")),
            "candidates[0].features.relevance",
            "finite",
        ),
        (lambda i: i["prompt"].update(click=2), "prompt.click", "level"),
        (lambda i: i["prompt"].update(click=0), "prompt.click", "level"),
        (lambda i: i["prompt"].update(click=1), "prompt.click", "level"),
        (lambda i: i["prompt"].update(click="high"), "prompt.click", "level"),
        (lambda i: i["prompt"].update(click={"value": None}), "prompt.click", "level"),
        (lambda i: i["prompt"].update(click={"value": 1e300}), "prompt.click.value", "1e12"),
        (lambda i: i["prompt"].update(clik=0.5), "prompt.clik", "'click'"),
        (lambda i: i.update(cohort="nobody"), "cohort", "nobody"),
        (lambda i: i.update(at="2026-01-31T08:00:00"), "at", "offset"),
        (lambda i: i.update(at="2026-01-31"), "at", "RFC 3339"),
        (lambda i: i.update(at="yesterday"), "at", "RFC 3339"),
        (lambda i: i.update(at="9999-12-31T23:59:59-23:00"), "at", "outside"),
        (lambda i: i.update(at="1812-01-01T00:00:00Z"), "at", "outside"),
        (lambda i: i.update(at=1_700_000_000), "at", "string"),
    ],
)
def test_a_wrong_item_is_told_its_field(change: Callable[[dict[str, Any]], object], field: str, reason: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse(changed(change))
    assert caught.value.field.startswith(field)
    assert reason in caught.value.reason


def test_wrong_items_leave_the_others_unharmed() -> None:
    items = [3, GOOD, GOOD | {"member_id": "m8"}, GOOD, GOOD | {"prompt": {"click": 2}}]
    parsed = parse_items(items, SPEC, NOW, {"type"})
    assert [isinstance(item, DecisionRequest) for item in parsed] == [False, True, True, False, False]
    twice = parsed[3]
    assert isinstance(twice, Rejection)
    assert (twice.member_id, twice.field) == ("m7", "member_id")
    assert "decisions[1]" in twice.reason


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"push it",
        b"null",
        b"[]",
        b"{}",
        b'{"decisions": []}',
        b'{"decisions": {"member_id": "a"}}',
        b'{"decisions": [{}], "extra": 1}',
        b'{"decisions": [' + b"[" * 100_000,
        b"[" * 100_000,
        b"\xff\xfe",
        b"1" * 10_000,
        json.dumps({"decisions": [GOOD] * 10_000}).encode(),
    ],
)
def test_a_body_that_is_no_request(body: bytes) -> None:
    with pytest.raises(RequestError):
        parse_body(body)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=20,
)


@settings(max_examples=300, deadline=None)
@given(item=json_values)
def test_no_json_value_raises_anything_but_a_request_error(item: object) -> None:
    for parsed in parse_items([item], SPEC, NOW, {"type"}):
        assert isinstance(parsed, Rejection)
    with pytest.raises(RequestError):
        parse_body(json.dumps({"items": item}))


@settings(max_examples=300, deadline=None)
@given(key=st.sampled_from(sorted(GOOD)), value=json_values)
def test_no_value_of_a_key_raises_anything_but_a_request_error(key: str, value: object) -> None:
    for parsed in parse_items([GOOD | {key: value}], SPEC, NOW, {"type"}):
        assert isinstance(parsed, DecisionRequest | Rejection)


def test_a_reply_is_never_invalid_json() -> None:
    with pytest.raises(ValueError, match=r"JSON compliant|Out of range"):
        encode({"x": float("nan")})


@pytest.mark.parametrize(
    "item",
    [
        GOOD | {"prompt": {"\ud800": 0.5}},
        changed(lambda i: i["candidates"][0]["features"].update({"\ud800": 1.0})),
        GOOD | {"cohort": "\ud800"},
        GOOD | {"at": "\ud800"},
    ],
)
def test_a_lone_surrogate_anywhere_is_rejected_in_words_that_can_be_sent(item: dict[str, Any]) -> None:
    (rejection,) = parse_items([item], SPEC, NOW, {"type"})
    assert isinstance(rejection, Rejection)
    assert encode({"field": rejection.field, "reason": rejection.reason})


def test_an_id_is_limited_in_bytes_too() -> None:
    with pytest.raises(RequestError, match="bytes"):
        parse(GOOD | {"member_id": "鳥" * 200})


def test_many_candidates_are_refused_as_a_whole() -> None:
    items = [{"candidates": [0] * 1000}] * 40
    with pytest.raises(RequestError, match="40,000 candidates"):
        parse_body(json.dumps({"decisions": items}))


@pytest.mark.parametrize("body", ['{"decisions": [1]}'.encode("utf-16"), b'\xef\xbb\xbf{"decisions": [1]}'])
def test_a_body_is_utf_8(body: bytes) -> None:
    with pytest.raises(RequestError, match="JSON"):
        parse_body(body)


@pytest.mark.parametrize("at", ["2026-W01-1T00:00:00Z", "20260101T000000Z", "2026-01-31T08:00Z"])
def test_only_rfc_3339_is_a_time(at: str) -> None:
    with pytest.raises(RequestError, match="RFC 3339"):
        parse(GOOD | {"at": at})
