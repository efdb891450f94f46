"""Each rule catches the defect that it is for, and names the table, the column and the rows."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from contracts.errors import GateError
from tests.validation.tables import (
    START,
    Columns,
    good_log,
    good_profile,
    good_usage,
    put,
    settings_in,
    shop,
    spoil,
    write,
)
from validation.gate import ROWS_SHOWN, validate
from validation.report import Failure, GateReport

pytestmark = pytest.mark.unit

LOG, PROFILE, USAGE = "log/decisions", "features/profile", "features/usage"


def found(report: GateReport, table: str, column: str, rule: str) -> Failure:
    """Return the one failure on ``column`` of ``table`` whose rule holds the words ``rule``."""
    matches = [
        failure
        for failure in report.failed
        if (failure.table, failure.column) == (table, column) and rule in failure.rule
    ]
    assert len(matches) == 1, "\n".join(map(str, report.failed))
    return matches[0]


def case(column: str, rule: str, *rows: int) -> Any:
    return pytest.param(column, rule, rows, id=f"{column}: {rule}")


def test_good_tables_pass_without_a_warning(good_report: GateReport) -> None:
    assert good_report.passed
    assert good_report.failed == ()
    assert good_report.tables == (LOG, PROFILE, USAGE, "members")
    good_report.raise_if_failed()


@pytest.fixture(scope="module")
def bad_log(tmp_path_factory: pytest.TempPathFactory) -> GateReport:
    log = spoil(
        good_log(),
        put("member_id", 2, None),
        put("member_id", 4, ""),
        put("decided_at", 6, None),
        put("decided_at", 14, good_log()["decided_at"][12]),
        put("decided_at", 20, START),
        put("action", 25, "fax"),
        put("action", 27, None),
        put("eligible", 30, []),
        put("eligible", 31, ["hold", "fax", "e-mail", "call"]),
        put("eligible", 33, None),
        put("eligible", 34, ["e-mail", "call"]),
        put("action", 34, "e-mail"),
        put("eligible", 36, ["hold"]),
        put("action", 36, "call"),
        put("propensity", 38, 0.0),
        put("propensity", 39, 1.5),
        put("propensity", 40, math.nan),
        put("reward_orders", 42, math.inf),
        put("reward_answer", 43, math.nan),
        put("reward_cost", 44, 0.5),
        put("score", 46, -math.inf),
    )
    settings = settings_in(tmp_path_factory.mktemp("bad_log"))
    write(settings, log=log)
    return validate(shop(), settings, "log")


@pytest.mark.parametrize(
    ("column", "rule", "rows"),
    [
        case("member_id", "never null", 2),
        case("member_id", "characters", 4),
        case("decided_at", "never null", 6),
        case("member_id, decided_at", "one row at one", 13, 14),
        case("decided_at", "in order of time", 14, 20),
        case("action", "one of hold", 25),
        case("action", "never null", 27),
        case("eligible", "never empty", 30, 31),
        case("eligible", "never null", 33),
        case("eligible", "hold is always eligible", 30, 34),
        case("action, eligible", "was eligible", 25, 30, 36),
        case("propensity", "(0, 1]", 38, 39, 40),
        case("reward_orders", "finite", 42),
        case("reward_answer", "finite", 43),
        case("reward_cost", "never above 0", 44),
        case("score", "finite", 46),
    ],
)
def test_critical_rules_of_the_log(bad_log: GateReport, column: str, rule: str, rows: tuple[int, ...]) -> None:
    failure = found(bad_log, LOG, column, rule)
    assert failure.rows == rows
    assert failure.unexpected_count == len(rows)
    assert failure.severity == "critical"
    assert not bad_log.passed


def test_a_failure_shows_what_is_stored_in_the_row(bad_log: GateReport) -> None:
    assert found(bad_log, LOG, "propensity", "(0, 1]").values == (
        "member_id=m0003 decided_at=2025-03-01T08:03:00+00:00 propensity=0",
        "member_id=m0003 decided_at=2025-03-01T16:03:00+00:00 propensity=1.5",
        "member_id=m0003 decided_at=2025-03-02T00:03:00+00:00 propensity=nan",
    )
    assert found(bad_log, LOG, "action, eligible", "was eligible").values[2].endswith("action=call eligible=[hold]")
    assert "decided_at=null" in found(bad_log, LOG, "decided_at", "never null").values[0]


def test_the_error_names_expectation_rows_values_and_docs(bad_log: GateReport) -> None:
    with pytest.raises(GateError) as error:
        bad_log.raise_if_failed()
    text = str(error.value)
    assert "validation of shop: 16 critical expectations failed" in text
    assert "log/decisions: propensity lies in (0, 1]" in text
    assert "expect_column_values_to_be_between, column propensity" in text
    assert "row 39: member_id=m0003 decided_at=2025-03-01T16:03:00+00:00 propensity=1.5" in text
    assert str(bad_log.docs) in text
    assert bad_log.docs.is_file()


@pytest.fixture(scope="module")
def bad_features(tmp_path_factory: pytest.TempPathFactory) -> GateReport:
    usage = spoil(
        good_usage(),
        put("member_id", 3, None),
        put("event_timestamp", 5, None),
        put("event_timestamp", 13, good_usage()["event_timestamp"][6]),
        put("visits_7d", 20, math.inf),
        put("visits_7d", 21, math.nan),
        # Member m0005's rows are 6, 12, 18, ...: the counter falls in 36, and is not known in 48.
        put("orders_total", 36, 1.0),
        put("orders_total", 48, None),
    )
    settings = settings_in(tmp_path_factory.mktemp("bad_features"))
    write(settings, usage=usage)
    return validate(shop(), settings, "features")


@pytest.mark.parametrize(
    ("column", "rule", "rows"),
    [
        case("member_id", "never null", 3),
        case("event_timestamp", "never null", 5),
        case("member_id, event_timestamp", "one row at one", 7, 13),
        case("visits_7d", "finite", 20, 21),
        case("orders_total", "never decreases", 36),
    ],
)
def test_critical_rules_of_a_feature_table(
    bad_features: GateReport, column: str, rule: str, rows: tuple[int, ...]
) -> None:
    failure = found(bad_features, USAGE, column, rule)
    assert failure.rows == rows
    assert failure.unexpected_count == len(rows)
    assert failure.severity == "critical"


def test_a_defect_stays_with_its_table(bad_features: GateReport) -> None:
    assert bad_features.tables == (PROFILE, USAGE, "members")
    assert {failure.table for failure in bad_features.failed} == {USAGE}


def drop(column: str) -> Callable[[Columns], None]:
    def defect(columns: Columns) -> None:
        del columns[column]

    return defect


def test_missing_columns_and_wrong_types_are_named_once(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    log = spoil(good_log(), drop("propensity"), drop("score"), put("action", 3, "e-mail"))
    log |= {"eligible": ["hold"] * len(log["action"]), "reward_orders": ["1"] * len(log["action"])}
    profile = spoil(good_profile(), drop("tenure"))
    types = {
        "decided_at": pa.timestamp("us"),
        "eligible": pa.string(),
        "reward_orders": pa.string(),
        "age": pa.bool_(),
        "member_id": pa.large_string(),
    }
    log["decided_at"] = [time.replace(tzinfo=None) for time in log["decided_at"]]
    profile["age"] = [True] * len(profile["age"])
    write(settings, log=log, profile=profile, types=types)
    report = validate(shop(), settings)
    assert {(failure.table, failure.column, failure.rule) for failure in report.critical} == {
        (LOG, "propensity", "column propensity exists"),
        (LOG, "score", "column score exists"),
        (LOG, "decided_at", "decided_at is a timestamp with time zone UTC"),
        (LOG, "eligible", "eligible is a list of action names"),
        (LOG, "reward_orders", "reward_orders is a number"),
        (PROFILE, "tenure", "column tenure exists"),
        (PROFILE, "age", "age is a number"),
    }
    assert found(report, LOG, "decided_at", "timestamp").values == ("stored as timestamp[us]",)
    assert found(report, PROFILE, "age", "number").values == ("stored as bool",)


def test_empty_tables_fail_for_having_no_rows(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    empty_log: Columns = {name: [] for name in good_log()}
    empty_usage: Columns = {name: [] for name in good_usage()}
    write(settings, log=empty_log, usage=empty_usage)
    report = validate(shop(), settings)
    assert {(failure.table, failure.rule) for failure in report.critical} == {
        (LOG, "the table has rows"),
        (USAGE, "the table has rows"),
    }


@pytest.fixture(scope="module")
def odd_report(tmp_path_factory: pytest.TempPathFactory) -> GateReport:
    """Tables in which much is odd and nothing wrong. A z-score of 50 takes a few thousand rows."""
    members, steps = 30, 100
    log = spoil(
        good_log(members, steps),
        put("reward_answer", 3, 1.2),
        put("reward_cost", 4, -7.0),
        put("reward_orders", 5, -1.0),
        put("reward_orders", 6, 1e9),
        put("kind", 8, "advert"),
    )
    log["action"] = ["hold" if action == "call" else action for action in log["action"]]
    log["score"] = [value if row % 3 == 0 else None for row, value in enumerate(log["score"])]
    log["reward_answer"] = [value if row % 4 else None for row, value in enumerate(log["reward_answer"])]
    for values in log.values():
        values.append(values[-1])
    log["member_id"][-1] = "newcomer"
    profile = good_profile(members)
    profile["event_timestamp"] = [int(time.timestamp()) * 1_000_000 for time in profile["event_timestamp"]]
    profile["event_timestamp"][1] *= 1_000
    profile["tenure"] = [1.0] * members
    profile["age"] = [None] * (members - 2) + [40.0, 41.0]
    settings = settings_in(tmp_path_factory.mktemp("odd"))
    write(settings, log=log, profile=profile, usage=good_usage(members, steps))
    return validate(shop(), settings)


@pytest.mark.parametrize(
    ("table", "column", "rule", "rows"),
    [
        (LOG, "action", "every action of the spec", ()),
        (LOG, "reward_answer", "known in 80%", ()),
        (LOG, "reward_answer", "in [0, 1]", (3,)),
        (LOG, "reward_cost", "at least -1", (4,)),
        (LOG, "reward_orders", "not negative", (5,)),
        (LOG, "reward_orders", "standard deviations", (6,)),
        (LOG, "kind", "one of the spec's categories", (8,)),
        (LOG, "score", "known in 50%", ()),
        (LOG, "decisions", "two decisions or more", ()),
        (PROFILE, "event_timestamp", "7 days after", (2,)),
        (PROFILE, "age", "known in 50%", ()),
        (PROFILE, "tenure", "not constant", ()),
        (PROFILE, "member_id", "every member of the log", ()),
        (USAGE, "member_id", "every member of the log", ()),
    ],
)
def test_warnings_are_shown_and_stop_nothing(
    odd_report: GateReport, table: str, column: str, rule: str, rows: tuple[int, ...]
) -> None:
    failure = found(odd_report, table, column, rule)
    assert failure.severity == "warning"
    assert failure.rows == rows
    assert odd_report.passed
    assert odd_report.critical == ()
    assert len(odd_report.warnings) == 14
    odd_report.raise_if_failed()


def test_members_without_features_are_named(odd_report: GateReport) -> None:
    assert found(odd_report, USAGE, "member_id", "every member").values == ("member_id=newcomer",)
    assert found(odd_report, LOG, "decisions", "two decisions").values == ("member_id=newcomer decisions=1",)


def test_a_time_in_a_wrong_unit_is_shown_though_no_date_of_python_is_so_late(
    odd_report: GateReport,
) -> None:
    (value,) = found(odd_report, PROFILE, "event_timestamp", "7 days after").values
    assert value.startswith("member_id=m0001 event_timestamp=57")


def test_of_many_unexpected_rows_the_first_are_named_and_all_are_counted(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    log = good_log()
    log["propensity"] = [2.0] * len(log["propensity"])
    write(settings, log=log)
    failure = found(validate(shop(), settings, "log"), LOG, "propensity", "(0, 1]")
    assert failure.unexpected_count == len(log["propensity"])
    assert failure.rows == tuple(range(1, ROWS_SHOWN + 1))
