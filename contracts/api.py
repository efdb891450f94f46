"""Requests and replies of the REST API (DESIGN 4.4): parsing, the limits, and the errors that name a field.

A body is either a request as a whole, or HTTP 400. Inside a request every item stands for itself: a wrong one
becomes a RequestError in its place, and the others are unharmed. pydantic checks types; what depends on the
deployment (its actions, features, rewards, cohorts) is checked here against the spec.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, NotRequired

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict  # pydantic asks for this one before Python 3.12

from contracts.errors import RequestError
from contracts.spec import Absolute, Prompt, Spec, nearest

MAX_ITEMS = 1024
MAX_CANDIDATES = 1024
MAX_TEXT = 256  # characters of an id, a type or a category
MAX_ID_BYTES = 512  # of an id in UTF-8
MAX_CANDIDATES_A_REQUEST = 32_768  # of all items together: bounds the time one body takes
MAX_ACTIONS = 63
MAX_FEATURES = 1024
EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
LATEST = datetime(2200, 1, 1, tzinfo=UTC)

_Text = Annotated[str, Field(min_length=1, max_length=MAX_TEXT)]
_STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


@with_config(_STRICT)
class _AbsoluteItem(TypedDict):
    value: float


@with_config(_STRICT)
class _CandidateItem(TypedDict):
    notification_id: _Text | int
    type: NotRequired[Annotated[str, Field(max_length=MAX_TEXT)]]
    eligible: Annotated[list[_Text], Field(min_length=1, max_length=MAX_ACTIONS)]
    features: NotRequired[Annotated[dict[str, float | str | None], Field(max_length=MAX_FEATURES)]]


@with_config(_STRICT)
class _DecisionItem(TypedDict):
    member_id: _Text | int
    cycle_id: _Text | int
    candidates: Annotated[list[_CandidateItem], Field(min_length=1, max_length=MAX_CANDIDATES)]
    at: NotRequired[str]
    prompt: NotRequired[dict[str, float | _AbsoluteItem]]
    cohort: NotRequired[str]


# The offset may be missing here, so that its absence gets a message of its own.
_RFC_3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)?", re.ASCII)

_ITEM = TypeAdapter(_DecisionItem)


@dataclass(frozen=True)
class Candidate:
    """One notification that could go out, with the actions allowed for it."""

    notification_id: str
    eligible: tuple[int, ...]
    """Indices into the spec's actions, rising; always holds 0."""
    features: Mapping[str, float | str | None]
    """Candidate features by name, ``type`` among them; None or absent = missing."""


@dataclass(frozen=True)
class DecisionRequest:
    """One item of a request, checked against the spec."""

    member_id: str
    cycle_id: str
    candidates: tuple[Candidate, ...]
    at_ms: int
    prompt: Mapping[str, Prompt]
    """Complete: the spec's prompt, the cohort's over it, the item's own over that."""


@dataclass(frozen=True)
class Rejection:
    """An item that is wrong, with what could be read of it."""

    member_id: str | None
    cycle_id: str | None
    field: str
    reason: str


@dataclass(frozen=True)
class Reply:
    """What one HTTP request is answered with."""

    status: int
    body: bytes


def parse_body(body: bytes | str | object) -> list[object]:
    """Return the raw items of a request body (JSON bytes or text, or JSON already parsed).

    Raises RequestError, to be answered with HTTP 400, if it is no request at all.
    """
    if isinstance(body, bytes | bytearray | str):
        try:
            # JSON is UTF-8 (RFC 8259); left to itself, Python's parser also guesses UTF-16 and UTF-32.
            body = json.loads(body if isinstance(body, str) else body.decode("utf-8"))
        except (ValueError, RecursionError) as error:
            reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
            raise RequestError(
                "body", f"is not JSON ({reason[:200]}); send JSON with Content-Type: application/json"
            ) from None
    if not isinstance(body, dict):
        raise RequestError("body", f"must be an object with the key 'decisions', this is {_kind(body)}")
    unknown = sorted(str(key)[:64] for key in body if key != "decisions")
    if unknown:
        raise RequestError("body", f"unknown key {unknown[0]!r}; a request has the one key 'decisions'")
    items = body.get("decisions")
    if not isinstance(items, list):
        raise RequestError("decisions", f"must be a list of 1 to {MAX_ITEMS:,} items, this is {_kind(items)}")
    if not 1 <= len(items) <= MAX_ITEMS:
        raise RequestError("decisions", f"holds {len(items):,} items; a request takes 1 to {MAX_ITEMS:,}")
    lists = (item.get("candidates") for item in items if isinstance(item, dict))
    candidates = sum(len(each) for each in lists if isinstance(each, list))
    if candidates > MAX_CANDIDATES_A_REQUEST:
        reason = f"hold {candidates:,} candidates; a request takes {MAX_CANDIDATES_A_REQUEST:,}: split it"
        raise RequestError("decisions", reason)
    return items


