"""Prompts: from quantile levels (or absolute returns) to the return-to-go the model is conditioned on (eq. 10)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from contracts.errors import SpecError
from contracts.spec import Absolute, Prompt, Spec, nearest
from models.steps import Floats, Ints

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
        for name, wrong, advice in (
            ("levels", (self.levels <= 0.0) | (self.levels >= 1.0), "a level lies in (0, 1); Absolute(x) asks for x"),
            ("values", np.isinf(self.values), "an absolute return is finite"),
        ):
            if bool(wrong.any()):
                row, reward = np.argwhere(wrong)[0]
                raise ValueError(f"{name}[{row}, {reward}] is {getattr(self, name)[row, reward]}; {advice}")

    def __len__(self) -> int:
        """Return the number of decisions B."""
        return len(self.levels)

    def repeated(self, count: int) -> Prompts:
        """Return every row ``count`` times."""
        return Prompts(np.repeat(self.levels, count, axis=0), np.repeat(self.values, count, axis=0))


Asked = Prompts | Mapping[Any, Prompt] | Sequence[Prompt] | Values | Prompt
"""What ``as_prompts`` understands."""


def make_prompts(rewards: Sequence[str], rows: Sequence[Mapping[str, Prompt]]) -> Prompts:
    """Build Prompts of B rows, each a complete mapping of reward name to a level or an Absolute."""
    asked = [[row[reward] for reward in rewards] for row in rows]
    return _of_rows(asked, len(rewards))


def as_prompts(prompt: Asked, rows: int, n_rewards: int, names: Sequence[str] = ()) -> Prompts:
    """Build Prompts of B ``rows`` from what a library's caller may say.

    Parameters
    ----------
    prompt : Prompts of B rows or of one for all; a complete mapping of reward name, or index, to a level or an
        Absolute; a sequence of R of them; one alone where there is one reward; or levels [B, R]
    names : the R rewards' names, where they have any

    Raises ValueError naming the reward that is missing, unknown, or asked for a level outside (0, 1).
    """
    if isinstance(prompt, Prompts):
        if prompt.levels.shape[1] != n_rewards or len(prompt) not in (1, rows):
            raise ValueError(f"prompt has shape {prompt.levels.shape}, expected [B, R] with B={rows}, R={n_rewards}")
        shape = (rows, n_rewards)
        return Prompts(np.broadcast_to(prompt.levels, shape), np.broadcast_to(prompt.values, shape))
    if isinstance(prompt, np.ndarray) and prompt.ndim == 2:
        levels = prompt.astype(np.float64)
        return as_prompts(Prompts(levels, np.full(levels.shape, np.nan)), rows, n_rewards)
    if isinstance(prompt, Mapping):
        row: Sequence[Prompt] = _in_order(prompt, n_rewards, names)
    else:
        row = [prompt] if isinstance(prompt, Absolute | Real | str) else list(prompt)  # type: ignore[arg-type]
    if len(row) != n_rewards:
        raise ValueError(f"prompt {row} asks for {len(row)} reward(s), the policy was trained with {n_rewards}")
    return as_prompts(_of_rows([row], n_rewards), rows, n_rewards)


def _in_order(prompt: Mapping[Any, Prompt], n_rewards: int, names: Sequence[str]) -> list[Prompt]:
    """Return the values of ``prompt`` in the rewards' order; its keys are names or indices."""
    called: list[str | int] = [*names] if names else [*range(n_rewards)]
    known: dict[Any, int] = {j: j for j in range(n_rewards)} | {name: j for j, name in enumerate(names)}
    unknown = [key for key in prompt if key not in known]
    if unknown:
        raise ValueError(f"prompt names the reward {unknown[0]!r}; the policy's are {called}")
    found = {known[key]: value for key, value in prompt.items()}
    missing = [called[j] for j in range(n_rewards) if j not in found]
    if missing or len(found) < len(prompt):
        raise ValueError(f"prompt {dict(prompt)!r} must name each reward once; missing: {missing}")
    return [found[j] for j in range(n_rewards)]


def _of_rows(rows: Sequence[Sequence[Any]], n_rewards: int) -> Prompts:
    levels = np.full((len(rows), n_rewards), np.nan)
    values = np.full((len(rows), n_rewards), np.nan)
    for i, row in enumerate(rows):
        for j, asked in enumerate(row):
            if isinstance(asked, Absolute):
                values[i, j] = asked.value
            elif isinstance(asked, float | Real):
                levels[i, j] = float(asked)
            else:
                raise ValueError(f"prompt {asked!r} is neither a level in (0, 1) nor an Absolute")
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
    lower, upper, share = _neighbours(learned, levels)
    rows = quantiles.reshape(-1, len(learned))
    each = np.arange(len(rows)).reshape(upper.shape)
    low, high = rows[each, lower].astype(np.float64), rows[each, upper].astype(np.float64)
    return np.clip(share * low + (1.0 - share) * high, low, high).astype(np.float32)


def level_weights(learned: Sequence[float], levels: Values) -> Floats:
    """Weights [..., M] of the learned levels in the interpolation at ``levels`` [...]: one 1 at a learned level."""
    lower, upper, share = _neighbours(learned, levels)
    weights = np.zeros((*levels.shape, len(learned)), np.float32)
    np.put_along_axis(weights, upper[..., None], (1.0 - share)[..., None], axis=-1)
    # With one learned level both neighbours are it.
    np.put_along_axis(weights, lower[..., None], np.where(lower < upper, share, 1.0)[..., None], axis=-1)
    return weights


def _neighbours(learned: Sequence[float], levels: Values) -> tuple[Ints, Ints, Values]:
    """The learned levels below and above each level, as indices, and the lower one's share: exactly 0 or 1 at one."""
    grid = np.asarray(learned, dtype=np.float64)
    alpha = np.clip(levels, grid[0], grid[-1])
    upper = np.clip(np.searchsorted(grid, alpha, side="left"), 1 if len(grid) > 1 else 0, len(grid) - 1)
    lower = np.maximum(upper - 1, 0)
    width = np.where(upper > lower, grid[upper] - grid[lower], 1.0)
    return lower, upper, (grid[upper] - alpha) / width  # the share is lambda_alpha


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
