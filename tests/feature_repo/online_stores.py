"""Feast's Redis store and ours side by side: views of every type, rows for them, and what Redis then holds."""

from __future__ import annotations

import decimal
import uuid
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pyarrow as pa
from feast import Entity, FeatureView, Field, FileSource, RepoConfig, ValueType
from feast.protos.feast.types.Value_pb2 import Value
from feast.types import (
    Array,
    Bool,
    Bytes,
    Decimal,
    Float32,
    Float64,
    Int32,
    Int64,
    Json,
    Map,
    Set,
    String,
    UnixTimestamp,
    Uuid,
)
from hypothesis import strategies as st
from redis import Redis

TS = "event_timestamp"
OURS = "feature_repo.online_store.PacerRedisOnlineStore"
PROVIDER = "feature_repo.provider.ColumnarProvider"

# Feast turns integers with gaps into floats, and refuses those that become 2^63.
_INT32, _INT64 = st.integers(-(2**31), 2**31 - 1), st.integers(-(2**62), 2**62)
_MOMENTS = st.integers(-(10**9), 4 * 10**9).map(lambda second: second * 10**6)
_TEXT = st.text(max_size=8)
FEATURES: Mapping[str, tuple[Any, pa.DataType, st.SearchStrategy[Any]]] = {
    "double": (Float64, pa.float64(), st.floats()),
    "float": (Float32, pa.float32(), st.floats(width=32)),
    "small": (Int32, pa.int32(), _INT32),
    "large": (Int64, pa.int64(), _INT64),
    "flag": (Bool, pa.bool_(), st.booleans()),
    "text": (String, pa.string(), _TEXT),
    "raw": (Bytes, pa.binary(), st.binary(max_size=80)),
    "moment": (UnixTimestamp, pa.timestamp("us", tz="UTC"), _MOMENTS),
    "doubles": (Array(Float64), pa.list_(pa.float64()), st.lists(st.floats(), max_size=4)),
    "floats": (Array(Float32), pa.list_(pa.float32()), st.lists(st.floats(width=32), max_size=4)),
    "smalls": (Array(Int32), pa.list_(pa.int32()), st.lists(_INT32, max_size=4)),
    "larges": (Array(Int64), pa.list_(pa.int64()), st.lists(_INT64, max_size=4)),
    "flags": (Array(Bool), pa.list_(pa.bool_()), st.lists(st.booleans(), max_size=4)),
    "texts": (Array(String), pa.list_(pa.string()), st.lists(_TEXT, max_size=4)),
    "raws": (Array(Bytes), pa.list_(pa.binary()), st.lists(st.binary(max_size=4), max_size=4)),
    "moments": (Array(UnixTimestamp), pa.list_(pa.timestamp("us", tz="UTC")), st.lists(_MOMENTS, max_size=4)),
    "set": (Set(Int64), pa.list_(pa.int64()), st.lists(_INT64, max_size=4)),
    "map": (
        Map,
        pa.struct([("a", pa.float64()), ("b", pa.string())]),
        st.fixed_dictionaries({"a": st.floats(allow_nan=False), "b": _TEXT}),
    ),
    "json": (Json, pa.string(), st.sampled_from(['{"a": [1, null]}', "[]", '"x"'])),
    "uuid": (Uuid, pa.string(), st.uuids().map(str)),
    "decimal": (Decimal, pa.string(), st.decimals(allow_nan=False, allow_infinity=False).map(str)),
}
NUMBERS = ("double", "float", "small", "large", "flag")
KEYS: Mapping[str, tuple[Any, pa.DataType, st.SearchStrategy[Any]]] = {
    "member_id": (String, pa.string(), st.sampled_from(["", "m1", "Ωmega 字"])),
    "store": (Int64, pa.int64(), st.sampled_from([-1, 0, 2**40])),
    "shelf": (Int32, pa.int32(), st.sampled_from([-7, 3])),
    "code": (Bytes, pa.binary(), st.sampled_from([b"\x00", b"a"])),
}
_VALUE_TYPES = {
    String: ValueType.STRING,
    Int64: ValueType.INT64,
    Int32: ValueType.INT32,
    Bytes: ValueType.BYTES,
}


def view_of(*join_keys: str, name: str = "wide", features: tuple[str, ...] = tuple(FEATURES)) -> FeatureView:
    """Return a view of these features, keyed by ``join_keys``."""
    entities = [Entity(name=f"of_{key}", join_keys=[key], value_type=_VALUE_TYPES[KEYS[key][0]]) for key in join_keys]
    view = FeatureView(
        name=name,
        entities=entities,
        schema=[
            *(Field(name=key, dtype=KEYS[key][0]) for key in join_keys),
            *(Field(name=feature, dtype=FEATURES[feature][0]) for feature in features),
        ],
        source=FileSource(name=f"{name}_source", path=f"{name}.parquet", timestamp_field=TS),
        ttl=timedelta(days=2),
    )
    view.entity_columns = [Field(name=key, dtype=KEYS[key][0]) for key in join_keys]
    return view


@st.composite
def tables(draw: st.DrawFn, view: FeatureView, max_rows: int = 6) -> pa.Table:
    """Rows of a view: few entities, times that meet, lie before 1970, or fall on the epoch; values with gaps."""
    rows = draw(st.integers(1, max_rows))

    def column(strategy: st.SearchStrategy[Any], arrow_type: pa.DataType) -> pa.Array:
        return pa.array(draw(st.lists(strategy, min_size=rows, max_size=rows)), arrow_type)

    times = st.sampled_from([-1, 0, 1, 1_000_001, 1_000_002, 1_767_225_600_000_000])
    columns = {field.name: column(KEYS[field.name][2], KEYS[field.name][1]) for field in view.entity_columns}
    columns[TS] = column(times, pa.timestamp("us", tz="UTC"))
    for field in view.features:
        _, arrow_type, values = FEATURES[field.name]
        columns[field.name] = column(st.none() | values, arrow_type)
    return pa.table(columns)


def config_of(url: str, kind: str, **options: Any) -> RepoConfig:
    """Return a repository on the Redis at ``url``, with Feast's store (``redis``) or ours (``OURS``)."""
    host, database = url.removeprefix("redis://").split("/")
    return RepoConfig(
        project="shop",
        provider=PROVIDER if kind == OURS else "local",
        registry="none.db",
        online_store={"type": kind, "connection_string": f"{host},db={database}", **options},
        entity_key_serialization_version=3,
    )


def held(client: Redis) -> dict[bytes, dict[bytes, Any]]:
    """Return all hashes; messages are parsed, since the entries of a map have no order."""
    found = {}
    for key in client.scan_iter():
        fields: Any = client.hgetall(key)
        found[key] = {
            name: value if name.startswith(b"_ts:") else Value.FromString(value).SerializeToString(deterministic=True)
            for name, value in fields.items()
        }
    return found


def plain(value: Any) -> Any:
    """Return a value that compares: NaN is equal to itself."""
    if isinstance(value, float) and value != value:
        return "NaN"
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, set):
        return sorted(map(repr, value))
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return str(value) if isinstance(value, uuid.UUID | decimal.Decimal) else value
