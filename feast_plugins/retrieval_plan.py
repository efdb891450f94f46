"""What a request for historical features means: views to join, entity rows, and whether they fit each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import duckdb
import pandas as pd
import pyarrow as pa
from feast.errors import FeastEntityDFMissingColumnsError
from feast.feature_view import DUMMY_ENTITY_ID, FeatureView
from feast.infra.offline_stores.ibis import _to_utc
from feast.infra.offline_stores.offline_utils import infer_event_timestamp_from_entity_df
from feast.repo_config import RepoConfig
from feast.types import Bool, Float32, Float64, Int32, Int64, String
from feast.utils import compute_non_entity_date_range

from feast_plugins.asof_join import JoinedView
from feast_plugins.duckdb_session import OfflineStoreError, Session, quoted
from feast_plugins.offline_sources import family, open_source
from feast_plugins.retrieval_jobs import EntityRows

_EPOCH = datetime.fromtimestamp(0, UTC)
_NOTHING = "NULL"
_DECLARED: dict[Any, str] = {**dict.fromkeys((Bool, Float32, Float64, Int32, Int64), "number"), String: "text"}


def joined_view(
    session: Session,
    config: RepoConfig,
    view: FeatureView,
    feature_refs: Sequence[str],
    full_feature_names: bool,
    created_first: bool,
) -> JoinedView:
    """Return how to join those features of ``view`` that ``feature_refs`` name.

    Names are those after field mapping; a join key goes by its name in the projection's ``join_key_map``, if it has one
    there. Raises OfflineStoreError where the source is not there, or not what the view says.
    """
    batch = view.batch_source
    if batch is None:
        raise ValueError(f"Feature view {view.name!r} has no batch_source and cannot be queried.")
    source = open_source(session, batch, config.repo_path)
    unmapped = {new: old for old, new in batch.field_mapping.items() if old in source.types}
    projection = view.projection
    called = projection.name_to_use()  # type: ignore[no-untyped-call]
    names = [ref.partition(":")[2] for ref in feature_refs if ref.partition(":")[0] == called]
    wanted = {name: unmapped.get(name, name) for name in names}
    prefix = f"{projection.name_alias or view.name}__" if full_feature_names else ""
    keys = [field.name for field in view.entity_columns if field.name != DUMMY_ENTITY_ID]
    created = batch.created_timestamp_column or None
    joined = JoinedView(
        name=view.name,
        source=source,
        keys=tuple((projection.join_key_map.get(key, key), unmapped.get(key, key)) for key in keys),
        event_time=unmapped.get(batch.timestamp_field, batch.timestamp_field),
        created_time=unmapped.get(created, created) if created else None,
        created_first=created_first,
        ttl_us=view.ttl // timedelta(microseconds=1) if view.ttl else None,
        features=tuple((prefix + name, column) for name, column in wanted.items()),
    )
    user = f"feature view {view.name!r}"
    times = [joined.event_time, *([joined.created_time] if joined.created_time else [])]
    source.check([*(column for _, column in joined.keys), *times, *(column for _, column in joined.features)], user)
    for column in times:
        source.check_time(column, user)
    _check_features(view, joined, wanted)
    return joined


def _check_features(view: FeatureView, joined: JoinedView, wanted: Mapping[str, str]) -> None:
    """Raise OfflineStoreError where a feature declared as a number is text or the like, or text a number."""
    declared = {field.name: field.dtype for field in view.features}
    for name, column in wanted.items():
        dtype, stored = declared.get(name), joined.source.types[column]
        expected = _DECLARED.get(dtype)
        if expected and family(stored) in {"number", "text", "time", "list"} - {expected}:
            raise OfflineStoreError(
                f"{joined.source.place}: column {column!r} is {stored}, but {view.name}:{name} is declared {dtype}; "
                "write the table anew, or correct the schema"
            )


def entity_rows(session: Session, given: pd.DataFrame | pa.Table | str) -> tuple[EntityRows, dict[str, str]]:
    """Return the entity rows and DuckDB's type of each of their columns."""
    if isinstance(given, pd.DataFrame):
        time = infer_event_timestamp_from_entity_df(dict(zip(given.columns, given.dtypes, strict=True)))
        given = pa.Table.from_pandas(_to_utc(given.copy(deep=False), time), preserve_index=False)
    if isinstance(given, pa.Table):
        relation = "entity_schema"
        session.connection.register(relation, given.schema.empty_table())
    elif isinstance(given, str):
        relation = f"({given})"
    else:
        raise ValueError(f"entity_df is a {type(given).__name__}; give a pandas.DataFrame, a pyarrow.Table or SQL")
    try:
        described = session.connection.execute(f"DESCRIBE SELECT * FROM {relation}").fetchall()  # noqa: S608
    except duckdb.Error as error:
        raise OfflineStoreError(f"entity_df = {given!r}: {error}") from error
    schema = {row[0]: row[1] for row in described}
    if isinstance(given, pa.Table):
        schema |= {field.name: _NOTHING for field in given.schema if pa.types.is_null(field.type)}
    numpy_types = {
        name: "datetime64[ns]" if kind.startswith("TIMESTAMP") else "object" for name, kind in schema.items()
    }
    time = infer_event_timestamp_from_entity_df({name: pd.api.types.pandas_dtype(t) for name, t in numpy_types.items()})
    return EntityRows(given, time), schema


