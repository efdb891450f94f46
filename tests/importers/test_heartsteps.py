"""The HeartSteps importer: its rules on a made-up trial, its figures on the real one, and no leak on either."""

from __future__ import annotations

import math
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from contracts.errors import LogError, SpecError
from contracts.settings import CHECKOUT, Workspace
from contracts.spec import Spec, dump_spec, load_spec, parse_spec
from importers.heartsteps import convert, import_heartsteps
from importers.heartsteps_tables import read_heartsteps
from importers.report import ImportReport
from tests.importers.trials import (
    FIRST_DAY,
    daily_rows,
    member_rows,
    real_trial,
    suggestion_rows,
    write_trial,
)

pytestmark = pytest.mark.unit

SPEC = load_spec(CHECKOUT / "specs" / "heartsteps.yaml")
VIEWS = ("heartsteps_profile", "heartsteps_day", "heartsteps_activity", "heartsteps_live")
HALF_HOUR = timedelta(minutes=30)

Tables = dict[str, pl.DataFrame]


def converted(data: Path, out: Path, spec: Spec = SPEC) -> Tables:
    convert(data, out, spec)
    tables = {view: pl.read_parquet(out / "features" / f"{view}.parquet") for view in VIEWS}
    return tables | {"decisions": pl.read_parquet(out / "decisions.parquet")}


def imported(data: Path, root: Path) -> tuple[ImportReport, pl.DataFrame]:
    workspace = Workspace(root)
    report = import_heartsteps(data, SPEC, workspace)
    return report, pl.read_parquet(workspace.log)


