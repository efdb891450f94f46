"""The page for Feast users does what it says: its configuration and code run in a repository that is not Pacer's."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from contracts.settings import CHECKOUT

pytestmark = pytest.mark.integration

PAGE = (CHECKOUT / "docs" / "feast-plugins.md").read_text(encoding="utf-8")
ONLINE = PAGE[PAGE.index("## Online store") :]
DEFINITIONS = """
from datetime import timedelta
from feast import Entity, FeatureService, FeatureView, Field, FileSource, PushSource, ValueType
from feast.types import Float32, Int64

driver = Entity(name="driver", join_keys=["driver_id"], value_type=ValueType.INT64)
batch = FileSource(path="{path}", timestamp_field="event_timestamp")
pushed = PushSource(name="driver_push", batch_source=batch)
driver_stats = FeatureView(
    name="driver_stats",
    entities=[driver],
    schema=[Field(name="conv_rate", dtype=Float32), Field(name="trips", dtype=Int64)],
    source=pushed,
    ttl=timedelta(days=3650),
)
driver_state_v1 = FeatureService(name="driver_state_v1", features=[driver_stats])
"""
PUSH = """
import pandas as pd
from datetime import UTC, datetime
from feast import FeatureStore

row = {"driver_id": [1003], "event_timestamp": [datetime(2026, 2, 1, tzinfo=UTC)], "conv_rate": [0.75], "trips": [9]}
FeatureStore(".").push("driver_push", pd.DataFrame(row))
"""


def block(language: str, containing: str) -> str:
    """Return the page's first block of code in that language that holds some text."""
    blocks = re.findall(rf"```{language}\n(.*?)```", ONLINE, re.DOTALL)
    return str(next(text for text in blocks if containing in text))


def run(folder: Path, *command: str) -> str:
    environment = {name: value for name, value in os.environ.items() if name not in ("REDIS_URL", "PACER_VAR")}
    environment["PYTHONPATH"] = str(CHECKOUT)
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_feast_user_gains_by_the_lines_of_the_page(tmp_path: Path, redis_url: str) -> None:
    host, database = redis_url.removeprefix("redis://").split("/")
    yaml = block("yaml", "provider: feature_repo.provider.ColumnarProvider")
    assert "connection_string: localhost:6379" in yaml
    (tmp_path / "feature_store.yaml").write_text(yaml.replace("localhost:6379", f"{host},db={database}"), "utf-8")
    table = tmp_path / "stats.parquet"
    moment = pa.array([datetime(2026, 1, 1, tzinfo=UTC)] * 2, pa.timestamp("us", tz="UTC"))
    columns = {"conv_rate": pa.array([0.5, None], pa.float32()), "trips": [3, 4]}
    pq.write_table(pa.table({"driver_id": [1001, 1002], "event_timestamp": moment, **columns}), table)
    (tmp_path / "definitions.py").write_text(DEFINITIONS.format(path=table), "utf-8")
    feast = str(Path(sys.executable).with_name("feast"))
    run(tmp_path, feast, "apply")
    run(tmp_path, feast, "materialize", "2025-12-31T00:00:00", "2026-01-02T00:00:00")
    (tmp_path / "push.py").write_text(PUSH, "utf-8")
    run(tmp_path, sys.executable, "push.py")
    (tmp_path / "read.py").write_text(block("python", "online_source"), "utf-8")
    printed = "".join(run(tmp_path, sys.executable, "read.py").split())
    assert printed == (
        "[[0.53.][nan4.][0.759.]]"
        "[[FalseFalse][TrueFalse][FalseFalse]]"
        "[[1767225600000000][1767225600000000][1769904000000000]]"
    )
