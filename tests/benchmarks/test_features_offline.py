"""The offline benchmark joins the same decisions in every contender and notices a row that differs."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.features import offline
from benchmarks.features.offline_data import FEATURES, write_data

pytestmark = pytest.mark.integration


def test_contenders_join_the_same_and_a_difference_is_seen(tmp_path: Path) -> None:
    settings = offline._settings(tmp_path)
    write_data(settings, 1_400)
    figures = {name: offline._run(settings, name, 10, 1) for name in ("bare_asof", "ours", "feast_duckdb")}
    assert {figure.rows for figure in figures.values()} == {1_400}
    assert all(figure.peak_mib > 50 and figure.seconds > 0 for figure in figures.values())
    assert offline._same(settings, "ours", "feast_duckdb")
    path = tmp_path / "feast_duckdb.parquet"
    joined = pq.read_table(path)
    name = FEATURES["recent"][3]
    changed = joined[name].to_pylist()
    changed[700] = -1.0
    place = joined.column_names.index(name)
    pq.write_table(joined.set_column(place, name, pa.array(changed, pa.float32())), path)
    assert not offline._same(settings, "ours", "feast_duckdb")
    pq.write_table(joined.slice(1), path)
    assert not offline._same(settings, "ours", "feast_duckdb")
