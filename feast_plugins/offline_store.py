"""Feast's offline store on DuckDB's ASOF JOIN: ``offline_store: {type: feast_plugins.offline_store.AsofOfflineStore}``.

It is Feast's duckdb store but for its reads: the point-in-time join and the pulls that materialize.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import pandas as pd
import pyarrow as pa
from feast.data_source import DataSource
from feast.feature_view import DUMMY_ENTITY_ID, DUMMY_ENTITY_VAL, FeatureView
from feast.infra.offline_stores.duckdb import DuckDBOfflineStore, DuckDBOfflineStoreConfig
from feast.infra.offline_stores.offline_store import RetrievalJob, RetrievalMetadata
from feast.infra.registry.base_registry import BaseRegistry
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.repo_config import RepoConfig
from pydantic import PositiveInt, StrictStr

from feast_plugins.duckdb_session import Session, quoted, text
from feast_plugins.offline_sources import open_source
from feast_plugins.retrieval_jobs import AsofRetrievalJob, QueryJob
from feast_plugins.retrieval_plan import check_entities, entity_rows, joined_view, span, spine, unix_us


class AsofOfflineStoreConfig(DuckDBOfflineStoreConfig):
    """Settings under ``offline_store`` in feature_store.yaml."""

    type: StrictStr = "feast_plugins.offline_store.AsofOfflineStore"
    memory_limit: StrictStr | None = None
    """What DuckDB may hold before it spills, e.g. "4GB"; None: 80 % of the machine. Results come on top."""
    temp_directory: StrictStr | None = None
    """Where it spills to; None: the system's folder for such files."""
    threads: PositiveInt | None = None
    """None: as many as cores."""
    partition_rows: PositiveInt = 1_000_000
    """Entity rows joined at a time, with the source rows of their keys: what bounds the join's memory."""


class AsofOfflineStore(DuckDBOfflineStore):
    """Feast's duckdb store with the join, and the reads of sources, on DuckDB directly; writes are Feast's."""

    @staticmethod
    def get_historical_features(
        config: RepoConfig,
        feature_views: list[FeatureView],
        feature_refs: list[str],
        entity_df: pd.DataFrame | pa.Table | str | None,
        registry: BaseRegistry,
        project: str,
        full_feature_names: bool = False,
        filter_by_created_timestamp: bool = False,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
    ) -> RetrievalJob:
        """Return a job that adds to each entity row the features as they were known at its time.

        Parameters
        ----------
        config, feature_views, feature_refs, registry, project, full_feature_names, filter_by_created_timestamp
            As in Feast's OfflineStore.
        entity_df
            The entity rows: a data frame, an Arrow table, a query in DuckDB's SQL, which is read when the job runs
            (its times at once, too), or None: a row for every entity with features known at ``end_date``, and from
            ``start_date`` on.
        start_date, end_date
            Where ``entity_df`` is None; see Feast's ``get_historical_features``.

        Raises
        ------
        OfflineStoreError
            If a source is missing, damaged, or lacks a column, or one is of a wrong type; damage behind the file's
            footer is noticed when the job runs.
        FeastEntityDFMissingColumnsError
            If the entity rows lack a join key.
        """
        session = _session(config)
        views = [
            joined_view(session, config, view, feature_refs, full_feature_names, filter_by_created_timestamp)
            for view in feature_views
        ]
        found = entity_df is None
        given = spine(feature_views, views, start_date, end_date) if entity_df is None else entity_df
        entities, schema = entity_rows(session, given)
        check_entities(schema, entities.event_time, views)
        first, last = span(session, entities)
        metadata = RetrievalMetadata(
            features=feature_refs,
            keys=[name for name in schema if name != entities.event_time],
            min_event_timestamp=first,
            max_event_timestamp=last,
        )
        return AsofRetrievalJob(
            session,
            config.repo_path,
            entities,
            views,
            config.offline_store.partition_rows,
            only_known=found,
            full_feature_names=full_feature_names,
            on_demand_feature_views=OnDemandFeatureView.get_requested_odfvs(feature_refs, project, registry),
            metadata=metadata,
        )

    @staticmethod
    def pull_latest_from_table_or_query(
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None,
        start_date: datetime,
        end_date: datetime,
    ) -> RetrievalJob:
        """Return a job that reads the last row of every entity from ``start_date`` to ``end_date``, both included.

        The last is as in the join: by event time, then created time, then place in the file.
        """
        times = (timestamp_field, created_timestamp_column)
        span = (start_date, end_date)
        return _pull(config, data_source, join_key_columns, feature_name_columns, times, span, latest=True)

    @staticmethod
    def pull_all_from_table_or_query(
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None = None,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
    ) -> RetrievalJob:
        """Return a job that reads the rows from ``start_date`` to ``end_date``, both included; None: no bound."""
        times = (timestamp_field, created_timestamp_column)
        span = (start_date, end_date)
        return _pull(config, data_source, join_key_columns, feature_name_columns, times, span, latest=False)


def _session(config: RepoConfig) -> Session:
    settings = config.offline_store
    assert isinstance(settings, AsofOfflineStoreConfig)
    return Session(settings.memory_limit, settings.temp_directory, settings.threads)


def _pull(
    config: RepoConfig,
    data_source: DataSource,
    join_keys: Sequence[str],
    features: Sequence[str],
    times: tuple[str, str | None],
    span: tuple[datetime | None, datetime | None],
    latest: bool,
) -> QueryJob:
    event_time, created_time = times[0], times[1] or None
    session = _session(config)
    source = open_source(session, data_source, config.repo_path)
    read = list(dict.fromkeys([*join_keys, *features, *filter(None, times)]))
    user = f"a pull from {data_source.name!r}"
    source.check(read, user)
    for column in filter(None, times):
        source.check_time(column, user)
    columns = [quoted(column) for column in read]
    if not join_keys:  # what materializes a view without entities asks for Feast's stand-in
        columns.append(f"{text(DUMMY_ENTITY_VAL)} AS {quoted(DUMMY_ENTITY_ID)}")
    condition = source.between_us(event_time, *map(unix_us, span))
    rows = f"FROM {source.relation} WHERE {condition}"
    # Without join keys all rows are of one entity: the last shall be written online last.
    order = "" if join_keys else f" ORDER BY {', '.join(quoted(column) for column in filter(None, times))}"
    query = f"SELECT {', '.join(columns)} {rows}{order}"
    if latest:
        created = [f"{quoted(created_time)} DESC NULLS LAST"] if created_time else []
        order = ", ".join([f"{quoted(event_time)} DESC", *created, "row DESC"])
        by = f"PARTITION BY {', '.join(map(quoted, join_keys))} " if join_keys else ""
        query = (
            f"SELECT * EXCLUDE row FROM (SELECT {', '.join(columns)}, row_number() OVER () AS row {rows}) "  # noqa: S608
            f"QUALIFY row_number() OVER ({by}ORDER BY {order}) = 1"
        )
    return QueryJob(session, config.repo_path, query, source.place)
