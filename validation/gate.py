"""The gate itself: run a Great Expectations checkpoint on every table of a deployment, and judge the results."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa

from contracts.errors import GateError
from contracts.settings import Settings
from contracts.spec import Spec
from validation.context import data_docs_index, new_context
from validation.report import CRITICAL, WARNING, Failure, GateReport
from validation.tables import Table, feature_files, feature_table, log_table, member_table

if TYPE_CHECKING:
    from great_expectations.core import RunIdentifier
    from great_expectations.core.expectation_validation_result import (
        ExpectationSuiteValidationResult,
        ExpectationValidationResult,
    )
    from great_expectations.data_context.data_context.file_data_context import FileDataContext
    from great_expectations.expectations.expectation import Expectation

Scope = Literal["log", "features", "all"]

ROWS_SHOWN = 10
"""Unexpected rows named for each failure; all of them are counted."""


def validate(
    spec: Spec, settings: Settings, scope: Scope = "all", progress: Callable[[str], None] = lambda _: None
) -> GateReport:
    """Validate the decision log, the feature tables or both of ``spec``, and write Data Docs.

    ``progress`` is called with a line of text before each table. Bad data is reported, not raised
    (``GateReport.raise_if_failed``). Raises LogError where a table is missing or cannot be read.
    """
    workspace = settings.workspace(spec.name)
    files = [] if scope == "log" else feature_files(spec, workspace)
    log = log_table(spec, workspace)

    from great_expectations.core import RunIdentifier

    run_id = RunIdentifier(run_name=scope, run_time=datetime.now(UTC))
    tables: list[str] = []
    expectations = 0
    failed: list[Failure] = []
    with new_context(workspace.data_docs, progress) as context:
        for table, suite in _tables(spec, log, files, scope):
            progress(f"{table.name}: {table.stored.num_rows:,} rows, {len(suite)} expectations")
            result = _run(context, table, suite, run_id)
            tables.append(table.name)
            expectations += len(result.results)
            failed += _failures(table, result)
    return GateReport(
        tenant=spec.name,
        passed=not any(failure.severity == CRITICAL for failure in failed),
        tables=tuple(tables),
        expectations=expectations,
        failed=tuple(failed),
        docs=data_docs_index(workspace.data_docs),
    )


def _tables(spec: Spec, log: Table, files: list[Path], scope: Scope) -> Iterator[tuple[Table, list[Expectation]]]:
    """Yield each table in scope with its suite; of the feature tables, only one at a time is in memory."""
    from validation.suites import feature_suite, log_suite, member_suite

    if scope != "features":
        yield log, log_suite(spec, log)
    rows: list[tuple[str, pd.Series]] = []
    for file in files:
        table = feature_table(spec, file, log)
        if table.has("member_id"):
            rows.append((table.name, table.frame["member_id"].value_counts(sort=False)))
        yield table, feature_suite(spec, table)
        del table
    if log.has("member_id"):
        members = member_table(log, rows)
        if suite := member_suite(members, judge_log=scope != "features"):
            yield members, suite


def _run(
    context: FileDataContext, table: Table, suite: list[Expectation], run_id: RunIdentifier
) -> ExpectationSuiteValidationResult:
    """Store suite, validation definition and checkpoint of one table, and run the checkpoint.

    A table has a checkpoint of its own because the data frames of a run are shared by all definitions of a checkpoint.
    """
    import great_expectations as gx
    from great_expectations.checkpoint.actions import UpdateDataDocsAction

    name = table.name.replace("/", "-")
    # Great Expectations copies the frame for each rule; a copy made here lies in one block, which makes that cheap.
    frame = table.frame.copy()
    frame.index = pd.RangeIndex(1, len(frame) + 1)
    asset = context.data_sources.add_pandas(name).add_dataframe_asset("table")
    definition = gx.ValidationDefinition(
        name=name,
        data=asset.add_batch_definition_whole_dataframe("whole"),
        suite=context.suites.add(gx.ExpectationSuite(name=name, expectations=suite)),
    )
    checkpoint = gx.Checkpoint(
        name=name,
        validation_definitions=[context.validation_definitions.add(definition)],
        actions=[UpdateDataDocsAction(name="data_docs")],
        result_format={"result_format": "SUMMARY", "partial_unexpected_count": ROWS_SHOWN},
    )
    # An infinite value has a rule of its own; it makes the mean of its column undefined, which needs no warning.
    with np.errstate(invalid="ignore"):
        outcome = context.checkpoints.add(checkpoint).run(batch_parameters={"dataframe": frame}, run_id=run_id)
    (result,) = outcome.run_results.values()
    # Great Expectations drops an expectation that it cannot load, and says nothing.
    if len(result.results) != len(suite):
        raise GateError(f"{table.name}: only {len(result.results)} of {len(suite)} expectations were evaluated")
    return result


def _failures(table: Table, result: ExpectationSuiteValidationResult) -> Iterator[Failure]:
    for outcome in result.results:
        if not outcome.success:
            yield _failure(table, outcome)


def _failure(table: Table, outcome: ExpectationValidationResult) -> Failure:
    config = outcome.expectation_config
    assert config is not None
    meta = config.meta or {}
    columns: list[str] = meta.get("columns", [])
    found = outcome.result
    rows: tuple[int, ...] = ()
    values: tuple[str, ...] = ()
    error = _error(outcome.exception_info)
    if error is not None:
        values = (f"could not be evaluated: {error}",)
    elif indices := found.get("partial_unexpected_index_list"):
        shown = tuple(int(index) for index in indices[:ROWS_SHOWN])
        rows = shown if table.numbered else ()
        values = tuple(_row(table, row, columns) for row in shown)
    elif config.type == "expect_column_type_to_be":
        values = (f"stored as {table.stored.schema.field(columns[0]).type}",)
    elif found.get("observed_value") is not None:
        values = (f"observed {_text(found['observed_value'])}",)
    return Failure(
        table=str(meta.get("table", table.name)),
        expectation=config.type,
        rule=config.description or config.type,
        column=", ".join(columns),
        # A rule that could not be judged is no rule that holds.
        severity=CRITICAL if error is not None or config.severity == CRITICAL else WARNING,
        unexpected_count=found.get("unexpected_count"),
        rows=rows,
        values=values,
    )


def _row(table: Table, row: int, columns: list[str]) -> str:
    """Return what is stored in ``row``, counted from 1: its key, then the columns that the rule is about."""
    names = [name for name in dict.fromkeys([*table.key, *columns]) if name in table.stored.column_names]
    return " ".join(f"{name}={_stored(table.stored.column(name)[row - 1])}" for name in names)


def _stored(scalar: pa.Scalar) -> str:
    try:
        return _text(scalar.as_py())
    except (OverflowError, ValueError):
        # Python's dates end with the year 9999, a timestamp in a wrong unit does not.
        return str(np.datetime64(scalar.value, scalar.type.unit))


def _text(value: Any) -> str:
    """Return a value as a person reads it, cut short where it is long."""
    if isinstance(value, datetime):
        text = value.isoformat()
    elif isinstance(value, float):
        text = f"{value:.6g}"
    elif isinstance(value, list | tuple):
        text = f"[{', '.join(map(_text, value))}]"
    else:
        text = "null" if value is None else str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _error(info: Mapping[str, Any] | None) -> str | None:
    """Return why an expectation could not be evaluated: the info is one record, or one for each metric."""
    if not info:
        return None
    records = [info] if "raised_exception" in info else [record for record in info.values() if isinstance(record, dict)]
    return next((str(record.get("exception_message")) for record in records if record.get("raised_exception")), None)
