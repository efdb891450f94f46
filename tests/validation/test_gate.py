"""Running the gate: Data Docs, suites on disk, repeated and killed runs, unreadable tables, the command."""

from __future__ import annotations

import fcntl
import json
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import yaml

from contracts.errors import LogError, PacerError
from contracts.settings import CHECKOUT, Settings
from contracts.spec import parse_spec
from tests.validation.tables import SPEC_TEXT, good_log, put, settings_in, shop, spoil, write, write_table
from validation.context import RUNS_KEPT
from validation.gate import validate
from validation.report import GateReport

pytestmark = pytest.mark.unit

NO_NETWORK = """
import os, runpy, sys
def refuse(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
        os.write(2, f"attempted {event} {arguments}".encode())
        os._exit(3)
sys.addaudithook(refuse)
sys.argv = ["validation", *sys.argv[1:]]
runpy.run_module("validation", run_name="__main__")
"""


def command(settings: Settings, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run ``python -m validation`` with an empty home, in a process that an attempt to use the network ends."""
    home = settings.var / "home"
    home.mkdir(parents=True, exist_ok=True)
    spec = settings.var / "shop.yaml"
    spec.write_text(SPEC_TEXT, encoding="utf-8")
    environment = {"HOME": str(home), "PACER_VAR": str(settings.var), "COLUMNS": "200"}
    done = subprocess.run(
        [sys.executable, "-c", NO_NETWORK, *arguments, "--spec", str(spec)],
        cwd=CHECKOUT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "attempted" not in done.stderr
    return done


def run_times(settings: Settings) -> set[str]:
    """Return the run times for which the Data Docs have pages."""
    site = settings.workspace("shop").data_docs / "uncommitted" / "data_docs" / "local_site"
    return {page.parent.name for page in site.glob("validations/*/*/*/*.html")}


def test_the_report_leads_to_data_docs_with_a_page_for_each_table(good_report: GateReport) -> None:
    index = good_report.docs.read_text(encoding="utf-8")
    for table in good_report.tables:
        name = table.replace("/", "-")
        assert (good_report.docs.parent / "expectations" / f"{name}.html").is_file()
        assert len(list(good_report.docs.parent.glob(f"validations/{name}/all/*/{name}-table.html"))) == 1
        assert name in index


def test_suites_survive_the_round_trip_to_disk(good_report: GateReport, good_settings: Settings) -> None:
    import great_expectations as gx

    folder = good_settings.workspace("shop").data_docs
    context = gx.get_context(mode="file", context_root_dir=folder)
    suites = {suite.name: suite for suite in context.suites.all()}
    assert set(suites) == {table.replace("/", "-") for table in good_report.tables}
    assert sum(len(suite.expectations) for suite in suites.values()) == good_report.expectations
    for name, suite in suites.items():
        stored = json.loads((folder / "expectations" / f"{name}.json").read_text(encoding="utf-8"))
        assert len(suite.expectations) == len(stored["expectations"])


def test_analytics_are_off_in_the_context_on_disk(good_report: GateReport, good_settings: Settings) -> None:
    config = good_settings.workspace("shop").data_docs / "great_expectations.yml"
    assert yaml.safe_load(config.read_text(encoding="utf-8"))["analytics_enabled"] is False


def test_data_docs_tell_no_server_whose_they_are(good_report: GateReport) -> None:
    pages = list(good_report.docs.parent.rglob("*.html"))
    assert len(pages) > 2 * len(good_report.tables)
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert "dataContextId" not in text
        (logo,) = re.findall(r'src="([^"]*logo-long.png)"', text)
        assert (page.parent / logo).is_file()


def test_runs_follow_each_other_and_data_docs_keep_the_newest(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    write(settings)
    first = validate(shop(), settings, "log")
    assert validate(shop(), settings, "log") == first
    assert len(run_times(settings)) == 2
    context = settings.workspace("shop").data_docs
    for year in range(2000, 2000 + RUNS_KEPT):
        for kind in ("validations", "data_docs/local_site/validations"):
            suite = next((context / "uncommitted" / kind).glob("*/log"))
            shutil.copytree(next(suite.iterdir()), suite / f"{year}0101T000000.000000Z")
    assert validate(shop(), settings, "log").passed
    times = sorted(run_times(settings))
    assert len(times) == RUNS_KEPT
    assert times[0].startswith("2003")


def test_what_a_killed_run_left_is_no_obstacle(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    workspace = write(settings)
    validate(shop(), settings, "log")
    (workspace.data_docs / "great_expectations.yml").write_text("config_version: {", encoding="utf-8")
    for result in workspace.data_docs.glob("uncommitted/validations/*/*/*/*.json"):
        result.write_text('{"success": tr', encoding="utf-8")
    for name in ("validation.new", "validation.old"):
        (workspace.root / name).mkdir()
        (workspace.root / name / "great_expectations.yml").write_text("half", encoding="utf-8")
    report = validate(shop(), settings, "log")
    assert report.passed
    assert report.docs.is_file()
    assert sorted(path.name for path in workspace.root.iterdir()) == [
        "features",
        "log",
        "validation",
        "validation.lock",
    ]


def test_a_second_run_waits_for_the_first(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    workspace = write(settings)
    waiting = threading.Event()
    reports: list[GateReport] = []

    def show(line: str) -> None:
        if "waiting" in line:
            waiting.set()

    with (workspace.root / "validation.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        second = threading.Thread(target=lambda: reports.append(validate(shop(), settings, "log", show)))
        second.start()
        assert waiting.wait(timeout=60)
        assert not workspace.data_docs.exists()
    second.join(timeout=60)
    assert reports[0].passed


def test_a_run_that_fails_leaves_the_data_docs_as_they_were(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    workspace = write(settings)
    docs = validate(shop(), settings, "log").docs
    (workspace.features / "usage.parquet").write_bytes(b"PAR1")
    with pytest.raises(LogError):
        validate(shop(), settings)
    assert docs.is_file()
    assert not (workspace.root / "validation.new").exists()


def test_missing_tables_are_named_with_the_way_out(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    with pytest.raises(LogError, match=r"decisions\.parquet: no decision log yet; .*make run .*DATA="):
        validate(shop(), settings, "log")
    with pytest.raises(LogError, match=r"profile\.parquet: .*state\.tables.*make run"):
        validate(shop(), settings, "features")
    undeclared = parse_spec(SPEC_TEXT.replace("tables:", "missing: {} #"), "shop.yaml")
    with pytest.raises(LogError, match=r"features: no feature tables .*make run"):
        validate(undeclared, settings, "features")


@pytest.mark.parametrize("kept", [0, 0.5, 0.99])
def test_half_a_file_is_named(tmp_path: Path, kept: float) -> None:
    settings = settings_in(tmp_path)
    workspace = write(settings)
    whole = workspace.log.read_bytes()
    workspace.log.write_bytes(whole[: int(len(whole) * kept)])
    with pytest.raises(LogError, match=r"log/decisions\.parquet: cannot be read as Parquet, is it whole\?"):
        validate(shop(), settings, "log")


def test_a_repeated_column_is_named(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    settings = settings_in(tmp_path)
    workspace = write(settings)
    table = pq.read_table(workspace.log)
    pq.write_table(table.append_column("action", table["action"]), workspace.log)
    with pytest.raises(LogError, match="column 'action' is there 2 times"):
        validate(shop(), settings, "log")


def test_feature_tables_that_the_spec_does_not_declare_are_judged_by_their_own_columns(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    workspace = write(settings)
    (workspace.features / "profile.parquet").unlink()
    log = good_log()
    write_table(
        workspace.features / "weather.parquet",
        {
            "member_id": log["member_id"],
            "event_timestamp": log["decided_at"],
            "rain": [float("inf"), *log["score"][1:]],
        },
    )
    spec = parse_spec(SPEC_TEXT.replace("tables:", "missing: {} #"), "shop.yaml")
    report = validate(spec, settings, "features")
    assert report.tables == ("features/usage", "features/weather", "members")
    assert [(failure.table, failure.column, failure.rows) for failure in report.failed] == [
        ("features/weather", "rain", (1,))
    ]


def test_the_command_passes_good_tables_without_home_or_network(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    write(settings)
    done = command(settings, "all")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout.splitlines()[-1])
    assert summary["validation"] == "passed"
    assert Path(summary["docs"]).is_file()
    assert "validation passed" in done.stderr
    assert command(settings, "docs").stdout.strip() == summary["docs"]


def test_the_command_refuses_bad_tables_and_shows_them(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    write(settings, log=spoil(good_log(), put("action", 7, "[fax]")))
    done = command(settings, "log")
    assert done.returncode == 1
    assert json.loads(done.stdout.splitlines()[-1])["validation"] == "failed"
    assert "row 7: member_id=m0000" in done.stderr
    assert "action=[fax]" in done.stderr


def test_the_command_says_what_is_missing(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    done = command(settings, "log")
    assert done.returncode == 1
    assert "error:" in done.stderr
    assert "make run" in done.stderr
    done = command(settings, "docs")
    assert done.returncode == 1
    assert "no Data Docs yet" in done.stderr


def test_gate_errors_are_errors_of_the_project() -> None:
    report = GateReport("shop", False, (), 0, (), Path("index.html"))
    with pytest.raises(PacerError, match="validation of shop: 0 critical"):
        report.raise_if_failed()
