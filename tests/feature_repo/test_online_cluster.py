"""The online store on a real Redis Cluster: found by itself, equal to Feast's, honest while slots move, servers die."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import redis
from feast import FeatureStore, RepoConfig
from feast.infra.online_stores.redis import RedisOnlineStore
from redis.crc import key_slot

from benchmarks.redis_cluster import RedisCluster
from contracts.errors import StoreError, StoreUnavailable
from contracts.settings import Settings, load_settings
from feature_repo.deploy import materialize
from feature_repo.entity_keys import EntityKeys
from feature_repo.online_arrays import StoredView
from feature_repo.online_reader import OnlineReader
from feature_repo.online_source import online_source
from feature_repo.online_store import PacerRedisOnlineStore
from tests.feature_repo.conftest import MEMBERS
from tests.feature_repo.online_stores import NUMBERS, OURS, TS, view_of
from tests.feature_repo.tables import NOTIFICATION, at
from tests.feature_repo.test_online_store import rows_of

pytestmark = pytest.mark.integration

VIEW = view_of("store", features=NUMBERS)
READ = [StoredView(VIEW, NUMBERS)]
STORES = list(range(60))
TABLE = pa.table(
    {
        "store": STORES,
        TS: pa.array([1_000_000 + i for i in STORES], pa.timestamp("us")),
        "double": [i / 7 for i in STORES],
        "float": pa.array(STORES, pa.float32()),
        "small": pa.array([None if i % 5 == 0 else i for i in STORES], pa.int32()),
        "large": [i * 2**40 for i in STORES],
        "flag": [i % 2 == 0 for i in STORES],
    }
)


@pytest.fixture
def cluster(redis_cluster: RedisCluster) -> Iterator[RedisCluster]:
    """The session's cluster, whole and without hashes of this module before and after the test."""
    redis_cluster.heal()
    yield redis_cluster
    redis_cluster.heal()
    with redis.RedisCluster.from_url(redis_cluster.url) as client:
        for key in [*client.scan_iter(b"*store*pacer"), *client.scan_iter(b"*member_id*pacer")]:
            client.delete(key)
        for key in client.scan_iter(b"*feature_view*pacer"):
            client.delete(key)


def config_of(cluster: RedisCluster, kind: str, redis_type: str = "redis_cluster") -> RepoConfig:
    """Return a repository that names one server of the cluster, as Feast's documentation does."""
    return RepoConfig(
        project="pacer",
        provider="local",
        registry="none.db",
        online_store={
            "type": kind,
            "redis_type": redis_type,
            "connection_string": cluster.url.removeprefix("redis://").removesuffix("/0"),
        },
        entity_key_serialization_version=3,
    )


def by_url(cluster: RedisCluster) -> tuple[PacerRedisOnlineStore, RepoConfig]:
    """Return our store, told where Redis is by REDIS_URL alone."""
    store = PacerRedisOnlineStore()
    store.settings = replace(load_settings(), redis_url=cluster.url)
    online = {"type": OURS}
    return store, RepoConfig(
        project="pacer", provider="local", registry="none.db", online_store=online, entity_key_serialization_version=3
    )


def expected() -> np.ndarray:
    return np.column_stack([TABLE[name].to_pandas().to_numpy(dtype=np.float64, na_value=np.nan) for name in NUMBERS])


def hashes(cluster: RedisCluster) -> dict[bytes, dict[bytes, bytes]]:
    with redis.RedisCluster.from_url(cluster.url) as client:
        return {key: client.hgetall(key) for key in client.scan_iter(b"*store*pacer")}


def test_what_either_store_writes_is_the_same_and_each_reads_the_other(cluster: RedisCluster) -> None:
    store, config = by_url(cluster)
    feast = config_of(cluster, "redis")
    RedisOnlineStore().online_write_batch(feast, VIEW, rows_of(VIEW, TABLE), None)
    theirs = hashes(cluster)
    np.testing.assert_array_equal(store.read_arrays(config, READ, {"store": STORES}).values, expected())
    store.delete_table(config, VIEW)
    assert hashes(cluster) == {}
    store.write_table(config, VIEW, TABLE)
    assert hashes(cluster) == theirs
    assert len(theirs) == len(STORES)
    # A second time there is nothing newer; rows of messages go the same way.
    store.online_write_batch(config, VIEW, rows_of(VIEW, TABLE), None)
    assert hashes(cluster) == theirs
    named = PacerRedisOnlineStore().read_arrays(config_of(cluster, OURS), READ, {"store": [*STORES, 999]})
    np.testing.assert_array_equal(named.values[:-1], expected())
    assert named.times_us[:, 0].tolist() == [*range(1_000_000, 1_000_060), -1]


