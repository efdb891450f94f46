"""How one rule becomes an expectation, and the rules that any table or column may have.

Only expectations that Great Expectations ships are used, so any of its users can load a suite from disk
without importing anything of ours. An expectation's ``description`` is its rule in words; its ``meta``
names the stored columns that the rule is about, where the checked one is derived.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from great_expectations.expectations.expectation import Expectation
from great_expectations.expectations.metadata_types import FailureSeverity
from great_expectations.expectations.registry import get_expectation_impl

from contracts.api import MAX_TEXT
from validation.report import CRITICAL, WARNING
from validation.tables import NAMES, NUMBER, TIME, Table, dtype_of

_MAX = sys.float_info.max
_HELD = {NAMES: "list of action names", NUMBER: "number", TIME: "timestamp with time zone UTC"}


def expect(
    expectation: str,
    rule: str,
    severity: str = CRITICAL,
    *,
    about: list[str] | None = None,
    table: str | None = None,
    **kwargs: Any,
) -> Expectation:
    """Return an expectation that Great Expectations knows under the name ``expectation``.

    ``rule`` says it in words; ``about`` names the stored columns (default: the checked one) and ``table`` the table
    (default: the validated one) where a failure is to be looked for; ``kwargs`` are the expectation's own.
    """
    meta: dict[str, Any] = {}
    columns = about or ([kwargs["column"]] if "column" in kwargs else [])
    if columns:
        meta["columns"] = columns
    if table:
        meta["table"] = table
    kind: type[Expectation] = get_expectation_impl(expectation)
    return kind(description=rule, severity=FailureSeverity(severity), meta=meta, **kwargs)


def present(column: str) -> Expectation:
    """Return the critical rule that ``column`` holds no null."""
    return expect("expect_column_values_to_not_be_null", f"{column} is never null", column=column)


def finite(column: str) -> Expectation:
    """Return the critical rule that ``column`` holds neither an infinite number nor NaN; null may stand there."""
    return between(column, f"{column} is a finite number, or null where unknown", CRITICAL, -_MAX, _MAX)


def between(
    column: str, rule: str, severity: str = WARNING, minimum: float | None = None, maximum: float | None = None
) -> Expectation:
    """Return ``rule``: no value of ``column`` lies below ``minimum`` or above ``maximum``."""
    return expect(
        "expect_column_values_to_be_between", rule, severity, column=column, min_value=minimum, max_value=maximum
    )


def known(column: str, share: float) -> Expectation:
    """Return the warning that less than ``share`` of ``column`` is known."""
    return expect(
        "expect_column_proportion_of_non_null_values_to_be_between",
        f"{column} is known in {share:.0%} of the rows or more",
        WARNING,
        column=column,
        min_value=share,
    )


def sound_columns(table: Table) -> Iterator[Expectation]:
    """Yield the critical rules of every table: it has rows; its columns are there, of their types; its key is sound."""
    yield expect("expect_table_row_count_to_be_between", "the table has rows", min_value=1)
    for column, holds in table.wanted.items():
        yield expect("expect_column_to_exist", f"column {column} exists", column=column)
        if column in table.frame:
            rule = f"{column} is a {_HELD.get(holds, holds)}"
            yield expect("expect_column_type_to_be", rule, column=column, type_=dtype_of(holds))
    if table.has("member_id"):
        yield present("member_id")
        yield expect(
            "expect_column_value_lengths_to_be_between",
            f"member_id has 1 to {MAX_TEXT} characters",
            column="member_id",
            min_value=1,
            max_value=MAX_TEXT,
        )
    time = table.key[1]
    if table.has(time):
        yield present(time)
    if table.has(*table.key):
        yield expect(
            "expect_compound_columns_to_be_unique",
            f"a member has one row at one {time}",
            column_list=list(table.key),
            about=list(table.key),
        )
