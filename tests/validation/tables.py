"""Small good tables of a made-up deployment, to be spoilt one value at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from contracts.settings import Settings, Workspace
from contracts.spec import Spec, parse_spec

MEMBERS = 6
STEPS = 12
ROWS = MEMBERS * STEPS
START = datetime(2025, 3, 1, tzinfo=UTC)

SPEC_TEXT = """
name: shop
actions: [hold, e-mail, call]
state:
  feature_service: shop_state_v1
  candidate: [kind, score]
  categories: {kind: [offer, news]}
  tables: {profile: {features: [age, tenure]}, usage: {features: [orders_total, visits_7d]}}
rewards:
  answer: {kind: predicted, feature: answers_total}
  orders: {kind: counter, feature: orders_total}
  cost: {kind: penalty, per_action: {e-mail: -0.5, call: -1.0}}
quantiles: [0.1, 0.5, 0.9]
prompt: {answer: 0.5, orders: 0.5, cost: 0.5}
"""

Columns = dict[str, list[Any]]

TYPES = {
    "member_id": pa.string(),
    "decided_at": pa.timestamp("us", tz="UTC"),
    "event_timestamp": pa.timestamp("us", tz="UTC"),
    "eligible": pa.list_(pa.string()),
    "action": pa.string(),
    "kind": pa.string(),
}


def shop() -> Spec:
    """Return the made-up deployment's spec."""
    return parse_spec(SPEC_TEXT, "shop.yaml")


def settings_in(folder: Path) -> Settings:
    """Return settings whose state lies in ``folder``."""
    return Settings(var=folder, redis_url=None, java_home=None, heartsteps=folder / "none")


def good_log(members: int = MEMBERS, steps: int = STEPS) -> Columns:
    """Return a log that breaks no rule: two eligible sets, all actions, every reward known but each member's last."""
    rows = [(member, step) for member in range(members) for step in range(steps)]
    spec = shop()
    actions = [spec.actions[(member + step) % 3] for member, step in rows]
    last = [step == steps - 1 for _, step in rows]
    return {
        "member_id": [f"m{member:04d}" for member, _ in rows],
        "decided_at": [START + timedelta(hours=8 * step, minutes=member) for member, step in rows],
        "eligible": [["hold", "e-mail"] if action == "e-mail" else list(spec.actions) for action in actions],
        "action": actions,
        "propensity": [None if step == 0 else 0.5 for _, step in rows],
        "reward_answer": _unless(last, [float(step % 4 == 0) for _, step in rows]),
        "reward_orders": _unless(last, [float(step % 3) for _, step in rows]),
        "reward_cost": _unless(last, [{"hold": 0.0, "e-mail": -0.5, "call": -1.0}[action] for action in actions]),
        "kind": ["offer" if step % 2 else "news" for _, step in rows],
        "score": [step / steps for _, step in rows],
    }


def good_profile(members: int = MEMBERS) -> Columns:
    """Return a feature table of one row a member."""
    return {
        "member_id": [f"m{member:04d}" for member in range(members)],
        "event_timestamp": [START - timedelta(days=1)] * members,
        "age": [20.0 + member for member in range(members)],
        "tenure": [float(member % 2) for member in range(members)],
    }


def good_usage(members: int = MEMBERS, steps: int = STEPS) -> Columns:
    """Return a feature table of one row a decision, sorted by time, with a counter."""
    rows = [(member, step) for step in range(steps) for member in range(members)]
    return {
        "member_id": [f"m{member:04d}" for member, _ in rows],
        "event_timestamp": [START + timedelta(hours=8 * step, minutes=member) for member, step in rows],
        "orders_total": [float(10 * member + step // 2) for member, step in rows],
        "visits_7d": [float(step % 5) for _, step in rows],
    }


def write(
    settings: Settings,
    log: Columns | None = None,
    profile: Columns | None = None,
    usage: Columns | None = None,
    types: dict[str, pa.DataType] | None = None,
) -> Workspace:
    """Write a whole workspace of the deployment: the tables given, good ones for the rest."""
    workspace = settings.workspace(shop().name)
    write_table(workspace.log, log or good_log(), types)
    write_table(workspace.features / "profile.parquet", profile or good_profile(), types)
    write_table(workspace.features / "usage.parquet", usage or good_usage(), types)
    return workspace


def write_table(path: Path, columns: Columns, types: dict[str, pa.DataType] | None = None) -> None:
    """Write ``columns`` as Parquet; a column not in TYPES or ``types`` is double, and NaN is no null."""
    path.parent.mkdir(parents=True, exist_ok=True)
    known = TYPES | (types or {})
    arrays = {
        name: pa.array(values, known.get(name, pa.float64()), from_pandas=False) for name, values in columns.items()
    }
    pq.write_table(pa.table(arrays), path)


def spoil(columns: Columns, *defects: Callable[[Columns], None]) -> Columns:
    """Apply each defect to ``columns`` and return them."""
    for defect in defects:
        defect(columns)
    return columns


def put(column: str, row: int, value: Any) -> Callable[[Columns], None]:
    """Return a defect: ``value`` stands in ``row`` (counted from 1) of ``column``."""

    def defect(columns: Columns) -> None:
        columns[column][row - 1] = value

    return defect


def _unless(unknown: Sequence[bool], values: Sequence[float]) -> list[float | None]:
    return [None if gone else value for gone, value in zip(unknown, values, strict=True)]
