"""One contender of the offline benchmark, in a process of its own: ``python -m benchmarks.features.offline_contender``.

It prints one line of JSON: rows, the seconds of its best join, the peak of the process's memory.
"""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.features.offline_data import FEATURES, TABLES, TTL, bench_spec
from contracts.settings import Settings, load_settings

STORES = {"ours": "feast_plugins.offline_store.AsofOfflineStore", "feast_duckdb": "duckdb", "feast_dask": "dask"}
TRAINING_SET = "training_set"


def main() -> None:
    """Join the decisions of the first ``members`` members of the benchmark's log, ``runs`` times."""
    contender, members, runs, result = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
    settings = load_settings()
    if contender == TRAINING_SET:
        rows, seconds = _training_set(settings)
    else:
        join = _bare(settings, members) if contender == "bare_asof" else _through_feast(settings, contender, members)
        seconds = float("inf")
        for _ in range(runs):
            joined = None  # two results at once are nobody's peak
            started = perf_counter()
            joined = join()
            seconds = min(seconds, perf_counter() - started)
        assert joined is not None
        rows = joined.num_rows
    peak = peak_mib()
    if contender != TRAINING_SET:
        pq.write_table(joined, result)
    print(json.dumps({"rows": rows, "seconds": seconds, "peak_mib": peak}))


def _training_set(settings: Settings) -> tuple[int, float]:
    from feature_repo.training_set import build_training_set

    made = build_training_set(bench_spec(), settings, progress=False)
    return made.rows, made.seconds


def _asked(settings: Settings, members: int) -> pa.Table:
    """Return the decisions, each with its number."""
    log = duckdb.read_parquet(str(settings.workspace(bench_spec().name).log)).filter(f"member_id < 'm{members:08}'")
    return log.project(
        "member_id, decided_at AS event_timestamp, row_number() OVER () - 1 AS number"
    ).fetch_arrow_table()


def _bare(settings: Settings, members: int) -> Callable[[], pa.Table]:
    """Join with two bare ASOF JOINs, which know neither ttl nor ties."""
    folder = settings.workspace(bench_spec().name).features
    names = ", ".join(f"{table}.{name}" for table in TABLES for name in FEATURES[table])
    joins = " ".join(
        f"ASOF LEFT JOIN read_parquet('{folder / table}.parquet') {table} "
        f"ON asked.member_id = {table}.member_id AND {table}.event_timestamp <= asked.event_timestamp"
        for table in TABLES
    )
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    connection.register("asked_arrow", _asked(settings, members))
    connection.execute("CREATE TABLE asked AS FROM asked_arrow")
    query = f"SELECT asked.*, {names} FROM asked {joins}"  # noqa: S608
    return lambda: connection.execute(query).fetch_arrow_table()


def _through_feast(settings: Settings, contender: str, members: int) -> Callable[[], pa.Table]:
    """Join as a user of Feast does: a data frame in, Arrow out."""
    from feast import Entity, FeatureStore, FeatureView, Field, FileSource, ValueType
    from feast.repo_config import RepoConfig
    from feast.types import Float32, String

    folder = settings.workspace(bench_spec().name).features
    config: dict[str, Any] = {
        "project": "bench",
        "provider": "local",
        "registry": str(settings.var / f"{contender}.db"),
        "offline_store": {"type": STORES[contender]},
        "online_store": {"type": "sqlite", "path": str(settings.var / "online.db")},
        "entity_key_serialization_version": 3,
    }
    member = Entity(name="member", join_keys=["member_id"], value_type=ValueType.STRING)
    views = [
        FeatureView(
            name=table,
            entities=[member],
            ttl=TTL,
            schema=[
                Field(name="member_id", dtype=String),
                *(Field(name=name, dtype=Float32) for name in FEATURES[table]),
            ],
            source=FileSource(name=table, path=str(folder / f"{table}.parquet"), timestamp_field="event_timestamp"),
        )
        for table in TABLES
    ]
    feast = FeatureStore(config=RepoConfig(**config))
    feast.apply([member, *views])
    references = [f"{table}:{name}" for table in TABLES for name in FEATURES[table]]
    asked: pd.DataFrame = _asked(settings, members).to_pandas()
    return lambda: feast.get_historical_features(entity_df=asked, features=references).to_arrow()


def peak_mib() -> float:
    """Return the most memory that this process ever held."""
    status = Path("/proc/self/status")
    if status.exists():  # what getrusage says may be the parent's
        line = next(line for line in status.read_text(encoding="ascii").splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # macOS: bytes


if __name__ == "__main__":
    main()
