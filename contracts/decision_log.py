"""The decision log's contract (DESIGN 4.2): what a team brings, checked column by column and row by row.

One row a decision: ``member_id``, ``decided_at``, ``eligible``, ``action``, ``propensity``, the spec's candidate
features, and either one ``reward_<name>`` a reward or, from our own serving, ``sequence`` and ``counter_<feature>``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pyarrow as pa

from contracts.attribution import (
    COUNTER,
    COUNTER_RESET,
    REWARD,
    SEQUENCE,
    SUCCESSOR_MISSING,
    attribute,
    missing_for_attribution,
)
from contracts.eligible_sets import ELIGIBLE, FAULT, SHOWN, with_eligible_sets
from contracts.errors import LogError
from contracts.rejects import settle_rejects
from contracts.row_checks import CLEAN, RowChecks, Rule, is_text
from contracts.spec import Spec, nearest
from contracts.table_files import FILE, ROW, RawTable, find_table, load_table, to_arrow

CORE = ("member_id", "decided_at", "eligible", "action", "propensity")


@dataclass(frozen=True)
class CheckedLog:
    """A decision log that keeps its contract."""

    table: pa.Table
    """Sorted by member_id, decided_at: the columns of CORE (string, timestamp[us, UTC], list<string>, string,
    double), ``reward_<name>`` (double) in the spec's order, then every other column."""
    rejects: pa.Table
    """The rows set aside: ``row``, ``file`` where there are several, ``reason``, and their own columns as text."""
    reasons: Mapping[str, int]
    """Number of rejects by reason, the most frequent first."""
    notes: tuple[str, ...]
    """What a reader of the log should know, though nothing is wrong."""

    @property
    def rows(self) -> int:
        """Number of rows read."""
        return int(self.table.num_rows + self.rejects.num_rows)


def read_log(path: Path, spec: Spec, rejects_to: Path | None = None) -> CheckedLog:
    """Read and check a decision log.

    Parameters
    ----------
    path
        A Parquet or CSV file, or a folder with ``decisions.parquet``, ``decisions.csv`` or ``decisions/`` full of
        such files; or a folder with nothing but one such file.
    spec
        The deployment whose actions, rewards and candidate features the log must have.
    rejects_to
        CSV file for the rows set aside; written even where there are none, or too many.

    Raises
    ------
    LogError
        If a file is empty, cut short or no table; a column is missing, misspelt or of a wrong type; or more than
        ``spec.log.max_reject_share`` of the rows break a rule.
    """
    raw = load_table(find_table(path, "decisions"))
    served = _check_columns(raw, spec)
    raw = with_eligible_sets(raw, spec)
    checks = RowChecks(raw)
    _add_core(checks, spec)
    numbers = [REWARD + name for name in spec.reward_names if REWARD + name in raw.columns]
    if served:
        _add_sequence(checks)
        numbers += [name for name in raw.columns if name.startswith(COUNTER)]
        numbers += [reward.grows_with for reward in spec.rewards.values() if reward.grows_with in raw.columns]
    for name in dict.fromkeys(numbers):
        checks.number(name)
    for name in spec.predicted_rewards:
        if REWARD + name in raw.columns:
            label = pl.col(CLEAN + REWARD + name)
            shown = pl.col(REWARD + name).cast(pl.String)
            reason = f"{REWARD + name} lies outside [0, 1] (kind predicted: whether it happened)"
            checks.rules.append(Rule(reason, ((label < 0) | (label > 1)).fill_null(False), shown))
    for name in spec.state.candidate:
        if name not in checks.columns:
            _add_candidate(checks, name, spec)
    context = [name for name in raw.columns if name not in checks.columns]
    for name in context:
        checks.add(name, pl.col(name))
    checked = checks.apply()
    kept, duplicates = _first_of_each_moment(checks, checked.frame)
    rejects = settle_rejects(
        raw, pl.concat([checked.rejects, duplicates], how="diagonal"), spec.log.max_reject_share, rejects_to
    )
    table = to_arrow(kept.drop(FILE, ROW).sort("member_id", "decided_at"))
    if served:
        table = attribute(table, spec)
    rewards = [REWARD + name for name in spec.reward_names]
    table = table.select([*CORE, *rewards, *(name for name in table.column_names if name not in (*CORE, *rewards))])
    notes = (*raw.notes, *checks.notes, *_notes(table, spec, context))
    return CheckedLog(table, rejects.table, rejects.reasons, notes)


def _check_columns(raw: RawTable, spec: Spec) -> bool:
    """Return whether the log is one that serving wrote. Raises LogError on missing and misspelt columns."""
    columns = raw.columns
    rewards = [REWARD + name for name in spec.reward_names]
    problems = [
        f"missing column {name!r}{nearest(name, columns)}"
        for name in (*CORE, *spec.state.candidate)
        if name not in columns
    ]
    problems += [
        f"column {name!r}: spec {spec.name!r} has no such reward{nearest(name, rewards)}"
        for name in columns
        if name.startswith(REWARD) and name not in rewards
    ]
    served = SEQUENCE in columns and any(name not in columns for name in rewards)
    if served:
        problems += [f"missing {problem}" for problem in missing_for_attribution(spec, columns)]
    else:
        problems += [
            f"missing column {name!r}{nearest(name, columns)} "
            f"(a log that serving wrote has {SEQUENCE} and {COUNTER}* instead)"
            for name in rewards
            if name not in columns
        ]
    if problems and len(columns) == 1 and raw.files[0].suffix.lower() == ".csv":
        problems.append(f"the only column is {columns[0]!r}: are the fields separated by commas?")
    if problems:
        raise LogError("\n".join(f"{raw.source}: {problem}" for problem in problems))
    return served


