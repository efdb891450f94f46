"""The rows of a table that were set aside: as a table, as a CSV file, and as an error where they are too many."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pyarrow as pa

from contracts.errors import LogError
from contracts.table_files import FILE, ROW, RawTable, to_arrow

_EXAMPLES = 3


@dataclass(frozen=True)
class Rejects:
    """The rows set aside, as people read them."""

    table: pa.Table
    """``row`` (data rows count from 1), ``file`` where there are several, ``reason``, and the row's own columns."""
    reasons: Mapping[str, int]
    """Number of rows by reason, the most frequent first."""


def settle_rejects(raw: RawTable, rejects: pl.DataFrame, max_share: float, write_to: Path | None) -> Rejects:
    """Write the rejected rows of ``raw`` to a CSV file, and stop where there are too many.

    Parameters
    ----------
    rejects
        In the form of ``Checked.rejects``.
    max_share
        The largest share of rejected rows that passes, 0 to 1.
    write_to
        Where the rejects go, also where there are none; None: nowhere.

    Raises
    ------
    LogError
        If the share is larger, or no row is left: with counts, first rows and the file they are in.
    """
    rejects = rejects.sort(FILE, ROW)
    counts = rejects["kind"].value_counts(sort=True)
    reasons = dict(zip(counts["kind"].to_list(), counts["count"].to_list(), strict=True))
    names = pl.Series([path.name for path in raw.files], dtype=pl.String)
    own = [name for name in raw.columns if f"own:{name}" in rejects.columns]
    data: dict[str, pl.Series] = {"row": rejects[ROW]}
    if len(raw.files) > 1:
        data["file"] = names.gather(rejects[FILE])
    data["reason"] = rejects["reason"]
    # Columns of the table's own that bear one of these names give way.
    data |= {name: rejects[f"own:{name}"] for name in own if name not in data}
    frame = pl.DataFrame(data)
    if write_to is not None:
        write_to.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=write_to.parent) as folder:
            frame.write_csv(Path(folder) / write_to.name)
            (Path(folder) / write_to.name).replace(write_to)
    if rejects.height / raw.rows > max_share or rejects.height == raw.rows:
        lines = [
            f"{raw.source}: {rejects.height:,} of {raw.rows:,} rows break the contract "
            f"({rejects.height / raw.rows:.1%}); log.max_reject_share allows {max_share:.1%}"
        ]
        for kind, count in reasons.items():
            first = frame.filter(rejects["kind"] == kind).head(_EXAMPLES)
            where = "; ".join(_place(row, kind) for row in first.iter_rows(named=True))
            lines.append(f"  {count:,} x {kind}; first: {where}")
        if write_to is not None:
            lines.append(f"  all of them with their reasons: {write_to}")
        raise LogError("\n".join(lines))
    return Rejects(to_arrow(frame), reasons)


def _place(row: Mapping[str, object], kind: str) -> str:
    file = f" of {row['file']}" if "file" in row else ""
    value = str(row["reason"]).removeprefix(kind).removeprefix(": ")
    return f"row {row['row']}{file}" + (f" ({value})" if value else "")
