"""``make bench-train``: training, inference and trajectory building beside their peers; the last line is JSON."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from benchmarks.training import rounds
from benchmarks.training.data import Problem, make_log, write_log
from benchmarks.training.rounds import Task
from contracts.errors import PacerError
from contracts.settings import CHECKOUT

WIDTH: Final = 140
TRAIN: Final = "training, float32"
INFER: Final = {1: "one decision, float32", 64: "64 decisions, float32"}
INFER_BF16: Final = {1: "one decision, bfloat16", 64: "64 decisions, bfloat16"}
WAYS: Final = {"pacer": 1_000_000, "groupby": 200_000, "loop": 100_000}
"""Rows that each way of building trajectories is measured on; all but ours would take minutes over a million."""


def tasks_of(batch: int, seconds: float) -> dict[str, Task]:
    """Return every figure by its title."""
    return {
        TRAIN: Task("train", batch, "float32", seconds),
        "training, bfloat16": Task("train", batch, "bfloat16", seconds),
        "training, its own data path": Task("train_own", batch, "float32", seconds),
        **{title: Task("infer", size, "float32", seconds) for size, title in INFER.items()},
        **{title: Task("infer", size, "bfloat16", seconds) for size, title in INFER_BF16.items()},
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a glance: a small log, one round")
    parser.add_argument(
        "--alone", action="store_true", help="leave out the peers that need an environment of their own"
    )
    parser.add_argument("--batch", type=int, default=512, help="windows a training step (default %(default)s)")
    parser.add_argument("--width", type=int, default=64, help="of every model (default %(default)s)")
    parser.add_argument("--layers", type=int, default=2, help="of every model (default %(default)s)")
    parser.add_argument("--context", type=int, default=4, help="steps of a window (default %(default)s)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of every contender (default: all cores)")
    parser.add_argument(
        "--rounds", type=int, default=5, help="how often each is measured, by turns (default %(default)s)"
    )
    options = parser.parse_args(arguments)
    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        console = Console(stderr=True, highlight=False, width=WIDTH)
    # A terminated run ends its contenders on the way out, like an interrupted one.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    problem = Problem(width=options.width, layers=options.layers, context=options.context)
    problem = dataclasses.replace(problem, members=100) if options.quick else problem
    console.print(
        f"{os.cpu_count()} cores, {options.threads} used, Python {platform.python_version()}; width {problem.width}, "
        f"{problem.layers} layers, context {problem.context}, {problem.states} state columns, batch {options.batch}"
    )
    names = ["pacer"] if options.alone else list(rounds.MODULES)
    tasks = tasks_of(options.batch, 0.2 if options.quick else 3.0)
    turns = 1 if options.quick else options.rounds
    try:
        with tempfile.TemporaryDirectory(prefix="pacer-bench-") as folder:
            log = Path(folder) / "log.npz"
            write_log(make_log(problem), log)
            rates = rounds.measure(names, tasks, log, problem, turns, options.threads, console)
        built = {way: _build(way, rows // (50 if options.quick else 1), console) for way, rows in WAYS.items()}
        grown = _build("pacer", WAYS["pacer"] // (5 if options.quick else 1) * (1 if options.quick else 10), console)
    except PacerError as error:
        console.print("[red]error:[/]", end=" ")
        console.print(str(error), markup=False, soft_wrap=True)
        return 1
    _show(console, rates, built, grown)
    print(json.dumps(figures(rates, built), allow_nan=False), flush=True)
    return 0


def figures(rates: Mapping[str, Mapping[str, float]], built: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """Return what the last line says: training and decisions a second in float32, ours in bfloat16 beside."""
    names = list(rates[TRAIN])
    infer = {name: {str(size): round(rates[title][name]) for size, title in INFER.items()} for name in names}
    bf16 = {str(size): round(rates[title]["pacer"]) for size, title in INFER_BF16.items()}
    return {
        "train_windows_per_s": {name: round(rates[TRAIN][name]) for name in names},
        "infer_decisions_per_s": {"pacer": infer.pop("pacer"), "pacer_bf16": bf16, **infer},
        "trajectories_rows_per_s": {way: round(figure["rows_per_s"]) for way, figure in built.items()},
    }


def _build(way: str, rows: int, console: Console) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.training.trajectories", way, str(rows)]
    with console.status(f"trajectories of {rows:,} rows: {way}"):
        done = subprocess.run(command, cwd=CHECKOUT, stdout=subprocess.PIPE, check=True, text=True)
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return {"rows": rows, **result}


def _show(
    console: Console,
    rates: Mapping[str, Mapping[str, float]],
    built: Mapping[str, Mapping[str, float]],
    grown: Mapping[str, float],
) -> None:
    table = Table("windows or decisions a second", title="medians over the rounds; in brackets, pacer's multiple of it")
    names = list(rates[TRAIN])
    for name in names:
        table.add_column(name, justify="right")
    for title, by_name in rates.items():
        ours = by_name["pacer"]
        cells = [
            f"{rate:,.0f}" + ("" if name == "pacer" else f" ({ours / rate:.2f}x)") for name, rate in by_name.items()
        ]
        table.add_row(title, *cells)
    console.print(table)
    table = Table("trajectories", "rows", "rows/s", "pacer is", "peak MiB")
    for way, figure in {**built, "pacer, ten times the rows": grown}.items():
        ratio = f"{built['pacer']['rows_per_s'] / figure['rows_per_s']:.1f}x"
        table.add_row(
            way, f"{figure['rows']:,.0f}", f"{figure['rows_per_s']:,.0f}", ratio, f"{figure['peak_mib']:,.0f}"
        )
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
