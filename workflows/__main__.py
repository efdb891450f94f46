"""``python -m workflows run|up``: the main job, and bringing the servers up to stay."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from pathlib import Path

from rich.console import Console

from contracts.errors import PacerError
from contracts.settings import load_settings
from serve.lock import run_lock

WIDTH = 140


def main() -> int:
    """Run one command; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m workflows", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (
        ("run", "the main job: a log in, decisions over REST out; servers stop at the end"),
        ("up", "serve the newest model and stay up; where there is none yet, do the main job first"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("--spec", type=Path, required=True)
        command.add_argument("--data", type=Path, help="folder of a decision log (default: simulate one)")
    arguments = parser.parse_args()
    # A terminated run stops its servers on the way out, like an interrupted one.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    console = _console()
    settings = load_settings()
    try:
        with run_lock(settings.run_dir):
            if arguments.command == "up" and arguments.data is None:
                from workflows.bring_up import bring_up

                if bring_up(arguments.spec, settings, console):
                    return 0
            from workflows.main_job import run_main_job

            summary = run_main_job(arguments.spec, arguments.data, settings, console, stay_up=arguments.command == "up")
    except PacerError as error:
        console.print("[bold red]stopped:[/]", end=" ")
        console.print(str(error), markup=False, highlight=False, soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        console.print("interrupted; the servers started here are stopped")
        return 130
    print(json.dumps(summary, allow_nan=False), flush=True)
    return 0


def _console() -> Console:
    """A terminal's own width; where output goes to a file or a pipe, one at which the tables do not wrap."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=WIDTH)


if __name__ == "__main__":
    sys.exit(main())
