"""The feature table's contract."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from polars.testing import assert_frame_equal

from contracts.errors import LogError
from contracts.feature_table import CheckedFeatures, read_feature_table
from contracts.table_files import find_tables
from tests.contracts.logs import KINDS, START, as_frame, write

pytestmark = pytest.mark.unit


def good_rows() -> list[dict[str, Any]]:
    return [
        {
            "member_id": f"m{index % 2}",
            "event_timestamp": START + timedelta(hours=9 - index),
            "visits": 1.5 * index,
            "sends": index,
        }
        for index in range(6)
    ]


def read(path: Path, **options: Any) -> CheckedFeatures:
    return read_feature_table((path,), "activity", **options)


def refused(path: Path, **options: Any) -> str:
    with pytest.raises(LogError) as caught:
        read(path, **options)
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_sorted_by_moment_with_numbers_only(tmp_path: Path, kind: str) -> None:
    checked = read(write(tmp_path / f"a.{kind}", good_rows()), required=("visits",))
    expected = pl.DataFrame(good_rows()).sort("event_timestamp")
    assert_frame_equal(as_frame(checked.table), expected, check_dtypes=False)
    schema = checked.table.schema
    assert schema.field("event_timestamp").type == pa.timestamp("us", "UTC")
    assert schema.field("visits").type == pa.float64()
    assert schema.field("sends").type == (pa.int64() if kind == "parquet" else pa.float64())


def test_booleans_small_integers_and_decimals_become_plain_numbers(tmp_path: Path) -> None:
    frame = pl.DataFrame(good_rows()).with_columns(
        pl.lit(True).alias("mobile"), pl.col("sends").cast(pl.UInt8), pl.col("visits").cast(pl.Decimal(10, 2))
    )
    table = read(write(tmp_path / "a.parquet", frame)).table
    assert table.schema.field("mobile").type == table.schema.field("sends").type == pa.int64()
    assert table.schema.field("visits").type == pa.float64()
    assert table.column("mobile").to_pylist() == [1] * 6


@pytest.mark.parametrize("kind", KINDS)
def test_missing_values_stay_null(tmp_path: Path, kind: str) -> None:
    rows = good_rows()
    rows[0]["visits"], rows[1]["visits"] = None, math.nan
    assert read(write(tmp_path / f"a.{kind}", rows)).table.column("visits").null_count == 2


@pytest.mark.parametrize("kind", KINDS)
def test_the_later_row_of_the_same_moment_counts(tmp_path: Path, kind: str) -> None:
    rows = [*good_rows(), good_rows()[2] | {"visits": 99.0}]
    checked = read(write(tmp_path / f"a.{kind}", rows))
    assert checked.replaced == 1
    assert checked.table.num_rows == 6
    assert 99.0 in checked.table.column("visits").to_pylist()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("reason", "change"),
    [
        ("member_id is missing", {"member_id": ""}),
        ("event_timestamp is missing", {"event_timestamp": None}),
        ("event_timestamp lies outside 1970-2199", {"event_timestamp": datetime(2200, 1, 1, tzinfo=UTC)}),
        ("visits is infinite", {"visits": -math.inf}),
    ],
)
def test_rows_set_aside(tmp_path: Path, kind: str, reason: str, change: dict[str, Any]) -> None:
    rows = good_rows()
    rows[3] |= change
    path = write(tmp_path / f"a.{kind}", rows)
    checked = read(path, max_reject_share=0.5, rejects_to=tmp_path / "rejects.csv")
    assert checked.rejects.column("row").to_pylist() == [4]
    assert checked.rejects.column("reason")[0].as_py().startswith(reason)
    assert pl.read_csv(tmp_path / "rejects.csv").height == 1
    assert f"1 x {reason}" in refused(path, max_reject_share=0.01)


@pytest.mark.parametrize("kind", KINDS)
def test_text_is_no_feature(tmp_path: Path, kind: str) -> None:
    rows = [row | {"city": "Ulm"} for row in good_rows()]
    assert "column 'city' has type String; it must be a number; encode" in refused(write(tmp_path / f"a.{kind}", rows))


@pytest.mark.parametrize("value", [START, [1.0, 2.0], b"x"])
def test_nor_is_anything_else(tmp_path: Path, value: object) -> None:
    rows = [row | {"extra": value} for row in good_rows()]
    assert "column 'extra' has type" in refused(write(tmp_path / "a.parquet", rows))


def test_a_single_wrong_cell_of_a_csv_column_is_a_reject(tmp_path: Path) -> None:
    text = write(tmp_path / "a.csv", good_rows()).read_text().replace("4.5", "many")
    (tmp_path / "a.csv").write_text(text)
    checked = read(tmp_path / "a.csv", max_reject_share=0.5)
    assert checked.rejects.column("reason").to_pylist() == ["visits is not a number: many"]


@pytest.mark.parametrize("kind", KINDS)
def test_missing_columns_bring_the_nearest_name(tmp_path: Path, kind: str) -> None:
    frame = pl.DataFrame(good_rows()).rename({"event_timestamp": "event_timestmp"})
    message = refused(write(tmp_path / f"a.{kind}", frame), required=("visitz",))
    assert "missing column 'event_timestamp'; did you mean 'event_timestmp'?" in message
    assert "missing column 'visitz'; did you mean 'visits'?" in message


def test_keys_alone_are_no_table(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", pl.DataFrame(good_rows()).drop("visits", "sends"))
    assert "no feature column" in refused(path)


def test_naive_timestamps_are_refused(tmp_path: Path) -> None:
    frame = pl.DataFrame(good_rows()).with_columns(pl.col("event_timestamp").dt.replace_time_zone(None))
    assert "without a time zone" in refused(write(tmp_path / "a.parquet", frame))


@pytest.mark.parametrize("view", ["my view", "1st", "a-b", "../up"])
def test_a_view_has_a_name_that_feast_takes(tmp_path: Path, view: str) -> None:
    path = write(tmp_path / "a.parquet", good_rows())
    with pytest.raises(LogError, match="can't name a feature view"):
        read_feature_table((path,), view)


def test_tables_of_a_folder_by_name(tmp_path: Path) -> None:
    assert find_tables(tmp_path / "features") == {}
    write(tmp_path / "a.csv", good_rows())
    write(tmp_path / "b.parquet" / "part-0.parquet", good_rows())
    (tmp_path / "README.md").touch()
    assert {name: len(files) for name, files in find_tables(tmp_path).items()} == {"a": 1, "b": 1}
    write(tmp_path / "a.parquet", good_rows())
    with pytest.raises(LogError, match=r"a\.parquet and a\.csv; leave one"):
        find_tables(tmp_path)