class TestDecisions:
    def test_actions_eligible_sets_and_propensities_of_the_design(self, tmp_path: Path) -> None:
        _, log = imported(write_trial(tmp_path / "data"), tmp_path / "var")
        assert log.height == 40
        by_design = {"none": 0.4, "stand": 0.3, "walk": 0.3}
        for row, given in zip(log.iter_rows(named=True), suggestion_rows(), strict=True):
            assert row["action"] == (given["kind"] if given["send"] == "TRUE" else "none")
            available = given["avail"] == "TRUE"
            assert row["eligible"] == (["none", "stand", "walk"] if available else ["none"])
            assert row["propensity"] == (by_design[row["action"]] if available else 1.0)
            assert row["slot"] == given["sugg.select.slot"]
            assert row["decision_index"] == given["decision.index.nogap"]

    def test_rewards_are_differences_of_what_was_known_at_consecutive_decisions(self, tmp_path: Path) -> None:
        _, log = imported(write_trial(tmp_path / "data"), tmp_path / "var")
        one = log.filter(pl.col("member_id") == "1")
        # log(jbsteps30 / 0.5) is 0, 1, 2, 3, 0, 1, ...; all decisions are more than half an hour apart.
        assert one["reward_steps"].to_list()[:-1] == pytest.approx([float(index % 4) for index in range(19)])
        # Day 0's 3 sessions are earned between its last decision and the first one of day 1; day 2 has no figure.
        sessions = [0.0] * 20
        sessions[4], sessions[9], sessions[14] = 3.0, 4.0, 0.0
        assert one["reward_sessions"].to_list() == [*sessions[:-1], None]
        assert one["reward_steps"][-1] is None
        for name in ("log_steps_total", "app_sessions_total"):
            assert one[f"counter_{name}"].is_sorted()

    def test_volume_grows_with_the_sends_of_the_last_day(self, tmp_path: Path) -> None:
        _, log = imported(write_trial(tmp_path / "data"), tmp_path / "var")
        for member in ("1", "2"):
            rows = log.filter(pl.col("member_id") == member).to_dicts()
            for row in rows:
                since = row["decided_at"] - timedelta(hours=24)
                sends = sum(
                    other["action"] != "none" and since < other["decided_at"] < row["decided_at"] for other in rows
                )
                assert row["reward_volume"] == (0.0 if row["action"] == "none" else -1.0 - sends)

    def test_published_columns_go_before_the_label(self, tmp_path: Path) -> None:
        rows = suggestion_rows()
        for row in rows:
            row["send.active"] = "TRUE" if row["send"] == "TRUE" and row["kind"] == "stand" else "FALSE"
            row["send.sedentary"] = "TRUE" if row["send"] == "TRUE" and row["kind"] == "walk" else "FALSE"
        plain = converted(write_trial(tmp_path / "plain"), tmp_path / "a")["decisions"]
        published = converted(write_trial(tmp_path / "published", rows), tmp_path / "b")["decisions"]
        swapped = plain["action"].replace({"stand": "walk", "walk": "stand"})
        assert published["action"].to_list() == swapped.to_list()

    def test_a_missing_time_and_a_slip_of_the_date_take_the_scheduled_time(self, tmp_path: Path) -> None:
        rows = suggestion_rows()
        rows[0]["sugg.decision.utime"] = None
        rows[7]["sugg.decision.utime"] = f"{FIRST_DAY - timedelta(days=1)} 19:01:30"
        report, log = imported(write_trial(tmp_path / "data", rows), tmp_path / "var")
        one = log.filter(pl.col("member_id") == "1")
        assert f"{one['decided_at'][0]:%Y-%m-%d %H:%M:%S}" == rows[0]["sugg.select.utime"]
        assert f"{one['decided_at'][7]:%Y-%m-%d %H:%M:%S}" == rows[7]["sugg.select.utime"]
        assert sum("the scheduled time counts" in note for note in report.log.notes) == 2

    def test_order_is_by_time(self, tmp_path: Path) -> None:
        rows = suggestion_rows()
        rows[3]["sugg.decision.utime"] = f"{FIRST_DAY} 18:00:00"
        report, log = imported(write_trial(tmp_path / "data", rows), tmp_path / "var")
        one = log.filter(pl.col("member_id") == "1")
        assert one["decision_index"].to_list()[:5] == [0, 1, 3, 2, 4]
        assert one["sequence"].to_list() == list(range(20))
        assert any(
            note == "decision points before the one of the lower index (order is by time): 1"
            for note in report.log.notes
        )

    def test_two_decisions_at_one_moment_leave_one(self, tmp_path: Path) -> None:
        rows = suggestion_rows() * 1
        rows[3]["sugg.decision.utime"] = rows[2]["sugg.decision.utime"]
        spec = parse_spec(dump_spec(SPEC).replace("max_reject_share: 0.01", "max_reject_share: 0.1"), "lenient.yaml")
        report = import_heartsteps(write_trial(tmp_path / "data", rows), spec, Workspace(tmp_path / "var"))
        assert dict(report.log.reasons) == {"duplicate (member, time)": 1}
        rejects = pl.read_csv(tmp_path / "var" / "log" / "rejects.csv")
        assert rejects["row"].to_list() == [4]

    def test_an_outcome_counts_half_an_hour_later(self, tmp_path: Path) -> None:
        rows = suggestion_rows()
        rows[2]["sugg.decision.utime"] = f"{FIRST_DAY} 17:10:00"
        activity = converted(write_trial(tmp_path / "data", rows), tmp_path / "out")["heartsteps_activity"]
        one = activity.filter(pl.col("member_id") == "1").sort("event_timestamp")
        # Decision 1 (17:01:30, outcome 1) is not known at 17:10; decision 2 (outcome 2) comes with it at 22:01:30.
        assert one["log_steps_total"].to_list()[:4] == pytest.approx([0.0, 0.0, 0.0, 3.0])


