"""The eligible sets of a decision log: lists of action names, or text in a CSV file, parsed once each."""

from __future__ import annotations

import json
from dataclasses import replace

import polars as pl

from contracts.errors import LogError
from contracts.row_checks import is_text
from contracts.spec import Spec, nearest
from contracts.table_files import INTERNAL, RawTable

ELIGIBLE = f"{INTERNAL}eligible"
"""Column of the parsed set, in the spec's order; null where something is wrong."""
FAULT = f"{INTERNAL}eligible_fault"
"""Column of what is wrong; null where nothing is."""
SHOWN = f"{INTERNAL}eligible_shown"
"""Column of the set as text, for a reject's reason."""

_KEY = f"{INTERNAL}eligible_key"
_SEPARATOR = "\x1f"


def with_eligible_sets(raw: RawTable, spec: Spec) -> RawTable:
    """Return ``raw`` with the columns ELIGIBLE, FAULT and SHOWN.

    A set is a list of action names, or the text ``["none","push"]`` or ``none|push``. Raises LogError where the
    column's type is neither.
    """
    dtype = raw.frame.schema["eligible"]
    inner = dtype.inner if isinstance(dtype, pl.List | pl.Array) else None
    if inner is not None and (is_text(inner) or inner == pl.Null):
        names = pl.col("eligible").cast(pl.List(pl.String))
        # A null among the names would make the joined text null.
        key = names.list.eval(pl.element().fill_null("null")).list.join(_SEPARATOR)
    elif is_text(dtype) or dtype == pl.Null:
        key = pl.col("eligible").cast(pl.String)
    else:
        raise LogError(f"{raw.source}: column 'eligible' has type {dtype}; it must be a list of action names")
    frame = raw.frame.with_columns(key.alias(_KEY))
    # A log has few different sets: each is parsed once.
    keys = frame[_KEY].unique().drop_nulls().to_list()
    split = _split if inner is None else _split_joined
    parsed = [_check(split(key), spec) for key in keys]
    lookup = pl.DataFrame(
        {
            _KEY: keys,
            ELIGIBLE: [names for names, _ in parsed],
            FAULT: [fault for _, fault in parsed],
            SHOWN: [key.replace(_SEPARATOR, "|") for key in keys],
        },
        schema={_KEY: pl.String, ELIGIBLE: pl.List(pl.String), FAULT: pl.String, SHOWN: pl.String},
    )
    frame = frame.join(lookup, on=_KEY, how="left", maintain_order="left")
    fault = pl.when(pl.col(_KEY).is_null()).then(pl.lit("eligible is missing")).otherwise(pl.col(FAULT))
    return replace(raw, frame=frame.with_columns(fault.alias(FAULT)))


def _split_joined(text: str) -> list[str]:
    return text.split(_SEPARATOR) if text else []


def _split(text: str) -> list[str] | None:
    """Return the names in ``text``, or None if it can't be read."""
    if not text.startswith("["):
        return [name.strip() for name in text.split("|")] if text.strip() else []
    try:
        names = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return names if all(isinstance(name, str) for name in names) else None


def _check(names: list[str] | None, spec: Spec) -> tuple[list[str] | None, str | None]:
    """Return the set in the spec's order, or what is wrong with it."""
    if names is None:
        return None, 'eligible can\'t be read (write ["none","push"] or none|push)'
    if not names:
        return None, "eligible is empty"
    unknown = [name for name in names if name not in spec.actions]
    if unknown:
        return None, f"eligible names an unknown action{nearest(unknown[0], spec.actions)}"
    if len(set(names)) < len(names):
        return None, "eligible names an action twice"
    if spec.actions[0] not in names:
        return None, f"eligible lacks {spec.actions[0]!r}, which is always allowed"
    return [name for name in spec.actions if name in names], None
