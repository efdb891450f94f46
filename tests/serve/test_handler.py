"""The handler keeps the batch-mates of a failing request from harm, and speaks TorchServe's protocol."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
from ts.context import Context, RequestProcessor
from ts.utils.util import list_classes_from_module

import serve.handler
from contracts.api import Reply
from serve.handler import PacerHandler

pytestmark = pytest.mark.unit


class PoisonableEngine:
    """Answers with the body itself, but fails on any batch that holds ``poison``, in the way it is told to."""

    def __init__(self, failure: str = "raise") -> None:
        self.failure = failure

    def answer(self, bodies: Sequence[object]) -> list[Reply]:
        replies = [Reply(200, json.dumps(repr(body)).encode()) for body in bodies]
        if b"poison" not in bodies:
            return replies
        if self.failure == "raise":
            raise RecursionError("poisoned")
        return replies[1:] if self.failure == "lose one" else [Reply(500, b"{}")] * len(bodies)


def ask(engine: PoisonableEngine, data: list[dict[str, object]]) -> tuple[list[bytes], list[int], set[str]]:
    handler = PacerHandler()
    handler._engine = engine  # type: ignore[assignment]
    context = Context("x", ".", None, 1, None, "0")
    context.request_processor = [RequestProcessor({}) for _ in data]
    bodies = handler.handle(data, context)
    statuses = [context.get_response_status(i)[0] for i in range(len(data))]
    return bodies, statuses, {context.get_response_content_type(i) for i in range(len(data))}


@pytest.mark.parametrize("failure", ["raise", "lose one", "500 for all"])
def test_only_the_request_that_fails_gets_a_500(failure: str) -> None:
    data: list[dict[str, object]] = [{"body": b"a"}, {"body": b"poison"}, {"body": b"c"}]
    bodies, statuses, types = ask(PoisonableEngine(failure), data)
    assert statuses == [200, 500, 200]
    assert types == {"application/json"}
    assert [json.loads(bodies[0]), json.loads(bodies[2])] == [repr(b"a"), repr(b"c")]
    assert isinstance(json.loads(bodies[1]), dict)


def test_the_raw_body_reaches_the_engine_whatever_it_was_called() -> None:
    data: list[dict[str, object]] = [
        {"body": bytearray(b"raw")},
        {"data": b"grpc"},
        {"model": b"x", "body": b"meant"},
        {"a": b"1", "b": b"2"},
        {},
        {"body": {"decisions": []}},
    ]
    bodies, statuses, _ = ask(PoisonableEngine(), data)
    assert statuses == [200] * 6
    expected = [b"raw", b"grpc", b"meant", b"", b"", {"decisions": []}]
    assert [json.loads(body) for body in bodies] == [repr(each) for each in expected]


def test_torchserve_finds_exactly_one_class_and_no_function_of_its_own() -> None:
    assert list_classes_from_module(serve.handler) == [PacerHandler]
    assert not hasattr(serve.handler, "handle")
