"""A feature table's contract: what was known of a member, from which moment on, as numbers.

One row a member and moment: ``member_id``, ``event_timestamp`` (from when the values were known), and features.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from contracts.errors import LogError
from contracts.rejects import settle_rejects
from contracts.row_checks import RowChecks, is_text
from contracts.spec import nearest
from contracts.table_files import FILE, ROW, load_table, to_arrow

KEY = ("member_id", "event_timestamp")

_VIEW_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")


@dataclass(frozen=True)
class CheckedFeatures:
    """A feature table that keeps its contract."""

    table: pa.Table
    """Sorted by event_timestamp, member_id: the columns of KEY (string, timestamp[us, UTC]), then features (int64 or
    floating point; null where missing)."""
    rejects: pa.Table
    """The rows set aside, as in a checked log."""
    reasons: Mapping[str, int]
    """Number of rejects by reason, the most frequent first."""
    replaced: int
    """Rows whose member and moment stand in a later row, which replaces them."""
    notes: tuple[str, ...]


def read_feature_table(
    files: Sequence[Path],
    view: str,
    required: Sequence[str] = (),
    max_reject_share: float = 0.0,
    rejects_to: Path | None = None,
) -> CheckedFeatures:
    """Read and check the feature table of one view.

    Parameters
    ----------
    files
        The table's parts, Parquet or CSV.
    view
        Name of the feature view.
    required
        Features that must be there. Others are kept too.
    max_reject_share
        Largest share of rows that may break a rule, 0 to 1.
    rejects_to
        CSV file for the rows set aside; None: nowhere.

    Raises
    ------
    LogError
        If a file can't be read, a column is missing or holds no numbers, or too many rows break a rule.
    """
    if not _VIEW_NAME.fullmatch(view):
        raise LogError(f"{files[0]}: {view!r} can't name a feature view; use letters, digits and underscores")
    raw = load_table(files)
    features = [name for name in raw.columns if name not in KEY]
    problems = [
        f"missing column {name!r}{nearest(name, raw.columns)}" for name in (*KEY, *required) if name not in raw.columns
    ]
    if not features:
        problems.append("no feature column")
    if problems:
        raise LogError("\n".join(f"{raw.source}: {problem}" for problem in problems))
    checks = RowChecks(raw)
    checks.member("member_id")
    checks.time("event_timestamp")
    for name in features:
        if not checks.holds_numbers(name):
            way_out = "encode it as numbers or drop it" if is_text(checks.dtype(name)) else "convert or drop it"
            raise checks.wrong_type(name, f"a number; {way_out}")
        checks.number(name, integers=True)
    checked = checks.apply()
    rejects = settle_rejects(raw, checked.rejects, max_reject_share, rejects_to)
    last = checked.frame.unique(list(KEY), keep="last", maintain_order=True)
    table = last.drop(FILE, ROW).sort("event_timestamp", "member_id")
    return CheckedFeatures(
        to_arrow(table),
        rejects.table,
        rejects.reasons,
        checked.frame.height - last.height,
        (*raw.notes, *checks.notes),
    )
