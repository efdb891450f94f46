"""Feature views over the tables in ``var/<tenant>/features``: what they all have in common."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from feast import FeatureView, Field, FileSource, PushSource
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
EVENTS = "events"
"""Tag of a pushed feature: the rule by which events make it (feature_repo.event_rules)."""


def table_view(
    tenant: str,
    table: str,
    *,
    features: Mapping[str, str],
    ttl: timedelta,
    description: str,
    name: str | None = None,
    events: Mapping[str, str] | None = None,
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
    events
        Makes a view that is pushed to, through the push source ``<name>_push``, as well as materialized: for each
        feature that events change, the rule by which they do (feature_repo.event_rules). None: a batch view.
    settings
        Where ``var`` is; None: as the environment says.
    """
    path = (settings or load_settings()).workspace(tenant).features / f"{table}.parquet"
    types = feature_types(path)
    name = name or table
    batch = FileSource(
        name=f"{name}_table",
        path=str(path),
        timestamp_field=EVENT_TIME,
        description=f"{tenant}/features/{table}.parquet: a row per member and moment from which it was known",
        tags={"tenant": tenant, "table": table},
        owner="pacer",
    )
    pushed = PushSource(
        name=push_source(name),
        batch_source=batch,
        description=f"Rows of {name} as events make them; what is pushed stands until the table has a newer row",
        tags={"tenant": tenant},
        owner="pacer",
    )
    rules = events or {}
    view = FeatureView(
        name=name,
        entities=[member],
        schema=[
            Field(name="member_id", dtype=String, description="The member's id"),
            *(
                Field(
                    name=feature,
                    dtype=types.get(feature, Float64),
                    description=text,
                    tags={EVENTS: rules[feature]} if feature in rules else {},
                )
                for feature, text in features.items()
            ),
        ],
        ttl=ttl,
        source=batch if events is None else pushed,
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


def push_source(view: str) -> str:
    """Return the name of the push source of a view that has one."""
    return f"{view}_push"


def feature_types(path: Path) -> dict[str, PrimitiveFeastType]:
    """Return Feast's type of each column of numbers in the table at ``path``; empty where there is no such table."""
    try:
        schema = pq.read_schema(path)
    except (OSError, pa.ArrowInvalid):
        return {}
    return {field.name: NUMBERS[field.type] for field in schema if field.type in NUMBERS}
