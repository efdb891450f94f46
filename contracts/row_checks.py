"""Rules on the rows of a table: each row that breaks one is set aside with its number and the reason."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import polars as pl
from polars.datatypes import DataTypeClass

from contracts.errors import LogError
from contracts.table_files import FILE, INTERNAL, ROW, RawTable

CLEAN = f"{INTERNAL}clean_"
"""Prefix under which a checked column stands beside the raw one while rules are applied."""

_BROKEN = f"{INTERNAL}broken"
_TIME = r"^(\d{4}-\d{2}-\d{2})[Tt ](\d{2}:\d{2}:\d{2})(?:\.(\d{1,6})\d*)?(Z|z|[+-]\d{2}(?::?\d{2})?)$"
_LATEST_YEAR = 2199
_LATEST_SECOND = 7_258_118_400
"""The start of the year 2200, in Unix time."""
_LATEST_SHOWN_DAY = 2_932_897
"""The start of the year 10000, in days from 1970: later, or as long before 1970, a moment is shown as a bare number."""
_UNITS_PER_SECOND = {"ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
_NOT_GIVEN = ("", "na", "n/a", "nan", "null", "none")


class Rule(NamedTuple):
    """What no row may be, in words and as an expression over raw and clean columns."""

    reason: str
    broken: pl.Expr
    shown: pl.Expr | None = None
    """What of the row the reject shows beside the reason."""


@dataclass(frozen=True)
class Checked:
    """The rows that keep every rule, and those that don't."""

    frame: pl.DataFrame
    """The clean columns, then FILE and ROW, in the order of the files."""
    rejects: pl.DataFrame
    """FILE, ROW, ``kind`` (the rule), ``reason`` (rule and value), and the raw columns as text."""


