"""What the offline store hands out: jobs that read nothing until they are asked for their result."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import ibis  # type: ignore[import-untyped]
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from feast.data_format import ParquetFormat
from feast.errors import SavedDatasetLocationAlreadyExists
from feast.infra.offline_stores.duckdb import _write_data_source
from feast.infra.offline_stores.file_source import FileSource
from feast.infra.offline_stores.offline_store import RetrievalJob, RetrievalMetadata
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.saved_dataset import SavedDatasetStorage

from feast_plugins.asof_join import JoinedView, join_views
from feast_plugins.duckdb_session import OfflineStoreError, Session, quoted

_ROW = "__entity_row"


class _Job(RetrievalJob):
    """What all jobs have in common: on-demand views, metadata, and results written part by part."""

    def __init__(
        self,
        session: Session,
        repo_path: Path | str | None,
        full_feature_names: bool = False,
        on_demand_feature_views: Sequence[OnDemandFeatureView] = (),
        metadata: RetrievalMetadata | None = None,
    ) -> None:
        self._session, self._repo_path = session, repo_path
        self._full_feature_names, self._metadata = full_feature_names, metadata
        self._on_demand_feature_views = list(on_demand_feature_views)

    @property
    def full_feature_names(self) -> bool:
        return self._full_feature_names

    @property
    def on_demand_feature_views(self) -> list[OnDemandFeatureView]:
        return self._on_demand_feature_views

    @property
    def metadata(self) -> RetrievalMetadata | None:
        return self._metadata

    def _to_df_internal(self, timeout: int | None = None) -> Any:
        return self._to_arrow_internal(timeout).to_pandas()

    def to_arrow_parts(self) -> Iterator[pa.Table]:
        """Yield the result of ``to_arrow`` in parts, so that it need not fit into memory at once."""
        yield self.to_arrow()

    def persist(self, storage: SavedDatasetStorage, allow_overwrite: bool = False, timeout: int | None = None) -> None:  # noqa: ARG002
        """Write the result, on-demand features included, to ``storage``; a local Parquet file part by part.

        Raises SavedDatasetLocationAlreadyExists where something is there and may not be overwritten.
        """
        target: Any = storage.to_data_source()
        plain = type(target) is FileSource and isinstance(target.file_format, ParquetFormat | None)
        if not plain or "://" in target.path or not target.path.endswith(".parquet"):
            table = ibis.memtable(self.to_arrow())
            _write_data_source(table, target, str(self._repo_path), "overwrite", allow_overwrite)
            return
        path = Path(FileSource.get_uri_for_file_path(self._repo_path, target.path))
        if path.exists() and not allow_overwrite:
            raise SavedDatasetLocationAlreadyExists(location=str(path))
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_parts(self.to_arrow_parts(), path)


@dataclass(frozen=True)
class EntityRows:
    """What features are asked for: a table, or a query in DuckDB's SQL that gives one."""

    rows: pa.Table | str
    event_time: str
    """The column that says as of when."""


