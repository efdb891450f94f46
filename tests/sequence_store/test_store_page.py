"""The examples on docs/sequence-store.md run as they stand, but for the server's URL."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path
from typing import Any

import pytest

from sequence_store import AppendOutcome

PAGE = Path(__file__).parents[2] / "docs" / "sequence-store.md"


@pytest.mark.integration
def test_the_examples_append_and_read(redis_url: str) -> None:
    first, together = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert first.count("redis://localhost:6379/0") == 1

    names: dict[str, Any] = {}
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(first.replace("redis://localhost:6379/0", redis_url), names)  # noqa: S102  our own page
        exec(together, names)  # noqa: S102  the page goes on with the names of the first

    one, *others = printed.getvalue().splitlines()
    assert one == "APPENDED [(0, array([3., 1.], dtype=float32))]"
    assert others == ["(1, 2) (1,) (1,)"]
    assert names["sends"].tolist() == [0, 1, *[0] * 62]
    assert names["outcomes"] == [AppendOutcome.APPENDED] * 64
    assert names["store"].read(["member-7"], [names["now"]])[0].cycle("2026-11-23T12").notification_id == "n-2"
