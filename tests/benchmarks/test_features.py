"""The feature benchmark: its quick run measures every way of reading and both stores, and compares what they hold."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from benchmarks.features import online

pytestmark = pytest.mark.integration


def test_a_quick_run_yields_the_figures_named_and_stores_agree() -> None:
    shown = io.StringIO()
    figures = online.measure(Console(file=shown, width=140), quick=True)
    assert set(figures) == {"online_members_per_s", "materialize_rows_per_s", "equal"}
    assert figures["equal"] is True
    assert set(figures["materialize_rows_per_s"]) == {"ours", "feast"}
    paces = figures["online_members_per_s"]
    assert set(paces) == {"reader", "sdk", "raw_hmget"}
    assert all(set(pace) == {"1", "64", "256"} and min(pace.values()) > 0 for pace in paces.values())
    assert "what is stored and read is the same" in " ".join(shown.getvalue().split())