@dataclass
class RowChecks:
    """Collects the clean columns of a raw table and the rules on its rows, then applies them at once."""

    raw: RawTable
    columns: dict[str, pl.Expr] = field(default_factory=dict)
    rules: list[Rule] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, name: str, clean: pl.Expr, *rules: Rule) -> None:
        """Add the clean column ``name`` and the rules on it, which apply in the order of their adding."""
        self.columns[name] = clean
        self.rules.extend(rules)

    def dtype(self, name: str) -> pl.DataType:
        """Return the type of a raw column."""
        return self.raw.frame.schema[name]

    def wrong_type(self, name: str, wanted: str) -> LogError:
        """Return the error for a column whose type holds for no row."""
        return LogError(f"{self.raw.source}: column {name!r} has type {self.dtype(name)}; it must be {wanted}")

    def member(self, name: str) -> None:
        """Add the member id ``name``: text, or integers taken as their decimal text. Raises LogError."""
        dtype = self.dtype(name)
        if dtype.is_float() or dtype.is_decimal():
            raise self.wrong_type(name, "text or integers: cast it first, for 12.0 is not the id '12'")
        if not (dtype.is_integer() or is_text(dtype) or dtype == pl.Null):
            raise self.wrong_type(name, "text or integers")
        if dtype.is_integer():
            self.notes.append(f"{name}: integers taken as their decimal text")
        text = pl.col(name).cast(pl.String)
        self.add(
            name,
            text,
            Rule(f"{name} is missing", text.is_null() | (text.str.strip_chars() == "")),
            Rule(f"{name} is a decimal number, not an id", text.str.contains(r"^-?\d+\.0+$"), text),
        )

    def time(self, name: str) -> None:
        """Add the moment ``name``, in UTC with microseconds (finer digits are cut off). Raises LogError.

        A Parquet column must have a time zone; text is RFC 3339 with an offset.
        """
        dtype = self.dtype(name)
        given = pl.col(name)
        formal: list[Rule] = []
        if isinstance(dtype, pl.Datetime):
            if dtype.time_zone is None:
                raise LogError(
                    f"{self.raw.source}: column {name!r} is a timestamp without a time zone; write it as UTC "
                    "(pandas: .dt.tz_localize('UTC'); Spark: spark.sql.parquet.outputTimestampType=TIMESTAMP_MICROS)"
                )
            outside = ~given.to_physical().is_between(0, _LATEST_SECOND * _UNITS_PER_SECOND[dtype.time_unit], "left")
            # Kept out of the conversion: a time written in a wrong unit would overflow there.
            inside = pl.when(~outside).then(given)
            clean = inside.dt.cast_time_unit("us").dt.convert_time_zone("UTC")
            if dtype.time_unit == "ns":
                self.notes.append(f"{name}: nanoseconds cut off to microseconds")
        elif is_text(dtype) or dtype == pl.Null:
            text = given.cast(pl.String).str.strip_chars()
            given = pl.when(text != "").then(text)
            clean = _parse_time(text)
            parsed = pl.col(CLEAN + name)
            outside = ~parsed.to_physical().is_between(0, _LATEST_SECOND * _UNITS_PER_SECOND["us"], "left")
            naive = text.str.contains(r"^\d{4}-\d{2}-\d{2}([Tt ]\d{2}:\d{2}(:\d{2}(\.\d+)?)?)?$")
            formal = [
                Rule(f"{name} has no time zone (write 2026-01-31T08:00:00Z)", naive, text),
                Rule(f"{name} is no RFC 3339 time", parsed.is_null(), text),
            ]
        else:
            raise self.wrong_type(name, "a timestamp with a time zone, or RFC 3339 text")
        range_rule = Rule(f"{name} lies outside 1970-{_LATEST_YEAR}", outside, _as_text(name, dtype))
        self.add(name, clean, Rule(f"{name} is missing", given.is_null()), *formal, range_rule)

    def number(self, name: str, *, nan: Literal["missing", "kept"] = "missing", integers: bool = False) -> None:
        """Add the finite number ``name``, null where missing. Raises LogError where the type holds no numbers.

        Parameters
        ----------
        nan
            Whether not-a-number counts as missing, or is kept for a rule of the caller's.
        integers
            Keep an integer or boolean column as 64-bit integers instead of making it floating point.
        """
        dtype = self.dtype(name)
        raw = pl.col(name)
        not_number: list[Rule] = []
        if is_text(dtype) and self.raw.files[0].suffix.lower() == ".csv":
            value = raw.str.strip_chars().cast(pl.Float64, strict=False)
            given = ~raw.str.strip_chars().str.to_lowercase().is_in(_NOT_GIVEN)
            not_number = [Rule(f"{name} is not a number", pl.col(CLEAN + name).is_null() & given, raw)]
        elif dtype.is_numeric() or dtype in (pl.Boolean, pl.Null):
            if integers and (dtype.is_integer() or dtype == pl.Boolean):
                self.add(name, raw.cast(pl.Int64))
                return
            value = raw.cast(pl.Float64)
        else:
            raise self.wrong_type(name, "a number")
        clean = pl.when(~value.is_nan()).then(value) if nan == "missing" else value
        infinite = Rule(f"{name} is infinite", pl.col(CLEAN + name).is_infinite(), raw.cast(pl.String))
        self.add(name, clean, *not_number, infinite)

    def text(self, name: str) -> None:
        """Add the text column ``name``; null where missing."""
        self.add(name, pl.col(name).cast(pl.String))

    def holds_numbers(self, name: str) -> bool:
        """Return whether ``name`` is a numeric column; a CSV's: more than half its non-empty cells are numbers."""
        dtype = self.dtype(name)
        if not is_text(dtype):
            return dtype.is_numeric() or dtype in (pl.Boolean, pl.Null)
        if self.raw.files[0].suffix.lower() != ".csv":
            return False
        text = self.raw.frame[name].str.strip_chars()
        given = text.filter(~text.str.to_lowercase().is_in(_NOT_GIVEN))
        return given.is_empty() or given.cast(pl.Float64, strict=False).count() * 2 > given.len()

    def apply(self) -> Checked:
        """Apply every rule; of a row that breaks several, the first counts."""
        names = [CLEAN + name for name in self.columns]
        frame = self.raw.frame.with_columns(
            expression.alias(name) for name, expression in zip(names, self.columns.values(), strict=True)
        )
        verdicts = [pl.when(rule.broken).then(pl.lit(index, pl.UInt16)) for index, rule in enumerate(self.rules)]
        frame = frame.with_columns(pl.coalesce(*verdicts).alias(_BROKEN))
        broken = frame.filter(pl.col(_BROKEN).is_not_null())
        rejects = [self.rejected(self.raw.torn, "torn row", pl.col("reason"))]
        for index, rule in enumerate(self.rules):
            rows = broken.filter(pl.col(_BROKEN) == index)
            if rows.height:
                value = pl.lit(rule.reason) if rule.shown is None else _with_value(rule.reason, rule.shown)
                rejects.append(self.rejected(rows, rule.reason, value))
        kept = frame.filter(pl.col(_BROKEN).is_null()).select(
            *(pl.col(name).alias(name.removeprefix(CLEAN)) for name in names), FILE, ROW
        )
        return Checked(kept, pl.concat(rejects, how="diagonal"))

    def rejected(self, rows: pl.DataFrame, kind: str, reason: pl.Expr) -> pl.DataFrame:
        """Return ``rows`` of the raw table in the form of ``Checked.rejects``."""
        # A column of the table's own may be called kind or reason.
        own = [
            _as_text(name, dtype).alias(f"own:{name}")
            for name, dtype in rows.schema.items()
            if name in self.raw.columns
        ]
        return rows.select(FILE, ROW, pl.lit(kind).alias("kind"), reason.alias("reason"), *own)


