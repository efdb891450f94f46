"""Small feature tables, logs and specs for the tests of this room."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from contracts.settings import Settings
from contracts.spec import Spec, dump_spec, load_spec, parse_spec
from simulator.features import COUNTERS, LIVE, RECENCY, WINDOWS
from simulator.members import PROFILE

START = datetime(2026, 1, 5, tzinfo=UTC)
TIME = pa.timestamp("us", tz="UTC")
NOTIFICATION = load_spec(Path(__file__).parents[2] / "specs" / "notification.yaml")
LIVE_STATE = (*COUNTERS, "badge_count")
"""What the service takes of member_live as it is."""
SERVED = (*PROFILE, *WINDOWS, *LIVE_STATE, *RECENCY)
"""The service's features but for the clock, in its order."""
CLOCK = ("hour_sin", "hour_cos", "weekday_sin", "weekday_cos", "is_weekend")

SHOP = """
name: shop
actions: [none, push]
state:
  feature_service: shop_state_v1
  candidate: [price]
  tables:
    orders: {features: [spent, orders_total], ttl_days: 30}
    member_profile: {features: [age]}
rewards:
  order: {kind: counter, feature: orders_total}
quantiles: [0.5, 0.9]
prompt: {order: 0.5}
"""


def shop(text: str = SHOP) -> Spec:
    return parse_spec(text, "shop.yaml")


def deploy_spec(settings: Settings, spec: Spec) -> None:
    """Put the spec where an import puts it."""
    path = settings.workspace(spec.name).spec
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(dump_spec(spec), encoding="utf-8")


def at(days: float = 0.0, microseconds: int = 0) -> datetime:
    return START + timedelta(days=days, microseconds=microseconds)


def write_table(
    settings: Settings,
    tenant: str,
    table: str,
    members: Sequence[str],
    times: Sequence[datetime],
    columns: Mapping[str, Sequence[object] | pa.Array],
) -> Path:
    path = settings.workspace(tenant).features / f"{table}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    keys = {"member_id": pa.array(members, pa.string()), "event_timestamp": pa.array(times, TIME)}
    pq.write_table(pa.table({**keys, **columns}), path)
    return path


def write_notification(settings: Settings, members: Sequence[str], days: int = 3, seed: int = 0) -> None:
    """Write the three tables as the simulator does: a profile at the start, then a row a day at 12:00 in the others."""
    rng = np.random.default_rng(seed)
    profile = {name: rng.random(len(members)).astype(np.float32) for name in PROFILE}
    profile["utc_offset_hours"] = rng.choice([-8.0, 0.0, 5.5], len(members)).astype(np.float32)
    write_table(settings, "notification", "member_profile", members, [START] * len(members), profile)
    rows = [(member, at(day + 0.5)) for day in range(days) for member in members]
    # One stream a column: more days later on leave the first days' values as they are.
    activity = {
        name: np.random.default_rng([seed, i]).random(len(rows)).astype(np.float32) for i, name in enumerate(WINDOWS)
    }
    live = {name: np.random.default_rng([seed, i]).integers(0, 200, len(rows)) for i, name in enumerate(LIVE)}
    live |= {name: np.repeat(np.arange(days), len(members)) for name in COUNTERS}
    # Event times of the day before each row.
    live |= {
        name: np.array([int(time.timestamp() * 1000) for _, time in rows]) - live[name] * 400_000
        for name in LIVE
        if name.startswith("last_")
    }
    for table, columns in (("member_activity", activity), ("member_live", live)):
        write_table(
            settings, "notification", table, [member for member, _ in rows], [time for _, time in rows], columns
        )


def write_log(
    settings: Settings, spec: Spec, rows: Sequence[tuple[str, datetime]], **context: Sequence[object]
) -> None:
    """Write a clean log with these decisions, in this order."""
    path = settings.workspace(spec.name).log
    path.parent.mkdir(parents=True, exist_ok=True)
    columns: dict[str, object] = {
        "member_id": pa.array([member for member, _ in rows], pa.string()),
        "decided_at": pa.array([time for _, time in rows], TIME),
        "eligible": pa.array([list(spec.actions)] * len(rows), pa.list_(pa.string())),
        "action": pa.array([spec.actions[0]] * len(rows), pa.string()),
        "propensity": pa.array([0.5] * len(rows), pa.float64()),
    }
    columns |= {f"reward_{name}": pa.array(np.arange(len(rows), dtype=np.float64)) for name in spec.rewards}
    columns |= {name: pa.array([1.0] * len(rows)) for name in spec.state.candidate}
    pq.write_table(pa.table({**columns, **context}), path)
