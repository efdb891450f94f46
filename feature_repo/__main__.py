"""``python -m feature_repo``: apply the definitions, materialize a deployment's views, build its training set."""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime
from pathlib import Path

from contracts.errors import PacerError
from contracts.settings import load_settings
from contracts.spec import load_spec


def main() -> int:
    """Run one command; return 1 and say why where it can't be done."""
    parser = argparse.ArgumentParser(prog="python -m feature_repo", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("apply", help="feast apply: register what this folder and the deployed specs define")
    spec = argparse.ArgumentParser(add_help=False)
    spec.add_argument("--spec", type=Path, required=True, help="the deployment, e.g. specs/notification.yaml")
    online = commands.add_parser("materialize", parents=[spec], help="bring the features of a deployment online")
    online.add_argument("--end", type=_moment, help="rows known after it stay offline (default: the last row)")
    commands.add_parser("training-set", parents=[spec], help="join the decision log with its features, point in time")
    arguments = parser.parse_args()
    try:
        _run(arguments)
    except PacerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _run(arguments: argparse.Namespace) -> None:
    settings = load_settings()
    deployment = load_spec(arguments.spec) if arguments.command != "apply" else None
    # Feast takes seconds to import: help and a spec with an error in it need not wait for that.
    from feature_repo.deploy import apply, materialize
    from feature_repo.training_set import build_training_set

    if deployment is None:
        print(apply(settings), end="")
    elif arguments.command == "materialize":
        loaded = materialize(deployment, settings, arguments.end)
        print("\n".join(f"{view}: {load}" for view, load in loaded.loads.items()))
        print(f"online up to {loaded.end.isoformat()}")
    else:
        made = build_training_set(deployment, settings)
        print(f"{made.rows:,} decisions of {made.members:,} members in {made.parts} parts, {made.seconds:.1f} s")
        for feature, share in made.missing.items():
            if share:
                print(f"  {feature}: missing in {share:.1%}")


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


if __name__ == "__main__":
    sys.exit(main())
