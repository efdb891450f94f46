"""Batch sources as DuckDB reads them: local Parquet in place, whatever else Feast's duckdb store reads through it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
from feast.data_format import ParquetFormat
from feast.infra.offline_stores.duckdb import _read_data_source
from feast.infra.offline_stores.file_source import FileSource

from feast_plugins.duckdb_session import OfflineStoreError, Session, quoted, text

_TIMES = ("TIMESTAMP", "TIMESTAMP WITH TIME ZONE", "TIMESTAMP_NS", "TIMESTAMP_MS", "TIMESTAMP_S", "DATE")
_PRUNED = {"TIMESTAMP": "make_timestamp", "TIMESTAMP WITH TIME ZONE": "make_timestamptz"}
_INTEGERS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT")
_NUMBERS = (*_INTEGERS, "FLOAT", "DOUBLE", "DECIMAL", "BOOLEAN")
_TEXTS = ("VARCHAR", "ENUM")


@dataclass(frozen=True)
class OfflineSource:
    """A table that can be read."""

    place: str
    """Where it is, for errors."""
    relation: str
    """What stands behind FROM."""
    types: dict[str, str]
    """DuckDB's type of each of its columns, before any field mapping."""

    def check(self, columns: Iterable[str], user: str) -> None:
        """Raise OfflineStoreError where one of the ``columns``, which ``user`` reads, is not there."""
        missing = [column for column in columns if column not in self.types]
        if missing:
            raise OfflineStoreError(
                f"{self.place}: no column {', '.join(map(repr, missing))}, which {user} reads; there are "
                f"{', '.join(self.types)}. Correct the field mapping or the schema, or write the table anew"
            )

    def check_time(self, column: str, user: str) -> None:
        """Raise OfflineStoreError where ``column`` holds no time."""
        if self.types[column] not in _TIMES:
            raise OfflineStoreError(
                f"{self.place}: column {column!r}, a time in {user}, is {self.types[column]}; write it as a timestamp"
            )

    def between_us(self, column: str, low: int | None, high: int | None) -> str:
        """Return the SQL condition low <= time <= high, Unix time in µs; None: no bound."""
        make = _PRUNED.get(self.types[column])  # of these Parquet's statistics tell which rows to skip
        name = quoted(column)
        left = name if make else f"epoch_us({name})"
        bounds = [(">=", low), ("<=", high)]
        terms = [f"{left} {sign} {f'{make}({us})' if make else us}" for sign, us in bounds if us is not None]
        return " AND ".join([f"{name} IS NOT NULL", *terms])


def open_source(session: Session, source: Any, repo_path: Path | str | None) -> OfflineSource:
    """Open a batch source (a DataSource) of any kind that Feast's duckdb store reads; only its schema is read.

    Local Parquet, a file, a folder or a glob, is scanned when it is joined; a relative path starts at ``repo_path``.
    Everything else is read by Feast's duckdb store into memory.

    Raises
    ------
    OfflineStoreError
        If the file is missing or no whole Parquet file.
    """
    if not _is_local_parquet(source):
        name = f"source_{abs(hash(source.name))}"
        table = _read_data_source(source, str(repo_path)).to_pyarrow()
        session.connection.register(name, table)
        return _opened(session, f"source {source.name!r}", name)
    path = Path(FileSource.get_uri_for_file_path(repo_path, source.path))
    files = path / "**" / "*.parquet" if path.is_dir() else path
    return _opened(session, str(path), f"read_parquet({text(str(files))})")


def family(duckdb_type: str) -> str:
    """Return what kind of values a type has: number, text, or itself."""
    base = duckdb_type.split("(")[0]
    if duckdb_type.endswith("[]"):
        return "list"
    if base in _NUMBERS:
        return "number"
    if base in _TEXTS:
        return "text"
    return "time" if base in _TIMES else base


def _opened(session: Session, place: str, relation: str) -> OfflineSource:
    try:
        described = session.connection.execute(f"DESCRIBE SELECT * FROM {relation}").fetchall()  # noqa: S608
    except duckdb.IOException as error:
        if "No files found" in str(error):
            raise OfflineStoreError(f"{place}: no such Parquet file; write the table, or correct the path") from None
        raise OfflineStoreError(f"{place}: can't be read ({error})") from error
    except duckdb.Error as error:
        raise OfflineStoreError(f"{place}: not a whole Parquet file ({error}); write the table anew") from error
    return OfflineSource(place, relation, {row[0]: row[1] for row in described})


def _is_local_parquet(source: Any) -> bool:
    if type(source) is not FileSource or "://" in source.path:
        return False
    parquet = isinstance(source.file_format, ParquetFormat)
    return parquet or (source.file_format is None and not source.path.endswith((".csv", ".json")))
