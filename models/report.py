"""What the offline evaluation says to people: tables in the terminal, and the same with plots as sections of a page."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console

from models.page import COLOURS, GREY, Grid, Plot, Section, between, draw, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Metrics = Mapping[str, Any]
"""``Evaluation.to_json()``; with ``utility``, where a utility model was fitted, as ``models.train`` adds it."""


def show_metrics(metrics: Metrics, console: Console) -> None:
    """Print the offline figures beside their baselines."""
    console.print(
        f"Offline, {metrics['decisions']:,} held-out decisions of {metrics['members']:,} members, under the prompted "
        "return as in service; intervals of 95 %, clustered by member:"
    )
    for grid in (_summary(metrics), _coverage(metrics)):
        grid.show(console)


def sections(metrics: Metrics) -> tuple[Section, ...]:
    """Return the evaluation as sections of a page."""
    rewards = list(metrics["pinball"])
    return (
        Section(
            "Actions and returns",
            (
                "Accuracy is agreement with the logged action; where the logging policy explored at random, or drew "
                "by chance, no model can agree with it. The baseline of the accuracy is the majority action of the "
                "training members, that of the pinball loss their marginal quantiles: a ratio below 1 says that the "
                "model knows more of a decision's returns than that.",
            ),
            (_summary(metrics),),
            (_ratio_plot(metrics),),
        ),
        Section(
            "Coverage",
            (
                "The share of realised returns at or below each predicted quantile. Calibrated quantiles cover what "
                "their level says. A return that many decisions share exactly, such as none at all, can only be "
                "covered whole or not at all.",
            ),
            (_coverage(metrics),),
            (_coverage_plot(metrics),),
        ),
        Section(
            "Calibration",
            (
                "Left: decisions by decile of their predicted median, with what was realised. A mean lies above the "
                "median where returns have a long upper tail; the medians are what should agree. Right: how many "
                "returns fall between two neighbouring quantiles, relative to how many should: 1 everywhere if "
                "calibrated.",
            ),
            tuple(_decile_grid(name, metrics["calibration"][name]["deciles"]) for name in rewards),
            tuple(
                plot
                for index, name in enumerate(rewards)
                for plot in (_decile_plot(name, index, metrics), _band_plot(name, index, metrics))
            ),
        ),
    )


def _summary(metrics: Metrics) -> Grid:
    gain = metrics["accuracy_gain"]
    rows = [
        (
            "action accuracy (majority class)",
            f"{metrics['accuracy']:.4f}",
            between(metrics["accuracy_interval"]),
            f"{metrics['majority_accuracy']:.4f}",
        ),
        ("  above the majority class", f"{gain['value']:+.4f}", between(gain["interval"], "+.3f"), ""),
        ("  under the true return, not in service", f"{metrics['accuracy_true_return']:.4f}", "", ""),
    ]
    for name, row in metrics["per_class"].items():
        recall = "never taken" if row["recall"] is None else f"{row['recall']:.4f}"
        rows.append((f"  {name}: recall (share in the log)", recall, "", f"{row['share']:.4f}"))
    for name, value in metrics["pinball"].items():
        relative = metrics["pinball_ratio"][name]
        marginal = number(metrics["pinball_marginal"][name])
        rows.append((f"pinball loss, {name} (marginal quantiles)", number(value), "", marginal))
        rows.append(("  relative to marginal", number(relative["value"]), between(relative["interval"]), ""))
    for name, row in metrics.get("utility", {}).items():
        text = f"utility log loss, {name} (base rate per action)"
        rows.append((text, number(row["log_loss"]), "", number(row["base_log_loss"])))
    rows.append(("illegal-action rate", f"{metrics['illegal_action_rate']:.4f}", "", ""))
    rows.append(("crossing rate of quantiles", f"{max(metrics['crossing_rate'].values()):.4f}", "", ""))
    return Grid("Offline figures", ("figure", "model", "95 %", "baseline"), tuple(rows))


def _coverage(metrics: Metrics) -> Grid:
    levels = list(next(iter(metrics["coverage"].values())))
    rows: list[tuple[str, ...]] = []
    for name, row in metrics["coverage"].items():
        rows.append((name, *(f"{row[level]:.3f}" for level in levels)))
        intervals = metrics["coverage_interval"][name]
        rows.append(("  95 %", *(_half(row[level], intervals[level]) for level in levels)))
    return Grid("Coverage: share of true returns at or below each predicted quantile", ("reward", *levels), tuple(rows))


def _half(value: float, interval: Sequence[float] | None) -> str:
    # Clipped at 0 or 1 an interval is lopsided; the wider side is the honest one.
    return "-" if interval is None else f"±{max(interval[1] - value, value - interval[0]):.3f}"


def _decile_grid(name: str, deciles: Sequence[Metrics]) -> Grid:
    rows = tuple(
        (
            str(k + 1),
            f"{row['decisions']:,}",
            number(row["predicted"]),
            number(row["realised_median"]),
            number(row["realised"]["value"]),
            between(row["realised"]["interval"], ".4g"),
            f"{row['below']['value']:.3f}",
            between(row["below"]["interval"]),
        )
        for k, row in enumerate(deciles)
    )
    headings = ("decile", "decisions", "predicted median", "median", "mean", "95 %", "share below", "95 %")
    return Grid(f"{name}: realised return by decile of the predicted median", headings, rows)


def _ratio_plot(metrics: Metrics) -> Plot:
    def into(axes: Axes) -> None:
        for index, (name, ratio) in enumerate(metrics["pinball_ratio"].items()):
            if ratio["value"] is not None:
                axes.errorbar(
                    [ratio["value"]],
                    [name],
                    xerr=_reach([ratio["value"]], [ratio["interval"]]),
                    fmt="o",
                    color=COLOURS[index % len(COLOURS)],
                    capsize=4,
                )
            else:
                axes.plot([], [])
        axes.axvline(1.0, color=GREY, linestyle="--", linewidth=1)
        axes.margins(y=0.4)
        axes.set_xlabel("relative to marginal quantiles (dashed)")
        axes.invert_yaxis()

    return draw("ratio", "Pinball loss", "Below 1 the model knows more than the marginal; bars: 95 %", into)


def _coverage_plot(metrics: Metrics) -> Plot:
    def into(axes: Axes) -> None:
        for index, (name, row) in enumerate(metrics["coverage"].items()):
            levels = [float(level) for level in row]
            off = [100.0 * (value - float(level)) for level, value in row.items()]
            reach = _reach(list(row.values()), list(metrics["coverage_interval"][name].values()), 100.0)
            shifted = [level + 0.008 * (index - (len(metrics["coverage"]) - 1) / 2) for level in levels]
            axes.errorbar(
                shifted,
                off,
                yerr=reach,
                fmt="o-",
                ms=4,
                lw=1,
                capsize=2,
                color=COLOURS[index % len(COLOURS)],
                label=name,
            )
        axes.axhline(0.0, color=GREY, linestyle="--", linewidth=1)
        axes.set_xlabel("quantile level")
        axes.set_ylabel("coverage less level, points")
        axes.legend(frameon=False, fontsize=9)

    return draw("coverage", "Coverage, off its level", "0 is calibrated; bars: 95 %, clustered by member", into)


def _decile_plot(name: str, index: int, metrics: Metrics) -> Plot:
    deciles = metrics["calibration"][name]["deciles"]

    def into(axes: Axes) -> None:
        predicted = [row["predicted"] for row in deciles]
        mean = [row["realised"]["value"] for row in deciles]
        reach = _reach(mean, [row["realised"]["interval"] for row in deciles])
        axes.plot(predicted, predicted, color=GREY, linestyle="--", linewidth=1, label="predicted median")
        axes.errorbar(predicted, mean, yerr=reach, fmt="o", ms=4, capsize=2, color=COLOURS[0], label="realised mean")
        axes.plot(
            predicted, [row["realised_median"] for row in deciles], "D", ms=5, mfc="none", color=COLOURS[1],
            label="realised median",
        )  # fmt: skip
        axes.set_xlabel("predicted median")
        axes.set_ylabel("return")
        axes.legend(frameon=False, fontsize=9)

    caption = f"Decisions by decile of the predicted median of {name}; bars: 95 % of the mean"
    return draw(f"decile{index}", f"{name}: realised against predicted", caption, into)


def _band_plot(name: str, index: int, metrics: Metrics) -> Plot:
    bands = metrics["calibration"][name]["bands"]

    def into(axes: Axes) -> None:
        edges = [*(band["low"] for band in bands), 1.0]
        widths = [high - low for low, high in itertools.pairwise(edges)]
        heights = [band["observed"]["value"] / band["expected"] for band in bands]
        intervals = [
            band["observed"]["interval"] and [end / band["expected"] for end in band["observed"]["interval"]]
            for band in bands
        ]
        axes.bar(edges[:-1], heights, widths, align="edge", color=COLOURS[5], edgecolor="white")
        centres = [low + width / 2 for low, width in zip(edges[:-1], widths, strict=True)]
        axes.errorbar(centres, heights, yerr=_reach(heights, intervals), fmt="none", ecolor=COLOURS[6], capsize=2, lw=1)
        axes.axhline(1.0, color=GREY, linestyle="--", linewidth=1)
        axes.set_xlabel("level (PIT)")
        axes.set_ylabel("returns found / expected")

    caption = f"Where returns of {name} fall among their quantiles; bars: 95 %"
    return draw(f"bands{index}", f"{name}: returns between quantiles", caption, into)


def _reach(
    values: Sequence[float], intervals: Sequence[Sequence[float] | None], factor: float = 1.0
) -> list[list[float]] | None:
    """Return how far intervals reach below and above their values, or None where there are none."""
    if any(interval is None for interval in intervals):
        return None
    known = [(value, *interval) for value, interval in zip(values, intervals, strict=True) if interval is not None]
    return [
        [max(factor * (value - low), 0.0) for value, low, _ in known],
        [max(factor * (high - value), 0.0) for value, _, high in known],
    ]
