"""The decision log's contract: what it takes, what it sets aside, what it refuses."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from contracts.decision_log import CheckedLog, read_log
from contracts.errors import LogError
from tests.contracts.logs import KINDS, START, as_frame, good_rows, served_rows, shop_spec, write

pytestmark = pytest.mark.unit

Row = dict[str, Any]
SPEC = shop_spec()
LENIENT = shop_spec(max_reject_share=0.5)

CLEAN_SCHEMA = pa.schema(
    [
        ("member_id", pa.string()),
        ("decided_at", pa.timestamp("us", "UTC")),
        ("eligible", pa.list_(pa.field("item", pa.string()))),
        ("action", pa.string()),
        ("propensity", pa.float64()),
        ("reward_click", pa.float64()),
        ("reward_visit", pa.float64()),
        ("reward_volume", pa.float64()),
        ("type", pa.string()),
        ("relevance", pa.float64()),
    ]
)


def sorted_rows(rows: list[Row]) -> pl.DataFrame:
    return pl.DataFrame(rows).sort("member_id", "decided_at")


def refused(path: Path, spec: Any = SPEC) -> str:
    with pytest.raises(LogError) as caught:
        read_log(path, spec)
    return str(caught.value)


def read_or_refuse(path: Path) -> CheckedLog | str:
    try:
        return read_log(path, LENIENT)
    except LogError as error:
        return str(error)


def rejected(log: CheckedLog) -> dict[int, str]:
    frame = as_frame(log.rejects)
    return dict(zip(frame["row"].to_list(), frame["reason"].to_list(), strict=True))


class TestGoodLog:
    @pytest.mark.parametrize("kind", KINDS)
    def test_has_the_clean_schema_sorted_by_member_and_time(self, tmp_path: Path, kind: str) -> None:
        log = read_log(write(tmp_path / f"any.{kind}", good_rows()), SPEC)
        assert log.table.schema == CLEAN_SCHEMA
        assert_frame_equal(as_frame(log.table), sorted_rows(good_rows()))
        assert log.rejects.num_rows == 0
        assert log.rows == 12
        assert dict(log.reasons) == {}

    @pytest.mark.parametrize("kind", KINDS)
    def test_context_columns_are_kept_and_named(self, tmp_path: Path, kind: str) -> None:
        rows = [row | {"campaign": "spring"} for row in good_rows()]
        log = read_log(write(tmp_path / f"any.{kind}", rows), SPEC)
        assert log.table.column("campaign").to_pylist() == ["spring"] * 12
        assert any("campaign" in note for note in log.notes)

    @pytest.mark.parametrize("kind", KINDS)
    def test_integer_ids_become_decimal_text(self, tmp_path: Path, kind: str) -> None:
        rows = [row | {"member_id": int(row["member_id"][1:]) + 7} for row in good_rows()]
        log = read_log(write(tmp_path / f"any.{kind}", rows), SPEC)
        assert set(log.table.column("member_id").to_pylist()) == {"7", "8", "9"}

    @pytest.mark.parametrize("kind", KINDS)
    def test_one_row_of_a_member_is_taken_and_noted(self, tmp_path: Path, kind: str) -> None:
        rows = [*good_rows(), good_rows()[0] | {"member_id": "lone"}]
        log = read_log(write(tmp_path / f"any.{kind}", rows), SPEC)
        assert log.rejects.num_rows == 0
        assert any(note.startswith("members with one decision only") and note.endswith(": 1") for note in log.notes)

    @pytest.mark.parametrize("kind", KINDS)
    def test_unknown_propensity_and_reward_stay_null(self, tmp_path: Path, kind: str) -> None:
        rows = good_rows()
        rows[3] |= {"propensity": None, "reward_click": None}
        rows[4] |= {"reward_click": math.nan}
        log = read_log(write(tmp_path / f"any.{kind}", rows), SPEC)
        assert log.rejects.num_rows == 0
        assert log.table.column("propensity").null_count == 1
        assert log.table.column("reward_click").null_count == 2
        assert any("reward_click is not known: 2" in note for note in log.notes)

    @pytest.mark.parametrize("kind", KINDS)
    def test_missing_candidate_features_stay_null(self, tmp_path: Path, kind: str) -> None:
        rows = good_rows()
        rows[0] |= {"relevance": None, "type": None}
        log = read_log(write(tmp_path / f"any.{kind}", rows), SPEC)
        assert log.table.column("relevance").null_count == log.table.column("type").null_count == 1

    def test_eligible_set_takes_the_order_of_the_spec(self, tmp_path: Path) -> None:
        rows = [row | {"eligible": ["push", "badge", "none"]} for row in good_rows()]
        log = read_log(write(tmp_path / "a.parquet", rows), SPEC)
        assert log.table.column("eligible").to_pylist() == [["none", "badge", "push"]] * 12

    @settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        values=st.lists(
            st.tuples(
                st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1).filter(str.strip),
                st.datetimes(datetime(1971, 1, 1), datetime(2199, 12, 30), timezones=st.just(UTC)),  # noqa: DTZ001
                st.floats(allow_nan=False, allow_infinity=False),
                st.floats(0, 1, exclude_min=True),
            ),
            min_size=1,
            max_size=20,
            unique_by=lambda row: row[:2],
        ),
        kind=st.sampled_from(KINDS),
    )
    def test_whatever_keeps_the_contract_comes_back_unchanged(
        self, tmp_path: Path, values: list[tuple[str, datetime, float, float]], kind: str
    ) -> None:
        # A text such as 12.0 is refused as an id on purpose.
        names = ("member_id", "decided_at", "reward_visit", "propensity")
        rows = [good_rows()[0] | dict(zip(names, (f"m{row[0]}", *row[1:]), strict=True)) for row in values]
        log = read_log(write(tmp_path / f"any.{kind}", rows), SPEC)
        assert_frame_equal(as_frame(log.table), sorted_rows(rows), check_exact=True)


class TestOtherWriters:
    def test_arrow_types_of_other_writers(self, tmp_path: Path) -> None:
        table = pl.DataFrame(good_rows()).to_arrow(compat_level=pl.CompatLevel.oldest())
        types: dict[str, pa.DataType] = {
            "member_id": pa.dictionary(pa.int32(), pa.string()),
            "decided_at": pa.timestamp("ns", "+05:30"),
            "eligible": pa.large_list(pa.large_string()),
            "action": pa.large_string(),
            "propensity": pa.float32(),
            "reward_click": pa.float16(),
            "reward_visit": pa.int32(),
            "reward_volume": pa.decimal128(30, 2),
            "relevance": pa.float32(),
        }
        for name, dtype in types.items():
            position = table.column_names.index(name)
            table = table.set_column(position, name, table.column(name).cast(dtype))
        pq.write_table(table, tmp_path / "a.parquet")
        log = read_log(tmp_path / "a.parquet", SPEC)
        assert_frame_equal(as_frame(log.table), sorted_rows(good_rows()))
        assert log.table.schema == CLEAN_SCHEMA

    @pytest.mark.parametrize("unit", ["ms", "us", "ns"])
    @pytest.mark.parametrize("zone", ["UTC", "America/New_York", "-08:00"])
    def test_timestamps_of_any_unit_and_zone(self, tmp_path: Path, unit: str, zone: str) -> None:
        table = pl.DataFrame(good_rows()).to_arrow()
        times = table.column("decided_at").cast(pa.timestamp(unit, zone))
        pq.write_table(table.set_column(1, "decided_at", times), tmp_path / "a.parquet")
        log = read_log(tmp_path / "a.parquet", SPEC)
        assert_frame_equal(as_frame(log.table), sorted_rows(good_rows()))

    def test_nanoseconds_are_cut_off_and_noted(self, tmp_path: Path) -> None:
        frame = pl.DataFrame(good_rows()).with_columns(
            (pl.col("decided_at").cast(pl.Datetime("ns", "UTC")).to_physical() + 1999)
            .cast(pl.Datetime("ns"))
            .dt.replace_time_zone("UTC")
        )
        log = read_log(write(tmp_path / "a.parquet", frame), SPEC)
        assert min(log.table.column("decided_at").to_pylist()) == START + timedelta(microseconds=1)
        assert any("nanoseconds" in note for note in log.notes)

    def test_pandas(self, tmp_path: Path) -> None:
        frame = pd.DataFrame(good_rows())
        frame["action"] = frame["action"].astype("category")
        frame.to_parquet(tmp_path / "a.parquet")
        frame["eligible"] = frame["eligible"].map("|".join)
        frame.to_csv(tmp_path / "a.csv", index=False)
        for kind in KINDS:
            log = read_log(tmp_path / f"a.{kind}", SPEC)
            assert_frame_equal(as_frame(log.table), sorted_rows(good_rows()))

    def test_duckdb(self, tmp_path: Path) -> None:
        rows = pl.DataFrame(good_rows())
        connection = duckdb.connect()
        connection.register("given", rows.to_arrow())
        connection.sql(f"COPY given TO '{tmp_path}/a.parquet'")
        listed = "SELECT * REPLACE (array_to_string(eligible, '|') AS eligible) FROM given"
        connection.sql(f"COPY ({listed}) TO '{tmp_path}/a.csv'")
        for kind in KINDS:
            assert_frame_equal(as_frame(read_log(tmp_path / f"a.{kind}", SPEC).table), sorted_rows(good_rows()))

    @pytest.mark.parametrize(
        "text",
        [
            "2026-01-31T08:00:00Z",
            "2026-01-31t08:00:00z",
            "2026-01-31 08:00:00+00:00",
            "2026-01-31 08:00:00+00",
            "2026-01-31T03:00:00-0500",
            "2026-01-31T13:30:00.000000+05:30",
            "2026-01-31T08:00:00.000000999Z",
        ],
    )
    def test_csv_time_in_any_rfc_3339_form(self, tmp_path: Path, text: str) -> None:
        frame = pl.DataFrame(good_rows(1)).with_columns(pl.lit(text).alias("decided_at"))
        log = read_log(write(tmp_path / "a.csv", frame), SPEC)
        assert log.table.column("decided_at").to_pylist() == [START]

    def test_csv_eligible_with_bars_a_byte_order_mark_and_windows_line_ends(self, tmp_path: Path) -> None:
        frame = pl.DataFrame(good_rows()).with_columns(pl.col("eligible").list.join(" | "))
        text = write(tmp_path / "a.csv", frame).read_text(encoding="utf-8").replace("\n", "\r\n")
        (tmp_path / "a.csv").write_text(text, encoding="utf-8-sig", newline="")
        assert_frame_equal(as_frame(read_log(tmp_path / "a.csv", SPEC).table), sorted_rows(good_rows()))


class TestWhereTheLogIs:
    @pytest.mark.parametrize("kind", KINDS)
    def test_a_folder_with_decisions_or_with_a_single_table(self, tmp_path: Path, kind: str) -> None:
        write(tmp_path / "single" / f"export.{kind}", good_rows())
        write(tmp_path / "named" / f"decisions.{kind}", good_rows())
        write(tmp_path / "named" / f"other.{kind}", good_rows())
        for folder in ("single", "named"):
            assert read_log(tmp_path / folder, SPEC).table.num_rows == 12

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("folder", ["decisions", "decisions.{kind}"])
    def test_a_folder_of_parts(self, tmp_path: Path, kind: str, folder: str) -> None:
        parts = tmp_path / folder.format(kind=kind)
        write(parts / f"part-0.{kind}", good_rows()[:5])
        write(parts / f"part-1.{kind}", good_rows()[5:])
        (parts / "_SUCCESS").touch()
        (parts / f".part-0.{kind}.crc").write_bytes(b"x")
        assert_frame_equal(as_frame(read_log(tmp_path, SPEC).table), sorted_rows(good_rows()))

    def test_rejects_of_parts_name_the_file(self, tmp_path: Path) -> None:
        write(tmp_path / "decisions" / "a.parquet", good_rows()[:6])
        write(tmp_path / "decisions" / "b.parquet", [*good_rows()[6:], good_rows()[2]])
        log = read_log(tmp_path, LENIENT)
        (reject,) = log.rejects.to_pylist()
        assert (reject["row"], reject["file"]) == (7, "b.parquet")
        assert reject["reason"].endswith("first in row 3 of a.parquet")

    def test_parts_with_other_columns_are_refused(self, tmp_path: Path) -> None:
        write(tmp_path / "decisions" / "a.csv", good_rows())
        write(tmp_path / "decisions" / "b.csv", [row | {"extra": 1} for row in good_rows()])
        message = refused(tmp_path)
        assert "b.csv" in message
        assert "'extra'" in message

    def test_no_such_path(self, tmp_path: Path) -> None:
        assert "no such file or folder" in refused(tmp_path / "nowhere")

    def test_nothing_or_too_much_in_the_folder(self, tmp_path: Path) -> None:
        assert "no Parquet or CSV file" in refused(tmp_path)
        write(tmp_path / "one.csv", good_rows())
        write(tmp_path / "two.csv", good_rows())
        assert "one.csv, two.csv" in refused(tmp_path)
        write(tmp_path / "decisions.csv", good_rows())
        write(tmp_path / "decisions.parquet", good_rows())
        assert "leave one" in refused(tmp_path)

    def test_another_kind_of_file(self, tmp_path: Path) -> None:
        (tmp_path / "log.xlsx").write_bytes(b"PK")
        assert "neither .parquet nor .csv" in refused(tmp_path / "log.xlsx")


class TestRefusedAsAWhole:
    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("name", [field.name for field in CLEAN_SCHEMA])
    def test_missing_column(self, tmp_path: Path, kind: str, name: str) -> None:
        path = write(tmp_path / f"log.{kind}", pl.DataFrame(good_rows()).drop(name))
        message = refused(path)
        assert str(path) in message
        assert f"missing column {name!r}" in message

    @pytest.mark.parametrize("kind", KINDS)
    def test_misspelt_columns_bring_the_nearest_name(self, tmp_path: Path, kind: str) -> None:
        frame = pl.DataFrame(good_rows()).rename({"propensity": "propensities", "reward_click": "reward_clik"})
        message = refused(write(tmp_path / f"log.{kind}", frame))
        assert "missing column 'propensity'; did you mean 'propensities'?" in message
        assert "column 'reward_clik': spec 'shop' has no such reward; did you mean 'reward_click'?" in message

    def test_other_separator(self, tmp_path: Path) -> None:
        frame = pl.DataFrame(good_rows()).drop("eligible")
        frame.write_csv(tmp_path / "log.csv", separator=";")
        assert "separated by commas" in refused(tmp_path / "log.csv")

    @pytest.mark.parametrize("kind", KINDS)
    def test_empty_file_and_no_rows(self, tmp_path: Path, kind: str) -> None:
        path = tmp_path / f"log.{kind}"
        path.touch()
        assert "0 bytes" in refused(path)
        assert "no rows" in refused(write(path, pl.DataFrame(good_rows()).clear()))

    def test_parquet_cut_in_half(self, tmp_path: Path) -> None:
        path = write(tmp_path / "log.parquet", good_rows())
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        assert "cut short" in refused(path)

    def test_parquet_with_a_damaged_middle(self, tmp_path: Path) -> None:
        path = write(tmp_path / "log.parquet", good_rows())
        data = bytearray(path.read_bytes())
        data[-400:-8] = bytes(392)
        path.write_bytes(data)
        assert "damaged Parquet file" in refused(path)

    def test_neither_parquet_nor_csv_inside(self, tmp_path: Path) -> None:
        (tmp_path / "log.parquet").write_text("member_id,decided_at\n")
        assert "not a Parquet file" in refused(tmp_path / "log.parquet")
        write(tmp_path / "real.parquet", good_rows()).rename(tmp_path / "log.csv")
        assert "not a CSV file" in refused(tmp_path / "log.csv")

    @pytest.mark.parametrize("column", ["a,a", "member_id,member_id"])
    def test_column_twice(self, tmp_path: Path, column: str) -> None:
        (tmp_path / "log.csv").write_text(f"{column}\n1,2\n")
        assert "stands there twice" in refused(tmp_path / "log.csv")

    def test_naive_parquet_timestamp(self, tmp_path: Path) -> None:
        frame = pl.DataFrame(good_rows()).with_columns(pl.col("decided_at").dt.replace_time_zone(None))
        message = refused(write(tmp_path / "log.parquet", frame))
        assert "'decided_at' is a timestamp without a time zone" in message
        assert "tz_localize" in message

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("member_id", 12.0),
            ("member_id", True),
            ("decided_at", 1_769_846_400),
            ("decided_at", START.date()),
            ("eligible", 3),
            ("eligible", [1, 2]),
            ("action", 2),
            ("propensity", "0.5"),
            ("reward_click", "0.5"),
            ("reward_visit", START),
            ("relevance", [0.5]),
        ],
    )
    def test_wrong_type_in_parquet(self, tmp_path: Path, name: str, value: object) -> None:
        rows = [row | {name: value} for row in good_rows()]
        assert f"column {name!r} has type" in refused(write(tmp_path / "log.parquet", rows))

    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(share=st.floats(0, 1), kind=st.sampled_from(KINDS))
    def test_a_file_cut_anywhere_is_refused_or_loses_its_torn_line_alone(
        self, tmp_path: Path, share: float, kind: str
    ) -> None:
        path = write(tmp_path / f"log.{kind}", good_rows())
        whole = read_log(path, LENIENT)
        data = path.read_bytes()
        path.write_bytes(data[: int(share * len(data))])
        log = read_or_refuse(path)
        if isinstance(log, CheckedLog):
            assert log.rejects.num_rows <= 1
            assert log.rows <= whole.rows
        else:
            assert str(path) in log

    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(data=st.binary(min_size=1), kind=st.sampled_from(KINDS))
    def test_any_bytes_are_refused(self, tmp_path: Path, data: bytes, kind: str) -> None:
        path = tmp_path / f"log.{kind}"
        path.write_bytes(data)
        assert str(path) in refused(path)


def spoil_both() -> list[tuple[str, Row]]:
    return [
        ("member_id is missing", {"member_id": None}),
        ("member_id is missing", {"member_id": " "}),
        ("member_id is a decimal number, not an id: 12.0", {"member_id": "12.0"}),
        ("decided_at is missing", {"decided_at": None}),
        ("decided_at lies outside 1970-2199", {"decided_at": datetime(1969, 12, 31, tzinfo=UTC)}),
        ("decided_at lies outside 1970-2199", {"decided_at": datetime(2201, 1, 1, tzinfo=UTC)}),
        ("eligible is missing", {"eligible": None}),
        ("eligible is empty", {"eligible": []}),
        (
            "eligible names an unknown action; did you mean 'push'?: none|pusch|badge",
            {"eligible": ["none", "pusch", "badge"]},
        ),
        ("eligible names an unknown action", {"eligible": ["none", None]}),
        ("eligible names an action twice: none|push|push", {"eligible": ["none", "push", "push"]}),
        ("eligible lacks 'none', which is always allowed: badge|push", {"eligible": ["badge", "push"]}),
        ("action is missing", {"action": None}),
        ("unknown action: pusch", {"action": "pusch"}),
        ("action is not eligible: push of none|badge", {"action": "push", "eligible": ["none", "badge"]}),
        ("propensity lies outside (0, 1]: 0", {"propensity": 0.0}),
        ("reward_click lies outside [0, 1]", {"reward_click": 1.5}),
        ("reward_click lies outside [0, 1]", {"reward_click": -1.0}),
        ("propensity lies outside (0, 1]: -0.5", {"propensity": -0.5}),
        ("propensity lies outside (0, 1]: 1.5", {"propensity": 1.5}),
        ("propensity lies outside (0, 1]: NaN", {"propensity": math.nan}),
        ("reward_click is infinite: inf", {"reward_click": math.inf}),
        ("reward_visit is infinite: -inf", {"reward_visit": -math.inf}),
        ("relevance is infinite: inf", {"relevance": math.inf}),
    ]


class TestRowsSetAside:
    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize(("reason", "change"), spoil_both())
    def test_with_row_number_and_reason(self, tmp_path: Path, kind: str, reason: str, change: Row) -> None:
        if kind == "csv" and reason.startswith("eligible"):
            # The reject shows the cell as it stands in the file.
            reason = reason.split(":")[0] if None not in (change["eligible"] or []) else "eligible can't be read"
        rows = good_rows()
        rows[4] |= change
        log = read_log(write(tmp_path / f"log.{kind}", rows), LENIENT)
        assert list(rejected(log)) == [5]
        assert rejected(log)[5].startswith(reason)
        assert log.table.num_rows == 11
        assert list(log.reasons.values()) == [1]

    @pytest.mark.parametrize(
        ("name", "cell", "reason"),
        [
            ("decided_at", "2026-01-31T08:00:00", "decided_at has no time zone"),
            ("decided_at", "2026-01-31", "decided_at has no time zone"),
            ("decided_at", "31.01.2026 08:00 UTC", "decided_at is no RFC 3339 time: 31.01.2026"),
            ("decided_at", "2026-02-30T08:00:00Z", "decided_at is no RFC 3339 time"),
            ("decided_at", "1769846400", "decided_at is no RFC 3339 time"),
            ("eligible", "['none', 'push']", "eligible can't be read"),
            ("eligible", '[""none"", 3]'.replace('""', '"'), "eligible can't be read"),
            ("eligible", '["none"', "eligible can't be read"),
            ("eligible", '{"none": 1}', "eligible names an unknown action"),
            ("propensity", "half", "propensity is not a number: half"),
            ("propensity", "0,5", "propensity is not a number"),
            ("reward_click", "yes", "reward_click is not a number: yes"),
            ("reward_visit", "1e999", "reward_visit is infinite"),
            ("relevance", "high", "relevance is not a number: high"),
        ],
    )
    def test_wrong_cell_in_csv(self, tmp_path: Path, name: str, cell: str, reason: str) -> None:
        write(tmp_path / "log.csv", good_rows())
        frame = pl.read_csv(tmp_path / "log.csv", infer_schema=False).with_row_index()
        spoilt = pl.when(pl.col("index") == 4).then(pl.lit(cell)).otherwise(pl.col(name)).alias(name)
        frame.with_columns(spoilt).drop("index").write_csv(tmp_path / "log.csv")
        log = read_log(tmp_path / "log.csv", LENIENT)
        assert list(rejected(log)) == [5]
        assert rejected(log)[5].startswith(reason)

    def test_unparsable_time_in_a_parquet_text_column(self, tmp_path: Path) -> None:
        frame = pl.DataFrame(good_rows()).with_columns(pl.col("decided_at").dt.strftime("%Y-%m-%dT%H:%M:%SZ"))
        rows = frame.to_dicts()
        rows[0]["decided_at"] = "yesterday"
        log = read_log(write(tmp_path / "log.parquet", rows), LENIENT)
        assert rejected(log) == {1: "decided_at is no RFC 3339 time: yesterday"}

    def test_a_time_written_in_a_wrong_unit_does_not_wrap_around(self, tmp_path: Path) -> None:
        table = pl.DataFrame(good_rows(3)).to_arrow()
        nanoseconds_as_ms = pa.array([1_769_846_400_000_000_000, 0, 1], pa.int64()).cast(pa.timestamp("ms", "UTC"))
        pq.write_table(table.set_column(1, "decided_at", nanoseconds_as_ms), tmp_path / "log.parquet")
        log = read_log(tmp_path / "log.parquet", LENIENT)
        assert rejected(log)[1].startswith("decided_at lies outside 1970-2199")

    @pytest.mark.parametrize("kind", KINDS)
    def test_duplicate_member_and_time_keeps_the_first(self, tmp_path: Path, kind: str) -> None:
        rows = [*good_rows(), good_rows()[6] | {"action": "none"}, good_rows()[6] | {"member_id": "m9"}]
        log = read_log(write(tmp_path / f"log.{kind}", rows), LENIENT)
        assert rejected(log) == {13: "duplicate (member, time): first in row 7"}
        assert dict(log.reasons) == {"duplicate (member, time)": 1}
        kept = as_frame(log.table).filter(pl.col("member_id") == "m0", pl.col("decided_at") == rows[6]["decided_at"])
        assert kept["reward_visit"].to_list() == [6.0]

    def test_a_rejected_row_makes_no_duplicate(self, tmp_path: Path) -> None:
        rows = [good_rows()[0] | {"action": "pusch"}, *good_rows()]
        log = read_log(write(tmp_path / "log.parquet", rows), LENIENT)
        assert rejected(log) == {1: "unknown action: pusch"}

    def test_torn_rows_keep_the_numbers_of_the_others(self, tmp_path: Path) -> None:
        lines = write(tmp_path / "log.csv", good_rows()).read_text().splitlines()
        # Header; rows 1-3; a blank line; row 4 torn; rows 5-12; row 13 cut off.
        lines[4] = "m0,2026-01-31T08:00:00Z"
        lines[9] = lines[9].replace("badge", "bagde").replace("push", "puhs")
        lines.insert(4, "")
        lines.append(lines[1][:40])
        (tmp_path / "log.csv").write_text("\n".join(lines))
        log = read_log(tmp_path / "log.csv", LENIENT)
        reasons = rejected(log)
        assert list(reasons) == [4, 9, 13]
        assert reasons[4].startswith("torn row: 2 of 10 fields: 'm0,2026")
        assert reasons[9].startswith("eligible names an unknown action")
        assert reasons[13].startswith("torn row")
        assert log.rows == 13
        assert any("no line end" in note for note in log.notes)

    def test_rejects_file_holds_the_rows_as_text(self, tmp_path: Path) -> None:
        rows = good_rows()
        rows[1] |= {"action": "pusch", "eligible": ["none", "badge"]}
        path = write(tmp_path / "log.parquet", rows)
        read_log(path, LENIENT, tmp_path / "out" / "rejects.csv")
        (row,) = pl.read_csv(tmp_path / "out" / "rejects.csv", infer_schema=False).to_dicts()
        assert row["row"] == "2"
        assert row["reason"] == "unknown action: pusch"
        assert row["action"] == "pusch"
        assert row["eligible"] == '["none", "badge"]'
        assert row["decided_at"].startswith("2026-01-31 15:00:00")
        # A clean import leaves no rejects of an earlier one behind.
        read_log(write(path, good_rows()), LENIENT, tmp_path / "out" / "rejects.csv")
        assert pl.read_csv(tmp_path / "out" / "rejects.csv").height == 0

    def test_a_row_of_any_content_can_be_set_aside(self, tmp_path: Path) -> None:
        frame = pl.DataFrame(good_rows(2)).with_columns(
            pl.lit("pusch").alias("action"),
            pl.Series("day", [2**31 - 1, -(2**31)], dtype=pl.Int32).cast(pl.Date),
            pl.Series("at", [2**63 - 1, 0]).cast(pl.Datetime("ms")),
            pl.Series("lasting", [2**63 - 1, 0]).cast(pl.Duration("us")),
            pl.Series("raw", [b"\xff\x00", None]),
            pl.Series("nested", [{"a": [1, None]}, None]),
            pl.Series("row", ["theirs", "theirs"]),
        )
        path = write(tmp_path / "log.parquet", pl.concat([frame, pl.DataFrame(good_rows())], how="diagonal"))
        log = read_log(path, LENIENT, tmp_path / "rejects.csv")
        first, second = pl.read_csv(tmp_path / "rejects.csv", infer_schema=False).to_dicts()
        assert (first["row"], second["row"]) == ("1", "2")
        assert (first["day"], first["at"], second["at"]) == (str(2**31 - 1), str(2**63 - 1), "1970-01-01 00:00:00.000")
        assert (first["nested"], second["nested"]) == ('{"a": [1, null]}', None)
        assert log.rejects.num_rows == 2

    @pytest.mark.parametrize("kind", KINDS)
    def test_too_many_stop_the_run_and_say_where(self, tmp_path: Path, kind: str) -> None:
        rows = good_rows(100)
        rows[2]["action"] = rows[50]["action"] = "pusch"
        rows[7]["propensity"] = 2.0
        path = write(tmp_path / f"log.{kind}", rows)
        with pytest.raises(LogError) as caught:
            read_log(path, SPEC, tmp_path / "rejects.csv")
        message = str(caught.value)
        assert "3 of 100 rows break the contract (3.0%)" in message
        assert "log.max_reject_share allows 1.0%" in message
        assert "2 x unknown action; first: row 3 (pusch); row 51 (pusch)" in message
        assert "1 x propensity lies outside (0, 1]; first: row 8 (2.0)" in message
        assert str(tmp_path / "rejects.csv") in message
        assert pl.read_csv(tmp_path / "rejects.csv").height == 3

    def test_the_share_itself_is_allowed(self, tmp_path: Path) -> None:
        rows = good_rows(100)
        for row in rows[:29]:
            row["propensity"] = 2.0
        path = write(tmp_path / "log.parquet", rows)
        assert read_log(path, shop_spec(max_reject_share=0.29)).rejects.num_rows == 29
        assert "29 of 100" in refused(path, shop_spec(max_reject_share=0.28))

    def test_no_row_left_stops_the_run_whatever_the_share(self, tmp_path: Path) -> None:
        rows = [row | {"propensity": 2.0} for row in good_rows()]
        assert "12 of 12 rows" in refused(write(tmp_path / "log.parquet", rows), shop_spec(max_reject_share=1.0))


class TestCandidateColumns:
    def test_a_named_category_is_text_even_where_it_looks_like_a_number(self, tmp_path: Path) -> None:
        spec = shop_spec(extra="")
        spec = type(spec)(**{**spec.__dict__, "state": type(spec.state)("s", ("type",), {"type": ("1", "2")})})
        for kind in KINDS:
            rows = [row | {"type": 1} for row in good_rows()]
            log = read_log(write(tmp_path / f"log.{kind}", rows), spec)
            assert log.table.column("type").to_pylist() == ["1"] * 12

    def test_text_in_csv_stays_text(self, tmp_path: Path) -> None:
        rows = good_rows()
        rows[0]["type"] = "7"
        assert read_log(write(tmp_path / "log.csv", rows), SPEC).table.schema.field("type").type == pa.string()


def drop(name: str) -> Callable[[Row], Row]:
    return lambda row: {key: value for key, value in row.items() if key != name}


class TestServedLog:
    @pytest.mark.parametrize("kind", KINDS)
    def test_counters_become_rewards(self, tmp_path: Path, kind: str) -> None:
        log = read_log(write(tmp_path / f"log.{kind}", served_rows()[::-1]), SPEC)
        frame = as_frame(log.table)
        assert frame["reward_click"].to_list() == [1.0, 0.0, 1.0, None] * 2  # clicked or not, however often
        assert frame["reward_visit"].to_list() == [2.0, 3.0, 0.0, None] * 2
        assert frame["reward_volume"].to_list() == [0.0, -2.0, 0.0, -4.0] * 2
        assert frame["successor_missing"].to_list() == [False, False, False, True] * 2
        assert any(note.startswith("rows without a successor") and note.endswith(": 2") for note in log.notes)

    def test_files_drained_from_serving(self, tmp_path: Path) -> None:
        rows = [row | {"reward_volume": -9.0, "cycle_id": "c", "model": "shop/1"} for row in served_rows()]
        untyped = pl.Series("type", [None] * 5, dtype=pl.Float64)
        write(tmp_path / "decisions-1.parquet", rows[:3])
        write(tmp_path / "decisions-2.parquet", pl.DataFrame([drop("sends_24h")(row) for row in rows[3:]]))
        assert "decisions-2.parquet: its columns differ" in refused(tmp_path)
        write(tmp_path / "decisions-1.parquet", [drop("sends_24h")(row) for row in rows[:3]])
        write(
            tmp_path / "decisions-2.parquet",
            pl.DataFrame([drop("sends_24h")(row) for row in rows[3:]]).with_columns(untyped),
        )
        frame = as_frame(read_log(tmp_path, SPEC).table)
        assert frame["reward_visit"].to_list() == [2.0, 3.0, 0.0, None] * 2
        assert frame["reward_volume"].to_list() == [-9.0] * 8
        assert frame["type"].to_list() == ["job"] * 3 + [None] * 5
        assert frame["cycle_id"].to_list() == ["c"] * 8

    @pytest.mark.parametrize("name", ["counter_clicks_total", "counter_visits_total", "sends_24h"])
    def test_a_missing_counter_is_named(self, tmp_path: Path, name: str) -> None:
        message = refused(write(tmp_path / "log.parquet", [drop(name)(row) for row in served_rows()]))
        assert f"missing column {name} or reward_" in message

    def test_a_rejected_row_leaves_its_predecessor_without_reward(self, tmp_path: Path) -> None:
        rows = served_rows()
        rows[2]["action"] = "pusch"
        log = read_log(write(tmp_path / "log.parquet", rows), LENIENT)
        frame = as_frame(log.table).filter(pl.col("member_id") == "a")
        assert frame["reward_visit"].to_list() == [2.0, None, None]
        assert frame["successor_missing"].to_list() == [False, True, True]

    @pytest.mark.parametrize("value", [None, -1, 1.5])
    def test_a_row_without_a_sequence_number_is_set_aside(self, tmp_path: Path, value: float | None) -> None:
        rows = served_rows()
        rows[1]["sequence"] = value
        log = read_log(write(tmp_path / "log.csv", rows), LENIENT)
        assert list(rejected(log)) == [2]
        assert rejected(log)[2].startswith("sequence is no whole number")
