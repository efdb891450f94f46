"""``python -m benchmarks.soak``: run the soak scenarios; the last line is one JSON object with all counts.

Exit code 1: a law was broken, or a scenario could not be carried out.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import Final

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from benchmarks.soak import clock, crash, damage, failover, fsync, maintenance, writers
from benchmarks.soak.scenario import Count, Report, Scenario, Soak, SoakError
from contracts.errors import PacerError

SCENARIOS: Final[Mapping[str, Scenario]] = {
    "writers": writers.run,
    "crash": crash.run,
    "fsync": fsync.run,
    "failover": failover.run,
    "damage": damage.run,
    "clock": clock.run,
    "maintenance": maintenance.run,
}


def show(name: str, report: Report, console: Console) -> None:
    """Print the counts of a scenario, one column a part, and below them its laws."""
    table = Table(title=f"{name}: {_describe(SCENARIOS[name])}", title_justify="left")
    table.add_column("")
    for part in report.counts:
        table.add_column(part, justify="right")
    for row in dict.fromkeys(row for counts in report.counts.values() for row in counts):
        table.add_row(row.replace("_", " "), *(_cell(counts.get(row)) for counts in report.counts.values()))
    console.print(table)
    for text, law in report.laws.items():
        console.print(f"  {'[red]broken' if law.broken else '[green]holds'}[/]  {escape(text)}", highlight=False)
        if law.broken:
            console.print(f"          {law.broken:,} times; {escape('; '.join(law.examples))}", highlight=False)
    for remark in report.remarks:
        console.print(f"  {escape(remark)}", highlight=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run scenarios; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument(
        "--scenario",
        action="append",
        choices=SCENARIOS,
        metavar="NAME",
        help="; ".join(f"{name}: {_describe(scenario)}" for name, scenario in SCENARIOS.items()) + " (default: all)",
    )
    parser.add_argument("--scale", type=float, default=1.0, help="fraction of the full amount of work (default 1)")
    parser.add_argument("--seed", type=int, default=0, help="of everything drawn at random (default 0)")
    options = parser.parse_args(arguments)
    if not options.scale > 0:
        parser.error(f"--scale {options.scale}: must be above 0")
    console = Console(stderr=True)
    before = signal.signal(signal.SIGTERM, _end)
    try:
        reports, failures = _run(options, console)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    finally:
        signal.signal(signal.SIGTERM, before)
    trees = {name: report.to_tree() for name, report in reports.items()}
    print(json.dumps({"scale": options.scale, "seed": options.seed, "scenarios": trees, "failures": failures}))
    return int(bool(failures) or any(report.broken for report in reports.values()))


def _run(options: argparse.Namespace, console: Console) -> tuple[dict[str, Report], dict[str, str]]:
    """Return the reports of the scenarios, and why others could not be carried out."""
    reports: dict[str, Report] = {}
    failures: dict[str, str] = {}
    for name in options.scenario or SCENARIOS:
        began_s = time.monotonic()
        try:
            with _progress(console) as progress:
                reports[name] = SCENARIOS[name](Soak(options.scale, options.seed, progress))
        except (PacerError, SoakError, RuntimeError) as error:
            failures[name] = str(error)
            console.print(f"[red]error:[/] {name}: {escape(str(error))}", highlight=False)
            continue
        show(name, reports[name], console)
        console.print(f"  {time.monotonic() - began_s:.0f} s\n", highlight=False)
    return reports, failures


def _describe(scenario: Scenario) -> str:
    return (scenario.__doc__ or "").strip().splitlines()[0]


def _cell(count: Count | None) -> str:
    if count is None:
        return ""
    return f"{count:,}" if isinstance(count, int) else f"{count:,.3g}"


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console, transient=True)


def _end(number: int, _frame: FrameType | None) -> None:
    # So that what was started is stopped, as after an interrupt from the keyboard.
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
