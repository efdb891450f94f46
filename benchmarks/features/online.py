"""The online half: reads and materialization of one view, through Feast's Redis store and ours, on one redis-server."""

from __future__ import annotations

import contextlib
import io
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import redis
from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
from feast.infra.online_stores.helpers import _mmh3
from feast.types import Float32, Float64, Int64, String
from rich.console import Console
from rich.table import Table

from benchmarks.redis_server import RedisServer
from feature_repo.entity_keys import EntityKeys
from feature_repo.online_source import online_source, stored_views

BATCHES: Final = (1, 64, 256)
FEATURES: Final = 50
SERVICE: Final = "state_v1"
_VIEW: Final = "activity"
_START: Final = datetime(2026, 1, 1, tzinfo=UTC)
Way = Callable[[Sequence[str]], Any]
_END: Final = _START + timedelta(days=30)


@dataclass(frozen=True)
class Scale:
    """How much is measured."""

    members: int
    loads: int
    """Materializations through each store, by turns."""
    repeats: int
    """Turns of each way of reading."""
    members_a_turn: int


FULL: Final = Scale(members=100_000, loads=2, repeats=9, members_a_turn=2_048)
QUICK: Final = Scale(members=500, loads=1, repeats=2, members_a_turn=256)


def measure(console: Console, quick: bool = False) -> dict[str, Any]:
    """Measure and show a table; return ``online_members_per_s``, ``materialize_rows_per_s`` and ``equal``."""
    scale = QUICK if quick else FULL
    with tempfile.TemporaryDirectory(prefix="pacer-features-") as folder:
        # As a cache is run: what is measured is the store, not the disk.
        server = RedisServer(Path(folder), "--appendonly", "no")
        server.start()
        try:
            return _measure(Path(folder), server, scale, console)
        finally:
            server.stop()


def _measure(folder: Path, server: RedisServer, scale: Scale, console: Console) -> dict[str, Any]:
    table = folder / "activity.parquet"
    write_table(table, scale.members)
    urls = {kind: server.fresh_url() for kind in ("ours", "feast")}
    stores = {kind: open_store(folder, kind, urls[kind], table) for kind in urls}
    clients = {kind: redis.Redis.from_url(url) for kind, url in urls.items()}
    rates: dict[str, list[float]] = {kind: [] for kind in stores}
    for store in stores.values():
        _materialize(store, _START + timedelta(seconds=9))  # imports what Feast imports at the first time
    for load in range(scale.loads):
        for kind in list(stores)[:: 1 if load % 2 else -1]:
            clients[kind].flushdb()
            console.print(f"{kind}: materializing {scale.members:,} members x {FEATURES} features")
            rates[kind].append(scale.members / _seconds(_materialize, stores[kind], _END))
    equal = _same(clients["ours"], clients["feast"])
    console.print("reading by turns")
    ways = readers(stores["ours"], clients["ours"])
    equal = equal and _same_answers(ways, stored_views(stores["ours"], SERVICE)[0].features, scale.members)
    paces = {batch: race(ways, batch, scale) for batch in BATCHES}
    figures = {
        "online_members_per_s": {
            way: {str(batch): round(paces[batch][way]) for batch in BATCHES} for way in ("reader", "sdk", "raw_hmget")
        },
        "materialize_rows_per_s": {kind: round(statistics.median(rates[kind])) for kind in ("ours", "feast")},
        "equal": equal,
    }
    _show(figures, scale, console)
    return figures


def write_table(path: Path, members: int) -> None:
    """Write a table of ``members`` rows with counts, shares and long numbers, a tenth of them missing in one column."""
    rng = np.random.default_rng(0)
    columns: dict[str, Any] = {}
    for number in range(FEATURES):
        if number % 3 == 0:
            columns[f"count_{number:02}"] = rng.poisson(20, members)
        elif number % 3 == 1:
            columns[f"share_{number:02}"] = rng.random(members, dtype=np.float32)
        else:
            columns[f"mean_{number:02}"] = rng.normal(size=members)
    columns["mean_02"] = pa.array(columns["mean_02"], mask=rng.random(members) < 0.1)
    times = pa.array([_START + timedelta(seconds=i % 86_400, microseconds=i) for i in range(members)])
    keys = {"member_id": _ids(range(members)), "event_timestamp": times}
    pq.write_table(pa.table({**keys, **columns}), path)


def open_store(folder: Path, kind: str, url: str, table: Path) -> FeatureStore:
    """Apply the view of ``table`` to a registry of its own: ``ours`` is the plugin, ``feast`` Feast's Redis store."""
    host, database = url.removeprefix("redis://").split("/")
    ours = kind == "ours"
    store = FeatureStore(
        config=RepoConfig(
            project="bench",
            provider="feature_repo.provider.ColumnarProvider" if ours else "local",
            registry=str(folder / f"{kind}.db"),
            offline_store={"type": "duckdb"},
            online_store={
                "type": "feature_repo.online_store.PacerRedisOnlineStore" if ours else "redis",
                "connection_string": f"{host},db={database}",
            },
            materialization={"online_write_batch_size": 5_000},
            entity_key_serialization_version=3,
        )
    )
    types = {"count": Int64, "share": Float32, "mean": Float64}
    names = [name for name in pq.read_schema(table).names if name.split("_")[0] in types]
    member = Entity(name="member", join_keys=["member_id"], value_type=ValueType.STRING)
    view = FeatureView(
        name=_VIEW,
        entities=[member],
        schema=[
            Field(name="member_id", dtype=String),
            *(Field(name=name, dtype=types[name.split("_")[0]]) for name in names),
        ],
        source=FileSource(path=str(table), timestamp_field="event_timestamp"),
        ttl=timedelta(days=14),
    )
    store.apply([member, view, FeatureService(name=SERVICE, features=[view])])
    return store


