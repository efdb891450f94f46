"""Imports a data folder that keeps the contract: ``decisions.parquet|csv`` and ``features/<view>.parquet|csv``."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from contracts.decision_log import CheckedLog, read_log
from contracts.errors import LogError
from contracts.feature_table import read_feature_table
from contracts.settings import Workspace
from contracts.spec import Spec, dump_spec, nearest
from contracts.table_files import find_table, find_tables
from importers.report import ImportReport, TableReport


def import_folder(data: Path, spec: Spec, workspace: Workspace, notes: Sequence[str] = ()) -> ImportReport:
    """Check the log and the feature tables in ``data``, and put clean copies into ``workspace``.

    Either everything is replaced or, on an error, nothing but the files of rejects.

    Parameters
    ----------
    data
        A folder with the log and, if it has feature tables, ``features/``; or the log's file alone.
    spec
        The deployment; every table of ``spec.state.tables`` must be there with its features.
    workspace
        Where to: its log, rejects, features and spec.
    notes
        Added to the report of the log.

    Raises
    ------
    LogError
        If the log or a table breaks its contract, or a table of the spec is missing.
    """
    if data.is_file() and spec.state.tables:
        raise LogError(
            f"{data}: is a file; name the folder that holds it and features/ with {', '.join(spec.state.tables)}"
        )
    find_table(data, "decisions")
    tables = find_tables(data / "features")
    for name in spec.state.tables:
        if name not in tables:
            hint = nearest(name, tables) or f"; found {', '.join(tables) or 'none'}"
            raise LogError(f"{data / 'features'}: no {name}.parquet or {name}.csv for state.tables.{name}{hint}")
    log = read_log(data, spec, workspace.rejects)
    members = pl.Series(log.table.column("member_id").unique())
    workspace.root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".import-", dir=workspace.root) as folder:
        staging = Workspace(Path(folder))
        _write(log.table, staging.log)
        staging.features.mkdir()
        features = [_import_features(name, tables[name], members, spec, staging, workspace) for name in sorted(tables)]
        staging.spec.write_text(dump_spec(spec), encoding="utf-8")
        _swap(staging.features, workspace.features, staging.root / "old")
        workspace.log.parent.mkdir(parents=True, exist_ok=True)
        staging.log.replace(workspace.log)
        staging.spec.replace(workspace.spec)
    return ImportReport(spec.name, _log_report(log, workspace, notes), len(members), tuple(features))


def _import_features(
    view: str, files: Sequence[Path], members: pl.Series, spec: Spec, staging: Workspace, workspace: Workspace
) -> TableReport:
    named = spec.state.tables.get(view)
    rejects_at = workspace.rejects.with_name(f"rejects_{view}.csv")
    checked = read_feature_table(files, view, named.features if named else (), spec.log.max_reject_share, rejects_at)
    _write(checked.table, staging.features / f"{view}.parquet")
    notes = list(checked.notes)
    if checked.replaced:
        notes.append(f"rows replaced by a later row of the same member and moment: {checked.replaced:,}")
    unknown = int((~members.is_in(pl.Series(checked.table.column("member_id").unique()).implode())).sum())
    if unknown:
        notes.append(f"members of the log without a row: {unknown:,} of {len(members):,}")
    return TableReport(
        view,
        checked.table.num_rows,
        checked.rejects.num_rows,
        checked.reasons,
        tuple(notes),
        workspace.features / f"{view}.parquet",
        rejects_at,
    )


def _log_report(log: CheckedLog, workspace: Workspace, notes: Sequence[str]) -> TableReport:
    return TableReport(
        "decisions",
        log.table.num_rows,
        log.rejects.num_rows,
        log.reasons,
        (*notes, *log.notes),
        workspace.log,
        workspace.rejects,
    )


def _write(table: pa.Table, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, compression="zstd")


def _swap(new: Path, current: Path, old: Path) -> None:
    """Put the folder ``new`` in the place of ``current``, so that no table of an earlier import stays."""
    if current.exists():
        current.rename(old)
    new.rename(current)
    shutil.rmtree(old, ignore_errors=True)