def parse_items(
    items: Sequence[object], spec: Spec, now_ms: int, text_features: Collection[str]
) -> list[DecisionRequest | Rejection]:
    """Check every item against ``spec``; the second item of one member is rejected. Raises nothing."""
    parsed: list[DecisionRequest | Rejection] = []
    members: dict[str, int] = {}
    for position, item in enumerate(items):
        try:
            request = parse_item(item, spec, now_ms, text_features)
            if request.member_id in members:
                first = members[request.member_id]
                raise RequestError("member_id", f"stands in decisions[{first}] already; one item a member")
            members[request.member_id] = position
            parsed.append(request)
        except RequestError as error:
            parsed.append(Rejection(_echo(item, "member_id"), _echo(item, "cycle_id"), error.field, error.reason))
    return parsed


def parse_item(item: object, spec: Spec, now_ms: int, text_features: Collection[str]) -> DecisionRequest:
    """Check one item. Raises RequestError naming the field.

    ``now_ms`` stands for an absent ``at``; ``text_features`` are the candidate features that are categories.
    """
    try:
        checked = _ITEM.validate_python(item)
    except ValidationError as error:
        raise _explain(error) from None
    except RecursionError:
        raise RequestError("item", "nested too deeply") from None
    return DecisionRequest(
        member_id=_identity("member_id", checked["member_id"]),
        cycle_id=_identity("cycle_id", checked["cycle_id"]),
        candidates=tuple(
            _candidate(f"candidates[{i}]", candidate, spec, text_features)
            for i, candidate in enumerate(checked["candidates"])
        ),
        at_ms=_moment(checked["at"]) if "at" in checked else now_ms,
        prompt=_prompt(checked.get("prompt", {}), checked.get("cohort"), spec),
    )


def _candidate(field: str, item: _CandidateItem, spec: Spec, text_features: Collection[str]) -> Candidate:
    eligible = item["eligible"]
    for action in eligible:
        if action not in spec.actions:
            hint = nearest(action, spec.actions)
            raise RequestError(
                f"{field}.eligible", f"no such action {action!r}; actions are {list(spec.actions)}{hint}"
            )
    if spec.actions[0] not in eligible:
        raise RequestError(f"{field}.eligible", f"must hold {spec.actions[0]!r}, which is always allowed")
    features: dict[str, float | str | None] = dict(item.get("features", {}))
    if "type" in item:
        if "type" in features:
            raise RequestError(f"{field}.features.type", "stands beside 'type' already")
        features["type"] = item["type"]
    for name, value in features.items():
        if name not in spec.state.candidate:
            if name == "type":  # allowed by the contract, whether or not the model reads it
                continue
            hint = nearest(name, spec.state.candidate)
            raise RequestError(f"{field}.features.{name[:64]}", f"no such candidate feature{hint}")
        if value is not None and isinstance(value, str) != (name in text_features):
            wanted = "text" if name in text_features else "a number"
            raise RequestError(f"{field}.features.{name}", f"must be {wanted} or null, this is {_kind(value)}")
        if isinstance(value, str):
            _identity(f"{field}.features.{name}", value, may_be_empty=True)
    return Candidate(
        notification_id=_identity(f"{field}.notification_id", item["notification_id"]),
        eligible=tuple(sorted({spec.actions.index(action) for action in eligible})),
        features=features,
    )


