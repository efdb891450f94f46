"""Importing a data folder that keeps the contract, and one that does not."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from contracts.errors import LogError
from contracts.settings import CHECKOUT, Workspace
from contracts.spec import Spec, dump_spec, load_spec, parse_spec
from importers.contract import import_folder
from tests.contracts.logs import KINDS, SPEC_TEXT, START, good_rows, shop_spec, write

pytestmark = pytest.mark.unit

TABLES = """
name: shop
actions: [none, badge, push]
state:
  feature_service: shop_state_v1
  candidate: [type, relevance]
  tables: {activity: {features: [visits]}}
rewards: {visit: {kind: counter, feature: visits}}
quantiles: [0.1, 0.9]
prompt: {visit: 0.7}
"""


def shop_with_tables() -> Spec:
    return parse_spec(TABLES, "shop.yaml")


def log_rows() -> list[dict[str, Any]]:
    return [{key: row[key] for key in row if key not in ("reward_click", "reward_volume")} for row in good_rows()]


def feature_rows(members: tuple[str, ...] = ("m0", "m1", "m2")) -> list[dict[str, Any]]:
    return [{"member_id": member, "event_timestamp": START, "visits": 1.0} for member in members]


def data_folder(root: Path, kind: str = "parquet") -> Path:
    write(root / f"decisions.{kind}", log_rows())
    write(root / "features" / f"activity.{kind}", feature_rows())
    write(root / "features" / f"profile.{kind}", feature_rows())
    return root


@pytest.mark.parametrize("kind", KINDS)
def test_clean_copies_arrive_in_the_workspace(tmp_path: Path, kind: str) -> None:
    spec, workspace = shop_with_tables(), Workspace(tmp_path / "var" / "shop")
    report = import_folder(data_folder(tmp_path / "data", kind), spec, workspace, notes=["taken as it was"])
    log = pl.read_parquet(workspace.log)
    assert_frame_equal(log, pl.DataFrame(log_rows()).sort("member_id", "decided_at"), check_column_order=False)
    assert sorted(path.name for path in workspace.features.iterdir()) == ["activity.parquet", "profile.parquet"]
    assert pl.read_parquet(workspace.features / "activity.parquet").height == 3
    assert load_spec(workspace.spec) == spec
    assert pl.read_csv(workspace.rejects).height == 0
    assert (report.log.rows, report.log.rejected, report.members) == (12, 0, 3)
    assert "taken as it was" in report.log.notes
    assert [table.name for table in report.features] == ["activity", "profile"]
    assert sorted(path.name for path in workspace.root.iterdir()) == ["features", "log", "spec.yaml"]


def test_the_log_alone_will_do_where_the_spec_names_no_tables(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "var")
    path = write(tmp_path / "log.csv", good_rows())
    report = import_folder(path, shop_spec(), workspace)
    assert report.features == ()
    assert list(workspace.features.iterdir()) == []


def test_rejects_are_counted_and_kept(tmp_path: Path) -> None:
    data, workspace = data_folder(tmp_path / "data"), Workspace(tmp_path / "var")
    rows = log_rows()
    rows[3]["action"] = "pusch"
    write(data / "decisions.parquet", rows)
    spec = parse_spec(TABLES + "log: {max_reject_share: 0.1}\n", "shop.yaml")
    report = import_folder(data, spec, workspace)
    assert (report.log.rows, report.log.rejected, dict(report.log.reasons)) == (11, 1, {"unknown action": 1})
    assert pl.read_csv(workspace.rejects)["row"].to_list() == [4]


def test_members_without_features_and_replaced_rows_are_noted(tmp_path: Path) -> None:
    data = data_folder(tmp_path / "data")
    write(data / "features" / "activity.parquet", feature_rows(("m0", "m0", "m9")))
    report = import_folder(data, shop_with_tables(), Workspace(tmp_path / "var"))
    notes = " ".join(report.features[0].notes)
    assert "members of the log without a row: 2 of 3" in notes
    assert "rows replaced by a later row of the same member and moment: 1" in notes


def test_a_second_import_leaves_nothing_of_the_first(tmp_path: Path) -> None:
    spec, workspace = shop_with_tables(), Workspace(tmp_path / "var")
    data = data_folder(tmp_path / "data")
    import_folder(data, spec, workspace)
    (data / "features" / "profile.parquet").unlink()
    write(data / "decisions.parquet", log_rows()[:4])
    import_folder(data, spec, workspace)
    assert [path.name for path in workspace.features.iterdir()] == ["activity.parquet"]
    assert pl.read_parquet(workspace.log).height == 4


@pytest.mark.parametrize("broken", ["log", "features"])
def test_a_failed_import_leaves_the_workspace_as_it_was(tmp_path: Path, broken: str) -> None:
    spec, workspace = shop_with_tables(), Workspace(tmp_path / "var")
    data = data_folder(tmp_path / "data")
    import_folder(data, spec, workspace)
    before = {path: path.read_bytes() for path in workspace.root.rglob("*.parquet")}
    if broken == "log":
        write(data / "decisions.parquet", [row | {"action": "pusch"} for row in log_rows()])
    else:
        write(data / "decisions.parquet", log_rows()[:4])
        write(data / "features" / "profile.parquet", [row | {"city": "Ulm"} for row in feature_rows()])
    with pytest.raises(LogError):
        import_folder(data, spec, workspace)
    assert {path: path.read_bytes() for path in workspace.root.rglob("*.parquet")} == before
    assert not [path for path in workspace.root.iterdir() if path.name.startswith(".import-")]


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda data: shutil.rmtree(data / "features"), "no activity.parquet or activity.csv"),
        (
            lambda data: (data / "features" / "activity.parquet").rename(data / "features" / "activty.parquet"),
            "did you mean 'activty'?",
        ),
        (
            lambda data: write(
                data / "features" / "activity.parquet", pl.DataFrame(feature_rows()).rename({"visits": "visit"})
            ),
            "missing column 'visits'; did you mean 'visit'?",
        ),
    ],
)
def test_tables_that_the_spec_names_must_be_there(tmp_path: Path, spoil: Any, said: str) -> None:
    data = data_folder(tmp_path / "data")
    spoil(data)
    with pytest.raises(LogError) as caught:
        import_folder(data, shop_with_tables(), Workspace(tmp_path / "var"))
    assert said in str(caught.value)


def command(spec: Path, data: Path, var: Path) -> subprocess.CompletedProcess[str]:
    arguments = [sys.executable, "-m", "importers", "import", "--spec", str(spec), "--data", str(data)]
    environment = {"PACER_VAR": str(var), "COLUMNS": "200", "PATH": "/usr/bin:/bin"}
    return subprocess.run(arguments, cwd=CHECKOUT, env=environment, capture_output=True, text=True, check=False)


class TestCommand:
    def test_prints_a_report(self, tmp_path: Path) -> None:
        (tmp_path / "shop.yaml").write_text(dump_spec(shop_with_tables()))
        done = command(tmp_path / "shop.yaml", data_folder(tmp_path / "data"), tmp_path / "var")
        assert done.returncode == 0, done.stderr
        assert "decisions" in done.stdout
        assert "profile" in done.stdout
        assert (tmp_path / "var" / "shop" / "log" / "decisions.parquet").is_file()

    @pytest.mark.parametrize(
        ("spec", "data", "said"),
        [
            (SPEC_TEXT + "horizn: 3\n", "data", "horizn: unknown key"),
            (SPEC_TEXT, "nowhere", "nowhere: no such file or folder"),
            (SPEC_TEXT, "data", "missing column 'reward_click'"),
        ],
    )
    def test_says_what_is_wrong_and_fails(self, tmp_path: Path, spec: str, data: str, said: str) -> None:
        (tmp_path / "shop.yaml").write_text(spec)
        data_folder(tmp_path / "data")
        done = command(tmp_path / "shop.yaml", tmp_path / data, tmp_path / "var")
        assert done.returncode == 1
        assert said in done.stderr
        assert "Traceback" not in done.stderr