def is_text(dtype: pl.DataType | DataTypeClass) -> bool:
    """Return whether ``dtype`` is text, dictionary-encoded or not."""
    return any(dtype == text for text in (pl.String, pl.Categorical, pl.Enum))


def _parse_time(text: pl.Expr) -> pl.Expr:
    # Offsets come as Z, +00:00, +0000 (strftime) and +00 (Postgres, DuckDB); fractions with up to nine digits.
    part = text.str.extract_groups(_TIME).struct
    offset = part[3].str.replace("^[Zz]$", "+00").str.replace(":", "", literal=True)
    minutes = pl.when(offset.str.len_bytes() == 3).then(pl.lit("00")).otherwise(pl.lit(""))
    uniform = pl.format("{}T{}.{}{}{}", part[0], part[1], part[2].fill_null("0"), offset, minutes)
    return uniform.str.to_datetime("%Y-%m-%dT%H:%M:%S%.f%z", strict=False, time_unit="us", time_zone="UTC")


def _with_value(reason: str, shown: pl.Expr) -> pl.Expr:
    return pl.concat_str(pl.lit(f"{reason}: "), shown.cast(pl.String).fill_null("null"))


def _as_text(name: str, dtype: pl.DataType) -> pl.Expr:
    column = pl.col(name)
    if dtype.is_nested():
        return column.map_elements(_json, return_dtype=pl.String)
    if dtype == pl.Binary:
        return column.map_elements(repr, return_dtype=pl.String)
    if isinstance(dtype, pl.Duration):
        return column.to_physical().cast(pl.String)
    if isinstance(dtype, pl.Datetime | pl.Date):
        day = 1 if isinstance(dtype, pl.Date) else 86_400 * _UNITS_PER_SECOND[dtype.time_unit]
        furthest = _LATEST_SHOWN_DAY * day
        writable = pl.when(column.to_physical().is_between(-furthest, furthest, "none")).then(column)
        return pl.coalesce(writable.cast(pl.String), column.to_physical().cast(pl.String))
    return column.cast(pl.String)


def _json(value: pl.Series | dict[str, Any] | None) -> str:
    return json.dumps(value.to_list() if isinstance(value, pl.Series) else value, default=str)
