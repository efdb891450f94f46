"""The smallest real handler: replies with what it got, and refuses an empty list as Pacer's does."""

import json
import os
import time
from typing import Any


class EchoHandler:
    def initialize(self, context: Any) -> None:
        self.tenant = context.manifest["model"]["modelName"]

    def handle(self, data: list[dict[str, bytes]], context: Any) -> list[bytes]:
        return [self._reply(item, index, context) for index, item in enumerate(data)]

    def _reply(self, item: dict[str, bytes], index: int, context: Any) -> bytes:
        context.set_response_content_type(index, "application/json")
        try:
            body = json.loads(bytes(item["body"]))
        except Exception:
            return self._refuse(index, context, "body", "no JSON")
        if body == {"decisions": []}:
            return self._refuse(index, context, "decisions", "empty")
        if isinstance(body, dict):
            time.sleep(body.get("sleep_s", 0))
        return json.dumps({"tenant": self.tenant, "pid": os.getpid(), "var": os.environ.get("PACER_VAR")}).encode()

    def _refuse(self, index: int, context: Any, field: str, reason: str) -> bytes:
        context.set_response_status(400, "Bad Request", index)
        return json.dumps({"error": {"field": field, "reason": f"{field}: {reason}"}}).encode()
