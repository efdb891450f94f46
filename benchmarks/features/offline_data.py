"""A decision log and two tables of 25 features, written member by member, so that any size takes the same memory."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from contracts.settings import Settings
from contracts.spec import Spec, dump_spec, parse_spec

DECISIONS_PER_MEMBER = 140
TABLES = ("recent", "profile")
FEATURES = {table: tuple(f"{table}_{i:02}" for i in range(25)) for table in TABLES}
TTL = timedelta(days=14)
_MEMBERS_AT_ONCE = 700
_START = datetime(2026, 1, 5, tzinfo=UTC)
_TIME = pa.timestamp("us", tz="UTC")


def bench_spec() -> Spec:
    """Return the deployment that the tables belong to."""
    tables = "\n".join(
        f"    {table}: {{features: [{', '.join(FEATURES[table])}], ttl_days: {TTL.days}}}" for table in TABLES
    )
    text = (
        "name: bench\nactions: [none, push]\nstate:\n  feature_service: bench_state_v1\n  candidate: [price]\n"
        f"  tables:\n{tables}\nrewards:\n  visit: {{kind: counter, feature: {FEATURES['recent'][0]}}}\n"
        "quantiles: [0.5, 0.9]\nprompt: {visit: 0.5}\n"
    )
    return parse_spec(text, "the benchmark's spec")


def write_data(settings: Settings, decisions: int) -> Spec:
    """Write log and tables of about ``decisions`` decisions, as an import leaves them; return their spec."""
    spec = bench_spec()
    workspace = settings.workspace(spec.name)
    for folder in (workspace.features, workspace.log.parent):
        folder.mkdir(parents=True, exist_ok=True)
    workspace.spec.write_text(dump_spec(spec), encoding="utf-8")
    writers: dict[Path, pq.ParquetWriter] = {}
    for path, rows in _blocks(settings, spec, max(1, round(decisions / DECISIONS_PER_MEMBER))):
        if path not in writers:
            writers[path] = pq.ParquetWriter(path, rows.schema, compression="zstd")
        writers[path].write_table(rows)
    for writer in writers.values():
        writer.close()
    return spec


def _blocks(settings: Settings, spec: Spec, members: int) -> Iterator[tuple[Path, pa.Table]]:
    rng = np.random.default_rng(0)
    workspace = settings.workspace(spec.name)
    for first in range(0, members, _MEMBERS_AT_ONCE):
        here = min(_MEMBERS_AT_ONCE, members - first)
        n = here * DECISIONS_PER_MEMBER
        keys = pa.array([f"m{first + i:08}" for i in range(here)]).take(
            pa.array(np.repeat(np.arange(here), DECISIONS_PER_MEMBER))
        )
        decided = _times(rng, here)
        yield workspace.log, _log(spec, keys, decided)
        for table in TABLES:
            columns = {name: rng.integers(0, 200, n).astype(np.float32) for name in FEATURES[table]}
            if table == TABLES[0]:  # a counter rises
                columns[FEATURES[table][0]] = np.tile(np.arange(DECISIONS_PER_MEMBER, dtype=np.float32), here)
            known = pa.table({"member_id": keys, "event_timestamp": _moments(_times(rng, here)), **columns})
            yield workspace.features / f"{table}.parquet", known


def _times(rng: np.random.Generator, members: int) -> np.ndarray:
    """Return about six moments a day for each member, rising, in µs from the start."""
    gaps = rng.exponential(4 * 3_600e6, (members, DECISIONS_PER_MEMBER)).astype(np.int64) + 1
    return np.asarray(gaps.cumsum(axis=1).ravel())


def _moments(since_start_us: np.ndarray) -> pa.Array:
    start_us = int(_START.timestamp()) * 1_000_000
    return pa.array(start_us + since_start_us).cast(_TIME)


def _log(spec: Spec, keys: pa.Array, decided: np.ndarray) -> pa.Table:
    n = len(keys)
    return pa.table(
        {
            "member_id": keys,
            "decided_at": _moments(decided),
            "eligible": pa.array([list(spec.actions)] * n, pa.list_(pa.string())),
            "action": pa.array([spec.actions[0]] * n),
            "propensity": pa.array(np.full(n, 0.5)),
            "reward_visit": pa.array(np.zeros(n)),
            "price": pa.array(np.ones(n)),
        }
    )
