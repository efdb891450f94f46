"""``python -m models train --spec specs/x.yaml``: train on the workspace's training set and write an artifact."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from rich.console import Console

from contracts.errors import PacerError
from contracts.settings import load_settings
from contracts.spec import load_spec


def main() -> int:
    """Run one command; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m models", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    train_parser = commands.add_parser("train", help="fit the model and write the artifact")
    train_parser.add_argument("--spec", type=Path, required=True)
    arguments = parser.parse_args()
    console = Console(stderr=True)
    try:
        from models.train import show_metrics, train

        spec = load_spec(arguments.spec)
        workspace = load_settings().workspace(spec.name)
        result = train(spec, workspace, console)
    except PacerError as error:
        console.print(f"[red]error:[/] {error}", highlight=False)
        return 1
    show_metrics(result.metrics, console)
    console.print(f"artifact: {result.artifact}", highlight=False)
    print(json.dumps({"artifact": result.artifact.name, "metrics": result.metrics}, allow_nan=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
