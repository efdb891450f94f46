"""The TorchServe handler: hands the bodies of a batch to the engine and its replies back.

The only file that imports TorchServe. It is copied into every archive, and TorchServe wants exactly one
class in it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from pathlib import Path

from ts.context import Context

from contracts.api import Reply, encode
from contracts.settings import load_settings
from serve.engine import Engine

logger = logging.getLogger(__name__)

_FAILED = Reply(500, encode({"error": {"field": "server", "reason": "server: internal error; its log says why"}}))


class PacerHandler:
    """One model variant in one worker process."""

    _engine: Engine

    def initialize(self, context: Context) -> None:
        """Open the artifact that TorchServe unpacked. An error ends the worker, and TorchServe tries again."""
        # A worker prints a line or two a request at INFO, which costs half the throughput; its metrics
        # travel as log lines of ts.metrics.
        logging.getLogger().setLevel(logging.WARNING)
        logging.getLogger("ts.metrics").setLevel(logging.INFO)
        self._engine = Engine.open(Path(context.system_properties["model_dir"]), load_settings())

    def handle(self, data: Sequence[Mapping[str, object]], context: Context) -> list[bytes]:
        """Answer the requests of one batch: one JSON body each, in order; status and type are set in ``context``."""
        replies = self._answer([_body(item) for item in data])
        for index, reply in enumerate(replies):
            # The phrase must be ASCII: TorchServe's protocol counts its characters as bytes.
            context.set_response_status(reply.status, HTTPStatus(reply.status).phrase, index)
            context.set_response_content_type(index, "application/json")
        return [reply.body for reply in replies]

    def _answer(self, bodies: Sequence[object]) -> list[Reply]:
        """Return one reply a body, whatever the engine does.

        Requests that fail in company are asked again alone, so that none fails for what is in another: a
        cycle is decided once, so asking twice is safe.
        """
        replies = self._ask(bodies)
        if len(bodies) == 1:
            return replies
        return [
            self._ask([body])[0] if reply.status >= 500 else reply for body, reply in zip(bodies, replies, strict=True)
        ]

    def _ask(self, bodies: Sequence[object]) -> list[Reply]:
        try:
            replies = list(self._engine.answer(bodies))
            if len(replies) != len(bodies):
                raise RuntimeError(f"{len(replies)} replies to {len(bodies)} requests")
        except Exception:
            logger.exception("The engine failed on a batch of %d requests", len(bodies))
            return [_FAILED] * len(bodies)
        return replies


def _body(item: Mapping[str, object]) -> object:
    """Return the raw body of one request.

    TorchServe calls it ``body``; a form's fields and a gRPC call's inputs go by their own names, and
    where there is just one it is meant. Anything else is no body, which the engine refuses.
    """
    alone = next(iter(item.values())) if len(item) == 1 else b""
    value = item.get("body", alone)
    return bytes(value) if isinstance(value, bytearray) else value