class AsofRetrievalJob(_Job):
    """Entity rows with their features."""

    def __init__(
        self,
        session: Session,
        repo_path: Path | str | None,
        entities: EntityRows,
        views: Sequence[JoinedView],
        partition_rows: int,
        only_known: bool,
        **common: Any,
    ) -> None:
        super().__init__(session, repo_path, **common)
        self._entities, self._views = entities, tuple(views)
        self._partition_rows, self._only_known = partition_rows, only_known

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:  # noqa: ARG002
        parts = list(self._parts())
        table = pa.concat_tables(parts)
        del parts
        rows = table[_ROW].to_numpy()
        table = table.drop_columns([_ROW])
        if (rows[1:] < rows[:-1]).any():
            table = table.take(pa.array(np.argsort(rows)))
        return table

    def to_arrow_parts(self) -> Iterator[pa.Table]:
        """Yield the result of ``to_arrow`` in parts of about ``partition_rows`` rows, each all rows of some keys.

        Their order is that of the entity rows only where those are sorted by the join key. On-demand views are
        computed a part at a time.
        """
        for part in self._parts():
            yield _PartJob(self, part.drop_columns([_ROW])).to_arrow()

    def _parts(self) -> Iterator[pa.Table]:
        """Yield the entity rows joined, a partition at a time, with each one's place in a column of its own."""
        columns, relation, count = self._place()
        selected = ", ".join([*(quoted(name) for name in columns), _ROW])
        try:
            for condition, bounds in self._partitions(relation, count):
                query = f"SELECT {selected} FROM {relation} WHERE {condition} ORDER BY {_ROW}"  # noqa: S608
                whole = isinstance(self._entities.rows, pa.Table) and condition == "true"
                entities = self._table if whole else self._session.connection.execute(query, bounds).fetch_arrow_table()
                joined = join_views(self._session, entities, self._entities.event_time, self._views)
                yield self._known(joined)
        finally:
            self._remove()

    def _place(self) -> tuple[list[str], str, int]:
        """Bring the entity rows to where they can be asked for; return their columns, the relation, their number."""
        connection = self._session.connection
        rows = self._entities.rows
        if isinstance(rows, pa.Table):
            self._table = rows.append_column(_ROW, pa.array(np.arange(rows.num_rows)))
            connection.register("entity_df", self._table)
            return rows.column_names, "entity_df", rows.num_rows
        self._table = None
        query = f"SELECT *, row_number() OVER () - 1 AS {_ROW} FROM ({rows})"  # noqa: S608
        try:
            connection.execute(f"CREATE OR REPLACE TEMP TABLE entity_query AS {query}")
        except duckdb.Error as error:
            raise OfflineStoreError(f"entity_df = {rows!r}: {error}") from error
        names = [row[0] for row in connection.execute("DESCRIBE entity_query").fetchall()]
        ((count,),) = connection.execute("SELECT count(*) FROM entity_query").fetchall()
        return names[:-1], "entity_query", count

    def _remove(self) -> None:
        self._table = None
        self._session.connection.unregister("entity_df")
        self._session.connection.execute("DROP TABLE IF EXISTS entity_query")

    def _partitions(self, relation: str, count: int) -> Iterator[tuple[str, list[Any]]]:
        """Yield conditions, with their values, that part the entity rows by ranges of the key that most views share."""
        keys = [key for view in self._views for key, _ in view.keys]
        if count <= self._partition_rows or not keys:
            yield "true", []
            return
        key = quoted(max(dict.fromkeys(keys), key=keys.count))
        query = f"SELECT {key} AS k, count(*) AS n FROM {relation} WHERE {key} IS NOT NULL GROUP BY k ORDER BY k"  # noqa: S608
        counted = self._session.connection.execute(query).fetch_arrow_table()
        part_of = (np.cumsum(counted["n"].to_numpy()) - 1) // self._partition_rows
        starts = [counted["k"][int(i)].as_py() for i in np.flatnonzero(np.diff(part_of)) + 1]
        if not starts:
            yield "true", []
            return
        yield f"({key} < ? OR {key} IS NULL)", starts[:1]
        for low, high in itertools.pairwise(starts):
            yield f"{key} >= ? AND {key} < ?", [low, high]
        yield f"{key} >= ?", starts[-1:]

    def _known(self, joined: pa.Table) -> pa.Table:
        """Leave out rows without any feature, where the rows were not given but found."""
        if not self._only_known:
            return joined
        known = np.zeros(joined.num_rows, dtype=bool)
        for name in (name for view in self._views for name, _ in view.features):
            known |= pc.is_valid(joined[name]).to_numpy()
        return joined.filter(pa.array(known))


class _PartJob(_Job):
    """A part of another job's result, so that Feast computes on-demand views on it."""

    def __init__(self, whole: AsofRetrievalJob, part: pa.Table) -> None:
        super().__init__(whole._session, None, whole.full_feature_names, whole.on_demand_feature_views, whole.metadata)
        self._part = part

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:  # noqa: ARG002
        return self._part


class QueryJob(_Job):
    """The rows of a query in DuckDB's SQL, which reads the source at ``place``."""

    def __init__(self, session: Session, repo_path: Path | str | None, query: str, place: str) -> None:
        super().__init__(session, repo_path)
        self._query, self._place = query, place

    def to_sql(self) -> str:
        """Return the query."""
        return self._query

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:  # noqa: ARG002
        try:
            return self._session.connection.execute(self._query).fetch_arrow_table()
        except duckdb.Error as error:
            raise OfflineStoreError(f"{self._place}: {error}") from error


def _write_parts(parts: Iterator[pa.Table], path: Path) -> None:
    """Write a Parquet file, whole or not at all."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        writer = None
        for part in parts:
            writer = writer or pq.ParquetWriter(unfinished, part.schema)
            writer.write_table(part.cast(writer.schema))
        assert writer is not None
        writer.close()
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
