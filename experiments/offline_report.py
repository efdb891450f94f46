"""The offline experiments for people: tables for the terminal, and the same with plots as sections of a page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console

from models import prompt_report
from models.page import COLOURS, GREY, Grid, Plot, Section, draw, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Tables = Mapping[str, Any]

CHECKS = {
    "pinball_below_marginal": "pinball relative to marginal quantiles is below 1 with its interval, every reward",
    "coverage_within_2_points": "coverage is within 2 points of every level",
    "coverage_within_interval": "every level lies within its coverage's interval",
    "more_context_lowers_pinball": "the longest context's pinball is below that of context 1 with its interval",
    "more_context_raises_accuracy": "the longest context's accuracy is above that of context 1",
    "monotone": "predicted return rises with the level, between and beyond the learned ones",
    "no_illegal_action": "no ineligible action was answered",
    "no_crossing": "no quantiles cross",
}


def lead(document: Tables) -> tuple[str, ...]:
    """Return what the page says first."""
    quick = " A quick run: too little training for its figures to mean much." if document["quick"] else ""
    return (
        f"{document['seeds']} seeds; each figure is the mean over seeds ± its standard deviation, then the 95 % "
        "interval of all decisions put together, clustered by member. Everything is answered as in service: under the "
        f"return that the model predicts at the prompted level, never the true one.{quick}",
    )


def grids(name: str, tables: Tables, folds: int) -> tuple[Grid, ...]:
    """Return the tables of one source."""
    split = f"{folds}-fold cross-validation by member" if folds else "members split 70/30, held out in turn"
    title = f"{name}: {tables['decisions_a_seed']:,} decisions a seed, {tables['members']:,} members, {split}"
    return (_main(title, tables), _coverage(name, tables), *_context(name, tables), *_variants(name, tables),
            _constant(name, tables))  # fmt: skip


def sections(name: str, tables: Tables, effect: Tables, folds: int) -> list[Section]:
    """Return one source's part of the page."""
    text = (
        "Table 2 of the paper is the context table, Table 3 the row “h_R alone”; gains are within a seed, on the same "
        "decisions. Every context length took as many optimiser steps over as many decisions.",
        "A constant prompt is the 70th percentile of the training members' returns, one for all decisions (6.3). "
        "Whether a prompt does any good shows when members answer to the actions, not in agreement with a log.",
    )
    plots = (_coverage_plot(name, tables), *_context_plots(name, tables))
    prompts = prompt_report.sections(effect, f"{name}-")
    return [
        Section(f"{name}: accuracy, pinball, coverage, context, ablations", text,
                (_checks(name, tables), *grids(name, tables, folds)), plots),
        *(Section(f"{name}: {part.heading.lower()} (Figure 3)", part.text, part.grids, part.plots) for part in prompts),
    ]  # fmt: skip


def show_checks(sources: Mapping[str, Tables], console: Console) -> None:
    """Print which targets are met."""
    for name, tables in sources.items():
        _checks(name, tables).show(console)


def _checks(name: str, tables: Tables) -> Grid:
    rows = tuple((CHECKS[check], "yes" if met else "NO") for check, met in tables["checks"].items())
    return Grid(f"{name}: what was aimed for", ("target", "met"), rows)


def _main(title: str, tables: Tables) -> Grid:
    accuracy = tables["accuracy"]
    rows = [
        ("accuracy", _spread(accuracy["model"], 4), _interval(accuracy["model"], 4)),
        ("  of the majority action", _spread(accuracy["majority"], 4), _interval(accuracy["majority"], 4)),
        ("  gain over it", _spread(accuracy["gain"], 4, sign=True), _interval(accuracy["gain"], 4)),
        ("  under the true return, not in service", _spread(accuracy["true_return"], 4), ""),
    ]
    for reward, row in tables["pinball"].items():
        rows.append((f"pinball, {reward}", _spread(row["model"], 4), _interval(row["model"], 4)))
        rows.append(("  of marginal quantiles", _spread(row["marginal"], 4), _interval(row["marginal"], 4)))
        rows.append(("  relative to them", _spread(row["relative"], 4), _interval(row["relative"], 4)))
    rows.append(("ineligible actions, crossings, falls with the level",
                 f"{tables['illegal_actions']}, {tables['crossings']}, {tables['falls']}", ""))  # fmt: skip
    return Grid(title, ("figure", "mean ± sd over seeds", "95 %"), tuple(rows))


