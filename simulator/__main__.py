"""``python -m simulator log --out FOLDER``: simulate members under the logging policy and write their decision log."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from contracts.errors import PacerError
from contracts.spec import load_spec
from simulator.env import MAX_DAYS, MAX_MEMBERS
from simulator.log import simulate

_SPEC = Path("specs/notification.yaml")


def main(arguments: list[str] | None = None) -> int:
    """Run the command with ``arguments`` (default: the process's own); return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m simulator", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    log = commands.add_parser("log", help="write a data folder: decisions and feature tables")
    log.add_argument("--out", type=Path, required=True, help="new or empty folder, or that of an earlier simulation")
    log.add_argument("--members", type=_whole(1, MAX_MEMBERS), default=2_000, help="default %(default)s")
    log.add_argument("--days", type=_whole(1, MAX_DAYS), default=21, help="default %(default)s")
    log.add_argument("--seed", type=_whole(0, 2**63 - 1), default=0, help="default %(default)s")
    log.add_argument("--spec", type=Path, default=_SPEC, help="default %(default)s")
    chosen = parser.parse_args(arguments)

    console = Console(stderr=True, highlight=False, soft_wrap=True)
    try:
        spec = load_spec(chosen.spec)
        report = simulate(chosen.out, spec, chosen.members, chosen.days, chosen.seed)
    except (PacerError, OSError) as error:
        console.print(f"error: {error}", style="red", markup=False)
        return 1
    actions = ", ".join(f"{name} {share:.1%}" for name, share in report.action_shares.items())
    rewards = ", ".join(f"{name} {mean:.4f}" for name, mean in report.reward_means.items())
    print(f"{report.rows:,} decisions of {report.members:,} members over {report.days} days in {chosen.out}")
    print(f"actions: {actions}")
    print(f"mean reward a decision: {rewards}")
    return 0


def _whole(least: int, most: int) -> Callable[[str], int]:
    """Return an argument type: a whole number from ``least`` to ``most``."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least} to {most}")
        return value

    return parse


if __name__ == "__main__":
    sys.exit(main())
