"""Runs the importer that a spec names."""

from __future__ import annotations

from pathlib import Path

from contracts.errors import LogError
from contracts.settings import Workspace
from contracts.spec import Spec
from importers.contract import import_folder
from importers.heartsteps import import_heartsteps
from importers.report import ImportReport


def run_import(spec: Spec, data: Path, workspace: Workspace) -> ImportReport:
    """Import ``data`` into ``workspace`` with the importer ``spec.log.importer``. Raises LogError, SpecError."""
    if not data.exists():
        raise LogError(f"{data}: no such file or folder")
    if spec.log.importer == "heartsteps":
        return import_heartsteps(data, spec, workspace)
    return import_folder(data, spec, workspace)
