"""Prompts: from quantile levels (or absolute returns) to the return-to-go the model is conditioned on (eq. 10)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from contracts.errors import SpecError
from contracts.spec import Absolute, Prompt, Spec, nearest
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

    def repeated(self, count: int) -> Prompts:
        """Return every row ``count`` times."""
        return Prompts(np.repeat(self.levels, count, axis=0), np.repeat(self.values, count, axis=0))


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
    low = np.take_along_axis(quantiles, lower[..., None], axis=-1)[..., 0].astype(np.float64)
    high = np.take_along_axis(quantiles, upper[..., None], axis=-1)[..., 0].astype(np.float64)
    between = share * low + (1.0 - share) * high
    # Exact at learned levels, where the weighted sum could differ in the last bit.
    exact = np.where(alpha == grid[upper], high, np.where(alpha == grid[lower], low, between))
    return np.clip(exact, low, high).astype(np.float32)


def prompted_returns(prompts: Prompts, quantiles: Floats, learned: Sequence[float]) -> Floats:
    """The return each decision is conditioned on, raw units: [B, R] from quantiles [B, R, M]."""
    by_level = interpolate(quantiles, learned, np.where(np.isnan(prompts.levels), learned[0], prompts.levels))
    return np.where(np.isnan(prompts.values), by_level, prompts.values).astype(np.float32)


def constant_prompt(returns: Floats, rewards: Sequence[str], levels: Mapping[str, float]) -> dict[str, Absolute]:
    """The paper's basic prompt (6.3): one absolute return a reward, the quantile of a whole cohort's returns.

    Parameters
    ----------
    returns : [N, R] of the cohort, NaN where not known
    rewards : R names
    levels : the quantile level taken of each reward
    """
    return {
        name: Absolute(float(np.nanquantile(returns[:, j].astype(np.float64), levels[name])))
        for j, name in enumerate(rewards)
    }


def cohort_prompts(spec: Spec) -> dict[str, dict[str, Prompt]]:
    """The complete prompt of every cohort: its own levels over the deployment's."""
    return {name: {**spec.prompt, **own} for name, own in spec.cohorts.items()}


_ASKED = TypeAdapter(dict[str, Prompt])


def parse_prompt(text: str, spec: Spec) -> dict[str, Prompt]:
    """The complete prompt that a request with this JSON object as its ``prompt`` gets: its levels over the spec's.

    Raises SpecError naming what is wrong.
    """
    try:
        own = _ASKED.validate_json(text)
    except ValidationError as error:
        reasons = "; ".join(f"{'.'.join(map(str, item['loc'])) or 'it'}: {item['msg']}" for item in error.errors())
        raise SpecError(
            f'prompt {text!r}: {reasons}; write {{"reward": level in (0, 1)}} or {{"reward": {{"value": return}}}}'
        ) from None
    for name in own:
        if name not in spec.rewards:
            raise SpecError(f"prompt {text!r}: no reward {name!r}{nearest(name, spec.rewards)}")
    return {**spec.prompt, **own}
