"""Ratios over decisions with 95 % intervals clustered by member: a member's decisions are alike, members are not.

A share, a mean and a quotient of two losses are all one sum over another. With Y_c and X_c the sums of member c and
theta = sum Y / sum X, the linearised variance is G / (G - 1) * sum (Y_c - theta X_c)^2 / (sum X)^2 (Cochran, Sampling
Techniques, 3rd ed., 6.4 and 9A.4; Cameron and Miller, A Practitioner's Guide to Cluster-Robust Inference, 2015), and
the interval takes the t quantile with G - 1 degrees of freedom. With one decision a member that is the textbook
interval of a mean.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from models.steps import Ints

Values = NDArray[np.float64]
Interval = tuple[float, float]

_UPPER = 0.975


@dataclass(frozen=True)
class Ratios:
    """K ratios with the ends of their intervals, NaN where there is none: no denominator, or fewer than two members."""

    value: Values  # [K]
    low: Values  # [K]
    high: Values  # [K]

    def at(self, k: int) -> Estimate:
        """Return the ratio at position ``k``."""
        value, low, high = (float(part[k]) for part in (self.value, self.low, self.high))
        known = math.isfinite(low) and math.isfinite(high)
        return Estimate(value if math.isfinite(value) else None, (low, high) if known else None)


@dataclass(frozen=True)
class Estimate:
    """A figure and its 95 % interval, clustered by member; None where it is not defined."""

    value: float | None
    interval: Interval | None

    def to_json(self) -> dict[str, float | list[float] | None]:
        """Return plain numbers and lists."""
        return {"value": self.value, "interval": None if self.interval is None else list(self.interval)}


def member_sums(values: NDArray[np.generic], members: Ints) -> Values:
    """Sum the rows of ``values`` [N, K] by member: [G, K], members [N] in rising order of their number."""
    order = np.argsort(members, kind="stable")
    first = np.flatnonzero(np.diff(members[order], prepend=-1))  # members count from 0
    if not len(first):
        return np.zeros((0, values.shape[1]))
    return np.add.reduceat(values[order].astype(np.float64), first, axis=0)


def ratios_of_sums(numerator: Values, denominator: Values) -> Ratios:
    """Ratios from sums by member, both [G, K]. Members without a share in a ratio do not count towards its G."""
    active = ((numerator != 0.0) | (denominator != 0.0)).sum(axis=0).astype(np.float64)  # [K]
    total = denominator.sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        value = np.where(total != 0.0, numerator.sum(axis=0) / total, np.nan)
        squares = ((numerator - value * denominator) ** 2).sum(axis=0)
        error = np.sqrt(active / (active - 1.0) * squares) / np.abs(total)
        half = np.where(active >= 2.0, stdtrit(np.maximum(active - 1.0, 1.0), _UPPER) * error, np.nan)
    return Ratios(value, value - half, value + half)


def ratios(numerator: NDArray[np.generic], denominator: NDArray[np.generic], members: Ints) -> Ratios:
    """Ratios of the columns of two matrices [N, K] over decisions, clustered by ``members`` [N]."""
    return ratios_of_sums(member_sums(numerator, members), member_sums(denominator, members))


def means(values: NDArray[np.generic], members: Ints) -> Ratios:
    """Means of the columns of ``values`` [N, K] over decisions, clustered by ``members`` [N]."""
    return ratios(values, np.ones(values.shape), members)


def within(found: Ratios, low: float, high: float) -> Ratios:
    """Cut the intervals off at bounds that the figure cannot pass, as 0 and 1 for a share."""
    return Ratios(found.value, np.maximum(found.low, low), np.minimum(found.high, high))
