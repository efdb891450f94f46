"""The engine's own decisions as the next day's log: outbox rows to Parquet files under the decision-log contract."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from contracts.errors import StoreError
from contracts.spec import Spec
from sequence_store.ring import RingStore

ROWS = 50_000  # rows a file: bounds memory


def drain(store: RingStore, spec: Spec, folder: Path) -> int:
    """Move every row of the outbox into Parquet files in ``folder``; return how many rows.

    Rows leave the outbox after their file is safe on disk, so a kill in between writes some twice and loses none; the
    importer rejects the second of two rows with one member and time. Raises StoreError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    moved = 0
    while rows := store.drain(ROWS):
        _write(_table([row for _, row in rows], spec), folder)
        store.trim([cursor for cursor, _ in rows])
        moved += len(rows)
    return moved


def _table(rows: Sequence[bytes], spec: Spec) -> pa.Table:
    """Rows as a table with the columns of DESIGN 4.2 and what serving adds: sequence, cycle, counters, model."""
    try:
        documents = [json.loads(row) for row in rows]
        if not all(isinstance(row, dict) for row in documents):
            raise ValueError("not an object")
    except ValueError as error:
        raise StoreError(f"the outbox of tenant {spec.name!r} holds a row that is no JSON object: {error}") from error
    columns: dict[str, list[Any]] = {name: [] for name in sorted({name for row in documents for name in row})}
    for row in documents:
        for name, values in columns.items():
            values.append(row.get(name))
    moments = pa.array(columns.pop("decided_at_ms"), pa.timestamp("ms", "UTC")).cast(pa.timestamp("us", "UTC"))
    table = pa.table({name: _array(name, values) for name, values in columns.items()})
    return table.append_column("decided_at", moments)


def _array(name: str, values: Sequence[Any]) -> pa.Array:
    """Numbers as doubles, so that a column of whole numbers or of nulls has the type of its next file."""
    if name == "sequence":
        return pa.array(values, pa.int64())
    if name == "eligible":
        return pa.array(values, pa.list_(pa.string()))
    if any(isinstance(value, str) for value in values):
        return pa.array(values, pa.string())
    return pa.array(values, pa.float64())


def _write(table: pa.Table, folder: Path) -> None:
    name = f"decisions-{datetime.now(UTC):%Y%m%dT%H%M%S.%f}.parquet"
    staging = folder / f".{name}.partial"
    pq.write_table(table, staging)
    os.replace(staging, folder / name)