class TestFeatures:
    def test_profile(self, tmp_path: Path) -> None:
        profile = converted(write_trial(tmp_path / "data"), tmp_path / "out")["heartsteps_profile"]
        first, second = profile.sort("member_id").to_dicts()
        assert (first["is_female"], second["is_female"], first["age"]) == (1, 0, 31.0)
        assert (first["uses_fitness_app"], first["uses_fitness_tracker"]) == (1, 0)
        assert (first["sitting_hours"], second["sitting_hours"]) == (10.0, 20.0)
        assert first["walking_activity_log"] == pytest.approx(math.log(100.5))
        assert first["moderate_activity_log"] is None

    def test_intake_is_known_at_the_first_decision(self, tmp_path: Path) -> None:
        rows = member_rows()
        rows[0]["first.notif.utime"] = f"{FIRST_DAY} 18:00:00"
        tables = converted(write_trial(tmp_path / "data", members=rows), tmp_path / "out")
        first = tables["decisions"].group_by("member_id").agg(pl.col("decided_at").min())
        joined = tables["heartsteps_profile"].join(first, on="member_id")
        assert joined.filter(pl.col("event_timestamp") <= pl.col("decided_at")).height == 2

    def test_day(self, tmp_path: Path) -> None:
        day = converted(write_trial(tmp_path / "data"), tmp_path / "out")["heartsteps_day"]
        rows = day.filter(pl.col("member_id") == "1").sort("event_timestamp").to_dicts()
        assert [row["day_was_clear"] for row in rows] == [1, 0, None, 0]
        assert [row["day_was_wet"] for row in rows] == [0, 1, None, 0]
        assert [row["day_was_cloudy"] for row in rows] == [0, 0, None, 1]
        assert [row["day_temperature_celsius"] for row in rows] == [10.0, 11.0, None, 13.0]
        assert rows[1]["day_steps_log"] == pytest.approx(math.log(1001))
        assert rows[3]["day_steps_log"] == pytest.approx(math.log(6001))
        assert [row["day_typical"] for row in rows] == [None] * 4
        # Midnight in Hawaii comes before the first decision of the next day, 13:01:30.
        assert {row["event_timestamp"].hour for row in rows} == {10}

    def test_a_day_is_known_at_the_next_days_first_decision_however_early(self, tmp_path: Path) -> None:
        rows = suggestion_rows()
        rows[5] |= {
            "sugg.select.utime": f"{FIRST_DAY + timedelta(days=1)} 09:00:00",
            "sugg.decision.utime": f"{FIRST_DAY + timedelta(days=1)} 09:01:30",
        }
        tables = converted(write_trial(tmp_path / "data", rows), tmp_path / "out")
        day = tables["heartsteps_day"].filter(pl.col("member_id") == "1").sort("event_timestamp")
        assert f"{day['event_timestamp'][0]:%d %H:%M:%S}" == "21 09:01:30"
        one = tables["decisions"].filter(pl.col("member_id") == "1")
        assert one["counter_app_sessions_total"].to_list()[4:6] == [0.0, 3.0]

    def test_a_decision_deep_in_the_night_still_precedes_its_days_figures(self, tmp_path: Path) -> None:
        rows = suggestion_rows()
        night = FIRST_DAY + timedelta(days=1)
        rows[4] |= {"sugg.select.utime": f"{night} 11:00:00", "sugg.decision.utime": f"{night} 11:01:30"}
        tables = converted(write_trial(tmp_path / "data", rows), tmp_path / "out")
        day = tables["heartsteps_day"].filter(pl.col("member_id") == "1").sort("event_timestamp")
        assert f"{day['event_timestamp'][0]:%d %H:%M:%S.%f}" == "21 11:01:30.000001"

    def test_days_left_out_for_travel_do_not_count_as_sessions(self, tmp_path: Path) -> None:
        rows = daily_rows()
        rows[1] |= {"study.day.nogap": None, "travel": "TRUE"}
        suggestions = [row for row in suggestion_rows() if (row["user"], row["study.day.nogap"]) != (1, 1)]
        tables = converted(write_trial(tmp_path / "data", suggestions, rows), tmp_path / "out")
        one = tables["decisions"].filter(pl.col("member_id") == "1")
        assert one["counter_app_sessions_total"].max() == 3.0
        assert tables["heartsteps_day"].height == 8


