"""From runs to tables: mean and sd over seeds, intervals clustered by member, and whether targets are met."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from contracts.spec import Spec
from experiments.sums import Spread, Sums
from experiments.variants import BASE, CONTEXTS, Variant
from models.clustered import Estimate

Runs = Mapping[str, Sequence[Sums]]
"""By variant: the sums of every seed, its folds put together."""

COVERAGE_TOLERANCE: Final = 0.02


def summarise(runs: Runs, spec: Spec, variants: Sequence[Variant], cost_us: Mapping[int, float]) -> dict[str, Any]:
    """Return the tables of one source as plain dicts and numbers."""
    base, rewards = runs[BASE.name], spec.reward_names
    pooled = Sums.pooled(base)
    names = [f"pinball {reward}" for reward in rewards]
    return {
        "members": len(pooled.members),
        "decisions_a_seed": int(pooled.columns["decisions"].sum() / len(base)),
        "seeds": len(base),
        "accuracy": {
            "model": _over(base, lambda sums: sums.ratio("right")),
            "majority": _over(base, lambda sums: sums.ratio("right, majority")),
            "gain": _over(base, lambda sums: _difference(sums, "right", "right, majority")),
            "true_return": _over(base, lambda sums: sums.ratio("right, true return")),
        },
        "pinball": {reward: _pinball(base, reward) for reward in rewards},
        "coverage": {
            reward: {f"{level:g}": _over(base, _covered(reward, level)) for level in spec.quantiles}
            for reward in rewards
        },
        "context": _contexts(runs, spec, names, cost_us),
        "variants": {
            variant.name: _variant(runs[variant.name], base, names, spec)
            for variant in variants
            if variant.name in runs and variant.group not in ("base", "context")
        },
        "constant_prompt": {
            name: _constant(runs[name], spec) for name in (BASE.name, CONTEXTS[1].name) if name in runs
        },
        "illegal_actions": int(pooled.columns["illegal"].sum()),
        "crossings": int(pooled.columns["crossing"].sum()),
        "falls": int(pooled.columns["falls"].sum()),
    }


def checks(tables: Mapping[str, Any], *, simulated: bool) -> dict[str, bool]:
    """Return whether each target is met."""
    relative = [row["relative"]["interval"] for row in tables["pinball"].values()]
    levels = [(float(level), row) for reward in tables["coverage"].values() for level, row in reward.items()]
    found = {
        "pinball_below_marginal": all(interval is not None and interval[1] < 1.0 for interval in relative),
        "monotone": tables["falls"] == 0,
        "no_illegal_action": tables["illegal_actions"] == 0,
        "no_crossing": tables["crossings"] == 0,
    }
    if simulated:
        found["coverage_within_2_points"] = all(abs(row["mean"] - level) <= COVERAGE_TOLERANCE for level, row in levels)
        longest = tables["context"][max(tables["context"], key=int)]
        if "pinball" in longest:
            found["more_context_lowers_pinball"] = all(
                row["interval"] is not None and row["interval"][1] < 1.0 for row in longest["pinball"].values()
            )
            found["more_context_raises_accuracy"] = longest["gain"]["mean"] > 0.0
    else:
        found["coverage_within_interval"] = all(
            row["interval"] is not None and row["interval"][0] <= level <= row["interval"][1] for level, row in levels
        )
    return found


def _over(seeds: Sequence[Sums], figure: Callable[[Sums], Estimate]) -> dict[str, Any]:
    """One figure: mean and sd over seeds, the interval of all seeds' decisions put together."""
    values = [figure(sums).value for sums in seeds]
    interval = figure(Sums.pooled(seeds)).to_json()["interval"]
    known = [value for value in values if value is not None]
    return {**(Spread.of(known).to_json() if known else {"mean": None, "sd": None}), "interval": interval}


def _pairs(seeds: Sequence[Sums], others: Sequence[Sums], figure: Callable[[Sums, Sums], Estimate]) -> dict[str, Any]:
    """One comparison on the same decisions, within each seed; ``others`` may have more seeds than ``seeds``."""
    others = others[: len(seeds)]
    pairs = list(zip(seeds, others, strict=True))
    values = [figure(one, other).value for one, other in pairs]
    interval = figure(Sums.pooled(seeds), Sums.pooled(others)).to_json()["interval"]
    known = [value for value in values if value is not None]
    return {**(Spread.of(known).to_json() if known else {"mean": None, "sd": None}), "interval": interval}


