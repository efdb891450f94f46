"""The log writer: a data folder that keeps the log contract, made the same way every time."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from contracts.errors import LogError
from contracts.send_hours import COLUMNS, unpack_hours
from contracts.spec import Spec
from simulator.__main__ import main
from simulator.candidates import PUSH_TYPES, TYPES
from simulator.features import LIVE, WINDOWS
from simulator.log import SimulationReport, simulate
from simulator.members import PROFILE

pytestmark = pytest.mark.unit

MEMBERS, DAYS = 60, 8
FILES = (
    "decisions.parquet",
    *(f"features/member_{table}.parquet" for table in ("activity", "live", "profile")),
    "simulation.json",
)
SPEC_FILE = Path(__file__).parents[2] / "specs" / "notification.yaml"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, spec: Spec) -> tuple[Path, SimulationReport]:
    out = tmp_path_factory.mktemp("simulator") / "data"
    return out, simulate(out, spec, MEMBERS, DAYS, seed=1, progress=False)


@pytest.fixture(scope="module")
def decisions(made: tuple[Path, SimulationReport]) -> pl.DataFrame:
    return pl.read_parquet(made[0] / "decisions.parquet")


@pytest.fixture(scope="module")
def live(made: tuple[Path, SimulationReport]) -> pl.DataFrame:
    return pl.read_parquet(made[0] / "features" / "member_live.parquet")


@pytest.fixture(scope="module")
def activity(made: tuple[Path, SimulationReport]) -> pl.DataFrame:
    return pl.read_parquet(made[0] / "features" / "member_activity.parquet")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_decisions_have_the_contracts_columns_and_types(decisions: pl.DataFrame) -> None:
    assert dict(decisions.schema) == {
        "member_id": pl.String,
        "decided_at": pl.Datetime("us", "UTC"),
        "eligible": pl.List(pl.String),
        "action": pl.String,
        "propensity": pl.Float64,
        "reward_click": pl.Float64,
        "reward_visit": pl.Float64,
        "reward_volume": pl.Float64,
        "type": pl.String,
        "relevance": pl.Float64,
        "age_hours": pl.Float64,
        "notification_id": pl.String,
    }


def test_every_decision_is_lawful(decisions: pl.DataFrame) -> None:
    assert decisions.height == MEMBERS * DAYS * 8
    assert decisions.select("member_id", "decided_at").is_unique().all()
    assert decisions["notification_id"].is_unique().all()
    assert decisions.select(pl.col("action").is_in(pl.col("eligible"))).to_series().all()
    assert decisions["eligible"].list.contains("none").all()
    assert decisions["propensity"].is_between(0, 1, closed="right").all()
    assert set(decisions["action"].unique()) == {"none", "badge", "push"}
    assert set(decisions["type"].unique()) == set(TYPES)
    assert decisions["decided_at"].is_sorted()
    first = decisions["decided_at"].min()
    assert isinstance(first, datetime)
    assert timedelta(0) < first - datetime(2026, 1, 5, tzinfo=UTC) < timedelta(hours=1)
    assert decisions["member_id"].min() == "m000000"


def test_rewards_are_unknown_in_a_members_last_row_and_nowhere_else(decisions: pl.DataFrame) -> None:
    last = pl.col("decided_at") == pl.col("decided_at").max().over("member_id")
    for reward in ("reward_click", "reward_visit"):
        assert decisions.select((pl.col(reward).is_null() == last).all()).item()
    assert decisions["reward_volume"].null_count() == 0


def test_rewards_agree_with_the_counters_at_the_members_next_decision(
    decisions: pl.DataFrame, live: pl.DataFrame
) -> None:
    rows = decisions.join(
        live, left_on=["member_id", "decided_at"], right_on=["member_id", "event_timestamp"], how="left"
    ).sort("member_id", "decided_at")
    assert rows["visits_total"].null_count() == 0
    for reward, counter in (("reward_visit", "visits_total"), ("reward_click", "clicks_total")):
        earned = (pl.col(counter).shift(-1) - pl.col(counter)).over("member_id").cast(pl.Float64)
        assert rows.select((pl.col(reward).eq_missing(earned)).all()).item()
    assert rows["reward_click"].drop_nulls().is_in([0.0, 1.0]).all()
    cost = pl.col("action").replace_strict({"none": 0.0, "badge": -0.3, "push": -1.0})
    sends_24h = sent_before(rows, hours=24)
    off = rows.select((pl.col("reward_volume") - cost * (1.0 + pl.Series(sends_24h))).abs().max()).item()
    assert off < 1e-12


def sent_before(rows: pl.DataFrame, hours: int) -> list[int]:
    """Count each decision's earlier sends of its member in a window; rows by member and time."""
    times = rows["decided_at"].dt.epoch("s").to_list()
    keys = list(zip(rows["member_id"].to_list(), times, rows["action"].to_list(), strict=True))
    sends: dict[str, list[int]] = {}
    counts = []
    for member, time, action in keys:
        counts.append(sum(sent > time - hours * 3600 for sent in sends.get(member, [])))
        if action != "none":
            sends.setdefault(member, []).append(time)
    return counts


