"""The reader returns what Feast's own online read returns, in one array, and says what is missing and why."""

from __future__ import annotations

import signal
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import redis
from feast import (
    Entity,
    FeatureService,
    FeatureStore,
    FeatureView,
    Field,
    FileSource,
    RepoConfig,
    ValueType,
)
from feast.types import Bool, Float32, Float64, Int32, Int64, PrimitiveFeastType, String

from benchmarks.redis_server import RedisServer
from contracts.errors import SpecError, StoreError, StoreUnavailable
from contracts.settings import Settings
from feature_repo.deploy import materialize
from feature_repo.online_reader import OnlineReader
from feature_repo.store import open_store
from feature_repo.tables import EPOCH
from simulator.features import WINDOWS
from simulator.members import PROFILE
from tests.feature_repo.conftest import MEMBERS, run_feast
from tests.feature_repo.online_stores import OURS, PROVIDER
from tests.feature_repo.tables import CLOCK, NOTIFICATION, SERVED, START, TIME, at, write_notification

pytestmark = pytest.mark.integration

SERVICE = "notification_state_v1"
LAST = at(2.5)
"""The last activity row of every member."""


def ms(moment: Any) -> int:
    return int(moment.timestamp() * 1000)


@pytest.fixture
def online(on_repo: Settings) -> Settings:
    materialize(NOTIFICATION, on_repo)
    return on_repo


def sdk_values(settings: Settings, members: list[str], at_ms: list[int], names: tuple[str, ...]) -> np.ndarray:
    store = open_store(settings)
    rows: dict[str, list[Any]] = {"member_id": members, "decided_at_ms": at_ms}
    answer = store.get_online_features(features=store.get_feature_service(SERVICE), entity_rows=rows).to_dict()
    return np.array([answer[name] for name in names], dtype=np.float64).T


def test_values_are_those_of_the_sdk(online: Settings) -> None:
    reader = OnlineReader.open(SERVICE, online)
    members = [*MEMBERS, "nobody", MEMBERS[3], "Ωmega 字", ""]
    moments = [ms(LAST) + 3_600_000 * i for i in range(len(members))]
    read = reader.read(members, moments)
    assert reader.feature_names == (*SERVED, *CLOCK)
    np.testing.assert_array_equal(read.values, sdk_values(online, members, moments, reader.feature_names))
    assert not read.missing[:20].any()
    assert read.missing[20].all()
    np.testing.assert_array_equal(read.missing, np.isnan(read.values))
    assert not read.stale.any()
    assert not read.never_materialized.any()


def test_a_member_never_seen_is_missing_where_the_view_was_filled(online: Settings) -> None:
    reader = OnlineReader.open(SERVICE, online)
    assert reader.view_names == ("member_profile", "member_activity", "member_live")
    # By the registry's word: nobody who is there was read yet.
    read = reader.read(["nobody"], [ms(LAST)])
    assert read.event_ms.tolist() == [[-1, -1, -1]]
    assert read.missing.all()
    read = reader.read([MEMBERS[0], "nobody"], [ms(LAST), ms(LAST)])
    assert read.event_ms.tolist() == [[ms(START), ms(LAST), ms(LAST)], [-1, -1, -1]]
    assert read.missing.any(axis=1).tolist() == [False, True]


def test_a_view_never_filled_is_told_from_members_never_seen(elsewhere: Settings) -> None:
    write_notification(elsewhere, MEMBERS)
    run_feast("apply")
    reader = OnlineReader.open(SERVICE, elsewhere)
    read = reader.read([MEMBERS[0]], [ms(LAST)])
    assert read.never_materialized.all()
    assert not read.missing.any()
    assert np.isnan(read.values).all()
    # One of two views is filled, by hand: what is made on demand needs the other one.
    open_store(elsewhere).materialize(EPOCH, at(3), ["member_activity"])
    read = reader.read([MEMBERS[0], "nobody"], [ms(LAST)] * 2)
    activity = slice(len(PROFILE), len(PROFILE) + len(WINDOWS))
    assert not read.never_materialized[:, activity].any()
    assert read.missing[:, activity].any(axis=1).tolist() == [False, True]
    assert np.delete(read.never_materialized, np.r_[activity], axis=1).all()
    materialize(NOTIFICATION, elsewhere)
    assert not reader.read([MEMBERS[0]], [ms(LAST)]).never_materialized.any()