def brute_force(trial_points: list[dict[str, Any]], at: datetime) -> dict[str, float | None]:
    """Compute features of a person at a moment from the definitions, one decision after the other."""
    past = [point for point in trial_points if point["decided_at"] < at]
    outcomes = [
        (math.log(max(point["jbsteps30"], 0.5) / 0.5), point["action"] != "none")
        for point in past
        if point["decided_at"] + HALF_HOUR <= at
    ]
    sends = [point["decided_at"] for point in past if point["action"] != "none"]
    recent = [point["avail"] for point in past if point["decided_at"] > at - timedelta(days=3)]
    after_send = [outcome for outcome, sent in outcomes if sent]
    return {
        "log_steps_total": math.fsum(outcome for outcome, _ in outcomes),
        "steps_last_log": outcomes[-1][0] if outcomes else None,
        "steps_mean_log": math.fsum(outcome for outcome, _ in outcomes) / len(outcomes) if outcomes else None,
        "steps_after_send_mean_log": math.fsum(after_send) / len(after_send) if after_send else None,
        "sends_24h": sum(send > at - timedelta(hours=24) for send in sends),
        "sends_3d": sum(send > at - timedelta(days=3) for send in sends),
        "walks_3d": sum(p["action"] == "walk" and p["decided_at"] > at - timedelta(days=3) for p in past),
        "hours_since_send": min((at - sends[-1]).total_seconds() / 3600, 168.0) if sends else None,
        "available_share_3d": sum(recent) / len(recent) if recent else None,
    }


@pytest.fixture(scope="module")
def data() -> Path:
    return real_trial()