def _add_core(checks: RowChecks, spec: Spec) -> None:
    checks.member("member_id")
    checks.time("decided_at")
    faults = checks.raw.frame[FAULT].unique().drop_nulls().sort().to_list()
    rules = [Rule(reason, pl.col(FAULT) == reason, pl.col(SHOWN)) for reason in faults]
    checks.add("eligible", pl.col(ELIGIBLE), *rules)
    if not is_text(checks.dtype("action")) and checks.dtype("action") != pl.Null:
        raise checks.wrong_type("action", f"text: one of {', '.join(spec.actions)}")
    action = pl.col("action").cast(pl.String)
    shown = pl.format("{} of {}", action, pl.col(ELIGIBLE).list.join("|"))
    checks.add(
        "action",
        action,
        Rule("action is missing", action.is_null() | (action == "")),
        Rule("unknown action", ~action.is_in(spec.actions), action),
        Rule("action is not eligible", ~pl.col(ELIGIBLE).list.contains(action), shown),
    )
    checks.number("propensity", nan="kept")
    propensity = pl.col(CLEAN + "propensity")
    outside = ~((propensity > 0) & (propensity <= 1))
    checks.rules.append(Rule("propensity lies outside (0, 1]", outside, pl.col("propensity").cast(pl.String)))


def _add_sequence(checks: RowChecks) -> None:
    dtype = checks.dtype(SEQUENCE)
    if not (dtype.is_numeric() or is_text(dtype)):
        raise checks.wrong_type(SEQUENCE, "a whole number")
    value = pl.col(SEQUENCE).cast(pl.Float64, strict=False)
    whole = (value.is_finite() & (value == value.floor()) & (value >= 0)).fill_null(False)
    clean = pl.when(whole).then(value).cast(pl.Int64, strict=False)
    shown = pl.col(SEQUENCE).cast(pl.String)
    checks.add(SEQUENCE, clean, Rule(f"{SEQUENCE} is no whole number from 0 up", ~whole, shown))


def _add_candidate(checks: RowChecks, name: str, spec: Spec) -> None:
    dtype = checks.dtype(name)
    if name in spec.state.categories and (is_text(dtype) or dtype.is_integer()):
        checks.text(name)
    elif checks.holds_numbers(name):
        checks.number(name)
    elif is_text(dtype):
        checks.text(name)
    else:
        raise checks.wrong_type(name, "a number or text (it is a candidate feature)")


def _first_of_each_moment(checks: RowChecks, frame: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Split off the rows whose member and time stood in an earlier row."""
    key = ["member_id", "decided_at"]
    first = frame.select(pl.struct(key).is_first_distinct()).to_series()
    repeated = frame.filter(~first).select(*key, FILE, ROW)
    if repeated.is_empty():
        empty = checks.raw.frame.clear()
        return frame, checks.rejected(empty, "", pl.lit(""))
    origin = frame.filter(first).select(*key, pl.col(FILE).alias("first_file"), pl.col(ROW).alias("first_row"))
    raw_rows = checks.raw.frame.join(
        repeated.join(origin, on=key, how="left").select(FILE, ROW, "first_file", "first_row"), on=[FILE, ROW]
    )
    kind = "duplicate (member, time)"
    files = [path.name for path in checks.raw.files]
    place = pl.format("row {}", pl.col("first_row"))
    if len(files) > 1:
        names = pl.col("first_file").replace_strict(dict(enumerate(files)), return_dtype=pl.String)
        place = pl.format("{} of {}", place, names)
    return frame.filter(first), checks.rejected(raw_rows, kind, pl.format(f"{kind}: first in {{}}", place))


def _notes(table: pa.Table, spec: Spec, context: list[str]) -> list[str]:
    frame = pl.from_arrow(table.select(["member_id"]))
    assert isinstance(frame, pl.DataFrame)
    notes: list[str] = []
    if context:
        notes.append(f"context columns kept as they are: {', '.join(context)}")
    single = frame["member_id"].value_counts().filter(pl.col("count") == 1).height
    if single:
        notes.append(f"members with one decision only (nothing is earned between decisions): {single:,}")
    for name in spec.reward_names:
        nulls = table.column(REWARD + name).null_count
        if nulls:
            notes.append(f"rows whose {REWARD}{name} is not known: {nulls:,}")
    if SUCCESSOR_MISSING in table.column_names:
        for column, meaning in (
            (
                SUCCESSOR_MISSING,
                "rows without a successor in the log (a member's last, or before a gap in the sequence)",
            ),
            (COUNTER_RESET, "rows before a counter that fell (what was earned is not known)"),
        ):
            count = table.column(column).to_numpy(zero_copy_only=False).sum()
            if count:
                notes.append(f"{meaning}: {count:,}")
    return notes
