"""The point-in-time join: for each entity row the last row of a source at or before it, found by DuckDB's ASOF JOIN.

Only keys and times go through the join; it says which row of the source belongs to which entity row, and the features
are then taken from there, a column at a time. So no wide row is ever sorted, and entity rows stay in their order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from feast_plugins.duckdb_session import OfflineStoreError, Session, quoted
from feast_plugins.offline_sources import OfflineSource

EVENT_TIME = pa.timestamp("us", tz="UTC")
# A row's rank in a source, below its time: one number orders both.
_RANKS = 2**32


@dataclass(frozen=True)
class JoinedView:
    """A feature view as it is joined."""

    name: str
    source: OfflineSource
    keys: tuple[tuple[str, str], ...]
    """Join keys: column of the entity rows, column of the source."""
    event_time: str
    created_time: str | None
    created_first: bool
    """Leave out rows that were created after the entity row's time."""
    ttl_us: int | None
    """None: however old."""
    features: tuple[tuple[str, str], ...]
    """Column of the result, column of the source."""


def join_views(session: Session, entities: pa.Table, event_time: str, views: Sequence[JoinedView]) -> pa.Table:
    """Return ``entities`` with the features of ``views`` added, row for row in their order; null where none is known.

    Of the rows of a source with a join key's values and an event time at or before the entity row's and no older than
    the ttl, the last one counts: the latest event time, then the latest created time (null before all others), then the
    last in the file. Nulls among join keys and times match nothing. Times are compared in whole microseconds.

    Parameters
    ----------
    session
        Where it runs.
    entities
        n entity rows: the join keys of all views; ``event_time``, a timestamp (UTC where it has no zone); any others.
    event_time
        The column that says as of when.
    views
        What to join.

    Raises
    ------
    OfflineStoreError
        If a source is damaged, or DuckDB has not enough memory.
    """
    times = entities[event_time].cast(EVENT_TIME, safe=False)
    joined = entities.set_column(entities.column_names.index(event_time), event_time, times)
    for view in views:
        try:
            rows, found = _find(session, entities, times.cast(pa.int64()), view)
        except duckdb.Error as error:
            raise OfflineStoreError(f"{view.source.place}: joining feature view {view.name!r}: {error}") from error
        for i, (name, _) in enumerate(view.features):
            joined = joined.append_column(name, _taken(rows[f"f{i}"], found))
    return joined


def _find(session: Session, entities: pa.Table, times: pa.ChunkedArray, view: JoinedView) -> tuple[pa.Table, pa.Array]:
    """Return rows of the view's source, with features f0, f1, ..., and for each entity row its row there, or null."""
    keys = {f"k{i}": _plain(entities[name]) for i, (name, _) in enumerate(view.keys)}
    n = entities.num_rows
    connection = session.connection
    connection.register("entity_rows", pa.table({**keys, "t": times, "r": np.arange(n)}))
    try:
        rows = connection.execute(_source_query(view, times)).fetch_arrow_table().combine_chunks()
        order = {name: rows[name] for name in rows.column_names if name[0] in "kc"}
        where = {"t": rows["t"], "n": np.arange(rows.num_rows), "rank": _ranks(rows)}
        connection.register("source_rows", pa.table({**order, **where}))
        matched = connection.execute(_match_query(view)).fetchnumpy()
    finally:
        connection.unregister("entity_rows")
        connection.unregister("source_rows")
    found = np.full(n, -1, dtype=np.int64)
    found[matched["r"]] = matched["n"]
    return rows, pa.array(found, mask=found < 0)


def _source_query(view: JoinedView, times: pa.ChunkedArray) -> str:
    """Return the query for those rows of the source that can matter: of these members, of this span of time."""
    span = pc.min_max(times)
    first, last = span["min"].as_py(), span["max"].as_py()
    if last is None:  # no entity row has a time
        first = last = 0
    low = None if view.ttl_us is None else first - view.ttl_us
    columns = [f"{quoted(column)} AS k{i}" for i, (_, column) in enumerate(view.keys)]
    columns += [f"epoch_us({quoted(view.event_time)}) AS t"]
    if view.created_time:
        columns += [f"epoch_us({quoted(view.created_time)}) AS c"]
    columns += [f"{quoted(column)} AS f{i}" for i, (_, column) in enumerate(view.features)]
    semi_join = ""
    if view.keys:
        names = ", ".join(f"k{i}" for i in range(len(view.keys)))
        equal = " AND ".join(f"s.{quoted(column)} = e.k{i}" for i, (_, column) in enumerate(view.keys))
        semi_join = f" SEMI JOIN (SELECT DISTINCT {names} FROM entity_rows) e ON {equal}"  # noqa: S608
    condition = view.source.between_us(view.event_time, low, last)
    return f"SELECT {', '.join(columns)} FROM {view.source.relation} s{semi_join} WHERE {condition}"  # noqa: S608


def _match_query(view: JoinedView) -> str:
    keys = [f"e.k{i} = s.k{i}" for i in range(len(view.keys))]
    alive = "true" if view.ttl_us is None else f"e.t - s.t <= {view.ttl_us}"
    if view.created_time and view.created_first:
        # Two bounds at once are no ASOF JOIN: every pair is looked at.
        condition = " AND ".join([*keys, "s.t <= e.t", "s.c <= e.t", alive])
        return (
            f"SELECT r, max_by(n, s.t::HUGEINT * {_RANKS} + s.rank) AS n "  # noqa: S608
            f"FROM entity_rows e JOIN source_rows s ON {condition} GROUP BY r"
        )
    upto = f"e.t::HUGEINT * {_RANKS} + {_RANKS - 1} >= s.t::HUGEINT * {_RANKS} + s.rank"
    condition = " AND ".join([*keys, upto])
    return f"SELECT r, n FROM entity_rows e ASOF JOIN source_rows s ON {condition} WHERE {alive}"  # noqa: S608


def _ranks(rows: pa.Table) -> NDArray[np.int64]:
    """Return each row's place among rows of one time: by created time where there is one, then as in the file."""
    places = np.arange(rows.num_rows)
    if "c" not in rows.column_names:
        return places
    created = pc.fill_null(rows["c"], np.iinfo(np.int64).min).to_numpy()
    ranks = np.empty_like(places)
    ranks[np.argsort(created, kind="stable")] = places
    return ranks


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a join key as DuckDB can compare it: not as a dictionary, nor as nulls of no type."""
    if pa.types.is_null(column.type):
        return column.cast(pa.string())
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column


def _taken(column: pa.ChunkedArray, indices: pa.Array) -> pa.Array | pa.ChunkedArray:
    if column.num_chunks == 1:
        return column.chunk(0).take(indices)
    return column.take(indices) if column.num_chunks else pa.nulls(len(indices), column.type)
