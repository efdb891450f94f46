"""``python -m validation log|features|all --spec specs/x.yaml`` validates; ``docs`` prints where the Data Docs are."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from contracts.errors import PacerError
from contracts.settings import load_settings
from contracts.spec import load_spec
from validation.context import data_docs_index
from validation.gate import validate


def main() -> int:
    """Run one command; return the exit code: 1 where the gate refused the data or could not judge it."""
    parser = argparse.ArgumentParser(prog="python -m validation", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, help_text in (
        ("log", "validate the decision log"),
        ("features", "validate the feature tables"),
        ("all", "validate both"),
        ("docs", "print where the Data Docs of the last validation are"),
    ):
        commands.add_parser(name, help=help_text).add_argument("--spec", type=Path, required=True)
    arguments = parser.parse_args()
    console = Console(stderr=True)
    try:
        spec, settings = load_spec(arguments.spec), load_settings()
        if arguments.command == "docs":
            print(find_docs(data_docs_index(settings.workspace(spec.name).data_docs), arguments.spec))
            return 0
        with console.status("validating") as status:
            report = validate(spec, settings, arguments.command, lambda line: status.update(escape(line)))
    except PacerError as error:
        console.print(f"[red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        return 1
    report.show(console)
    summary = {
        "validation": "passed" if report.passed else "failed",
        "tables": len(report.tables),
        "expectations": report.expectations,
        "critical": len(report.critical),
        "warnings": len(report.warnings),
        "docs": str(report.docs),
    }
    print(json.dumps(summary))
    return 0 if report.passed else 1


def find_docs(index: Path, spec: Path) -> Path:
    """Return ``index`` where it exists. Raises PacerError where nothing was validated yet."""
    if not index.is_file():
        raise PacerError(f"{index}: no Data Docs yet; write them with `python -m validation all --spec {spec}`")
    return index


if __name__ == "__main__":
    sys.exit(main())