@pytest.fixture(scope="module")
def tables(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Tables:
    return converted(data, tmp_path_factory.mktemp("heartsteps"))


class TestRealTrial:
    def test_every_decision_point_arrives(self, data: Path, tmp_path: Path) -> None:
        report, log = imported(data, tmp_path / "var")
        assert (log.height, report.log.rejected, report.members) == (7540, 0, 37)
        assert {table.name: table.rows for table in report.features} == {
            "heartsteps_activity": 7540,
            "heartsteps_day": 1686,
            "heartsteps_live": 7540,
            "heartsteps_profile": 37,
        }
        assert log.filter(pl.col("eligible").list.len() == 1).height == 1479
        counts = dict(log["action"].value_counts().iter_rows())
        assert counts == {"none": 3946, "stand": 1805, "walk": 1789}
        assert log["successor_missing"].sum() == 37
        assert log["counter_reset"].sum() == 0
        for name in ("steps", "sessions"):
            assert log[f"reward_{name}"].null_count() == 37
            assert log[f"reward_{name}"].min() == 0.0
        assert (log["decided_at"].diff().dt.total_seconds() > 0).filter(log["sequence"] > 0).all()

    def test_counters_of_the_log_are_the_features_as_of_the_decision(self, tables: Tables) -> None:
        decisions = tables["decisions"].sort("decided_at")
        for view, name in (("heartsteps_activity", "log_steps_total"), ("heartsteps_live", "app_sessions_total")):
            joined = decisions.join_asof(
                tables[view].sort("event_timestamp"),
                left_on="decided_at",
                right_on="event_timestamp",
                by="member_id",
                check_sortedness=False,
            )
            assert joined[name].to_list() == joined[f"counter_{name}"].to_list()

    @pytest.mark.parametrize("member", ["4", "13", "36"])
    def test_activity_follows_its_definitions(self, data: Path, tables: Tables, member: str) -> None:
        points = read_heartsteps(data).points.filter(pl.col("member_id") == member).sort("decided_at")
        rows = points.to_dicts()
        activity, live = (
            tables[view].filter(pl.col("member_id") == member).sort("event_timestamp")
            for view in ("heartsteps_activity", "heartsteps_live")
        )
        since_send = pl.col("event_timestamp").dt.epoch("ms") - pl.col("last_send_ms")
        activity = activity.with_columns(
            live.select((since_send / 3_600_000.0).clip(upper_bound=168.0).alias("hours_since_send")).to_series()
        )
        expected = pl.DataFrame([brute_force(rows, point["decided_at"]) for point in rows], infer_schema_length=None)
        assert_frame_equal(activity.select(expected.columns), expected, check_dtypes=False, abs_tol=1e-9)

    def test_features_hold_nothing_infinite(self, tables: Tables) -> None:
        for view in VIEWS:
            numbers = tables[view].select(pl.selectors.float())
            assert not numbers.select(pl.any_horizontal(pl.all().is_infinite().any() | pl.all().is_nan().any())).item()

    def test_names_of_features_are_distinct(self, tables: Tables) -> None:
        names = [name for view in VIEWS for name in tables[view].columns[2:]]
        assert len(names) == len(set(names)) == 38


class Trial:
    """A trial that can be spoilt in one place and converted again."""

    def __init__(self, data: Path, root: Path) -> None:
        self.data, self.root, self.runs = data, root, 0
        self.points = read_heartsteps(data).points
        self.tables = converted(data, root / "original")

    def converted_with(self, file: str, row: int, changes: dict[str, str]) -> Tables:
        self.runs += 1
        folder = self.root / f"data-{self.runs}"
        folder.mkdir()
        for name in ("suggestions.csv", "daily.csv", "members.csv"):
            frame = pl.read_csv(self.data / name, infer_schema=False).with_row_index("row")
            if name == file:
                here = pl.col("row") == row
                frame = frame.with_columns(
                    pl.when(here).then(pl.lit(value)).otherwise(pl.col(column)).alias(column)
                    for column, value in changes.items()
                )
            frame.drop("row").write_csv(folder / name)
        return converted(folder, self.root / f"out-{self.runs}")

    def assert_unchanged_until(self, tables: Tables, member: str, moment: datetime, *, itself: bool) -> None:
        """No feature row known by ``moment`` differs, nor a counter read by then; of others, none ever."""
        for view in VIEWS:
            known = (pl.col("event_timestamp") <= moment) | (pl.col("member_id") != member)
            order = ["member_id", "event_timestamp"]
            assert_frame_equal(tables[view].filter(known).sort(order), self.tables[view].filter(known).sort(order))
        counters = ["member_id", "decided_at", "counter_log_steps_total", "counter_app_sessions_total"]
        known = (pl.col("decided_at") <= moment) | (pl.col("member_id") != member)
        before, after = (part["decisions"].filter(known).select(counters) for part in (self.tables, tables))
        assert_frame_equal(after, before)
        changed = any(not tables[view].equals(self.tables[view]) for view in VIEWS)
        assert changed == itself


@pytest.fixture(scope="module", params=["made-up", "real"])
def trial(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trial:
    root = tmp_path_factory.mktemp("leak")
    return Trial(real_trial() if request.param == "real" else write_trial(root / "data"), root)


class TestNoLeak:
    @pytest.mark.parametrize("share", [0.0, 0.31, 0.62, 0.9])
    def test_a_days_figures_are_unknown_during_the_day(self, trial: Trial, share: float) -> None:
        days = pl.read_csv(trial.data / "daily.csv", infer_schema=False)
        row = int(share * days.height)
        member, day = days["user.index"][row], float(days["study.day.nogap"][row])
        figures = dict.fromkeys(("hectic", "stressful", "typical", "energetic"), "9")
        figures |= dict.fromkeys(("jbsteps.direct", "jbsteps.agg", "gfsteps", "app.sessions", "app.secs"), "777")
        figures |= {"weather.condition": "Snow", "temperature": "-20", "weekday": "FALSE", "travel": "TRUE"}
        tables = trial.converted_with("daily.csv", row, figures)
        of_the_day = trial.points.filter((pl.col("member_id") == member) & (pl.col("study.day.nogap") == day))
        last = of_the_day["decided_at"].max()
        assert isinstance(last, datetime)
        trial.assert_unchanged_until(tables, member, last, itself=True)

    @pytest.mark.parametrize("share", [0.0, 0.31, 0.62, 0.9])
    def test_an_outcome_is_unknown_at_its_own_decision(self, trial: Trial, share: float) -> None:
        row = int(share * trial.points.height)
        member, moment = trial.points["member_id"][row], trial.points["decided_at"][row]
        tables = trial.converted_with("suggestions.csv", row, {"jbsteps30": "4321.5"})
        trial.assert_unchanged_until(tables, member, moment + HALF_HOUR - timedelta(seconds=1), itself=True)

    @pytest.mark.parametrize("share", [0.0, 0.31, 0.62, 0.9])
    def test_an_action_is_unknown_at_its_own_decision(self, trial: Trial, share: float) -> None:
        row = int(share * trial.points.height)
        member, moment = trial.points["member_id"][row], trial.points["decided_at"][row]
        other = {"avail": "TRUE", "send": "TRUE", "kind": "walk"}
        if trial.points["action"][row] == "walk":
            other = {"avail": "FALSE", "send": "FALSE", "kind": ""}
        tables = trial.converted_with("suggestions.csv", row, other)
        trial.assert_unchanged_until(tables, member, moment, itself=True)


class TestBadInput:
    @pytest.mark.parametrize("name", ["suggestions.csv", "daily.csv", "members.csv"])
    def test_missing_and_empty_files(self, tmp_path: Path, name: str) -> None:
        data = write_trial(tmp_path / "data")
        (data / name).write_bytes(b"")
        with pytest.raises(LogError, match=f"{name}: the file is empty"):
            import_heartsteps(data, SPEC, Workspace(tmp_path / "var"))
        (data / name).unlink()
        with pytest.raises(LogError, match=f"no {name}; a HeartSteps folder holds"):
            import_heartsteps(data, SPEC, Workspace(tmp_path / "var"))

    @pytest.mark.parametrize(
        ("name", "column"), [("suggestions", "avail"), ("suggestions", "kind"), ("daily", "hectic"), ("members", "age")]
    )
    def test_missing_column(self, tmp_path: Path, name: str, column: str) -> None:
        data = write_trial(tmp_path / "data")
        pl.read_csv(data / f"{name}.csv").drop(column).write_csv(data / f"{name}.csv")
        with pytest.raises(LogError, match=rf"{name}\.csv: missing column '{column}'"):
            import_heartsteps(data, SPEC, Workspace(tmp_path / "var"))

    @pytest.mark.parametrize(
        ("column", "value", "kind"),
        [
            ("avail", "maybe", "flag"),
            ("jbsteps30", "many", "number"),
            ("jbsteps30", "inf", "number"),
            ("sugg.decision.utime", "2015-07-32 10:00:00", "time"),
        ],
    )
    def test_wrong_cell(self, tmp_path: Path, column: str, value: str, kind: str) -> None:
        rows = suggestion_rows()
        rows[6][column] = value
        data = write_trial(tmp_path / "data", [{key: str(cell) for key, cell in row.items()} for row in rows])
        text = (data / "suggestions.csv").read_text().replace("None", "NA")
        (data / "suggestions.csv").write_text(text)
        with pytest.raises(LogError, match=rf"suggestions\.csv: row 7: {column} = '{value}' is no {kind}"):
            import_heartsteps(data, SPEC, Workspace(tmp_path / "var"))

    def test_a_file_cut_in_half(self, tmp_path: Path) -> None:
        data = write_trial(tmp_path / "data")
        text = (data / "suggestions.csv").read_text()
        (data / "suggestions.csv").write_text(text[: len(text) // 2])
        with pytest.raises(LogError, match=r"suggestions\.csv: row 20: torn row"):
            import_heartsteps(data, SPEC, Workspace(tmp_path / "var"))

    def test_rejects_are_numbered_as_in_the_file(self, tmp_path: Path) -> None:
        rows = suggestion_rows()
        rows[30] |= {"send": "TRUE", "avail": "TRUE", "kind": "run"}
        with pytest.raises(LogError) as caught:
            import_heartsteps(write_trial(tmp_path / "data", rows), SPEC, Workspace(tmp_path / "var"))
        assert "1 x unknown action; first: row 31 (run)" in str(caught.value)
        assert str(tmp_path / "data") in str(caught.value)

    def test_a_penalty_that_grows_with_no_feature(self, tmp_path: Path) -> None:
        spec = parse_spec(dump_spec(SPEC).replace("grows_with: sends_24h", "grows_with: sends_24"), "s.yaml")
        with pytest.raises(SpecError, match="did you mean 'sends_24h'"):
            import_heartsteps(write_trial(tmp_path / "data"), spec, Workspace(tmp_path / "var"))

    def test_a_counter_that_the_trial_lacks(self, tmp_path: Path) -> None:
        spec = parse_spec(dump_spec(SPEC).replace("feature: log_steps_total", "feature: steps_total"), "s.yaml")
        with pytest.raises(LogError, match="counter_steps_total or reward_steps; did you mean"):
            import_heartsteps(write_trial(tmp_path / "data"), spec, Workspace(tmp_path / "var"))
