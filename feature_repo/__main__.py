"""``python -m feature_repo``: apply definitions, bring views online, ingest events, build a training set."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from contracts.errors import PacerError
from contracts.settings import Settings, load_settings
from contracts.spec import Spec, load_spec


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
    events = commands.add_parser("ingest", parents=[spec], help="count visits, clicks and sends; push what they change")
    events.add_argument("events", help="a file of JSON lines (member_id, kind, event_id, at), or - for standard input")
    arguments = parser.parse_args()
    try:
        return _run(arguments)
    except PacerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _run(arguments: argparse.Namespace) -> int:
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
    elif arguments.command == "ingest":
        return _ingest(arguments.events, deployment, settings)
    else:
        made = build_training_set(deployment, settings)
        print(f"{made.rows:,} decisions of {made.members:,} members in {made.parts} parts, {made.seconds:.1f} s")
        for feature, share in made.missing.items():
            if share:
                print(f"  {feature}: missing in {share:.1%}")
    return 0


def _ingest(source: str, deployment: Spec, settings: Settings) -> int:
    """Ingest events; the last line is the report as JSON. Return 1 where an event was refused for good."""
    from feature_repo.event_lines import EventLines
    from feature_repo.ingest import ingest

    with EventLines.open(source) as lines:
        report = ingest(lines, deployment, settings)
    for problem in (*report.problems, *lines.problems):
        print(problem, file=sys.stderr)
    counts = {name: value for name, value in asdict(report).items() if name != "problems"}
    print(json.dumps({**counts, "malformed": lines.malformed}))
    return 1 if lines.malformed or report.unknown_kind or report.in_the_future else 0


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


if __name__ == "__main__":
    sys.exit(main())