def _difference(sums: Sums, one: str, other: str) -> Estimate:
    columns = {**sums.columns, one: sums.columns[one] - sums.columns[other]}
    return Sums(sums.members, columns).ratio(one)


def _covered(reward: str, level: float) -> Callable[[Sums], Estimate]:
    return lambda sums: sums.ratio(f"covered {reward} {level:g}")


def _pinball(seeds: Sequence[Sums], reward: str) -> dict[str, Any]:
    return {
        "model": _over(seeds, lambda sums: sums.ratio(f"pinball {reward}")),
        "marginal": _over(seeds, lambda sums: sums.ratio(f"marginal pinball {reward}")),
        "relative": _over(seeds, _to_marginal(reward)),
    }


def _to_marginal(reward: str) -> Callable[[Sums], Estimate]:
    return lambda sums: sums.ratio(f"pinball {reward}", f"marginal pinball {reward}")


def _contexts(runs: Runs, spec: Spec, names: Sequence[str], cost_us: Mapping[int, float]) -> dict[str, Any]:
    """The paper's Table 2."""
    by_length = {
        length: BASE.name if length == spec.context_length else variant.name
        for length, variant in sorted(CONTEXTS.items())
    }
    by_length = {length: name for length, name in by_length.items() if name in runs}
    shortest = min(by_length, default=None)
    table: dict[str, Any] = {}
    for length, name in by_length.items():
        row: dict[str, Any] = {
            "accuracy": _over(runs[name], lambda sums: sums.ratio("right")),
            "cost_us": cost_us.get(length),
        }
        if length != shortest and shortest is not None:
            first = runs[by_length[shortest]]
            row |= _against(runs[name], first, names)
            if length in cost_us and shortest in cost_us:
                row["cost_relative"] = cost_us[length] / cost_us[shortest]
        table[str(length)] = row
    return table


def _against(seeds: Sequence[Sums], others: Sequence[Sums], names: Sequence[str]) -> dict[str, Any]:
    return {
        "gain": _pairs(seeds, others, lambda one, other: one.gain(other, "right")),
        "pinball": {name.removeprefix("pinball "): _pairs(seeds, others, _relative(name)) for name in names},
    }


def _relative(name: str) -> Callable[[Sums, Sums], Estimate]:
    return lambda one, other: one.relative(other, name)


def _variant(seeds: Sequence[Sums], base: Sequence[Sums], names: Sequence[str], spec: Spec) -> dict[str, Any]:
    """A variant beside the deployment; pinball losses over other levels only beside their own marginal."""
    levels, of_base = ({name for name in one[0].columns if name.startswith("covered ")} for one in (seeds, base))
    return {
        "seeds": len(seeds),
        "accuracy": _over(seeds, lambda sums: sums.ratio("right")),
        "shift": _over(seeds, lambda sums: _difference(sums, "right, true return", "right")),
        "pinball_to_marginal": {reward: _over(seeds, _to_marginal(reward)) for reward in spec.reward_names},
        **_against(seeds, base, names if levels == of_base else []),
    }


def _constant(seeds: Sequence[Sums], spec: Spec) -> dict[str, Any]:
    """The learned prompt beside the paper's basic one, a constant return for everyone, of the same models."""
    return {
        "learned": _over(seeds, lambda sums: sums.ratio("right")),
        "constant": _over(seeds, lambda sums: sums.ratio("right, constant prompt")),
        "gain": _over(seeds, lambda sums: _difference(sums, "right", "right, constant prompt")),
        "actions": {
            action: {
                kind: _over(seeds, _share(column))
                for kind, column in (
                    ("logged", f"logged {action}"),
                    ("learned", f"answered {action}"),
                    ("constant", f"answered {action}, constant prompt"),
                )
            }
            for action in spec.actions
        },
    }


def _share(column: str) -> Callable[[Sums], Estimate]:
    return lambda sums: sums.ratio(column)
