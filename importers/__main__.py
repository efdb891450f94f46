"""``python -m importers import --spec SPEC --data FOLDER``: check a log and bring it into the workspace."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from contracts.errors import PacerError
from contracts.settings import load_settings
from contracts.spec import load_spec
from importers.run import run_import


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m importers", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("import", help="check a decision log and its feature tables, and take them in")
    command.add_argument("--spec", type=Path, required=True, help="spec of the deployment (YAML)")
    command.add_argument("--data", type=Path, required=True, help="folder with the log and features/, or the log")
    options = parser.parse_args(arguments)
    try:
        spec = load_spec(options.spec)
        report = run_import(spec, options.data, load_settings().workspace(spec.name))
    except PacerError as error:
        print(error, file=sys.stderr)
        return 1
    report.show(Console())
    return 0


if __name__ == "__main__":
    sys.exit(main())
