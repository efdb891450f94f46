"""The point-in-time join: the offline plugin beside Feast's own file stores and a bare ASOF JOIN of the same files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from benchmarks.features.offline_contender import TRAINING_SET
from benchmarks.features.offline_data import DECISIONS_PER_MEMBER, FEATURES, TABLES, write_data
from contracts.settings import CHECKOUT, Settings, load_settings

_NAMES = [name for table in TABLES for name in FEATURES[table]]
_TITLES = {
    "ours": "offline plugin",
    "feast_dask": "Feast, dask store",
    "feast_duckdb": "Feast, duckdb store",
    "bare_asof": "bare ASOF JOINs to Arrow",
    "training_set": "training set",
    "training_set_grown": "training set, grown",
}


@dataclass(frozen=True)
class _Scale:
    decisions: int
    dask_share: int
    """The dask store joins the first 1/n of the members: a whole join holds 15 GiB."""
    grown: int
    """Decisions of the log whose training set shows that memory does not grow."""


@dataclass(frozen=True)
class _Figure:
    rows: int
    seconds: float
    peak_mib: float


def measure(console: Console, quick: bool) -> dict[str, Any]:
    """Join decisions with two views of 25 features, each contender in a process of its own.

    Parameters
    ----------
    console
        Where progress and the table go.
    quick
        A tenth of the decisions and a small log instead of the long one: for a look, not for figures to quote.

    Returns
    -------
    dict
        ``offline_rows_per_s``: entity rows a second, per contender. ``offline_peak_mib``: the most memory each
        process held, the result and Python's own included; ``training_set`` and ``training_set_grown`` are the
        training set's build on the same log and on a far longer one. ``equal``: every row is the same in all stores.
    """
    scale = _Scale(33_600, 4, 100_000) if quick else _Scale(336_000, 4, 10_000_000)
    with tempfile.TemporaryDirectory(prefix="pacer-bench-") as folder:
        base = Path(folder)
        settings = _settings(base / "log")
        write_data(settings, scale.decisions)
        members = round(scale.decisions / DECISIONS_PER_MEMBER)
        figures: dict[str, _Figure] = {}
        for contender, share, runs in (
            ("bare_asof", 1, 3),
            ("ours", 1, 3),
            ("feast_duckdb", 1, 1),
            ("feast_dask", scale.dask_share, 1),
        ):
            with console.status(f"{_TITLES[contender]}: joining {members // share * DECISIONS_PER_MEMBER:,} decisions"):
                figures[contender] = _run(settings, contender, members // share, runs)
        equal = all(_same(settings, "ours", other) for other in ("feast_duckdb", "feast_dask"))
        grown = _settings(base / "grown")
        for name, log, decisions in (
            ("training_set", settings, scale.decisions),
            ("training_set_grown", grown, scale.grown),
        ):
            with console.status(f"{_TITLES[name]}: {decisions:,} decisions"):
                if log is grown:
                    write_data(log, decisions)
                figures[name] = _build(log)
    _show(console, figures)
    joins = ("ours", "feast_dask", "feast_duckdb", "bare_asof")
    return {
        "offline_rows_per_s": {name: round(figures[name].rows / figures[name].seconds) for name in joins},
        "offline_peak_mib": {name: round(figure.peak_mib) for name, figure in figures.items()},
        "equal": equal,
    }


def _settings(var: Path) -> Settings:
    return replace(load_settings(), var=var.resolve())


def _run(settings: Settings, contender: str, members: int, runs: int) -> _Figure:
    command = [sys.executable, "-m", "benchmarks.features.offline_contender", contender, str(members), str(runs)]
    done = _subprocess([*command, str(_result(settings, contender))], settings)
    return _Figure(**json.loads(done.splitlines()[-1]))


def _build(settings: Settings) -> _Figure:
    """Apply the benchmark's deployment and build its training set, as `make train` does."""
    _subprocess([sys.executable, "-m", "feature_repo", "apply"], settings)
    return _run(settings, TRAINING_SET, 0, 1)


def _subprocess(command: list[str], settings: Settings) -> str:
    environment: Mapping[str, str] = {**os.environ, "PACER_VAR": str(settings.var), "PYTHONPATH": str(CHECKOUT)}
    done = subprocess.run(command, cwd=settings.var, env=environment, stdout=subprocess.PIPE, check=True, text=True)
    return done.stdout


def _result(settings: Settings, contender: str) -> Path:
    return settings.var / f"{contender}.parquet"


def _same(settings: Settings, one: str, other: str) -> bool:
    """Return whether each row of ``other``'s result has the same features in ``one``'s, and none is missing there.

    Feast's dask store leaves out rows all of whose candidates are too old or of the future.
    """
    left, right = (pq.read_table(_result(settings, name)).sort_by("number") for name in (one, other))
    rows = right["number"].to_numpy()
    left_out = left.filter(
        pa.array(~np.isin(left["number"].to_numpy(), rows) & (left["number"].to_numpy() <= rows.max()))
    )
    if other != "feast_dask" and left_out.num_rows:
        return False
    if any(all(left_out[name][i].is_valid for name in _NAMES) for i in range(left_out.num_rows)):
        return False
    left = left.filter(pa.array(np.isin(left["number"].to_numpy(), rows)))
    return all(
        left[name].combine_chunks().equals(right[name].cast(left[name].type).combine_chunks()) for name in _NAMES
    )


def _show(console: Console, figures: Mapping[str, _Figure]) -> None:
    table = Table(
        "", "decisions", "seconds", "decisions/s", "ours is", "peak MiB", title="Point-in-time join, 2 x 25 features"
    )
    pace = {name: figure.rows / figure.seconds for name, figure in figures.items()}
    for name, figure in figures.items():
        ratio = f"{pace['ours'] / pace[name]:.2f}x" if not name.startswith("training_set") else ""
        cells = (f"{figure.rows:,}", f"{figure.seconds:.2f}", f"{pace[name]:,.0f}", ratio, f"{figure.peak_mib:,.0f}")
        table.add_row(_TITLES[name], *cells)
    console.print(table)
