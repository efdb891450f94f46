"""How much of the members' state is not known, and why: counted, logged, and held against the spec's rules."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from contracts.spec import UNKNOWN_STATES, Spec

logger = logging.getLogger(__name__)

LOG_EVERY_MS = 60_000
_NAMED = 3
"""Features that a line names at most, the most frequent first."""


class OnlineValues(Protocol):
    """F features of n members; where one is not known, one of three masks says why."""

    @property
    def values(self) -> NDArray[np.float64]:
        """Array [n, F]; NaN where not known."""

    @property
    def missing(self) -> NDArray[np.bool_]:
        """Mask [n, F]: nothing is stored of the member, or no value."""

    @property
    def stale(self) -> NDArray[np.bool_]:
        """Mask [n, F]: what is stored is older than its view's ttl."""

    @property
    def never_materialized(self) -> NDArray[np.bool_]:
        """Mask [n, F]: the view holds nothing of anyone."""

    @property
    def event_us(self) -> NDArray[np.int64]:
        """Array [n, V]: since when each view's values were known, Unix time in µs; -1: there are none."""


class MemberState:
    """Counts the features of ``features`` that were not known when decisions were made. For one thread at a time."""

    def __init__(self, spec: Spec, features: Sequence[str], names: Sequence[str]) -> None:
        self._spec, self._features = spec, tuple(features)
        self._columns = [list(names).index(name) for name in features]
        self.decisions = 0
        """Decisions whose state was looked at."""
        self.counts: dict[str, Counter[str]] = {state: Counter() for state in UNKNOWN_STATES}
        """For each reason, how often each feature was not known for it."""
        self._logged = self._totals()
        self._logged_ms: int | None = None

    def check(self, read: OnlineValues, rows: Sequence[int], now_ms: int) -> list[str | None]:
        """Count what is not known of the ``rows`` of ``read``; log a line a minute, at once the first time.

        Returns
        -------
        For each of the rows why it must not be decided by the spec's ``state.unknown``, or None.
        """
        self.decisions += len(rows)
        refused: list[str | None] = [None] * len(rows)
        chosen = np.ix_(rows, self._columns)
        for state in UNKNOWN_STATES:
            mask = getattr(read, state)[chosen]
            if not mask.any():
                continue
            for column, times in enumerate(mask.sum(axis=0).tolist()):
                if times:
                    self.counts[state][self._features[column]] += times
            if getattr(self._spec.state.unknown, state) == "fallback":
                for row in np.flatnonzero(mask.any(axis=1)).tolist():
                    names = [self._features[column] for column in np.flatnonzero(mask[row]).tolist()]
                    refused[row] = refused[row] or _reason(state, names)
        self._log(now_ms)
        return refused

    def summary(self) -> str:
        """Return the counters in a line for people."""
        parts = []
        for state, counter in self.counts.items():
            named = ", ".join(f"{name} {times}" for name, times in counter.most_common(_NAMED))
            more = ", ..." if len(counter) > _NAMED else ""
            parts.append(f"{state} {counter.total()}" + (f" ({named}{more})" if named else ""))
        values = self.decisions * len(self._features)
        return f"state of {self._spec.name}: of {values} values in {self.decisions} decisions " + ", ".join(parts)

    def _log(self, now_ms: int) -> None:
        totals = self._totals()
        due = self._logged_ms is None or now_ms - self._logged_ms >= LOG_EVERY_MS
        if totals == self._logged or not due:
            return
        # A value missing is everyday: a member never seen. What is stale or never filled wants a person.
        grave = totals[1:] != self._logged[1:]
        logger.log(logging.WARNING if grave else logging.INFO, self.summary())
        self._logged, self._logged_ms = totals, now_ms

    def _totals(self) -> tuple[int, ...]:
        return tuple(self.counts[state].total() for state in UNKNOWN_STATES)


def _reason(state: str, names: Sequence[str]) -> str:
    named = ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
    cure = "; run `make materialize`" if state == "never_materialized" else ""
    return f"state not known: {named} {state.replace('_', ' ')} (state.unknown.{state} = fallback){cure}"