def test_last_events_and_hours_of_sends_agree_with_the_log(decisions: pl.DataFrame, live: pl.DataFrame) -> None:
    rows = decisions.join(live, left_on=["member_id", "decided_at"], right_on=["member_id", "event_timestamp"])
    rows = rows.sort("member_id", "decided_at")
    last: dict[str, list[int]] = {}
    for row in rows.iter_rows(named=True):
        sends = last.setdefault(row["member_id"], [])
        now_ms = int(row["decided_at"].timestamp() * 1000)
        assert row["last_send_ms"] == max(row["last_push_ms"], row["last_badge_ms"]) == max(sends, default=0)
        assert (row["visits_total"] > 0) == (row["last_visit_ms"] > 0)
        assert row["last_visit_ms"] < now_ms
        by_hour = np.zeros((1, 24), dtype=np.int64)
        for sent in sends:
            if sent // 3_600_000 > row["last_send_ms"] // 3_600_000 - 24:
                by_hour[0, sent // 3_600_000 % 24] += 1
        np.testing.assert_array_equal(unpack_hours(np.array([[row[name] for name in COLUMNS]])), by_hour)
        if row["action"] != "none":
            sends.append(now_ms)


def test_windows_of_sends_agree_with_the_log(decisions: pl.DataFrame, activity: pl.DataFrame) -> None:
    rows = decisions.join(activity, left_on=["member_id", "decided_at"], right_on=["member_id", "event_timestamp"])
    for mine in rows.partition_by("member_id"):
        times = mine["decided_at"].to_numpy().astype("datetime64[s]").astype(np.int64)
        sent, pushed = (mine["action"] != "none").to_numpy(), (mine["action"] == "push").to_numpy()
        earlier = times[None, :] < times[:, None]
        windows = [(168, "sends_7d", sent), (24, "pushes_24h", pushed)]
        windows += [(168, "badges_7d", sent & ~pushed)]
        of = {kind: (mine["type"] == kind).to_numpy() for kind in TYPES}
        for kind in TYPES:
            windows += [(24, f"sends_24h_{kind}", sent & of[kind]), (168, f"sends_7d_{kind}", sent & of[kind])]
        windows += [(168, f"pushes_7d_{kind}", pushed & of[kind]) for kind in PUSH_TYPES]
        for hours, name, what in windows:
            recent = earlier & (times[None, :] > times[:, None] - hours * 3600)
            np.testing.assert_array_equal(mine[name].to_numpy(), (recent & what).sum(axis=1))


def test_the_feature_tables_have_their_columns_types_and_order(
    made: tuple[Path, SimulationReport], activity: pl.DataFrame, live: pl.DataFrame
) -> None:
    profile = pl.read_parquet(made[0] / "features" / "member_profile.parquet")
    for table, names in ((activity, WINDOWS), (live, LIVE), (profile, PROFILE)):
        assert tuple(table.columns) == ("member_id", "event_timestamp", *names)
        assert table["event_timestamp"].dtype == pl.Datetime("us", "UTC")
        assert table["event_timestamp"].is_sorted()
        for name in names:
            assert table[name].dtype == (pl.Int64 if name in LIVE else pl.Float32)
            assert table[name].null_count() == 0
            assert table[name].is_finite().all()
    assert profile.height == MEMBERS * 2
    assert profile["event_timestamp"].unique().sort().to_list() == [
        datetime(2026, 1, 5, tzinfo=UTC),
        datetime(2026, 1, 12, tzinfo=UTC),
    ]


def test_the_report_says_what_was_written(made: tuple[Path, SimulationReport], decisions: pl.DataFrame) -> None:
    report = made[1]
    assert (report.rows, report.members, report.days) == (decisions.height, MEMBERS, DAYS)
    for action, share in report.action_shares.items():
        assert share == pytest.approx((decisions["action"] == action).mean())
    for reward, mean in report.reward_means.items():
        assert mean == pytest.approx(decisions[f"reward_{reward}"].mean())


def test_the_same_seed_writes_the_same_bytes_and_another_seed_others(
    made: tuple[Path, SimulationReport], tmp_path: Path, spec: Spec
) -> None:
    simulate(tmp_path / "again", spec, MEMBERS, DAYS, seed=1, progress=False)
    simulate(tmp_path / "other", spec, MEMBERS, DAYS, seed=2, progress=False)
    assert contents(tmp_path / "again") == contents(made[0])
    other = contents(tmp_path / "other")
    assert sorted(other) == sorted(FILES)
    assert all(other[name] != data for name, data in contents(made[0]).items())


def test_an_earlier_simulation_is_replaced_and_an_empty_folder_filled(tmp_path: Path, spec: Spec) -> None:
    out = tmp_path / "new" / "data"
    out.mkdir(parents=True)
    simulate(out, spec, 3, 1, seed=0, progress=False)
    before = contents(out)
    simulate(out, spec, 4, 1, seed=0, progress=False)
    assert contents(out)["decisions.parquet"] != before["decisions.parquet"]
    assert json.loads((out / "simulation.json").read_text())["members"] == 4
    assert [path.name for path in out.parent.iterdir()] == ["data"]


@pytest.mark.parametrize("simulated", [False, True])
def test_a_folder_with_anything_else_in_it_is_left_alone(tmp_path: Path, spec: Spec, simulated: bool) -> None:
    out = tmp_path / "data"
    if simulated:
        simulate(out, spec, 3, 1, seed=0, progress=False)
    out.mkdir(exist_ok=True)
    (out / "notes.txt").write_text("mine")
    before = contents(out)
    with pytest.raises(LogError, match=r"notes\.txt.*name a new or an empty folder"):
        simulate(out, spec, 3, 1, seed=0, progress=False)
    assert contents(out) == before


def test_real_data_in_our_layout_is_not_taken_for_a_simulation(tmp_path: Path, spec: Spec) -> None:
    (tmp_path / "decisions.parquet").write_bytes(b"real")
    with pytest.raises(LogError, match=r"decisions\.parquet"):
        simulate(tmp_path, spec, 3, 1, seed=0, progress=False)
    assert (tmp_path / "decisions.parquet").read_bytes() == b"real"


def test_a_file_in_the_way_is_named(tmp_path: Path, spec: Spec) -> None:
    (tmp_path / "data").write_text("")
    with pytest.raises(LogError, match="is a file"):
        simulate(tmp_path / "data", spec, 3, 1, seed=0, progress=False)


def test_what_a_killed_run_left_behind_does_not_matter(tmp_path: Path, spec: Spec) -> None:
    (tmp_path / ".data.partial" / "features").mkdir(parents=True)
    simulate(tmp_path / "data", spec, 3, 1, seed=0, progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


@pytest.mark.parametrize(("members", "days", "seed"), [(0, 1, 0), (1, 0, 0), (1, 1, -1)])
def test_sizes_out_of_range_write_nothing(tmp_path: Path, spec: Spec, members: int, days: int, seed: int) -> None:
    with pytest.raises(ValueError, match="must be"):
        simulate(tmp_path / "data", spec, members, days, seed, progress=False)
    assert list(tmp_path.iterdir()) == []


def test_one_member_for_one_day_is_a_log(tmp_path: Path, spec: Spec) -> None:
    report = simulate(tmp_path / "data", spec, 1, 1, seed=0, progress=False)
    assert report.rows == 8


def test_the_command_writes_a_folder_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "data"
    assert main(["log", "--out", str(out), "--members", "5", "--days", "1", "--spec", str(SPEC_FILE)]) == 0
    assert sorted(contents(out)) == sorted(FILES)
    assert "40 decisions of 5 members over 1 days" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--members", "0"], "--members: '0' is not a whole number from 1 to"),
        (["--days", "0"], "--days: '0' is not a whole number from 1 to"),
        (["--days", "two"], "--days: 'two' is not a whole number"),
        (["--seed", "-1"], "--seed: '-1' is not a whole number from 0"),
    ],
)
def test_wrong_arguments_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["log", "--out", str(tmp_path / "data"), "--spec", str(SPEC_FILE), *arguments])
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err


def test_errors_of_the_run_end_the_command_with_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    assert main(["log", "--out", str(tmp_path), "--spec", str(SPEC_FILE)]) == 1
    assert "error: " in (shown := capsys.readouterr().err)
    assert "notes.txt" in shown
    assert main(["log", "--out", str(tmp_path / "data"), "--spec", str(tmp_path / "none.yaml")]) == 1
    assert "no such spec" in capsys.readouterr().err
