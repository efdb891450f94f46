"""Rows that were pushed, kept in files until they are part of their view's table: so the offline store has them too.

Feast's push reaches the online store alone; its own offline write makes a file table anew for each push. Here a push
leaves one small file in ``var/<tenant>/pushed/<table>/``, and whoever reads the table next takes all of them in.
"""

from __future__ import annotations

import fcntl
import os
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
from feast import FeatureView, FileSource, PushSource

from contracts.errors import LogError
from contracts.settings import Settings


def keep_rows(view: FeatureView, rows: pa.Table, settings: Settings) -> None:
    """Keep rows of ``view`` (member_id, event_timestamp, features), which were or are about to be pushed."""
    if not rows.num_rows:
        return
    folder = _folder(view, settings)
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{uuid.uuid4().hex}.parquet"
    pq.write_table(rows, folder / f".{name}", compression="zstd")
    os.replace(folder / f".{name}", folder / name)


def take_in_pushes(views: Iterable[FeatureView], settings: Settings) -> None:
    """Take in what was pushed to those of ``views`` that are pushed to."""
    for view in views:
        if isinstance(view.stream_source, PushSource):
            take_in(view, settings)


def take_in(view: FeatureView, settings: Settings) -> int:
    """Move the rows kept of ``view`` into its table; return how many it did not have.

    A row stands there once a member and moment: of two, the table's stays. The table grows at its end, in memory that
    the rows kept need, not the table. A kill in between loses none. A table that is not there takes nothing in. Raises
    LogError where a file is damaged.
    """
    folder = _folder(view, settings)
    assert isinstance(view.batch_source, FileSource)
    table = Path(view.batch_source.path)
    if not table.exists() or not any(folder.glob("*.parquet")):
        return 0
    with _alone(folder):
        files = sorted(map(str, folder.glob("*.parquet")))  # those of pushes from here on wait for the next time
        try:
            new = _union(table, files)
        except duckdb.Error as error:
            raise LogError(f"{table} could not take in the rows in {folder}: {error}") from error
        for file in files:
            Path(file).unlink()
        return new


def _union(table: Path, files: list[str]) -> int:
    if not files:
        return 0
    partial = table.with_name(f".{table.name}.partial")
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        # Inserted by name, so that they have the table's columns and types.
        connection.execute("CREATE TEMP TABLE pushed AS SELECT * FROM read_parquet(?) LIMIT 0", [str(table)])
        connection.execute(
            "INSERT INTO pushed BY NAME SELECT DISTINCT ON (member_id, event_timestamp) * FROM read_parquet(?) p WHERE "
            "NOT EXISTS (SELECT 1 FROM read_parquet(?) t WHERE t.member_id = p.member_id AND "
            "t.event_timestamp = p.event_timestamp) ORDER BY event_timestamp, member_id",
            [files, str(table)],
        )
        (new,) = connection.execute("SELECT count(*) FROM pushed").fetchall()[0]
        if new:
            connection.execute(
                f"COPY (SELECT * FROM read_parquet({_literal(table)}) UNION ALL SELECT * FROM pushed) "  # noqa: S608
                f"TO {_literal(partial)} (FORMAT parquet, COMPRESSION zstd)"
            )
            os.replace(partial, table)
    return int(new)


def _folder(view: FeatureView, settings: Settings) -> Path:
    assert view.batch_source is not None
    tags = view.batch_source.tags
    return settings.workspace(tags["tenant"]).pushed / tags["table"]


def _literal(path: Path) -> str:
    return "'" + str(path).replace("'", "''") + "'"


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
