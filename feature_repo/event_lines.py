"""Events as lines of JSON: one object a line, with member_id, kind, event_id and at."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

from contracts.errors import LogError
from feature_repo.member_events import Event
from feature_repo.tables import EPOCH

_SHOWN = 5


class EventLines:
    """The events in a stream of lines. A line that holds none is counted and passed over."""

    def __init__(self, stream: TextIO, name: str) -> None:
        self.malformed = 0
        self.problems: list[str] = []
        """The first lines that hold no event, and why."""
        self._stream, self._name = stream, name

    @classmethod
    def open(cls, source: str) -> Self:
        """Open the file ``source``, or standard input for ``-``. Raises LogError where it can't be opened."""
        if source == "-":
            return cls(sys.stdin, "standard input")
        try:
            return cls(Path(source).open(encoding="utf-8", errors="replace"), source)
        except OSError as error:
            raise LogError(f"{source}: no file of events: {error.strerror}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._stream is not sys.stdin:
            self._stream.close()

    def __iter__(self) -> Iterator[Event]:
        for number, line in enumerate(self._stream, start=1):
            if not line.strip():
                continue
            try:
                yield parse_event(line)
            except ValueError as error:
                self.malformed += 1
                if len(self.problems) < _SHOWN:
                    self.problems.append(f"{self._name}, line {number}: {error}")


def parse_event(line: str) -> Event:
    """Return the event in one line.

    ``at`` is RFC 3339 with an offset, or Unix time in ms; an id that is a whole number is taken as its
    decimal text. Raises ValueError naming the key and its value.
    """
    try:
        document = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"no JSON: {error}") from None
    if not isinstance(document, dict):
        raise ValueError(f"an event is an object with member_id, kind, event_id and at, this is {line.strip()[:80]!r}")
    texts = {name: _text(document, name) for name in ("member_id", "kind", "event_id")}
    return Event(**texts, at_us=_time_us(document.get("at")))


def _text(document: dict[str, Any], name: str) -> str:
    value = document.get(name)
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not value:
        raise ValueError(f"{name} = {value!r}: must be text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{name} = {value!r}: is no valid text") from None
    return value


def _time_us(at: object) -> int:
    try:
        if isinstance(at, int) and not isinstance(at, bool):
            moment = EPOCH + timedelta(milliseconds=at)
        else:
            moment = datetime.fromisoformat(at if isinstance(at, str) else "")
            if moment.tzinfo is None:
                raise ValueError
        at_us = (moment.astimezone(UTC) - EPOCH) // timedelta(microseconds=1)
    except (ValueError, OverflowError):
        raise ValueError(f"at = {at!r}: must be RFC 3339 with an offset, or Unix time in ms") from None
    if at_us < 0:
        raise ValueError(f"at = {at!r}: lies before 1970")
    return at_us