def test_a_value_is_stale_when_older_than_its_ttl_at_the_moment_asked_for(online: Settings) -> None:
    reader = OnlineReader.open(SERVICE, online)
    fresh, stale = ms(LAST + timedelta(days=14)), ms(LAST + timedelta(days=14)) + 1
    read = reader.read([MEMBERS[0]] * 3, [fresh, stale, ms(START + timedelta(days=365)) + 1])
    activity = slice(len(PROFILE), len(SERVED))
    assert not read.missing[0].any()
    assert read.stale[1, activity].all()
    assert np.isnan(read.values[1, activity]).all()
    assert not np.isnan(read.values[1, : len(PROFILE)]).any()
    assert not read.missing.any()
    # The profile has gone stale too, and what is computed from it.
    assert read.stale[2].all()
    assert np.isnan(read.values[2]).all()
    assert not read.never_materialized.any()


def test_each_read_sends_one_command_a_member(online: Settings, redis_url: str) -> None:
    reader = OnlineReader.open(SERVICE, online)
    reader.read(MEMBERS, [0] * len(MEMBERS))
    with redis.Redis.from_url(redis_url) as client:
        client.config_resetstat()
        reader.read(MEMBERS, [0] * len(MEMBERS))
        commands = client.info("commandstats")
    assert commands["cmdstat_hmget"]["calls"] == len(MEMBERS)
    assert set(commands) <= {"cmdstat_hmget", "cmdstat_info", "cmdstat_config|resetstat"}


def test_an_empty_batch_is_empty(online: Settings) -> None:
    read = OnlineReader.open(SERVICE, online).read([], [])
    assert read.values.shape == read.missing.shape == (0, len(SERVED) + len(CLOCK))
    assert read.event_ms.shape == (0, 3)


def test_lengths_must_agree(on_repo: Settings) -> None:
    with pytest.raises(ValueError, match="2 member_ids, but 1 at_ms"):
        OnlineReader.open(SERVICE, on_repo).read(["a", "b"], [0])


def test_unknown_service_lists_those_applied(on_repo: Settings) -> None:
    with pytest.raises(SpecError, match=r"'notification_state_v9' was never applied \(known: .*notification_state_v1"):
        OnlineReader.open("notification_state_v9", on_repo)


def test_no_registry_says_how_to_make_one(elsewhere: Settings) -> None:
    with pytest.raises(StoreError, match="no feature registry; run `make apply`"):
        OnlineReader.open(SERVICE, elsewhere)


def test_a_redis_that_is_down_or_silent_is_unavailable_and_read_again_when_back(
    on_repo: Settings, tmp_path: Path
) -> None:
    server = RedisServer(tmp_path)
    server.start()
    try:
        settings = replace(on_repo, redis_url=server.url)
        reader = OnlineReader.open(SERVICE, settings, timeout_seconds=0.5)
        materialize(NOTIFICATION, settings)
        server.send(signal.SIGSTOP)
        with pytest.raises(StoreUnavailable, match="reading features of 1 members"):
            reader.read([MEMBERS[0]], [ms(LAST)])
        server.send(signal.SIGCONT)
        assert not reader.read([MEMBERS[0]], [ms(LAST)]).missing.any()
        server.kill()
        with pytest.raises(StoreUnavailable):
            reader.read([MEMBERS[0]], [ms(LAST)])
        server.start()
        assert not reader.read([MEMBERS[0]], [ms(LAST)]).missing.any()
    finally:
        server.stop()


def test_no_redis_known_is_unavailable(on_repo: Settings) -> None:
    reader = OnlineReader.open(SERVICE, replace(on_repo, redis_url=None))
    with pytest.raises(StoreUnavailable, match="make up"):
        reader.read(["a"], [0])


TYPES: dict[str, tuple[PrimitiveFeastType, pa.Array]] = {
    "double": (Float64, pa.array([-1.5, None, 1e300], pa.float64())),
    "float": (Float32, pa.array([0.1, 3.25, None], pa.float32())),
    "small": (Int32, pa.array([-(2**31), None, 7], pa.int32())),
    "large": (Int64, pa.array([None, -1, 2**53], pa.int64())),
    "flag": (Bool, pa.array([True, False, None], pa.bool_())),
}