def _coverage(name: str, tables: Tables) -> Grid:
    levels = list(next(iter(tables["coverage"].values())))
    rows: list[tuple[str, ...]] = []
    for reward, row in tables["coverage"].items():
        rows.append((reward, *(_spread(row[level], 3) for level in levels)))
        rows.append(("  95 %", *(_interval(row[level], 3) for level in levels)))
    return Grid(f"{name}: coverage by level", ("reward", *levels), tuple(rows))


def _context(name: str, tables: Tables) -> tuple[Grid, Grid]:
    rewards = list(tables["pinball"])
    rows, pinball = [], []
    for length, row in tables["context"].items():
        cost = "-" if row["cost_us"] is None else f"{row['cost_us']:.1f}"
        more = f"{100 * (row['cost_relative'] - 1):+.0f} %" if "cost_relative" in row else "-"
        gain = f"{_spread(row['gain'], 2, 100.0, True)}" if "gain" in row else "-"
        within = _interval(row["gain"], 2, 100.0) if "gain" in row else "-"
        rows.append((length, _spread(row["accuracy"], 4), gain, within, cost, more))
        relative = [_spread(row["pinball"][reward], 4) if "pinball" in row else "1" for reward in rewards]
        intervals = [_interval(row["pinball"][reward], 3) if "pinball" in row else "-" for reward in rewards]
        pinball.append((length, *(cell for pair in zip(relative, intervals, strict=True) for cell in pair)))
    return (
        Grid(
            f"{name}: context length (Table 2); cost in core-µs a decision at batch 64",
            ("context", "accuracy", "gain, points", "95 %", "cost", "more"),
            tuple(rows),
        ),
        Grid(
            f"{name}: pinball loss by context length, relative to context 1",
            ("context", *(heading for reward in rewards for heading in (reward, "95 %"))),
            tuple(pinball),
        ),
    )


def _variants(name: str, tables: Tables) -> tuple[Grid, Grid]:
    rewards = list(tables["pinball"])
    rows, pinball = [], []
    for variant, row in tables["variants"].items():
        rows.append(
            (
                variant,
                str(row["seeds"]),
                _spread(row["accuracy"], 4),
                _spread(row["gain"], 2, 100.0, True),
                _interval(row["gain"], 2, 100.0),
                _spread(row["shift"], 2, 100.0, True),
            )
        )
        relative = [_spread(row["pinball"][reward], 4) if row["pinball"] else "-" for reward in rewards]
        marginal = [number(row["pinball_to_marginal"][reward]["mean"]) for reward in rewards]
        pinball.append((variant, *relative, *marginal))
    return (
        Grid(
            f"{name}: ablations; gain beside the deployment's own settings; shift: accuracy lost to prompted returns",
            ("variant", "seeds", "accuracy", "gain, points", "95 %", "shift, points"),
            tuple(rows),
        ),
        Grid(
            f"{name}: pinball loss of the ablations, relative to the deployment's own settings and, in the last "
            f"{len(rewards)} columns, to marginal quantiles",
            ("variant", *rewards, *(f"{reward} / marginal" for reward in rewards)),
            tuple(pinball),
        ),
    )


