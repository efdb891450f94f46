"""Prompts: from quantile levels (or absolute returns) to the return-to-go the model is conditioned on (eq. 10)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from contracts.spec import Absolute, Prompt
from models.steps import Floats

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Prompts:
    """What is asked of each reward, a row a decision: a level, or else an absolute return (the other is NaN)."""

    levels: Values  # [B, R]
    values: Values  # [B, R]

    def __post_init__(self) -> None:
        if self.levels.shape != self.values.shape or self.levels.ndim != 2:
            raise ValueError(f"levels {self.levels.shape} and values {self.values.shape} must both be [B, R]")
        if not bool(np.all(np.isnan(self.levels) ^ np.isnan(self.values))):
            raise ValueError("each reward takes either a level or an absolute value")

    def __len__(self) -> int:
        """Return the number of decisions B."""
        return len(self.levels)


def make_prompts(rewards: Sequence[str], rows: Sequence[Mapping[str, Prompt]]) -> Prompts:
    """Build Prompts of B rows, each a complete mapping of reward name to a level or an Absolute."""
    levels = np.full((len(rows), len(rewards)), np.nan)
    values = np.full((len(rows), len(rewards)), np.nan)
    for i, row in enumerate(rows):
        for j, reward in enumerate(rewards):
            asked = row[reward]
            if isinstance(asked, Absolute):
                values[i, j] = asked.value
            else:
                levels[i, j] = asked
    return Prompts(levels, values)


def interpolate(quantiles: Floats, learned: Sequence[float], levels: Values) -> Floats:
    """Quantiles at any level, from those at the learned levels (eq. 10).

    Linear between the two neighbours; exactly the learned value at a learned level; below the lowest and above the
    highest learned level the paper leaves it open: clamped to that level.

    Parameters
    ----------
    quantiles : [..., M] rising along M
    learned : M levels, rising
    levels : [...] in (0, 1)
    """
    grid = np.asarray(learned, dtype=np.float64)
    alpha = np.clip(levels, grid[0], grid[-1])
    upper = np.clip(np.searchsorted(grid, alpha, side="left"), 1 if len(grid) > 1 else 0, len(grid) - 1)
    lower = np.maximum(upper - 1, 0)
    width = np.where(upper > lower, grid[upper] - grid[lower], 1.0)
    share = (grid[upper] - alpha) / width  # lambda_alpha
    rows = quantiles.reshape(-1, len(grid))
    each = np.arange(len(rows)).reshape(upper.shape)
    low, high = rows[each, lower].astype(np.float64), rows[each, upper].astype(np.float64)
    between = share * low + (1.0 - share) * high
    # Exact at learned levels, where the weighted sum could differ in the last bit.
    exact = np.where(alpha == grid[upper], high, np.where(alpha == grid[lower], low, between))
    return np.clip(exact, low, high).astype(np.float32)


def prompted_returns(prompts: Prompts, quantiles: Floats, learned: Sequence[float]) -> Floats:
    """The return each decision is conditioned on, raw units: [B, R] from quantiles [B, R, M]."""
    by_level = interpolate(quantiles, learned, np.where(np.isnan(prompts.levels), learned[0], prompts.levels))
    return np.where(np.isnan(prompts.values), by_level, prompts.values).astype(np.float32)
