"""``python -m serve``: see to the servers, deploy a model, ask it for decisions."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from contracts.errors import PacerError, RequestError
from contracts.settings import Settings, find_redis_url, load_settings
from contracts.spec import Spec, load_spec
from serve import process, redis_server, torchserve
from serve.archive import deployed_archives, pack
from serve.client import Client
from serve.lock import run_lock


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit code, 1 with a message where something is wrong."""
    options = _parser().parse_args(arguments)
    try:
        return _run(options, load_settings())
    except PacerError as error:
        print(f"serve {options.command}: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m serve", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("down", help="stop TorchServe and the embedded Redis")
    commands.add_parser("status", help="show which servers run, and where")
    archive = commands.add_parser("archive", help="pack a model artifact as the spec's archive")
    deploy = commands.add_parser("deploy", help="archive, then restart TorchServe with every tenant's archive")
    decide = commands.add_parser("decide", help="send one request and print the reply")
    drain = commands.add_parser("drain", help="move the decisions made from Redis to Parquet files, the next log")
    skew = commands.add_parser("skew", help="compare the features that decisions were served with the offline store's")
    skew.add_argument("--log", type=Path, help="folder of drained decisions (default: the spec's)")
    for command in (archive, deploy, decide, drain, skew):
        command.add_argument("--spec", type=Path, required=True, help="the deployment's YAML file")
    for command in (archive, deploy):
        command.add_argument("--artifact", type=Path, help="artifact folder (default: the newest of the spec)")
    decide.add_argument("request", help="a JSON file, or - for standard input")
    return parser


def _run(options: argparse.Namespace, settings: Settings) -> int:
    if options.command == "status":
        _status(settings)
    elif options.command == "down":
        with run_lock(settings.run_dir):
            _down(settings)
    else:
        spec = load_spec(options.spec)
        tenant = spec.name
        if options.command == "decide":
            _decide(settings, tenant, options.request)
        elif options.command == "drain":
            _drain(settings, spec)
        elif options.command == "skew":
            return _skew(settings, spec, options.log)
        elif options.command == "archive":
            print(_archive(settings, spec, options.artifact))
        else:
            with run_lock(settings.run_dir):
                _deploy(settings, spec, options.artifact)
    return 0


def _down(settings: Settings) -> None:
    for name, stopped in (
        ("TorchServe", torchserve.stop_torchserve(settings)),
        ("Redis", redis_server.stop_redis(settings)),
    ):
        print(f"{name}: {'stopped' if stopped else 'did not run'}")


def _status(settings: Settings) -> None:
    for name in (redis_server.NAME, torchserve.NAME):
        record = process.read_record(settings.run_dir, name)
        if record is not None:
            print(f"{name}: up, pid {record.identity.pid}, {record.url}")
            for key, value in record.details.items():
                print(f"  {key}: {value}")
        elif name == redis_server.NAME and settings.redis_url is not None:
            print(f"{name}: the one that REDIS_URL names")
        else:
            print(f"{name}: down")


def _archive(settings: Settings, spec: Spec, artifact: Path | None) -> Path:
    from models.artifact import check_spec, load_artifact, newest_artifact

    workspace = settings.workspace(spec.name)
    chosen = artifact or newest_artifact(workspace.artifacts)
    # One that is torn, or made for another spec, does not take the place of a good archive.
    check_spec(load_artifact(chosen), spec)
    return pack(chosen, spec.name, chosen.resolve().name, workspace.archives)


def _deploy(settings: Settings, spec: Spec, artifact: Path | None) -> None:
    find_redis_url(settings)
    print(_archive(settings, spec, artifact))
    for url in torchserve.serve_tenants(settings, deployed_archives(settings), die_with_parent=False):
        print(f"ready at {url}")


def _decide(settings: Settings, tenant: str, source: str) -> None:
    name = "standard input" if source == "-" else source
    try:
        body = json.loads(sys.stdin.read() if source == "-" else Path(source).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RequestError(name, f"holds no JSON: {error}") from error
    if not isinstance(body, dict):
        raise RequestError(name, f"a request is a JSON object, this is {type(body).__name__}")
    with Client.from_settings(settings) as client:
        print(json.dumps(client.decide(tenant, body), indent=2))


def _drain(settings: Settings, spec: Spec) -> None:
    from models.artifact import load_artifact, newest_artifact
    from serve.drain import drain
    from serve.rings import open_rings

    workspace = settings.workspace(spec.name)
    with open_rings(load_artifact(newest_artifact(workspace.artifacts)), settings) as rings:
        moved = drain(rings, spec, workspace.served)
    print(f"{moved:,} decisions moved to {workspace.served}")


def _skew(settings: Settings, spec: Spec, log: Path | None) -> int:
    """Print what differs as a table, then the figures as JSON; return 1 where anything does."""
    from rich.console import Console
    from rich.table import Table

    from serve.skew import check_skew, rows_of

    report = check_skew(spec, settings, log)
    table = Table("feature", "values", "member", "decided at", "known at", "served", "offline", title="Differences")
    for row in rows_of(report):
        table.add_row(*map(str, row))
    if report.differing:
        Console().print(table)
    print(
        f"{report.decisions:,} decisions, {report.values:,} values: {sum(report.differing.values()):,} differ; "
        f"{report.skipped:,} rows that do not say what was read"
    )
    figures = {name: value for name, value in asdict(report).items() if name != "examples"}
    print(json.dumps(figures))
    return 1 if report.differing else 0


if __name__ == "__main__":
    sys.exit(main())
