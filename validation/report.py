"""What the gate found: which expectations failed, on which rows, how badly, and where the Data Docs are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from contracts.errors import GateError

CRITICAL = "critical"
WARNING = "warning"


@dataclass(frozen=True)
class Failure:
    """One expectation that failed."""

    table: str
    """``log/decisions`` or ``features/<feature view>``: the file in the workspace, without its suffix."""
    expectation: str
    """Great Expectations' name of it, e.g. ``expect_column_values_to_be_between``."""
    rule: str
    """The same in words."""
    column: str
    """The stored column or columns that it is about; empty where it is about the whole table."""
    severity: str
    """CRITICAL stops the run, WARNING is shown."""
    unexpected_count: int | None
    """Rows that break the rule; None where the rule is about a column or table as a whole."""
    rows: tuple[int, ...] = ()
    """The first of those rows, counted from 1 in the table's file (as in a rejects file)."""
    values: tuple[str, ...] = ()
    """What stands in those rows, one text a row; or the one thing observed where the rule is about a whole."""

    def __str__(self) -> str:
        column = f", column {self.column}" if self.column else ""
        text = f"{self.table}: {self.rule} ({self.expectation}{column})"
        if self.unexpected_count is not None:
            text += f": {self.unexpected_count:,} row{'' if self.unexpected_count == 1 else 's'}"
        if self.rows:
            found = [f"row {row}: {value}" for row, value in zip(self.rows, self.values, strict=True)]
        else:
            found = list(self.values)
        return f"{text}: {'; '.join(found)}" if found else text


@dataclass(frozen=True)
class GateReport:
    """The outcome of one validation."""

    tenant: str
    passed: bool
    """Whether no critical expectation failed."""
    tables: tuple[str, ...]
    expectations: int
    """How many were evaluated."""
    failed: tuple[Failure, ...]
    docs: Path
    """The first page of the Data Docs."""

    @property
    def critical(self) -> tuple[Failure, ...]:
        """Failures that stop the run."""
        return tuple(failure for failure in self.failed if failure.severity == CRITICAL)

    @property
    def warnings(self) -> tuple[Failure, ...]:
        """Failures that are shown and stop nothing."""
        return tuple(failure for failure in self.failed if failure.severity != CRITICAL)

    def raise_if_failed(self) -> None:
        """Raise GateError, saying which expectations failed on which rows and where the Data Docs are."""
        if self.passed:
            return
        failed = len(self.critical)
        lines = [f"validation of {self.tenant}: {failed} critical expectation{'' if failed == 1 else 's'} failed"]
        lines += [f"  {failure}" for failure in self.critical]
        lines += [f"rows count from 1 in each table's file; Data Docs: {self.docs}"]
        raise GateError("\n".join(lines))

    def show(self, console: Console) -> None:
        """Print the failures as a table, critical ones first, then the outcome and where the Data Docs are."""
        if self.failed:
            table = Table("severity", "table", "column", "rule", "rows", "first found")
            for failure in (*self.critical, *self.warnings):
                found = [f"row {row}: {value}" for row, value in zip(failure.rows, failure.values, strict=False)]
                table.add_row(
                    f"[{'red' if failure in self.critical else 'yellow'}]{failure.severity}[/]",
                    escape(failure.table),
                    escape(failure.column),
                    escape(failure.rule),
                    "" if failure.unexpected_count is None else f"{failure.unexpected_count:,}",
                    escape("\n".join((found or list(failure.values))[:3])),
                )
            console.print(table)
        outcome = "[green]passed[/]" if self.passed else "[red]failed[/]"
        console.print(
            f"validation {outcome}: {self.expectations} expectations on {len(self.tables)} tables, "
            f"{len(self.critical)} critical failures, {len(self.warnings)} warnings",
            highlight=False,
        )
        console.print(f"Data Docs: {escape(str(self.docs))}", highlight=False, soft_wrap=True)
