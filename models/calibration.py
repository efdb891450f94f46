"""Calibration: whether returns fall where their quantiles say, overall and among decisions that look alike."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from models.clustered import Estimate, means, ratios, within
from models.prompts import interpolate
from models.steps import Floats, Ints

DECILES = 10


@dataclass(frozen=True)
class Decile:
    """Decisions whose predicted medians are neighbours. Where many medians are equal, deciles fall together."""

    decisions: int
    predicted: float
    """Mean of the predicted medians."""
    realised: Estimate
    """Mean of the realised returns; above the median where returns have a long upper tail."""
    realised_median: float
    below: Estimate
    """Share of realised returns at or below their own predicted median: 0.5 if calibrated."""


@dataclass(frozen=True)
class Band:
    """Returns between two neighbouring quantiles (PIT-style); the outermost bands are open."""

    low: float
    high: float
    expected: float
    """``high`` - ``low``: the share that falls there if calibrated."""
    observed: Estimate


@dataclass(frozen=True)
class Calibration:
    """Calibration of one reward's quantiles."""

    deciles: tuple[Decile, ...]
    bands: tuple[Band, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain dicts, lists and numbers."""
        return {
            "deciles": [
                {
                    "decisions": decile.decisions,
                    "predicted": decile.predicted,
                    "realised": decile.realised.to_json(),
                    "realised_median": decile.realised_median,
                    "below": decile.below.to_json(),
                }
                for decile in self.deciles
            ],
            "bands": [
                {"low": band.low, "high": band.high, "expected": band.expected, "observed": band.observed.to_json()}
                for band in self.bands
            ],
        }


def calibrate(quantiles: Floats, returns: Floats, levels: Sequence[float], members: Ints) -> tuple[Calibration, ...]:
    """Calibration of every reward: quantiles [N, R, M] at ``levels`` [M], returns [N, R], members [N]."""
    medians = interpolate(quantiles, levels, np.full(returns.shape, 0.5))
    return tuple(
        Calibration(
            _deciles(medians[:, j], returns[:, j], members), _bands(quantiles[:, j], returns[:, j], levels, members)
        )
        for j in range(returns.shape[1])
    )


def crossing_rate(quantiles: Floats) -> Floats:
    """Share of decisions at which a quantile lies below that of a lower level: [R] from [N, R, M]."""
    rate: Floats = (np.diff(quantiles, axis=-1) < 0.0).any(axis=-1).mean(axis=0)
    return rate


def _deciles(medians: Floats, returns: Floats, members: Ints) -> tuple[Decile, ...]:
    edges = np.unique(np.quantile(medians, np.arange(1, DECILES) / DECILES))
    bins = np.searchsorted(edges, medians, side="right")
    inside = bins[:, None] == np.unique(bins)[None, :]  # [N, bins]
    realised = ratios(inside * returns[:, None].astype(np.float64), inside, members)
    below = within(ratios(inside & (returns <= medians)[:, None], inside, members), 0.0, 1.0)
    return tuple(
        Decile(
            int(rows.sum()),
            float(medians[rows].mean(dtype=np.float64)),
            realised.at(k),
            float(np.median(returns[rows])),
            below.at(k),
        )
        for k, rows in enumerate(inside.T)
    )


def _bands(quantiles: Floats, returns: Floats, levels: Sequence[float], members: Ints) -> tuple[Band, ...]:
    edges = (0.0, *levels, 1.0)
    band = (returns[:, None] > quantiles).sum(axis=1)  # [N] quantiles below the return
    observed = within(means(band[:, None] == np.arange(len(levels) + 1), members), 0.0, 1.0)
    return tuple(Band(low, high, high - low, observed.at(k)) for k, (low, high) in enumerate(itertools.pairwise(edges)))
