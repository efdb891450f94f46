"""DuckDB as the offline store runs it: in UTC, within its memory limit, with a spill folder of its own."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from contextlib import suppress
from typing import Any

import duckdb
from feast.errors import FeastError


class OfflineStoreError(FeastError):
    """The offline store can't do what was asked; the message names the thing, the value and the way out."""


class Session:
    """An in-memory DuckDB database and its spill folder, which goes when the session does."""

    def __init__(self, memory_limit: str | None, temp_directory: str | None, threads: int | None) -> None:
        try:
            # DuckDB's spill files are named alike in every process: no two may share a folder.
            spill = tempfile.mkdtemp(prefix="feast-asof-", dir=temp_directory)
        except OSError as error:
            raise OfflineStoreError(f"offline_store.temp_directory = {temp_directory!r}: {error}") from error
        weakref.finalize(self, shutil.rmtree, spill, ignore_errors=True)
        given = {"memory_limit": memory_limit, "threads": threads}
        config: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        try:
            self.connection = duckdb.connect(config={**config, "temp_directory": spill})
        except duckdb.Error as error:
            raise OfflineStoreError(f"offline_store settings {config}: {error}") from error
        # A time without zone is UTC, whatever the machine's zone.
        self.connection.execute("SET TimeZone = 'UTC'")
        with suppress(duckdb.CatalogException):
            # DuckDB takes an Arrow table for a row or two and would join it in a loop. Not every version can be told.
            self.connection.execute("SET asof_loop_join_threshold = 0")


def quoted(name: str) -> str:
    """Return a name as SQL writes it."""
    return '"' + name.replace('"', '""') + '"'


def text(value: str) -> str:
    """Return a string as SQL writes it."""
    return "'" + value.replace("'", "''") + "'"