def _identity(field: str, value: str | int, *, may_be_empty: bool = False) -> str:
    """Return an id as text: integers are taken as their decimal text, here and everywhere."""
    if isinstance(value, int):
        if abs(value) >= 10**40:
            raise RequestError(field, "has more than 40 digits")
        return str(value)
    try:
        size = len(value.encode("utf-8"))
    except UnicodeEncodeError:
        raise RequestError(field, "holds a lone surrogate, which no UTF-8 text can") from None
    if len(value) > MAX_TEXT:
        raise RequestError(field, f"has {len(value):,} characters; at most {MAX_TEXT} are taken")
    if size > MAX_ID_BYTES:
        raise RequestError(field, f"has {size:,} bytes in UTF-8; at most {MAX_ID_BYTES} are taken")
    if not value and not may_be_empty:
        raise RequestError(field, "must not be empty")
    return value


def _moment(text: str) -> int:
    """Parse an RFC 3339 time into epoch milliseconds."""
    try:
        moment = datetime.fromisoformat(text) if _RFC_3339.fullmatch(text) else None
    except ValueError:
        moment = None
    if moment is None:
        raise RequestError("at", f"{text[:40]!r} is no RFC 3339 time such as 2026-01-31T08:00:00Z")
    if moment.tzinfo is None:
        raise RequestError("at", f"{text!r} has no UTC offset; write {text}Z if it is UTC")
    try:
        moment = moment.astimezone(UTC)
    except OverflowError:
        moment = LATEST
    if not EARLIEST <= moment < LATEST:
        raise RequestError("at", f"{text!r} lies outside {EARLIEST.year}..{LATEST.year}")
    return int(moment.timestamp() * 1000)


def _prompt(asked: Mapping[str, float | _AbsoluteItem], cohort: str | None, spec: Spec) -> Mapping[str, Prompt]:
    if cohort is not None and cohort not in spec.cohorts:
        known = list(spec.cohorts) or "none"
        raise RequestError("cohort", f"no such cohort {cohort[:64]!r}; known: {known}{nearest(cohort, spec.cohorts)}")
    prompt = dict(spec.prompt) | dict(spec.cohorts[cohort] if cohort is not None else {})
    for name, value in asked.items():
        if name not in spec.rewards:
            raise RequestError(f"prompt.{name[:64]}", f"no such reward{nearest(name, spec.rewards)}")
        if isinstance(value, dict):
            if not math.isfinite(value["value"]) or abs(value["value"]) > 1e12:
                raise RequestError(f"prompt.{name}.value", f"{value['value']} is no return within +-1e12")
            prompt[name] = Absolute(float(value["value"]))
        elif 0.0 < value < 1.0:
            prompt[name] = float(value)
        else:
            raise RequestError(
                f"prompt.{name}", f'{value} is no level in (0, 1); an absolute return is written {{"value": {value}}}'
            )
    return prompt


def _explain(error: ValidationError) -> RequestError:
    """Name the field of pydantic's first error as a person writes it: ``candidates[0].eligible``."""
    detail = error.errors(include_url=False, include_context=False, include_input=False)[0]
    field = ""
    for part in detail["loc"]:
        if isinstance(part, int):
            field += f"[{part}]"
        elif part.replace("_", "").isalnum() and part not in {"str", "int", "float"} and "constrained" not in part:
            field += f".{part[:64]}" if field and not part.startswith("_") else part[:64] * (not part.startswith("_"))
    return RequestError(field or "item", _reason(field, detail["type"], detail["msg"]))


def _reason(field: str, kind: str, message: str) -> str:
    """Say in JSON's words what pydantic says in Python's, where a union or a mapping would confuse."""
    if kind == "extra_forbidden":
        return "unknown key"
    if kind == "missing":
        return "required key is missing"
    if kind == "dict_type":
        return "must be an object"
    if field.endswith("_id") and kind in {"string_type", "int_type"}:
        return "must be text or an integer"
    if field.startswith("prompt."):
        return 'must be a level in (0, 1) or {"value": return}'
    return message


def _echo(item: object, key: str) -> str | None:
    """What can be answered of a wrong item's id."""
    value = item.get(key) if isinstance(item, dict) else None
    if isinstance(value, bool) or not isinstance(value, str | int):
        return None
    try:
        return _identity(key, value)
    except RequestError:
        return None


def _kind(value: object) -> str:
    names: dict[type, str] = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number" if isinstance(value, int | float) else "no JSON")


def encode(document: Mapping[str, Any]) -> bytes:
    """Return compact JSON in UTF-8; a NaN or infinity in it is a ValueError, since JSON has none."""
    return json.dumps(document, allow_nan=False, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
