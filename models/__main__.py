"""Train a deployment, evaluate what was trained, or fit any trajectories: ``python -m models COMMAND``."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from contracts.errors import PacerError
from contracts.settings import load_settings
from contracts.spec import load_spec


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return the exit code. The last line of standard output is JSON."""
    parser = argparse.ArgumentParser(prog="python -m models", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("train", help="fit the model and write the artifact")
    commands.add_parser("evaluate", help="evaluate the newest artifact on held-out members; write a report")
    prompts = commands.add_parser("prompts", help="show predicted returns and actions at prompt levels")
    prompts.add_argument(
        "--prompt",
        action="append",
        default=[],
        metavar="JSON",
        help='a prompt as a request brings it, e.g. \'{"click": 0.9, "visit": {"value": 3.2}}\'; may be repeated',
    )
    for command in commands.choices.values():
        command.add_argument("--spec", type=Path, required=True)
    fitting = commands.add_parser("fit", help="fit trajectories of your own, without a deployment")
    fitting.add_argument("settings", type=Path, help="YAML of the fit's settings (docs/training.md)")
    fitting.add_argument("--trajectories", type=Path, required=True, help="folder that a TrajectoryWriter wrote")
    fitting.add_argument("--out", type=Path, default=Path("runs"), help="where run folders go (default %(default)s)")
    chosen = parser.parse_args(arguments)
    console = Console(stderr=True)
    try:
        document = _run(chosen, console)
    except PacerError as error:
        console.print(f"[red]error:[/] {error}", highlight=False)
        return 1
    print(json.dumps(document, allow_nan=False))
    return 0


def _run(chosen: argparse.Namespace, console: Console) -> dict[str, Any]:
    if chosen.command == "fit":
        from models.run import run_fit

        return run_fit(chosen.settings, chosen.trajectories, chosen.out, console)
    spec = load_spec(chosen.spec)
    workspace = load_settings().workspace(spec.name)
    if chosen.command == "evaluate":
        from models.evaluate_artifact import evaluate_newest

        return evaluate_newest(spec, workspace, console)
    if chosen.command == "prompts":
        from models.evaluate_artifact import show_prompts
        from models.prompts import parse_prompt

        return show_prompts(spec, workspace, {text: parse_prompt(text, spec) for text in chosen.prompt}, console)
    from models.report import show_metrics
    from models.train import train

    result = train(spec, workspace, console)
    show_metrics(result.metrics, console)
    console.print(f"artifact: {result.artifact}", highlight=False)
    return {"artifact": result.artifact.name, "metrics": result.metrics}


if __name__ == "__main__":
    sys.exit(main())
