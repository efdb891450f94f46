"""Our Redis store holds what Feast's holds and reads what Feast's reads, value for value, whoever wrote it."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import redis
from feast import FeatureView, RepoConfig
from feast.infra.compute_engines.local.compute import LocalComputeEngine
from feast.infra.online_stores.redis import RedisOnlineStore
from feast.infra.passthrough_provider import PassthroughProvider
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.type_map import feast_value_type_to_python_type, python_values_to_proto_values
from feast.utils import _convert_arrow_to_proto
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.redis_server import RedisServer
from contracts.errors import SpecError, StoreError
from feature_repo.compute_engine import ColumnarComputeEngine
from feature_repo.online_arrays import StoredView
from feature_repo.online_store import PacerRedisOnlineStore
from feature_repo.provider import ColumnarProvider
from tests.feature_repo.online_stores import FEATURES, KEYS, NUMBERS, OURS, TS, config_of, held, plain, tables, view_of

pytestmark = pytest.mark.integration

WIDE = view_of("member_id")
COMPOSITE = view_of("store", "member_id", name="composite", features=NUMBERS)
LAW = settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])
Write = Callable[[RepoConfig, FeatureView, pa.Table], None]


class Pair:
    """An empty database for each store."""

    def __init__(self, server: RedisServer, **options: Any) -> None:
        urls = [server.fresh_url() for _ in range(3)]
        self.feast, self.ours, self.mixed = (
            config_of(url, kind, **options) for url, kind in zip(urls, ("redis", OURS, OURS), strict=True)
        )
        self.clients = [redis.Redis.from_url(url) for url in urls]

    def empty(self) -> None:
        for client in self.clients:
            client.flushdb()

    def check(self) -> None:
        feast, *others = map(held, self.clients)
        assert all(other == feast for other in others)


@pytest.fixture(scope="module", params=[{}, {"skip_dedup": True}, {"key_ttl_seconds": 1_000}], ids=str)
def pair(request: pytest.FixtureRequest, redis_server: RedisServer) -> Iterator[Pair]:
    made = Pair(redis_server, **request.param)
    yield made
    for client in made.clients:
        client.close()


def rows_of(view: FeatureView, table: pa.Table) -> list[Any]:
    types = {field.name: field.dtype.to_value_type() for field in view.entity_columns}
    rows: list[Any] = _convert_arrow_to_proto(table.combine_chunks(), view, types)
    return rows


def by_feast(config: RepoConfig, view: FeatureView, table: pa.Table) -> None:
    RedisOnlineStore().online_write_batch(config, view, rows_of(view, table), None)


def by_columns(config: RepoConfig, view: FeatureView, table: pa.Table) -> None:
    PacerRedisOnlineStore().write_table(config, view, table)


def by_rows(config: RepoConfig, view: FeatureView, table: pa.Table) -> None:
    PacerRedisOnlineStore().online_write_batch(config, view, rows_of(view, table), None)


@LAW
@given(data=st.data())
@pytest.mark.parametrize("write", [by_columns, by_rows])
@pytest.mark.parametrize("view", [WIDE, COMPOSITE], ids=lambda view: view.name)
def test_what_either_writes_is_the_same(pair: Pair, view: FeatureView, write: Write, data: st.DataObject) -> None:
    pair.empty()
    for number, table in enumerate(data.draw(st.lists(tables(view), min_size=1, max_size=3))):
        by_feast(pair.feast, view, table)
        write(pair.ours, view, table)
        # By turns: what one wrote, the other follows.
        (write if number % 2 else by_feast)(pair.mixed, view, table)
    pair.check()


@LAW
@given(data=st.data())
def test_what_is_pushed_is_the_same(pair: Pair, data: st.DataObject) -> None:
    view = view_of("member_id", features=(*NUMBERS, "text", "moment", "doubles"))
    pair.empty()
    for number, table in enumerate(data.draw(st.lists(tables(view), min_size=1, max_size=2))):
        frame = table.to_pandas()
        PassthroughProvider(pair.feast).ingest_df(view, frame)
        ColumnarProvider(pair.ours).ingest_df(view, frame)
        provider = (ColumnarProvider if number % 2 else PassthroughProvider)(pair.mixed)
        provider.ingest_df(view, frame)
    pair.check()


def test_a_push_of_the_feature_server_writes_columns_too(redis_url: str) -> None:
    config, view = config_of(redis_url, OURS), view_of("member_id", features=("double",))
    frame = pd.DataFrame({"member_id": ["m1"], TS: [datetime(2026, 1, 1, tzinfo=UTC)], "double": [1.5]})
    asyncio.run(ColumnarProvider(config).ingest_df_async(view, frame))
    read = PacerRedisOnlineStore().read_arrays(config, [StoredView(view, ("double",))], {"member_id": ["m1"]})
    assert read.values.tolist() == [[1.5]]


def test_the_engine_is_ours_where_feasts_local_one_is_asked_for(redis_url: str) -> None:
    ours = "feature_repo.compute_engine.ColumnarComputeEngine"
    config = config_of(redis_url, OURS)
    for asked in ("local", {"type": "local", "backend": "polars"}, ours, {"type": ours}):
        config.batch_engine_config = asked
        assert type(ColumnarProvider(config).batch_engine) is ColumnarComputeEngine
    config.batch_engine_config = {"type": ours}
    assert type(PassthroughProvider(config).batch_engine) is ColumnarComputeEngine
    config.batch_engine_config = "feast.infra.compute_engines.local.compute.LocalComputeEngine"
    assert type(ColumnarProvider(config).batch_engine) is LocalComputeEngine  # named by its path: it stands


def entities(view: FeatureView, rows: dict[str, list[Any]]) -> list[EntityKey]:
    types = {field.name: field.dtype.to_value_type() for field in view.entity_columns}
    protos = {name: python_values_to_proto_values(rows[name], types[name]) for name in types}
    return [
        EntityKey(join_keys=list(types), entity_values=row)
        for row in zip(*(protos[name] for name in types), strict=True)
    ]


@LAW
@given(data=st.data())
def test_all_types_are_read_alike_and_numbers_as_an_array(pair: Pair, data: st.DataObject) -> None:
    pair.empty()
    writers = data.draw(st.permutations([by_feast, by_columns]))
    for write, table in zip(writers, data.draw(st.lists(tables(WIDE), min_size=1, max_size=2)), strict=False):
        write(pair.ours, WIDE, table)
    asked = data.draw(st.lists(st.sampled_from(["", "m1", "Ωmega 字", "nobody"]), min_size=1, max_size=5))
    keys = entities(WIDE, {"member_id": asked})
    theirs = RedisOnlineStore().online_read(pair.ours, WIDE, keys, list(FEATURES))
    ours = PacerRedisOnlineStore().online_read(pair.ours, WIDE, keys, list(FEATURES))
    assert [(when, values_of(row)) for when, row in ours] == [(when, values_of(row)) for when, row in theirs]
    read = PacerRedisOnlineStore().read_arrays(pair.ours, [StoredView(WIDE, NUMBERS)], {"member_id": asked})
    for i, (when, row) in enumerate(theirs):
        expected = [feast_value_type_to_python_type((row or {}).get(name, Value())) for name in NUMBERS]
        np.testing.assert_array_equal(read.values[i], np.array(expected, dtype=np.float64))
        assert read.missing[i].tolist() == [value is None or value != value for value in expected]
        us = None if when is None else round(when.timestamp() * 10**6)
        assert read.times_us[i, 0] == (us or -1)


def values_of(row: dict[str, Value] | None) -> Any:
    return {name: plain(feast_value_type_to_python_type(value)) for name, value in (row or {}).items()}


def test_views_of_several_entities_come_in_one_array(redis_url: str) -> None:
    config, store = config_of(redis_url, OURS), PacerRedisOnlineStore()
    of_member = view_of("member_id", name="of_member", features=("double", "small"))
    of_shelf = view_of("shelf", "store", name="of_shelf", features=("flag",))
    of_code = view_of("code", name="of_code", features=("large",))
    times = pa.array([1, 2], pa.timestamp("us", tz="UTC"))
    store.write_table(
        config, of_member, pa.table({"member_id": ["a", "b"], TS: times, "double": [0.5, None], "small": [1, 2]})
    )
    shelves = {"shelf": pa.array([1, 2], pa.int32()), "store": [7, 7]}
    store.write_table(config, of_shelf, pa.table({**shelves, TS: times, "flag": [True, False]}))
    store.write_table(config, of_code, pa.table({"code": [b"x", b"y"], TS: times, "large": [10, 20]}))
    views = [
        StoredView(of_member, ("small", "double")),
        StoredView(of_shelf, ("flag",)),
        StoredView(of_member.with_join_key_map({"member_id": "friend_id"}), ("double",)),
        StoredView(of_code, ("large",)),
    ]
    with redis.Redis.from_url(redis_url) as client:
        client.config_resetstat()
        read = store.read_arrays(
            config,
            views,
            {"member_id": ["a", "b"], "friend_id": ["b", "a"], "shelf": [2, 9], "store": [7, 7], "code": [b"y", b"z"]},
        )
        assert client.info("commandstats")["cmdstat_hmget"]["calls"] == 8
    np.testing.assert_array_equal(read.values, [[1, 0.5, 0, np.nan, 20], [2, np.nan, np.nan, 0.5, np.nan]])
    assert read.times_us.tolist() == [[1, 2, 2, 2], [2, -1, 1, -1]]
    with pytest.raises(SpecError, match="view 'of_code' needs join key 'code'"):
        store.read_arrays(config, views, {"member_id": ["a"], "friend_id": ["b"], "shelf": [2], "store": [7]})
    with pytest.raises(ValueError, match="columns of one length"):
        store.read_arrays(config, views[:1], {"member_id": ["a"], "friend_id": ["b", "c"]})


def test_rows_are_written_in_parts_and_none_is_lost_to_chunks(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("feature_repo.online_store.ROWS_AT_ONCE", 7)
    config, store = config_of(redis_url, OURS), PacerRedisOnlineStore()
    view = view_of("store", features=("double",))
    parts = [
        pa.table({"store": range(n), TS: pa.array([n] * n, pa.timestamp("us")), "double": [float(n)] * n})
        for n in (20, 5, 12)
    ]
    store.write_table(config, view, pa.concat_tables(parts))
    read = store.read_arrays(config, [StoredView(view, ("double",))], {"store": list(range(20))})
    assert read.values[:, 0].tolist() == [20.0] * 20
    count: list[int] = []
    store.online_write_batch(config, view, rows_of(view, parts[0]), count.append)
    assert sum(count) == 20


def test_rows_of_different_features_are_written_as_feast_does(redis_url: str) -> None:
    config, view = config_of(redis_url, OURS), view_of("member_id", features=("double", "small"))
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    keys = entities(view, {"member_id": ["a", "b"]})
    rows: list[Any] = [
        (keys[0], {"double": Value(double_val=1.0)}, moment, None),
        (keys[1], {"small": Value(int32_val=2)}, moment, None),
    ]
    store = PacerRedisOnlineStore()
    store.online_write_batch(config, view, rows, None)
    store.online_write_batch(config, view, [], None)
    read = store.read_arrays(config, [StoredView(view, ("double", "small"))], {"member_id": ["a", "b"]})
    np.testing.assert_array_equal(read.values, [[1, np.nan], [np.nan, 2]])


def test_what_does_not_fit_is_refused_and_named(redis_url: str) -> None:
    config, store, view = config_of(redis_url, OURS), PacerRedisOnlineStore(), view_of("store", features=("large",))
    moments = pa.array([1], pa.timestamp("us"))
    with pytest.raises(ValueError, match="Column large not found in table"):
        store.write_table(config, view, pa.table({"store": [1], TS: moments}))
    with pytest.raises(ValueError, match="row 0 has no event timestamp"):
        store.write_table(config, view, pa.table({"store": [1], TS: pa.nulls(1, pa.timestamp("us")), "large": [1]}))
    with pytest.raises(ValueError, match="wide:large is Int64, its column string: invalid literal for int"):
        store.write_table(config, view, pa.table({"store": [1], TS: moments, "large": ["many"]}))
    with pytest.raises(SpecError, match="wide:text is String; only numbers can be state or stand in an array"):
        StoredView(WIDE, ("double", "text"))


def test_a_key_that_is_no_hash_is_one_entitys_damage(redis_url: str) -> None:
    config, store, view = config_of(redis_url, OURS), PacerRedisOnlineStore(), view_of("store", features=("large",))
    table = pa.table({"store": [1, 2], TS: pa.array([1, 1], pa.timestamp("us")), "large": [10, 20]})
    store.write_table(config, view, table)
    with redis.Redis.from_url(redis_url) as client:
        for key in client.scan_iter(b"*" + (1).to_bytes(8, "little") + b"*"):
            client.set(key, b"no hash")
    read = store.read_arrays(config, [StoredView(view, ("large",))], {"store": [1, 2]})
    np.testing.assert_array_equal(read.values, [[np.nan], [20]])
    # Feast's store cannot write such an entity either.
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        store.write_table(config, view, table)


def test_a_read_that_redis_refuses_is_not_taken_for_nothing_stored(redis_server: RedisServer) -> None:
    url = redis_server.fresh_url()
    view = view_of("store", features=("large",))
    with redis.Redis.from_url(url) as client:
        client.acl_setuser("blind", enabled=True, passwords=["+x"], commands=["+@all", "-hmget"], keys=["*"])
        try:
            config = config_of(url, OURS)
            config.online_store.connection_string += ",username=blind,password=x"
            with pytest.raises(StoreError, match="Redis refuses to read features: NoPermissionError"):
                PacerRedisOnlineStore().read_arrays(config, [StoredView(view, ("large",))], {"store": [1]})
        finally:
            client.acl_deluser("blind")


def test_a_vector_of_the_wrong_length_is_refused_as_in_feast(redis_url: str, tmp_path: Path) -> None:
    view = view_of("store", features=("floats",))
    view.features[0].vector_index, view.features[0].vector_length = True, 3
    table = pa.table({"store": [1], TS: pa.array([1], pa.timestamp("us")), "floats": [[1.0, 2.0]]})
    with pytest.raises(ValueError, match="Vector length 2 does not match expected 3"), warnings.catch_warnings():
        PacerRedisOnlineStore().write_table(config_of(redis_url, OURS), view, table)


def test_every_key_type_is_covered() -> None:
    assert {kind for kind, _, _ in KEYS.values()} == {field.dtype for field in view_of(*KEYS).entity_columns}