def test_keys_expire_where_feast_lets_them(cluster: RedisCluster) -> None:
    store, config = by_url(cluster)
    config.online_store.key_ttl_seconds = 1_000
    store.write_table(config, VIEW, TABLE)
    with redis.RedisCluster.from_url(cluster.url) as client:
        assert all(0 < client.ttl(key) <= 1_000 for key in hashes(cluster))


def test_feasts_async_interface_finds_the_cluster_too(cluster: RedisCluster) -> None:
    store, config = by_url(cluster)
    store.write_table(config, VIEW, TABLE)

    async def read() -> Any:
        entity = rows_of(VIEW, TABLE)[7][0]
        try:
            return await store.online_read_async(config, VIEW, [entity], ["double"])
        finally:
            await (await store._get_client_async(config.online_store)).aclose()

    ((_, row),) = asyncio.run(read())
    assert row["double"].double_val == 1.0


def test_one_server_taken_for_all_is_an_error_not_an_empty_store(cluster: RedisCluster) -> None:
    store, config = by_url(cluster)
    store.write_table(config, VIEW, TABLE)
    lone = config_of(cluster, OURS, redis_type="redis")
    with pytest.raises(StoreError, match="one server of a Redis Cluster: set `redis_type: redis_cluster`"):
        PacerRedisOnlineStore().read_arrays(lone, READ, {"store": STORES})


def test_reads_and_writes_follow_a_slot_that_moves(cluster: RedisCluster) -> None:
    store, config = by_url(cluster)
    store.write_table(config, VIEW, TABLE)
    (key,) = EntityKeys.of(config, VIEW).make({"store": [7]})
    source = cluster.owner(key)
    target = next(master for master in cluster.masters() if master is not source)
    slot = key_slot(key)
    cluster.begin_move(slot, source, target)
    for _ in range(2):
        np.testing.assert_array_equal(store.read_arrays(config, READ, {"store": STORES}).values, expected())
        cluster.move_keys(source, target, key)
    cluster.end_move(slot, target)
    np.testing.assert_array_equal(store.read_arrays(config, READ, {"store": STORES}).values, expected())
    later = TABLE.set_column(1, TS, pa.array([2_000_000] * len(STORES), pa.timestamp("us")))
    store.write_table(config, VIEW, later)
    assert set(store.read_arrays(config, READ, {"store": STORES}).times_us[:, 0].tolist()) == {2_000_000}


def test_a_master_that_dies_is_unavailable_until_its_replica_serves(cluster: RedisCluster) -> None:
    store, config = by_url(cluster)
    store.write_table(config, VIEW, TABLE)
    with redis.RedisCluster.from_url(cluster.url) as client:
        (key,) = EntityKeys.of(config, VIEW).make({"store": [7]})
        client.hset(key, "touched", "1")
        for master in cluster.masters():
            cluster.call(master, "WAIT", 1, 10_000)
    feature_store: Any = FeatureStore(config=config)
    feature_store.provider.online_store.settings = store.settings
    source = online_source(feature_store, READ, timeout_seconds=5)
    np.testing.assert_array_equal(source.fetch({"store": STORES}).values, expected())
    master = cluster.owner(key)
    replica = cluster.replica(master)
    cluster.kill(master)
    with pytest.raises(StoreUnavailable, match="reading features of 60 members"):
        source.fetch({"store": STORES})
    cluster.promote(replica)
    # The server that REDIS_URL named may be the one that died.
    feature_store.provider.online_store.settings = replace(load_settings(), redis_url=cluster.url)
    np.testing.assert_array_equal(source.fetch({"store": STORES}).values, expected())


def test_the_whole_repository_works_on_a_cluster(on_repo: Settings, cluster: RedisCluster) -> None:
    settings = replace(on_repo, redis_url=cluster.url)
    assert set(materialize(NOTIFICATION, settings).loads.values()) == {"reloaded"}
    assert set(materialize(NOTIFICATION, settings).loads.values()) == {"current"}
    reader = OnlineReader.open("notification_state_v1", settings, timeout_seconds=10)
    read = reader.read([*MEMBERS, "nobody"], [int(at(3).timestamp() * 1000)] * (len(MEMBERS) + 1))
    assert not np.isnan(read.values[:-1]).any()
    assert read.missing[-1].all()