def readers(store: FeatureStore, client: Any) -> dict[str, Way]:
    """Return each way to read the service for some members."""
    service = store.get_feature_service(SERVICE)
    views = stored_views(store, SERVICE)
    source = online_source(store, views)
    keys = EntityKeys.of(store.config, views[0].definition)
    fields = [*(_mmh3(f"{_VIEW}:{name}") for name in views[0].features), f"_ts:{_VIEW}".encode()]

    def sdk(members: Sequence[str]) -> Mapping[str, list[Any]]:
        answer: dict[str, list[Any]] = store.get_online_features(
            features=service, entity_rows={"member_id": list(members)}
        ).to_dict()
        return answer

    def raw_hmget(members: Sequence[str]) -> list[Any]:
        with client.pipeline(transaction=False) as pipe:
            for key in keys.make({"member_id": members}):
                pipe.hmget(key, fields)
            replies: list[Any] = pipe.execute()
            return replies

    return {"reader": lambda members: source.fetch({"member_id": members}), "sdk": sdk, "raw_hmget": raw_hmget}


def race(ways: Mapping[str, Way], batch: int, scale: Scale) -> dict[str, float]:
    """Return members/s of each way in batches of ``batch``: the median of turns, which alternate."""
    rng = np.random.default_rng(batch)
    rates: dict[str, list[float]] = {way: [] for way in ways}
    # A lone read takes as long as a batch of dozens, or nearly so.
    reads = max(1, min(scale.members_a_turn // batch, scale.members_a_turn // 8))
    for turn in range(scale.repeats + 1):
        asked = [_ids(rng.integers(0, scale.members, batch)) for _ in range(reads)]
        for way, read in ways.items():
            seconds = _seconds(_read_all, read, asked)
            if turn:  # the first one warms up
                rates[way].append(reads * batch / seconds)
    return {way: statistics.median(paces) for way, paces in rates.items()}


def _same_answers(ways: Mapping[str, Way], names: Sequence[str], members: int) -> bool:
    asked = [*_ids(range(0, members, max(1, members // 200))), "nobody"]
    answer = ways["sdk"](asked)
    expected = np.array([answer[name] for name in names], dtype=np.float64).T
    return bool(np.array_equal(ways["reader"](asked).values, expected, equal_nan=True))


def _same(one: redis.Redis, other: redis.Redis) -> bool:
    """Return whether two databases hold the same hashes, byte for byte."""
    keys = sorted(one.scan_iter(count=10_000))
    if keys != sorted(other.scan_iter(count=10_000)):
        return False
    for start in range(0, len(keys), 1_000):
        replies = []
        for client in (one, other):
            with client.pipeline(transaction=False) as pipe:
                for key in keys[start : start + 1_000]:
                    pipe.hgetall(key)
                replies.append(pipe.execute())
        if replies[0] != replies[1]:
            return False
    return True


def _materialize(store: FeatureStore, end: datetime) -> None:
    # Feast prints what it does.
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        store.materialize(_START - timedelta(days=1), end, [_VIEW])


def _ids(numbers: Any) -> list[str]:
    return [f"m{number:07}" for number in numbers]


def _read_all(read: Way, batches: Sequence[Sequence[str]]) -> None:
    for members in batches:
        read(members)


def _seconds(work: Callable[..., Any], *arguments: Any) -> float:
    started = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - started


def _show(figures: Mapping[str, Any], scale: Scale, console: Console) -> None:
    paces = figures["online_members_per_s"]
    table = Table(title=f"Members read a second, {FEATURES} features of {scale.members:,} members")
    table.add_column("batch", justify="right")
    for heading in ("reader", "raw HMGET", "SDK", "reader / raw", "reader / SDK"):
        table.add_column(heading, justify="right")
    for batch in map(str, BATCHES):
        reader, raw, sdk = (paces[way][batch] for way in ("reader", "raw_hmget", "sdk"))
        table.add_row(batch, f"{reader:,}", f"{raw:,}", f"{sdk:,}", f"{reader / raw:.2f}", f"{reader / sdk:.1f}")
    console.print(table)
    rates = figures["materialize_rows_per_s"]
    console.print(
        f"materialize: {rates['ours']:,} rows/s, Feast's Redis store {rates['feast']:,}: "
        f"{rates['ours'] / rates['feast']:.1f} times; what is stored and read is "
        f"{'the same' if figures['equal'] else 'NOT THE SAME'}"
    )
