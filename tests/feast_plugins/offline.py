"""Feature views on small Parquet files, and what a point-in-time join of them must give, found row by row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, ValueType
from feast.repo_config import RepoConfig
from feast.types import Float64, Int64, String
from feast.utils import make_df_tzaware

ASOF = "feast_plugins.offline_store.AsofOfflineStore"
START = datetime(2026, 1, 5, tzinfo=UTC)
SHOP = Entity(name="shop", join_keys=["shop_id"], value_type=ValueType.STRING)
ITEM = Entity(name="item", join_keys=["item_id"], value_type=ValueType.INT64)
_ENTITIES = {"shop_id": (SHOP, String), "item_id": (ITEM, Int64)}
AWARE, NAIVE, NANOSECONDS = pa.timestamp("us", tz="UTC"), pa.timestamp("us"), pa.timestamp("ns")

Row = dict[str, Any]


def at(hours: float) -> datetime:
    return START + timedelta(hours=hours)


def open_feast(folder: Path, offline: str | Mapping[str, Any] = ASOF) -> FeatureStore:
    """Open an empty feature store in ``folder``."""
    settings = {"type": offline} if isinstance(offline, str) else {"type": ASOF, **offline}
    config = RepoConfig(
        project="tests",
        provider="local",
        registry=str(folder / f"{settings['type'].rpartition('.')[2]}.db"),
        offline_store=settings,
        online_store={"type": "sqlite", "path": str(folder / "online.db")},
        entity_key_serialization_version=3,
        repo_path=folder,
    )
    return FeatureStore(config=config)


@dataclass(frozen=True)
class Table:
    """Rows with keys, ``time``, ``created`` and features, and how they are written and named."""

    name: str
    rows: Sequence[Row]
    keys: tuple[str, ...] = ("shop_id",)
    features: tuple[str, ...] = ("price",)
    ttl: timedelta = timedelta()
    created: bool = True
    time_type: pa.DataType = AWARE
    mapping: Mapping[str, str] = field(default_factory=dict)
    """Name in the file -> name in the view."""
    join_key_map: Mapping[str, str] = field(default_factory=dict)
    """Name in the view -> name in the entity rows."""

    def write(self, folder: Path) -> FeatureView:
        """Write the file and return its view."""
        types = {"shop_id": pa.string(), "item_id": pa.int64(), "time": self.time_type, "created": self.time_type}
        in_file = {new: old for old, new in self.mapping.items()}
        names = [*self.keys, "time", *(["created"] if self.created else []), *self.features]
        columns = {
            in_file.get(name, name): pa.array([row[name] for row in self.rows], AWARE).cast(types[name])
            if name in ("time", "created")
            else pa.array([row[name] for row in self.rows], types.get(name, pa.float64()))
            for name in names
        }
        path = folder / f"{self.name}.parquet"
        pq.write_table(pa.table(columns), path)
        return self.view(path)

    def view(self, path: Path | str, **schema: Any) -> FeatureView:
        fields = [Field(name=key, dtype=_ENTITIES[key][1]) for key in self.keys]
        fields += [Field(name=name, dtype=schema.get(name, Float64)) for name in self.features]
        view = FeatureView(
            name=self.name,
            entities=[_ENTITIES[key][0] for key in self.keys],
            ttl=self.ttl,
            schema=fields,
            source=FileSource(
                name=f"{self.name}_file",
                path=str(path),
                timestamp_field="time",
                created_timestamp_column="created" if self.created else "",
                field_mapping=dict(self.mapping),
            ),
        )
        return view.with_join_key_map(dict(self.join_key_map)) if self.join_key_map else view

    def known(self, entity: Row, created_first: bool = False) -> Row | None:
        """Return the row that an entity row shall get, or None."""
        moment = entity["event_timestamp"]
        keys = [(key, self.join_key_map.get(key, key)) for key in self.keys]
        known = [
            (row["time"], (row["created"] or datetime.min.replace(tzinfo=UTC)) if self.created else None, place)
            for place, row in enumerate(self.rows)
            if all(row[key] is not None and row[key] == entity[name] for key, name in keys)
            and row["time"] is not None
            and row["time"] <= moment
            and not (self.ttl and row["time"] < moment - self.ttl)
            and not (created_first and self.created and not (row["created"] and row["created"] <= moment))
        ]
        return self.rows[max(known)[2]] if known else None


def join(
    feast: FeatureStore, views: Sequence[FeatureView], entities: pd.DataFrame | pa.Table | str, **options: Any
) -> Any:
    """Ask the offline store for all features of ``views``, which need not be applied; return its job."""
    if isinstance(entities, pd.DataFrame):
        entities = make_df_tzaware(entities)  # as Feast does before it asks
    names = [view.projection.name_alias or view.name for view in views]
    references = [f"{name}:{f.name}" for name, view in zip(names, views, strict=True) for f in view.features]
    provider: Any = feast._get_provider()
    return provider.offline_store.get_historical_features(
        feast.config, list(views), references, entities, feast.registry, feast.project, **options
    )


def frame(entities: Sequence[Row]) -> pd.DataFrame:
    """Return entity rows as a data frame, each with its number."""
    columns = {name: [row[name] for row in entities] for name in (entities[0] if entities else ("event_timestamp",))}
    columns["event_timestamp"] = pd.to_datetime(pd.Series(columns["event_timestamp"]), utc=True)
    return pd.DataFrame({**columns, "number": range(len(entities))})


def values(table: pa.Table, names: Sequence[str]) -> dict[int, tuple[Any, ...]]:
    """Return the features of each entity row by its number; NaN as None."""
    columns = [[None if value != value else value for value in table[name].to_pylist()] for name in names]
    return dict(zip(table["number"].to_pylist(), zip(*columns, strict=True), strict=True))
