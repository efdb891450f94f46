"""Feature views over the tables in ``var/<tenant>/features``: what they all have in common."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from feast import FeatureView, Field, FileSource
from feast.types import Bool, Float32, Float64, Int32, Int64, PrimitiveFeastType, String

from contracts.settings import Settings, load_settings
from feature_repo.entities import member

EVENT_TIME = "event_timestamp"
EPOCH = datetime.fromtimestamp(0, UTC)
NUMBERS: Mapping[pa.DataType, PrimitiveFeastType] = {
    pa.float64(): Float64,
    pa.float32(): Float32,
    pa.int64(): Int64,
    pa.int32(): Int32,
    pa.bool_(): Bool,
}
"""The types that a feature's column may have."""


def table_view(
    tenant: str,
    table: str,
    *,
    features: Mapping[str, str],
    ttl: timedelta,
    description: str,
    name: str | None = None,
    settings: Settings | None = None,
) -> FeatureView:
    """Return the feature view of the table ``var/<tenant>/features/<table>.parquet``.

    Parameters
    ----------
    tenant, table
        Name the file. It need not exist yet: until it does, the view is not materialized.
    features
        What each column beside ``member_id`` and ``event_timestamp`` says, in the order of the view. Its type is the
        column's, as long as the table holds numbers.
    ttl
        Values older than this at the time asked for are stale, offline and online; zero: never.
    description
        What the table holds.
    name
        The view's name; None: the table's.
    settings
        Where ``var`` is; None: as the environment says.
    """
    path = (settings or load_settings()).workspace(tenant).features / f"{table}.parquet"
    types = feature_types(path)
    view = FeatureView(
        name=name or table,
        entities=[member],
        schema=[
            Field(name="member_id", dtype=String, description="The member's id"),
            *(
                Field(name=feature, dtype=types.get(feature, Float64), description=text)
                for feature, text in features.items()
            ),
        ],
        ttl=ttl,
        source=FileSource(
            name=f"{name or table}_table",
            path=str(path),
            timestamp_field=EVENT_TIME,
            description=f"{tenant}/features/{table}.parquet: a row per member and moment from which it was known",
            tags={"tenant": tenant, "table": table},
            owner="pacer",
        ),
        # Feast materializes every view that is online; a tenant whose data was never imported has no table to read.
        online=path.exists(),
        description=description,
        tags={"tenant": tenant},
        owner="pacer",
    )
    # A view never materialized would start at now - ttl and miss older logs: it is complete up to the epoch, so that
    # `feast materialize-incremental` starts there. Feast keeps its own progress over this on every later apply.
    view.materialization_intervals = [(EPOCH, EPOCH)]
    return view


def feature_types(path: Path) -> dict[str, PrimitiveFeastType]:
    """Return Feast's type of each column of numbers in the table at ``path``; empty where there is no such table."""
    try:
        schema = pq.read_schema(path)
    except (OSError, pa.ArrowInvalid):
        return {}
    return {field.name: NUMBERS[field.type] for field in schema if field.type in NUMBERS}
