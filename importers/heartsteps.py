"""Imports HeartSteps V1, a micro-randomised trial: its three CSV files become a data folder under the contract.

Five decision points a day; at an available one the trial drew none, stand or walk with 0.4, 0.3, 0.3 (its design; the
log does not hold it); at an unavailable one nothing is sent. The log takes the form that serving writes, so that
rewards are attributed by the same rule: differences of counters read at consecutive decisions.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import polars as pl

from contracts.attribution import COUNTER, REWARD, penalties
from contracts.errors import LogError, SpecError
from contracts.settings import Workspace
from contracts.spec import Spec, nearest
from importers.contract import import_folder
from importers.heartsteps_features import NO_STEPS, activity_table, day_table, profile_table, split_live
from importers.heartsteps_tables import HeartSteps, read_heartsteps
from importers.report import ImportReport

ACTIONS = ("none", "stand", "walk")
PROPENSITIES = {"none": 0.4, "stand": 0.3, "walk": 0.3}
COUNTERS = ("log_steps_total", "app_sessions_total")


def import_heartsteps(data: Path, spec: Spec, workspace: Workspace) -> ImportReport:
    """Import the folder ``data`` with suggestions.csv, daily.csv and members.csv into ``workspace``.

    Raises
    ------
    LogError
        If a file is missing or wrong, or the log made of them breaks the contract.
    SpecError
        If a penalty grows with something that is no feature of ``heartsteps_activity``.
    """
    with tempfile.TemporaryDirectory(prefix="heartsteps-") as folder:
        notes = convert(data, Path(folder), spec)
        try:
            return import_folder(Path(folder), spec, workspace, notes)
        except LogError as error:
            raise LogError(f"{data}: made into a log (a row's number is that in suggestions.csv): {error}") from error


def convert(data: Path, out: Path, spec: Spec) -> tuple[str, ...]:
    """Write the trial in ``data`` as a data folder ``out``: decisions.parquet and four tables in features/.

    Rows of decisions.parquet are in the order of suggestions.csv. Returns what was settled on the way, in words.
    """
    trial = read_heartsteps(data)
    activity = activity_table(trial)
    windows, live = split_live(activity)
    (out / "features").mkdir(parents=True, exist_ok=True)
    for view, table in (
        ("heartsteps_profile", profile_table(trial)),
        ("heartsteps_day", day_table(trial)),
        ("heartsteps_activity", windows),
        ("heartsteps_live", live),
    ):
        table.write_parquet(out / "features" / f"{view}.parquet")
    _decisions(trial, activity, spec).write_parquet(out / "decisions.parquet")
    unmeasured = trial.points.filter(pl.col("jbsteps30") <= NO_STEPS).height
    return (
        *trial.notes,
        f"decision points with no steps after them, or none measured (counted as none): {unmeasured:,}",
    )


def _decisions(trial: HeartSteps, activity: pl.DataFrame, spec: Spec) -> pl.DataFrame:
    available = pl.col("avail")
    by_design = pl.col("action").replace_strict(PROPENSITIES, default=None, return_dtype=pl.Float64)
    known = activity.rename({"event_timestamp": "decided_at"}).unique(["member_id", "decided_at"], keep="first")
    points = trial.points.join(known, on=["member_id", "decided_at"], how="left", maintain_order="left")
    return points.select(
        "member_id",
        "decided_at",
        pl.when(available).then(pl.lit(list(ACTIONS))).when(~available).then(pl.lit([ACTIONS[0]])).alias("eligible"),
        "action",
        pl.when(available).then(by_design).otherwise(1.0).alias("propensity"),
        "sequence",
        *(pl.col(feature).alias(COUNTER + feature) for feature in COUNTERS),
        *_penalties(points, spec),
        pl.col("sugg.select.slot").alias("slot"),
        pl.col("decision.index.nogap").alias("decision_index"),
    )


def _penalties(points: pl.DataFrame, spec: Spec) -> list[pl.Series]:
    indices = {action: index for index, action in enumerate(spec.actions)}
    # A row without a known action gets a penalty only to be rejected.
    actions = points["action"].replace_strict(indices, default=0, return_dtype=pl.Int64).to_numpy()
    columns: list[pl.Series] = []
    for name, reward in spec.rewards.items():
        if reward.kind != "penalty":
            continue
        feature = reward.grows_with
        if feature is not None and feature not in points.columns:
            hint = nearest(feature, points.columns)
            raise SpecError(f"rewards.{name}.grows_with = {feature!r}: no feature of heartsteps_activity{hint}")
        values = None if feature is None else points[feature].cast(pl.Float64).fill_null(float("nan")).to_numpy()
        columns.append(pl.Series(REWARD + name, penalties(spec, name, actions, values)))
    return columns
