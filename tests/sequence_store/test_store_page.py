"""The example on docs/sequence-store.md runs as it stands, but for the server's URL."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "sequence-store.md"


@pytest.mark.integration
def test_the_example_appends_and_reads(redis_url: str) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert example.count("redis://localhost:6379/0") == 1

    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(example.replace("redis://localhost:6379/0", redis_url), {})  # noqa: S102  our own page

    assert printed.getvalue() == "APPENDED [(0, array([3., 1.], dtype=float32))]\n"
