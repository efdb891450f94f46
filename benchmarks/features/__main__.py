"""``python -m benchmarks.features``: reads, materialization and point-in-time joins, beside Feast's own stores."""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import sys
from collections.abc import Sequence
from typing import Final

from rich.console import Console

from contracts.errors import PacerError

WIDTH: Final = 140


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.features", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a glance: few members and rows, few repeats")
    options = parser.parse_args(arguments)
    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        console = Console(stderr=True, highlight=False, width=WIDTH)
    # A terminated run stops its server on the way out, like an interrupted one.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    # Feast takes seconds to import.
    from benchmarks.features import offline, online

    console.print(f"{os.cpu_count()} cores, Python {platform.python_version()}")
    try:
        joined = offline.measure(console, options.quick)
        served = online.measure(console, options.quick)
    except PacerError as error:
        console.print("[red]error:[/]", end=" ")
        console.print(str(error), markup=False, soft_wrap=True)
        return 1
    figures = {**served, **joined, "equal": served["equal"] and joined["equal"]}
    print(json.dumps(figures, allow_nan=False), flush=True)
    return 0 if figures["equal"] else 1


if __name__ == "__main__":
    sys.exit(main())
