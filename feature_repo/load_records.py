"""What is online, recorded in the online store itself: for each view, up to when it was loaded and from which rows.

Feast's registry says how far a view was materialized, but not where to, nor from what: after Redis was emptied or
changed for another, or a table was replaced, its next increment would leave the store empty or wrong. A record
vanishes together with the data it speaks of.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
from feast import Entity, FeatureStore, FeatureView, Field, ValueType
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.types import Int64, String

from contracts.errors import LogError
from feature_repo.tables import EPOCH, EVENT_TIME

# Not part of the repository: no one but this module reads or writes it.
_RECORDS = FeatureView(
    name="load_records",
    entities=[Entity(name="feature_view", join_keys=["feature_view"], value_type=ValueType.STRING)],
    schema=[
        Field(name="feature_view", dtype=String),
        Field(name="rows", dtype=String),
        Field(name="end_us", dtype=Int64),
    ],
)


@dataclass(frozen=True)
class LoadRecord:
    """One view was loaded up to ``end`` from rows with the fingerprint ``rows``; empty: a load that did not end."""

    rows: str
    end: datetime


def read_record(store: FeatureStore, view: FeatureView) -> LoadRecord | None:
    """Return what the online store says of ``view``; None: nothing."""
    _prepare(store)
    (_, values), *_ = store.provider.online_store.online_read(store.config, _RECORDS, [_key(view)], ["rows", "end_us"])
    if not values or not values["rows"].string_val:
        return None
    return LoadRecord(values["rows"].string_val, _moment(values["end_us"].int64_val))


def write_record(store: FeatureStore, view: FeatureView, record: LoadRecord) -> None:
    """Say that ``view`` was loaded, or with empty ``rows`` that it is about to be cleared."""
    _prepare(store)
    values = {"rows": Value(string_val=record.rows), "end_us": Value(int64_val=_us(record.end))}
    store.provider.online_store.online_write_batch(
        store.config, _RECORDS, [(_key(view), values, datetime.now(UTC), None)], None
    )


def fingerprint(path: Path, view: FeatureView, end: datetime) -> str:
    """Return a fingerprint of the rows of ``view``'s table at ``path`` up to ``end``, whatever their order."""
    columns = ["member_id", EVENT_TIME, *(feature.name for feature in view.features)]
    names = ", ".join('"' + name.replace('"', '""') + '"' for name in columns)
    rows = _ask(path, f"count(*), sum(hash({names})::HUGEINT)", f"epoch_us({EVENT_TIME}) <= {_us(end)}")
    types = [str(feature.dtype) for feature in view.features]
    return hashlib.sha256(repr((columns, types, duckdb.__version__, rows)).encode()).hexdigest()


def last_event(path: Path) -> datetime | None:
    """Return the latest event time in the table at ``path``; None: it has no rows."""
    (last_us,) = _ask(path, f"max(epoch_us({EVENT_TIME}))", "true")
    return None if last_us is None else _moment(last_us)


def _ask(path: Path, aggregates: str, condition: str) -> tuple[int | None, ...]:
    try:
        with duckdb.connect() as connection:
            query = f"SELECT {aggregates} FROM read_parquet(?) WHERE {condition}"  # noqa: S608
            return tuple(connection.execute(query, [str(path)]).fetchall()[0])
    except duckdb.Error as error:
        raise LogError(f"{path}: damaged ({error}); import the data again") from error


def _us(moment: datetime) -> int:
    return (moment - EPOCH) // timedelta(microseconds=1)


def _moment(us: int) -> datetime:
    return EPOCH + timedelta(microseconds=us)


def _key(view: FeatureView) -> EntityKey:
    return EntityKey(join_keys=["feature_view"], entity_values=[Value(string_val=view.name)])


def _prepare(store: FeatureStore) -> None:
    """Make the table of records, in stores that keep one a view."""
    store.provider.online_store.update(store.config, [], [_RECORDS], [], [], partial=True)
