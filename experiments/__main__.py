"""``python -m experiments offline``: the paper's offline tables and figures on the simulator's log and HeartSteps."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from rich.console import Console

from contracts.errors import PacerError
from contracts.settings import load_settings
from experiments.variants import BASE, CONTEXTS, GROUPS, VARIANTS

SEEDS, QUICK_SEEDS, WORKERS = 5, 2, 2


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return the exit code. The last line of standard output is JSON."""
    parser = argparse.ArgumentParser(prog="python -m experiments", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    offline = commands.add_parser("offline", help="offline tables and figures")
    offline.add_argument("--seeds", type=int, help=f"default {SEEDS}, or {QUICK_SEEDS} with --quick")
    offline.add_argument(
        "--quick", action="store_true", help="see that everything runs: little training, few decisions"
    )
    offline.add_argument("--only", nargs="+", choices=GROUPS, help="comparisons to make (default: all)")
    offline.add_argument("--workers", type=int, default=WORKERS, help="processes of one thread (default %(default)s)")
    offline.add_argument("--heartsteps", type=Path, help="folder of the HeartSteps files (default: PACER_HEARTSTEPS)")
    chosen = parser.parse_args(arguments)
    seeds = chosen.seeds if chosen.seeds is not None else QUICK_SEEDS if chosen.quick else SEEDS
    for name, value in (("--seeds", seeds), ("--workers", chosen.workers)):
        if value < 1:
            parser.error(f"{name} {value}: at least 1")
    console = Console(stderr=True)
    try:
        from experiments.offline import Plan, run_offline

        settings = load_settings()
        variants = VARIANTS
        if chosen.only:
            variants = tuple(variant for variant in VARIANTS if variant == BASE or variant.group in chosen.only)
        elif chosen.quick:
            variants = (BASE, *CONTEXTS.values())
        plan = Plan(variants, seeds, chosen.workers, chosen.quick, chosen.heartsteps or settings.heartsteps)
        document = run_offline(plan, settings, console)
    except PacerError as error:
        console.print(f"[red]error:[/] {error}", highlight=False)
        return 1
    print(json.dumps(document, allow_nan=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