def _constant(name: str, tables: Tables) -> Grid:
    rows: list[tuple[str, ...]] = []
    for variant, row in tables["constant_prompt"].items():
        rows.append((f"{variant}: accuracy", "", _spread(row["learned"], 4), _spread(row["constant"], 4)))
        rows.append(("  learned less constant, points", "", _spread(row["gain"], 2, 100.0, True),
                     _interval(row["gain"], 2, 100.0)))  # fmt: skip
        for action, kinds in row["actions"].items():
            rows.append(
                (f"  share of {action}", *(_spread(kinds[kind], 3) for kind in ("logged", "learned", "constant")))
            )
    return Grid(f"{name}: learned prompt against a constant one", ("figure", "log", "learned", "constant"), tuple(rows))


def _coverage_plot(name: str, tables: Tables) -> Plot:
    def into(axes: Axes) -> None:
        for index, (reward, row) in enumerate(tables["coverage"].items()):
            levels = [float(level) for level in row]
            off = [100.0 * (value["mean"] - float(level)) for level, value in row.items()]
            shifted = [level + 0.008 * (index - (len(tables["coverage"]) - 1) / 2) for level in levels]
            axes.plot(shifted, off, "o-", ms=4, lw=1, color=COLOURS[index % len(COLOURS)], label=reward)
            for at, level, value in zip(shifted, levels, row.values(), strict=True):
                if value["interval"] is not None:
                    ends = [100.0 * (end - level) for end in value["interval"]]
                    axes.plot([at, at], ends, color=COLOURS[index % len(COLOURS)], lw=1)
        axes.axhline(0.0, color=GREY, linestyle="--", linewidth=1)
        axes.set_xlabel("quantile level")
        axes.set_ylabel("coverage less level, points")
        axes.legend(frameon=False, fontsize=9)

    return draw(f"{name}-coverage", "Coverage, off its level", "Mean over seeds; bars: 95 %, clustered by member", into)


def _context_plots(name: str, tables: Tables) -> tuple[Plot, ...]:
    rows = [(int(length), row) for length, row in tables["context"].items()]
    if len(rows) < 2:
        return ()
    places = range(len(rows))

    def accuracy(axes: Axes) -> None:
        means = [100.0 * row["accuracy"]["mean"] for _, row in rows]
        axes.errorbar(places, means, yerr=[100.0 * (row["accuracy"]["sd"] or 0.0) for _, row in rows], fmt="o-",
                      color=COLOURS[0], capsize=3)  # fmt: skip
        axes.set_ylabel("accuracy, %")
        axes.set_xticks(places, [str(length) for length, _ in rows])
        axes.set_xlabel("context length")

    def pinball(axes: Axes) -> None:
        for index, reward in enumerate(tables["pinball"]):
            means = [row["pinball"][reward]["mean"] if "pinball" in row else 1.0 for _, row in rows]
            spreads = [row["pinball"][reward]["sd"] or 0.0 if "pinball" in row else 0.0 for _, row in rows]
            axes.errorbar(
                places, means, yerr=spreads, fmt="o-", color=COLOURS[index % len(COLOURS)], capsize=3, label=reward
            )
        axes.axhline(1.0, color=GREY, linestyle="--", linewidth=1)
        axes.set_ylabel("pinball relative to context 1")
        axes.set_xticks(places, [str(length) for length, _ in rows])
        axes.set_xlabel("context length")
        axes.legend(frameon=False, fontsize=9)

    return (
        draw(f"{name}-context-accuracy", "Accuracy by context", "Mean over seeds; bars: standard deviation", accuracy),
        draw(f"{name}-context-pinball", "Pinball by context", "Mean over seeds; bars: standard deviation", pinball),
    )


def _spread(figure: Tables, digits: int, factor: float = 1.0, sign: bool = False) -> str:
    if figure["mean"] is None:
        return "-"
    sd = "" if figure["sd"] is None else f" ± {factor * figure['sd']:.{digits}f}"
    return f"{factor * figure['mean']:{'+' if sign else ''}.{digits}f}{sd}"


def _interval(figure: Tables, digits: int, factor: float = 1.0) -> str:
    if figure["interval"] is None:
        return "-"
    low, high = (factor * end for end in figure["interval"])
    return f"{low:.{digits}f} to {high:.{digits}f}"
