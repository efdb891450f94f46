"""Tables as people bring them: one Parquet or CSV file, or a folder of parts, read whole with every row's place."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.csv as arrow_csv
import pyarrow.parquet as pq

from contracts.errors import LogError

INTERNAL = "__pacer_"
"""Prefix of the columns that are added to a table while it is checked; they never leave."""
FILE = f"{INTERNAL}file"
"""Internal column: index of the file a row came from."""
ROW = f"{INTERNAL}row"
"""Internal column: number of the data row in its file, counted from 1; a CSV's header and blank lines don't count."""

_KINDS = (".parquet", ".csv")
_MAGIC = b"PAR1"
_SHOWN_CHARACTERS = 120
# A row of a CSV file has to fit into one block of the parser.
_CSV_BLOCK_BYTES = 1 << 24


@dataclass(frozen=True)
class RawTable:
    """A table as it stands in its files, before any rule is applied."""

    source: str
    """What errors call it: the file, or the folder of its parts."""
    files: tuple[Path, ...]
    frame: pl.DataFrame
    """The table's own columns, then FILE and ROW, in the order of the files."""
    torn: pl.DataFrame
    """Lines of CSV files with too few or too many fields: FILE, ROW, ``reason``."""
    notes: tuple[str, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the table's own columns, in the order of the first file."""
        return tuple(name for name in self.frame.columns if not name.startswith(INTERNAL))

    @property
    def rows(self) -> int:
        """Number of data rows, torn ones included."""
        return self.frame.height + self.torn.height


def find_table(path: Path, stem: str) -> tuple[Path, ...]:
    """Return the files of the table ``stem`` that ``path`` leads to.

    Parameters
    ----------
    path
        A file, or a folder with ``<stem>.parquet`` or ``<stem>.csv`` (each a file or a folder of parts, as Spark
        writes it), or a folder ``<stem>/`` of parts; else a folder whose only tables are one Parquet or CSV file, or
        parts ``<stem>-*``, as serving writes them.
    stem
        Name of the table.

    Raises
    ------
    LogError
        If there is no such table, or more than one that could be meant.
    """
    if not path.exists():
        raise LogError(f"{path}: no such file or folder")
    if path.is_file() or path.suffix.lower() in _KINDS:
        return parts(path)
    named = [path / name for name in (*(f"{stem}{kind}" for kind in _KINDS), stem) if (path / name).exists()]
    if len(named) > 1:
        raise LogError(f"{path}: holds {' and '.join(file.name for file in named)}; leave one")
    if named:
        return parts(named[0])
    tables = [file for file in _visible(path) if file.suffix.lower() in _KINDS]
    if len(tables) == 1:
        return parts(tables[0])
    if tables and all(file.name.startswith(f"{stem}-") for file in tables):
        return parts(path)
    found = ", ".join(file.name for file in tables[:5]) or "no Parquet or CSV file"
    raise LogError(f"{path}: no {stem}.parquet, {stem}.csv or folder {stem}; found {found}")


def find_tables(folder: Path) -> dict[str, tuple[Path, ...]]:
    """Return the files of every table in ``folder`` by the table's name; no such folder holds no tables.

    Raises LogError where one name stands for two tables.
    """
    tables: dict[str, tuple[Path, ...]] = {}
    for path in _visible(folder) if folder.is_dir() else []:
        if path.suffix.lower() not in _KINDS:
            continue
        if path.stem in tables:
            raise LogError(f"{folder}: holds {path.stem}.parquet and {path.stem}.csv; leave one")
        tables[path.stem] = parts(path)
    return tables


def parts(path: Path) -> tuple[Path, ...]:
    """Return ``path`` itself if it is a Parquet or CSV file, or the Parquet or CSV files in the folder ``path``.

    Raises LogError if there are none, or of both kinds.
    """
    if path.is_file():
        if path.suffix.lower() not in _KINDS:
            raise LogError(f"{path}: neither .parquet nor .csv; convert it to one of them")
        return (path,)
    files = [file for file in _visible(path) if file.is_file() and file.suffix.lower() in _KINDS]
    if not files:
        raise LogError(f"{path}: no Parquet or CSV file in this folder")
    if len({file.suffix.lower() for file in files}) > 1:
        raise LogError(f"{path}: Parquet and CSV files side by side; leave one kind")
    return tuple(files)


def load_table(files: Sequence[Path]) -> RawTable:
    """Read ``files``, the parts of one table.

    Returns
    -------
    RawTable
        Columns of a CSV file are text, an empty cell is null. Columns of a Parquet file keep their type.

    Raises
    ------
    LogError
        If a file is empty, cut short or not what its name says, or if the parts differ in their columns.
    """
    source = str(files[0] if len(files) == 1 else files[0].parent)
    frames: list[pl.DataFrame] = []
    torn = [pl.DataFrame(schema={FILE: pl.UInt32, ROW: pl.Int64, "reason": pl.String})]
    notes: list[str] = []
    for index, path in enumerate(files):
        if path.stat().st_size == 0:
            raise LogError(f"{path}: the file is empty (0 bytes)")
        if path.suffix.lower() == ".csv":
            table, bad = _read_csv(path)
            if not _ends_with_newline(path):
                notes.append(
                    f"{path.name}: the last line has no line end; if the file was cut, its last value is short"
                )
        else:
            table, bad = _read_parquet(path), {}
        frame = _to_polars(table, path)
        numbers = pl.Series(ROW, range(1, frame.height + len(bad) + 1), dtype=pl.Int64)
        if bad:
            numbers = numbers.filter(~numbers.is_in(list(bad)))
        frames.append(frame.with_columns(pl.lit(index, pl.UInt32).alias(FILE), numbers))
        rows = {FILE: [index] * len(bad), ROW: list(bad), "reason": list(bad.values())}
        torn.append(pl.DataFrame(rows, schema=torn[0].schema))
    for path, frame in zip(files, frames, strict=True):
        differing = set(frame.columns) ^ set(frames[0].columns)
        if differing:
            names = ", ".join(repr(name) for name in sorted(differing))
            raise LogError(f"{path}: its columns differ from those of {files[0].name}: {names}")
    try:
        whole = pl.concat(frames, how="diagonal_relaxed", rechunk=True)
    except pl.exceptions.PolarsError as error:
        raise LogError(f"{source}: columns have other types from file to file: {_first_line(error)}") from None
    raw = RawTable(source, tuple(files), whole, pl.concat(torn), tuple(notes))
    if not raw.rows:
        raise LogError(f"{source}: no rows, only column names")
    return raw


def to_arrow(frame: pl.DataFrame) -> pa.Table:
    """Return ``frame`` as an Arrow table with plain ``string`` and ``list`` types, which every reader knows."""
    table = frame.to_arrow(compat_level=pl.CompatLevel.oldest())
    return table.cast(pa.schema([pa.field(field.name, _plain(field.type)) for field in table.schema]))


def _plain(dtype: pa.DataType) -> pa.DataType:
    if pa.types.is_large_string(dtype) or pa.types.is_dictionary(dtype):
        return pa.string()
    if pa.types.is_large_list(dtype) or pa.types.is_fixed_size_list(dtype):
        return pa.list_(_plain(dtype.value_type))
    return dtype


def _visible(folder: Path) -> list[Path]:
    # Spark, Dask and file managers leave _SUCCESS, .crc and hidden files beside the parts.
    return sorted(path for path in folder.iterdir() if not path.name.startswith(("_", ".")))


def _read_parquet(path: Path) -> pa.Table:
    with path.open("rb") as file:
        head = file.read(4)
        file.seek(-min(4, path.stat().st_size), 2)
        tail = file.read(4)
    if head != _MAGIC:
        raise LogError(f"{path}: not a Parquet file, whatever its name says")
    if tail != _MAGIC:
        raise LogError(f"{path}: a Parquet file cut short (its footer is missing); copy or write it again")
    try:
        return pq.ParquetFile(path).read()
    except (pa.ArrowException, OSError) as error:
        raise LogError(f"{path}: a damaged Parquet file: {_first_line(error)}; copy or write it again") from None


def _read_csv(path: Path) -> tuple[pa.Table, dict[int, str]]:
    """Return the whole rows as text, and the torn ones as row number -> reason."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            names = next(csv.reader(file), [])
    except (UnicodeDecodeError, csv.Error):
        raise LogError(f"{path}: not a CSV file in UTF-8, whatever its name says") from None
    _refuse_repeated(names, path)
    torn: dict[int, str] = {}

    def set_aside(row: arrow_csv.InvalidRow) -> str:
        text = row.text if len(row.text) <= _SHOWN_CHARACTERS else f"{row.text[:_SHOWN_CHARACTERS]}..."
        # Arrow counts the header as row 1.
        torn[row.number - 1] = f"torn row: {row.actual_columns} of {row.expected_columns} fields: {text!r}"
        return "skip"

    try:
        table = arrow_csv.read_csv(
            path,
            # Only a single thread knows the numbers of invalid rows.
            read_options=arrow_csv.ReadOptions(use_threads=False, block_size=_CSV_BLOCK_BYTES),
            parse_options=arrow_csv.ParseOptions(newlines_in_values=True, invalid_row_handler=set_aside),
            convert_options=arrow_csv.ConvertOptions(
                column_types={name: pa.string() for name in names}, null_values=[""], strings_can_be_null=True
            ),
        )
    except pa.ArrowException as error:
        raise LogError(f"{path}: not a CSV file in UTF-8: {_first_line(error)}") from None
    return table, torn


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, 2)
        return file.read(1) in b"\r\n"


def _refuse_repeated(names: Sequence[str], path: Path) -> None:
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise LogError(f"{path}: column {', '.join(map(repr, repeated))} stands there twice")


def _to_polars(table: pa.Table, path: Path) -> pl.DataFrame:
    _refuse_repeated(table.column_names, path)
    # Polars knows no offsets such as +05:30, Arrow does.
    for index, field in enumerate(table.schema):
        if pa.types.is_timestamp(field.type) and field.type.tz is not None:
            values = table.column(index).cast(pa.timestamp(field.type.unit, "UTC"))
            table = table.set_column(index, field.name, values)
    try:
        frame = pl.from_arrow(table)
    except (pl.exceptions.PolarsError, pa.ArrowException, ValueError, TypeError) as error:
        raise LogError(f"{path}: a column of a type that can't be read: {_first_line(error)}") from None
    assert isinstance(frame, pl.DataFrame)
    return frame


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