def check_entities(schema: dict[str, str], event_time: str, views: Sequence[JoinedView]) -> None:
    """Check that entity rows with the columns ``schema`` can be joined with ``views``.

    Raises FeastEntityDFMissingColumnsError where a join key is not there, OfflineStoreError where one is of another
    kind than in a source, or a column of the result would stand there twice.
    """
    needed = {key for view in views for key, _ in view.keys}
    if missing := needed - set(schema):
        raise FeastEntityDFMissingColumnsError(needed | {event_time}, missing)  # type: ignore[no-untyped-call]
    names = list(schema)
    for view in views:
        for key, column in view.keys:
            kinds = family(schema[key]), family(view.source.types[column])
            if kinds[0] not in (kinds[1], _NOTHING):
                raise OfflineStoreError(
                    f"join key {key!r} is {schema[key]} in entity_df, but {view.source.types[column]} in column "
                    f"{column!r} of {view.source.place}, which feature view {view.name!r} reads; cast one to the other"
                )
        names += [name for name, _ in view.features]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise OfflineStoreError(
            f"{', '.join(map(repr, twice))} would stand twice in the result, as an entity column and a feature or as "
            "two features; rename the column, or set full_feature_names=True"
        )


def span(session: Session, entities: EntityRows) -> tuple[datetime | None, datetime | None]:
    """Return the first and last time among the entity rows."""
    time = quoted(entities.event_time)
    if isinstance(entities.rows, pa.Table):
        session.connection.register("entity_times", entities.rows.select([entities.event_time]))
        relation = "entity_times"
    else:
        relation = f"({entities.rows})"
    query = f"SELECT min({time})::TIMESTAMPTZ, max({time})::TIMESTAMPTZ FROM {relation}"  # noqa: S608
    ((first, last),) = session.connection.execute(query).fetchall()
    session.connection.unregister("entity_times")
    return first, last


def spine(
    feature_views: Sequence[FeatureView], views: Sequence[JoinedView], start: datetime | None, end: datetime | None
) -> str:
    """Return a query for the entities with rows from ``start`` (None: ever) to ``end`` (None: now), as of ``end``."""
    keys: set[tuple[str, ...]] = {tuple(sorted(key for key, _ in view.keys)) for view in views if view.keys}
    if len(keys) > 1:
        raise OfflineStoreError(
            f"without entity_df all views must have the same join keys; {', '.join(view.name for view in views)} have "
            f"{sorted(keys)}"
        )
    _, last = compute_non_entity_date_range(list(feature_views), start_date=start, end_date=end)
    known = []
    for view in views:
        if view.keys or not keys:
            columns = ", ".join(f"{quoted(column)} AS {quoted(key)}" for key, column in sorted(view.keys)) or "1 AS one"
            condition = view.source.between_us(view.event_time, unix_us(start), unix_us(last))
            known.append(f"SELECT {columns} FROM {view.source.relation} WHERE {condition}")  # noqa: S608
    names = [quoted(key) for key in next(iter(keys), ())]
    columns = ", ".join([*names, f"make_timestamptz({unix_us(last)}) AS event_timestamp"])
    return f"SELECT DISTINCT {columns} FROM ({' UNION ALL '.join(known)}) ORDER BY {', '.join(names) or 1}"  # noqa: S608


def unix_us(moment: datetime | None) -> int | None:
    """Return Unix time in µs; a moment without zone is UTC."""
    if moment is None:
        return None
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return (aware - _EPOCH) // timedelta(microseconds=1)
