"""Arrays as a caller brings them, of any numeric type and not to be written to: checked, and turned into the model's.

Every function names the argument, the place and the way out in its ValueError, and returns an array of its own type.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from models.steps import Bools, Floats, Ints

STEP_MS: Final = 1000
"""Time between two steps whose times are not told."""
LATEST_S: Final = 1e11
"""Seconds beyond which (the year 5138) a time was surely given in milliseconds."""


def as_floats(name: str, value: ArrayLike | Mapping[str, ArrayLike], *, unknown: bool = False) -> Floats:
    """Return ``value`` as float32; a mapping of name to column is stacked into [N, columns].

    Infinity is refused, and NaN where not ``unknown``, and what float32 cannot hold.
    """
    if isinstance(value, Mapping):
        columns = [as_floats(f"{name}[{key!r}]", column, unknown=unknown) for key, column in value.items()]
        if any(column.ndim != 1 or column.shape != columns[0].shape for column in columns):
            lengths = {key: column.shape for key, column in zip(value, columns, strict=True)}
            raise ValueError(f"{name} has columns of the shapes {lengths}; give each one the same length [N]")
        return np.stack(columns, axis=1) if columns else np.zeros((0, 0), np.float32)
    given = _numbers(name, value)
    with np.errstate(over="ignore"):
        result = given.astype(np.float32)
    bad = np.isinf(result) if unknown else ~np.isfinite(result)
    if bad.any():
        place = _first(bad)
        found, advice = given[place], "fill missing values first"
        if np.isinf(found):
            advice = "use NaN for what is not known" if unknown else "clip or fill it first"
        elif np.isfinite(found):
            advice = "float32 holds numbers up to 3.4e38; scale it"
        raise ValueError(f"{name}{_at(place)} is {found}; {advice}")
    return result


def as_indices(name: str, value: ArrayLike, count: int | None = None) -> Ints:
    """Return ``value`` as int64; whole numbers of any type from 0 to ``count`` - 1 (or to any number)."""
    given = _numbers(name, value)
    with np.errstate(invalid="ignore"):
        result = given.astype(np.int64)
    bad = (result != given) | (result < 0) | (result >= (np.iinfo(np.int64).max if count is None else count))
    if bad.any():
        place = _first(bad)
        upto = "" if count is None else f" to {count - 1}"
        raise ValueError(f"{name}{_at(place)} is {given[place]}; actions are whole numbers from 0{upto}")
    return result


def as_bools(name: str, value: ArrayLike) -> Bools:
    """Return ``value`` as bool: True and False, or 1 and 0."""
    given = _numbers(name, value)
    bad = (given != 0) & (given != 1)
    if bad.any():
        place = _first(bad)
        raise ValueError(f"{name}{_at(place)} is {given[place]}; give True and False, or 1 and 0")
    return given.astype(np.bool_)


def as_times_ms(name: str, value: ArrayLike) -> Ints:
    """Return times in milliseconds: ``value`` holds datetimes (datetime64 counts as UTC), or seconds as numbers."""
    given = np.asarray(value)
    if given.dtype == object:
        given = np.asarray([_seconds(name, i, item) for i, item in enumerate(given.reshape(-1))]).reshape(given.shape)
    if given.dtype.kind == "M":
        if np.isnat(given).any():
            raise ValueError(f"{name}{_at(_first(np.isnat(given)))} is not a time; drop the row or give it one")
        return given.astype("datetime64[ms]").astype(np.int64)
    seconds = _numbers(name, given).astype(np.float64)
    bad = ~(np.abs(seconds) <= LATEST_S)  # NaN, too
    if bad.any():
        place = _first(bad)
        raise ValueError(f"{name}{_at(place)} is {given[place]}; give seconds as finite numbers, or datetime64")
    return np.rint(seconds * 1000.0).astype(np.int64)


def has_shape(name: str, shape: tuple[int, ...], expected: tuple[int, ...], axes: str) -> None:
    """Raise ValueError if the shape of ``name`` is not the one expected, whose axes are called e.g. "B, S"."""
    if shape != expected:
        sizes = ", ".join(f"{axis.strip()}={size}" for axis, size in zip(axes.split(","), expected, strict=True))
        raise ValueError(f"{name} has shape {shape}, expected [{axes}] with {sizes}")


def all_eligible(name: str, actions: Ints, eligible: Bools) -> None:
    """Raise ValueError at the first of ``actions`` [N] that its row of ``eligible`` [N, A] does not allow."""
    wrong = np.flatnonzero(~np.take_along_axis(eligible, actions[:, None], axis=1)[:, 0])
    if len(wrong):
        row = int(wrong[0])
        raise ValueError(
            f"{name}[{row}] = {actions[row]} is not eligible in that row (eligible: "
            f"{np.flatnonzero(eligible[row]).tolist()}); drop the row, or let its eligible actions hold it"
        )


def _numbers(name: str, value: ArrayLike) -> NDArray[Any]:
    try:
        given = np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{name} is no rectangular array ({error}); give rows of equal length") from None
    if given.dtype.kind not in "biuf":
        raise ValueError(f"{name} has dtype {given.dtype}; give numbers (turn text into indices or one-hot columns)")
    return given


def _seconds(name: str, index: int, item: object) -> float:
    if isinstance(item, datetime) and item.tzinfo is not None:
        return item.timestamp()
    raise ValueError(f"{name}[{index}] is {item!r}; give datetimes with a time zone, datetime64 (UTC) or seconds")


def _first(bad: NDArray[np.bool_]) -> tuple[int, ...]:
    return tuple(int(i) for i in np.unravel_index(int(bad.argmax()), bad.shape))


def _at(place: tuple[int, ...]) -> str:
    return f"[{', '.join(map(str, place))}]" if place else ""
