"""The three files of HeartSteps V1 as typed tables: decision points, days, members.

What the files leave open is settled here, once: the time of a decision point, and the moment from which a day's
figures are known.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import polars as pl

from contracts.errors import LogError
from contracts.spec import nearest
from contracts.table_files import load_table

Kind = Literal["text", "number", "flag", "time", "date"]

FILES = ("suggestions.csv", "daily.csv", "members.csv")
MAX_HOURS_OFF = 12
"""A decision time further than this from the scheduled one is a slip of the date; the scheduled time counts."""
DAY_IS_OVER_HOURS = 34
"""Hours after the start (in UTC) of a local day's date at which the day is over in every US time zone: midnight in
Hawaii is 10:00 UTC. The files hold no time zones."""

_SUGGESTIONS: Mapping[str, Kind] = {
    "user": "text",
    "decision.index.nogap": "number",
    "study.day.nogap": "number",
    "sugg.select.utime": "time",
    "sugg.select.slot": "number",
    "sugg.decision.utime": "time",
    "avail": "flag",
    "send": "flag",
    "jbsteps30pre": "number",
    "jbsteps30": "number",
}
_KIND: Mapping[str, Kind] = {"kind": "text"}
_PUBLISHED_KIND: Mapping[str, Kind] = {"send.active": "flag", "send.sedentary": "flag"}
_DAILY: Mapping[str, Kind] = {
    "user.index": "text",
    "study.date": "date",
    "study.day.nogap": "number",
    "weekday": "flag",
    "travel": "flag",
    "weather.condition": "text",
    "temperature": "number",
    "hectic": "number",
    "stressful": "number",
    "typical": "number",
    "energetic": "number",
    "jbsteps.direct": "number",
    "jbsteps.agg": "number",
    "gfsteps": "number",
    "app.sessions": "number",
    "app.secs": "number",
}
_MEMBERS: Mapping[str, Kind] = {
    "user.index": "text",
    "first.notif.utime": "time",
    "age": "number",
    "gender": "text",
    "fitapp": "flag",
    "fittracker": "flag",
    "phonecomfort": "number",
    "consc": "number",
    "selfeff.intake": "number",
    "sit.time.intake": "number",
    "vigact.metmins.intake": "number",
    "modact.metmins.intake": "number",
    "walk.metmins.intake": "number",
    "ipaq.hepa.intake": "number",
}
_FLAGS = {"TRUE": True, "FALSE": False, "true": True, "false": False, "1": True, "0": False, "yes": True, "no": False}


@dataclass(frozen=True)
class HeartSteps:
    """The trial's tables, one row as in the files, in their order."""

    points: pl.DataFrame
    """Decision points: ``member_id``, ``decided_at``, ``sequence`` (order in time within a person), ``action``,
    and the columns of the file (numbers double, flags boolean)."""
    days: pl.DataFrame
    """Days: ``member_id``, ``known_at`` (when a day's figures were known), and the columns of the file."""
    members: pl.DataFrame
    """Persons: ``member_id``, ``known_at`` (the start of their part in the trial), and the columns of the file."""
    notes: tuple[str, ...]


def read_heartsteps(data: Path) -> HeartSteps:
    """Read ``suggestions.csv``, ``daily.csv`` and ``members.csv`` in the folder ``data``.

    Raises LogError naming the file, column and value of what is wrong.
    """
    missing = [name for name in FILES if not (data / name).is_file()]
    if missing:
        raise LogError(f"{data}: no {', '.join(missing)}; a HeartSteps folder holds {', '.join(FILES)}")
    columns = load_table((data / FILES[0],)).columns
    kinds = _PUBLISHED_KIND if all(name in columns for name in _PUBLISHED_KIND) else _KIND
    points, notes = _timed(_read(data / FILES[0], {**_SUGGESTIONS, **kinds}).rename({"user": "member_id"}))
    points = points.with_columns(_action(points).alias("action"))
    days = _read(data / FILES[1], _DAILY).rename({"user.index": "member_id"})
    members = _read(data / FILES[2], _MEMBERS).rename({"user.index": "member_id"})
    first = points.group_by("member_id").agg(pl.col("decided_at").min().alias("first"))
    members = members.join(first, on="member_id", how="left", maintain_order="left")
    # Intake came before the first decision, which in one case came before the first notification on record.
    members = members.with_columns(pl.min_horizontal("first.notif.utime", "first").alias("known_at")).drop("first")
    return HeartSteps(points, _known(days, points), members, tuple(notes))


