"""Small decision logs for the contract's tests: a good one, and ways to write and spoil it."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl

from contracts.spec import Spec, parse_spec

KINDS = ("parquet", "csv")
START = datetime(2026, 1, 31, 8, 0, tzinfo=UTC)

SPEC_TEXT = """
name: shop
actions: [none, badge, push]
state: {feature_service: shop_state_v1, candidate: [type, relevance]}
rewards:
  click: {kind: predicted, feature: clicks_total}
  visit: {kind: counter, feature: visits_total}
  volume: {kind: penalty, per_action: {push: -1.0, badge: -0.3}, grows_with: sends_24h}
quantiles: [0.1, 0.5, 0.9]
prompt: {click: 0.7, visit: 0.7, volume: 0.7}
"""


def shop_spec(max_reject_share: float = 0.01, extra: str = "") -> Spec:
    return parse_spec(f"{SPEC_TEXT}log: {{max_reject_share: {max_reject_share}}}\n{extra}", "shop.yaml")


def good_rows(count: int = 12) -> list[dict[str, Any]]:
    """Rows of a log without faults: three members, in no order of time."""
    actions = ("none", "badge", "push")
    return [
        {
            "member_id": f"m{index % 3}",
            "decided_at": START + timedelta(hours=(7 * index) % count),
            "eligible": ["none", "badge", "push"],
            "action": actions[index % 3],
            "propensity": 0.25,
            "reward_click": 0.5 * (index % 3),
            "reward_visit": float(index),
            "reward_volume": -1.0,
            "type": "job" if index % 2 else "news",
            "relevance": 0.125 * index,
        }
        for index in range(count)
    ]


def served_rows() -> list[dict[str, Any]]:
    """Rows as serving writes them: two members of four decisions each."""
    clicks, visits = (0.0, 1.0, 1.0, 3.0), (10.0, 12.0, 15.0, 15.0)
    return [
        {
            "member_id": member,
            "decided_at": START + timedelta(hours=step),
            "eligible": ["none", "push"],
            "action": "push" if step % 2 else "none",
            "propensity": 0.5,
            "sequence": 40 + step,
            "counter_clicks_total": clicks[step],
            "counter_visits_total": visits[step],
            "sends_24h": float(step),
            "type": "job",
            "relevance": 0.5,
        }
        for member in ("a", "b")
        for step in range(4)
    ]


def write(path: Path, rows: list[dict[str, Any]] | pl.DataFrame) -> Path:
    """Write rows as the file ``path``, Parquet or CSV by its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    frame = rows if isinstance(rows, pl.DataFrame) else pl.DataFrame(rows, infer_schema_length=None)
    if path.suffix == ".parquet":
        frame.write_parquet(path)
        return path
    texts = {}
    for name, column in zip(frame.columns, frame, strict=True):
        if column.dtype == pl.List:
            values = [None if value is None else json.dumps(value) for value in column.to_list()]
            texts[name] = pl.Series(name, values, dtype=pl.String)
        elif column.dtype == pl.Datetime:
            offset = "" if frame.schema[name].time_zone is None else "%:z"  # type: ignore[attr-defined]
            texts[name] = column.dt.strftime(f"%Y-%m-%dT%H:%M:%S%.6f{offset}")
    frame.with_columns(**texts).write_csv(path)
    return path


def as_frame(table: Any) -> pl.DataFrame:
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    return frame
