"""The tables under validation: read from Parquet, laid out for Great Expectations, with the columns that rules need.

Great Expectations' pandas engine compares float64, UTC timestamps and strings column-wise and anything
else value by value, and takes NaN for null. So a table keeps two forms: what is stored (Arrow, from which
rows are reported) and what is checked (pandas, of plain types, plus columns derived here).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from contracts.errors import LogError
from contracts.settings import Workspace
from contracts.spec import Spec

TEXT = "string"
NUMBER = "float64"
TIME = "datetime64[us, UTC]"
NAMES = "list<string>"
"""What a column holds, as the pandas type it is checked as; a list of names is checked as text joined by ``|``."""

ELIGIBLE_ACTION = "gate:action_is_eligible"
SECONDS_SINCE_PREVIOUS = "gate:seconds_since_previous_decision"
DAYS_AFTER_LOG = "gate:days_after_last_decision"
"""Derived columns. No column of a log or feature table can bear such a name: names have no colon."""

_UTC = ("UTC", "Etc/UTC", "+00:00", "Z")


@dataclass(frozen=True)
class Table:
    """One table under validation.

    ``frame`` has one row a stored row, in stored order, and a column for each of ``wanted`` that is there.
    """

    name: str
    stored: pa.Table
    frame: pd.DataFrame
    wanted: Mapping[str, str]
    """Required column -> what it holds: TEXT, NUMBER, TIME or NAMES."""
    key: tuple[str, ...]
    """The columns that say which row it is."""
    numbered: bool = True
    """Whether the position of a row means something: False for a table that no file holds."""

    def has(self, *columns: str) -> bool:
        """Whether all of ``columns`` are there and hold what they should."""
        return all(
            column in self.frame and str(self.frame[column].dtype) == dtype_of(self.wanted[column])
            for column in columns
        )


def dtype_of(holds: str) -> str:
    """Return the pandas type as which a column that holds ``holds`` is checked."""
    return TEXT if holds == NAMES else holds


def increase_column(counter: str) -> str:
    """Name of the derived column with the increase of ``counter`` since the member's previous row."""
    return f"gate:increase_of_{counter}"


def log_table(spec: Spec, workspace: Workspace) -> Table:
    """Read the decision log of ``spec``.

    Raises LogError where there is none, or it cannot be read.
    """
    if not workspace.log.is_file():
        raise LogError(f"{workspace.log}: no decision log yet; {_way_out(spec)}")
    stored = _read(workspace.log, spec)
    wanted = {"member_id": TEXT, "decided_at": TIME, "eligible": NAMES, "action": TEXT, "propensity": NUMBER}
    wanted |= {f"reward_{name}": NUMBER for name in spec.reward_names}
    wanted |= {name: _text_or_number(stored, name) for name in spec.state.candidate}
    table = Table("log/decisions", stored, _frame(stored, wanted), wanted, ("member_id", "decided_at"))
    if table.has("eligible", "action"):
        table.frame[ELIGIBLE_ACTION] = _action_is_eligible(stored)
    if table.has("member_id", "decided_at"):
        elapsed = table.frame.groupby("member_id", sort=False)["decided_at"].diff()
        table.frame[SECONDS_SINCE_PREVIOUS] = elapsed.dt.total_seconds()
    return table


def feature_files(spec: Spec, workspace: Workspace) -> list[Path]:
    """Return the Parquet file of every feature table, by name. Raises LogError where one or all are missing."""
    files = sorted(workspace.features.glob("*.parquet")) if workspace.features.is_dir() else []
    missing = sorted(set(spec.state.tables) - {file.stem for file in files})
    if missing:
        raise LogError(
            f"{workspace.features / missing[0]}.parquet: spec {spec.name!r} names feature table {missing[0]!r} in "
            f"state.tables and it is not there; {_way_out(spec)}"
        )
    if not files:
        raise LogError(f"{workspace.features}: no feature tables (*.parquet) yet; {_way_out(spec)}")
    return files


def feature_table(spec: Spec, path: Path, log: Table) -> Table:
    """Read one feature table; its features are those that the spec declares, else every column but the keys.

    Raises LogError where it cannot be read.
    """
    stored = _read(path, spec)
    wanted = {"member_id": TEXT, "event_timestamp": TIME}
    declared = spec.state.tables.get(path.stem)
    features = declared.features if declared else [name for name in stored.column_names if name not in wanted]
    wanted |= dict.fromkeys(features, NUMBER)
    key = ("member_id", "event_timestamp")
    table = Table(f"features/{path.stem}", stored, _frame(stored, wanted), wanted, key)
    if table.has("event_timestamp") and log.has("decided_at"):
        late = table.frame["event_timestamp"] - log.frame["decided_at"].max()
        table.frame[DAYS_AFTER_LOG] = late.dt.total_seconds() / 86_400
    if table.has(*key):
        ordered = table.frame.sort_values(list(key), kind="stable")
        for counter in spec.counter_features:
            if counter in wanted and table.has(counter):
                # Rows left out here, and a member's first, have no increase: pandas aligns the rest by row.
                known = ordered[[*key, counter]].dropna()
                table.frame[increase_column(counter)] = known.groupby("member_id", sort=False)[counter].diff()
    return table


