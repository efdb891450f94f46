"""Served equals offline on both inputs, through the real stores; and a difference is found, named and fails."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
import torch

from benchmarks.redis_server import RedisServer
from contracts.api import encode
from contracts.errors import ArtifactError, LogError
from contracts.settings import CHECKOUT, Settings, load_settings
from contracts.spec import Spec, load_spec
from feature_repo.catalog import service_features
from feature_repo.deploy import apply, materialize
from feature_repo.ingest import ingest
from feature_repo.member_events import Event
from feature_repo.online_reader import OnlineReader
from importers.run import run_import
from models.artifact import config_of, load_artifact, save_artifact
from models.decision_transformer import DecisionTransformer
from models.encoding import StateEncoder
from models.policy import Policy
from models.utility import UtilityModel
from sequence_store.memory_ring import MemoryRingStore
from serve.drain import drain
from serve.engine import Engine
from serve.history import layout_of
from serve.skew import check_skew
from simulator.log import simulate
from tests.importers.trials import real_trial
from tests.models.problems import normalization

pytestmark = pytest.mark.integration


@dataclass(frozen=True)
class Served:
    """A deployment whose engine has decided, with its served log drained."""

    spec: Spec
    settings: Settings
    decisions: int
    last: datetime


def untrained(spec: Spec, settings: Settings) -> Path:
    """Save an artifact with random weights over all features of the service."""
    names = service_features(spec.state.feature_service, settings)
    table = pl.read_parquet(settings.workspace(spec.name).log, columns=list(spec.state.candidate))
    columns = {name: table[name].to_numpy() for name in spec.state.candidate}
    encoder = StateEncoder.fit(spec, names, columns)
    n = len(encoder.columns)
    torch.manual_seed(0)
    utility = UtilityModel(
        len(encoder.features) + len(encoder.candidate_columns), len(spec.predicted_rewards), len(spec.actions)
    )
    policy = Policy(DecisionTransformer(config_of(spec, n)).eval(), normalization(n, len(spec.rewards), mean=1.0))
    folder = settings.workspace(spec.name).artifacts
    return save_artifact(folder, spec, policy, utility, encoder, names, {}, "none")


def candidates(spec: Spec, settings: Settings) -> dict[str, Any]:
    row = pl.read_parquet(settings.workspace(spec.name).log, columns=list(spec.state.candidate)).row(0, named=True)
    return {"notification_id": "n", "type": "job", "eligible": list(spec.actions), "features": row}


def serve(spec: Spec, settings: Settings, artifact: Path, moments: list[datetime], events: list[list[Event]]) -> int:
    """Decide for every member and one never seen at each moment, with events ingested before each; drain the log."""
    members = [
        *pl.read_parquet(settings.workspace(spec.name).log)["member_id"].unique().sort().to_list()[:40],
        "nobody",
    ]
    model = load_artifact(artifact)
    rings = MemoryRingStore(spec.name, layout_of(model), spec.ring.capacity, spec.ring.ttl_days)
    engine = Engine(model, OnlineReader.open(spec.state.feature_service, settings), rings)
    candidate = candidates(spec, settings)
    if "type" in spec.state.candidate:
        candidate["features"] = {name: value for name, value in candidate["features"].items() if name != "type"}
    for cycle, (moment, happened) in enumerate(zip(moments, events, strict=True)):
        if happened:
            ingest(happened, spec, settings)
        items = [
            {
                "member_id": member,
                "cycle_id": f"c{cycle}",
                "at": (moment + timedelta(seconds=i)).isoformat(),
                "candidates": [candidate],
            }
            for i, member in enumerate(members)
        ]
        reply = json.loads(engine.answer([encode({"decisions": items})])[0].body)
        assert {answer["status"] for answer in reply["decisions"]} == {"decided"}, reply["decisions"][0]
    assert drain(rings, spec, settings.workspace(spec.name).served) == len(members) * len(moments)
    return len(members) * len(moments)


@pytest.fixture(scope="module", params=["notification", "heartsteps"])
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, redis_server: RedisServer
) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp(request.param)
    spec_path = folder / "spec.yaml"
    text = (CHECKOUT / "specs" / f"{request.param}.yaml").read_text(encoding="utf-8")
    spec_path.write_text(text.replace("features: 200, rings: 200", "features: 20000, rings: 20000"), encoding="utf-8")
    spec = load_spec(spec_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PACER_VAR", str(folder / "var"))
        patch.setenv("REDIS_URL", redis_server.fresh_url())
        settings = load_settings()
        if request.param == "notification":
            data = folder / "data"
            simulate(data, spec, 60, 4, seed=3, progress=False)
            kinds = ("visit", "click", "push", "badge")
        else:
            data = real_trial()
            kinds = ("session", "stand", "walk", "session")
        run_import(spec, data, settings.workspace(spec.name))
        apply(settings)
        materialize(spec, settings)
        log = pl.read_parquet(settings.workspace(spec.name).log)
        last = log["decided_at"].max()
        assert isinstance(last, datetime)
        members = log["member_id"].unique().sort().to_list()[:10]
        # Cycles soon after the tables end, after a few hours of events, and when some views have gone stale.
        moments = [last + timedelta(hours=hours) for hours in (1, 9, 30, 24 * 8)]
        events = [
            [
                Event(
                    member, kind, f"{cycle}-{i}", int((moment - timedelta(minutes=5 * (i + 1))).timestamp() * 1e6) + 7
                )
                for member in members
                for i, kind in enumerate(kinds)
            ]
            if cycle
            else []
            for cycle, moment in enumerate(moments)
        ]
        decisions = serve(spec, settings, untrained(spec, settings), moments, events)
        yield Served(spec, settings, decisions, last)


def test_what_was_served_is_what_the_offline_store_says(served: Served) -> None:
    report = check_skew(served.spec, served.settings)
    assert report.differing == {}
    assert (report.decisions, report.skipped) == (served.decisions, 0)
    features = service_features(served.spec.state.feature_service, served.settings)
    assert report.values == served.decisions * len(features)
    assert set(report.missing.values()) >= {4}  # the member never seen, in each cycle
    assert report.stale.keys() <= {"heartsteps_day", "heartsteps_live", "heartsteps_activity", "member_live"}


def test_a_table_that_says_otherwise_is_found_and_fails_the_command(served: Served) -> None:
    view, name = (
        ("member_live", "visits_total")
        if served.spec.name == "notification"
        else ("heartsteps_live", "app_sessions_total")
    )
    path = served.settings.workspace(served.spec.name).features / f"{view}.parquet"
    check_skew(served.spec, served.settings)
    original = path.read_bytes()
    table = pq.read_table(path)
    changed = np.asarray(table[name].to_numpy()) + 1
    pq.write_table(
        table.set_column(table.column_names.index(name), name, [changed.astype(table[name].to_numpy().dtype)]), path
    )
    spec_path = served.settings.var / "spec-for-command.yaml"
    try:
        report = check_skew(served.spec, served.settings)
        assert set(report.differing) == {name}
        example = report.examples[name]
        assert example.offline == example.served + 1
        assert example.known_at is not None
        spec_path.write_text((served.settings.workspace(served.spec.name).spec).read_text(encoding="utf-8"))
        command = [sys.executable, "-m", "serve", "skew", "--spec", str(spec_path)]
        environment = {**os.environ, "PACER_VAR": str(served.settings.var), "REDIS_URL": str(served.settings.redis_url)}
        done = subprocess.run(command, cwd=CHECKOUT, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 1, done.stderr
        assert json.loads(done.stdout.splitlines()[-1])["differing"] == report.differing
        assert name in done.stdout
    finally:
        path.write_bytes(original)
    assert check_skew(served.spec, served.settings).differing == {}


def test_no_log_a_damaged_row_and_a_model_that_is_gone_are_said(served: Served, tmp_path: Path) -> None:
    with pytest.raises(LogError, match="no decisions served; ask for some, then `make drain`"):
        check_skew(served.spec, served.settings, tmp_path)
    rows = pl.read_parquet(served.settings.workspace(served.spec.name).served)
    log = tmp_path / "decisions.parquet"
    rows.with_columns(features_read=pl.lit("AAAA")).write_parquet(log)
    with pytest.raises(LogError, match=r"decisions.parquet: a row of .*the log is damaged"):
        check_skew(served.spec, served.settings, tmp_path)
    rows.with_columns(model=pl.lit("x/20200101")).write_parquet(log)
    with pytest.raises(ArtifactError, match="20200101"):
        check_skew(served.spec, served.settings, tmp_path)
    rows.drop("features_read").write_parquet(log)
    report = check_skew(served.spec, served.settings, tmp_path)
    assert (report.decisions, report.skipped) == (0, rows.height)