def typed_store(
    folder: Path, online_store: dict[str, Any], settings: Settings, provider: str | None = None
) -> FeatureStore:
    """Apply a view of every numeric type to a registry of its own, and materialize it."""
    folder.mkdir()
    member = Entity(name="member", join_keys=["member_id"], value_type=ValueType.STRING)
    source = FileSource(path=str(folder / "typed.parquet"), timestamp_field="event_timestamp")
    columns = {name: values for name, (_, values) in TYPES.items()}
    keys = {"member_id": ["a", "b", "c"], "event_timestamp": pa.array([at(0, 1), at(1), at(2)], TIME)}
    pa.parquet.write_table(pa.table({**keys, **columns, "note": ["x", "y", "z"]}), folder / "typed.parquet")
    fields = [Field(name="member_id", dtype=String), Field(name="note", dtype=String)]
    fields += [Field(name=name, dtype=dtype) for name, (dtype, _) in TYPES.items()]
    view = FeatureView(name="typed", entities=[member], schema=fields, source=source, ttl=timedelta(days=2))
    store = FeatureStore(
        config=RepoConfig(
            project="pacer",
            provider=provider or (PROVIDER if online_store["type"] == OURS else "local"),
            registry=str(folder / "registry.db"),
            offline_store={"type": "duckdb"},
            online_store=online_store,
            entity_key_serialization_version=3,
        )
    )
    if hasattr(store.provider.online_store, "settings"):
        store.provider.online_store.settings = settings
    services = [
        FeatureService(name="typed_v1", features=[view[list(TYPES)]]),
        FeatureService(name="with_text", features=[view]),
    ]
    store.apply([member, view, *services])
    store.materialize(START, at(3), ["typed"])
    return store


@pytest.fixture(params=["ours", "redis", "sqlite", "sqlite, our provider"])
def any_store(request: pytest.FixtureRequest, tmp_path: Path, elsewhere: Settings) -> FeatureStore:
    host, database = str(elsewhere.redis_url).removeprefix("redis://").split("/")
    online_stores = {
        "ours": {"type": OURS},
        "redis": {"type": "redis", "connection_string": f"{host},db={database}"},
        "sqlite": {"type": "sqlite", "path": str(tmp_path / "online.db")},
    }
    kind, *ours = request.param.split(", ")
    return typed_store(tmp_path / "repo", online_stores[kind], elsewhere, PROVIDER if ours else None)


def test_every_numeric_type_is_read_from_any_online_store(any_store: FeatureStore) -> None:
    members = ["a", "c", "nobody", "b", "a"]
    read = OnlineReader.of(any_store, "typed_v1").read(members, [ms(at(2))] * 5)
    answer = any_store.get_online_features(
        features=any_store.get_feature_service("typed_v1"), entity_rows={"member_id": members}
    ).to_dict()
    expected = np.array([answer[name] for name in TYPES], dtype=np.float64).T
    np.testing.assert_array_equal(read.values, expected)
    assert read.event_ms[:, 0].tolist() == [ms(at(0)), ms(at(2)), -1, ms(at(1)), ms(at(0))]
    late = OnlineReader.of(any_store, "typed_v1").read(["a", "b"], [ms(at(2)) + 1] * 2)
    assert late.stale.tolist() == [[True, True, True, False, True], [False] * 5]


def test_our_keys_are_those_of_feasts_own_redis_store(
    tmp_path: Path, elsewhere: Settings, redis_server: RedisServer
) -> None:
    hashes = []
    for kind in (OURS, "redis"):
        url = redis_server.fresh_url()
        host, database = url.removeprefix("redis://").split("/")
        online_store = {"type": kind} | ({"connection_string": f"{host},db={database}"} if kind == "redis" else {})
        typed_store(tmp_path / kind, online_store, replace(elsewhere, redis_url=url))
        with redis.Redis.from_url(url) as client:
            hashes.append({key: client.hgetall(key) for key in client.scan_iter()})
    assert hashes[0] == hashes[1]
    assert len(hashes[0]) == 3
    # The layout itself, for the Feast pinned: an upgrade that changes it loses what is stored.
    assert (
        b"\x01\x00\x00\x00\x02\x00\x00\x00\x09\x00\x00\x00member_id\x02\x00\x00\x00\x01\x00\x00\x00apacer" in hashes[0]
    )
    assert b"_ts:typed" in next(iter(hashes[0].values()))


def test_a_service_with_text_is_refused(tmp_path: Path, elsewhere: Settings) -> None:
    store = typed_store(tmp_path / "repo", {"type": OURS}, elsewhere)
    with pytest.raises(SpecError, match="typed:note is String; only numbers can be state"):
        OnlineReader.of(store, "with_text")