def _timed(points: pl.DataFrame) -> tuple[pl.DataFrame, list[str]]:
    """Add decided_at and sequence."""
    decision, scheduled = pl.col("sugg.decision.utime"), pl.col("sugg.select.utime")
    off = (decision - scheduled).abs() > pl.duration(hours=MAX_HOURS_OFF)
    points = points.with_columns(
        pl.when(decision.is_null() | off).then(scheduled).otherwise(decision).alias("decided_at")
    )
    notes = []
    for count, what in (
        (points.select(decision.is_null().sum()).item(), "without a decision time"),
        (points.select(off.sum()).item(), f"with a decision time more than {MAX_HOURS_OFF} h off"),
    ):
        if count:
            notes.append(f"decision points {what} (the scheduled time counts): {count:,}")
    index = pl.col("decision.index.nogap")
    later_first = (pl.col("decided_at") < pl.col("decided_at").shift(1).over("member_id", order_by=index)).sum()
    count = points.select(later_first).item()
    if count:
        notes.append(f"decision points before the one of the lower index (order is by time): {count:,}")
    position = pl.int_range(pl.len()).over("member_id", order_by=["decided_at", "decision.index.nogap"])
    return points.with_columns(pl.when(pl.col("decided_at").is_not_null()).then(position).alias("sequence")), notes


def _action(points: pl.DataFrame) -> pl.Expr:
    """Return what was sent, from the published columns where the file has them, else from the label ``kind``."""
    if "send.active" in points.columns:
        sent = pl.when("send.active").then(pl.lit("walk")).when("send.sedentary").then(pl.lit("stand"))
        return pl.when(pl.col("send").not_()).then(pl.lit("none")).otherwise(sent)
    return pl.when(pl.col("send").not_()).then(pl.lit("none")).when("send").then("kind")


def _known(days: pl.DataFrame, points: pl.DataFrame) -> pl.DataFrame:
    """Add the moment from which a day's figures are known: after the day's last decision, always.

    That is the person's next decision after the last one of the day, for it belongs to a later local day; or the end
    of the day in the westernmost time zone, if that comes first.
    """
    timed = points.filter(pl.col("decided_at").is_not_null()).sort("decided_at")
    last = timed.group_by("member_id", "study.day.nogap").agg(pl.col("decided_at").max().alias("last")).sort("last")
    following = timed.select("member_id", pl.col("decided_at").alias("next"))
    last = last.join_asof(
        following,
        left_on="last",
        right_on="next",
        by="member_id",
        strategy="forward",
        allow_exact_matches=False,
        check_sortedness=False,
    )
    over = pl.col("study.date").cast(pl.Datetime("us")).dt.replace_time_zone("UTC") + pl.duration(
        hours=DAY_IS_OVER_HOURS
    )
    days = days.join(last, on=["member_id", "study.day.nogap"], how="left", maintain_order="left")
    known = pl.max_horizontal(pl.min_horizontal(over, "next"), pl.col("last") + pl.duration(microseconds=1))
    return days.with_columns(known.alias("known_at")).drop("last", "next")


def _read(path: Path, columns: Mapping[str, Kind]) -> pl.DataFrame:
    raw = load_table((path,))
    problems = [f"missing column {name!r}{nearest(name, raw.columns)}" for name in columns if name not in raw.columns]
    problems += [f"row {row}: {reason}" for _, row, reason in raw.torn.iter_rows()]
    if problems:
        raise LogError("\n".join(f"{path}: {problem}" for problem in problems))
    frame = raw.frame.select(
        pl.when(~pl.col(name).is_in(["NA", ""])).then(pl.col(name)).alias(name) for name in columns
    )
    for name, kind in columns.items():
        typed = frame.select(_typed(pl.col(name), kind)).to_series()
        bad = frame[name].is_not_null() & typed.is_null()
        if bad.any():
            row = int(bad.arg_max() or 0)
            raise LogError(f"{path}: row {row + 1}: {name} = {frame[name][row]!r} is no {kind}")
        frame = frame.with_columns(typed)
    return frame


def _typed(text: pl.Expr, kind: Kind) -> pl.Expr:
    match kind:
        case "text":
            return text
        case "number":
            value = text.cast(pl.Float64, strict=False)
            return pl.when(value.is_finite()).then(value)
        case "flag":
            return text.replace_strict(_FLAGS, default=None, return_dtype=pl.Boolean)
        case "time":
            return text.str.to_datetime("%Y-%m-%d %H:%M:%S", strict=False, time_unit="us").dt.replace_time_zone("UTC")
        case "date":
            return text.str.to_date("%Y-%m-%d", strict=False)