def member_table(log: Table, features: Iterable[tuple[str, pd.Series]]) -> Table:
    """Return one row a member of the log: ``decisions``, and of each named table how many rows the member has.

    ``features`` gives, for each feature table's name, its rows per member (index ``member_id``).
    """
    decisions = log.frame["member_id"].value_counts(sort=False).rename("decisions")
    counts = pd.DataFrame(decisions)
    for name, rows in features:
        counts[name] = rows.reindex(counts.index, fill_value=0)
    frame = counts.astype(NUMBER).rename_axis("member_id").reset_index().astype({"member_id": "string[pyarrow]"})
    wanted = {"member_id": TEXT, **dict.fromkeys(counts.columns, NUMBER)}
    stored = pa.Table.from_pandas(frame, preserve_index=False)
    return Table("members", stored, frame, wanted, ("member_id",), numbered=False)


def _read(path: Path, spec: Spec) -> pa.Table:
    try:
        stored = pq.ParquetFile(path).read()
    except (OSError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())
        raise LogError(
            f"{path}: cannot be read as Parquet, is it whole? {reason}; delete it, then {_way_out(spec)}"
        ) from error
    names = stored.column_names
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise LogError(f"{path}: column {repeated[0]!r} is there {names.count(repeated[0])} times; keep one")
    return stored


def _way_out(spec: Spec) -> str:
    return f"make it with `make run SPEC=<spec of {spec.name}>`, and DATA=<folder> where the tables are your own"


def _text_or_number(stored: pa.Table, column: str) -> str:
    """Return what a candidate feature holds: it may be either, and its log says which."""
    return TEXT if column in stored.column_names and _is_text(stored.schema.field(column).type) else NUMBER


def _frame(stored: pa.Table, wanted: Mapping[str, str]) -> pd.DataFrame:
    present = {
        name: _series(stored.column(name), holds) for name, holds in wanted.items() if name in stored.schema.names
    }
    return pd.DataFrame(present, index=pd.RangeIndex(stored.num_rows))


def _series(column: pa.ChunkedArray, holds: str) -> pd.Series:
    """Return a column in the type it is checked as; one that holds something else keeps pandas' own type for it."""
    kind = column.type
    if holds == NUMBER and (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        values = column.cast(pa.float64(), safe=False)
        numbers = values.to_numpy().copy()
        # A stored NaN is no null, but pandas knows no difference: as infinity it fails the rule of finiteness.
        numbers[pc.fill_null(pc.is_nan(values), False).to_numpy()] = np.inf
        return pd.Series(numbers)
    if holds == TIME and pa.types.is_timestamp(kind) and kind.tz in _UTC:
        return column.cast(pa.timestamp("us", tz="UTC"), safe=False).to_pandas()
    if holds == TEXT and _is_text(kind):
        return _text(column.cast(pa.string()))
    if holds == NAMES and _is_list_of_text(kind):
        return _text(pc.binary_join(column.cast(pa.list_(pa.string())), "|"))
    other = column.to_pandas()
    return other if str(other.dtype) != dtype_of(holds) else other.astype(object)


def _text(column: pa.ChunkedArray) -> pd.Series:
    return pd.Series(pd.array(column, dtype="string[pyarrow]"))


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return _is_text(kind.value_type)
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_list_of_text(kind: pa.DataType) -> bool:
    return bool((pa.types.is_list(kind) or pa.types.is_large_list(kind)) and _is_text(kind.value_type))


def _action_is_eligible(stored: pa.Table) -> pd.Series:
    """Return for each row whether its action is in its eligible list; null where there is no action or no list."""
    eligible = stored.column("eligible").cast(pa.list_(pa.string())).combine_chunks()
    action = stored.column("action").cast(pa.string()).combine_chunks()
    row = pc.list_parent_indices(eligible)
    hit = pc.fill_null(pc.equal(pc.list_flatten(eligible), action.take(row)), False)
    found = np.zeros(len(stored), dtype=bool)
    found[row.filter(hit).to_numpy()] = True
    unknown = pc.or_(action.is_null(), eligible.is_null()).to_numpy(zero_copy_only=False)
    return pd.Series(found, dtype="boolean").mask(unknown)
