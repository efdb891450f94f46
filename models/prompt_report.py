"""What prompts do, for people: the paper's Figure 3 as plots and tables, and the shares of actions that follow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from models.page import COLOURS, GREY, Grid, Plot, Section, between, draw, number
from models.prompt_effect import SHOWN

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Document = Mapping[str, Any]
"""``PromptEffect.to_json()``, or a part of it."""

DENSITIES: Final = (0.5, 0.75, 0.95)
"""The levels whose distributions the paper draws."""


def grids(effect: Document) -> tuple[Grid, ...]:
    """Return a table a reward, and one of whole prompts."""
    return (*(_levels(name, reward) for name, reward in effect["rewards"].items()), _prompts(effect))


def sections(effect: Document, prefix: str = "") -> tuple[Section, ...]:
    """Return the effect of prompts as sections of a page; ``prefix`` keeps the plots of several apart."""
    tables = grids(effect)
    plots = [
        plot
        for index, (name, reward) in enumerate(effect["rewards"].items())
        for plot in (
            _densities(f"{prefix}density{index}", name, reward),
            _fan(f"{prefix}fan{index}", name, reward),
            _shares(f"{prefix}shares{index}", name, reward),
            _against_realised(f"{prefix}realised{index}", name, reward),
        )
    ]
    fallen = (
        "Predicted returns rise with the level at every decision, from 0.005 to 0.995 in steps of 0.005."
        if effect["monotone"]
        else "Predicted returns FALL as the level rises: "
        + ", ".join(
            f"{name} at {reward['falls']:,} decisions" for name, reward in effect["rewards"].items() if reward["falls"]
        )
    )
    return (
        Section(
            "Prompts",
            (
                f"{effect['decisions']:,} held-out decisions. One reward's level is moved at a time, the others keep "
                "the deployment's prompt. A star marks a learned level; levels between are interpolated, levels beyond "
                "are clamped to the lowest or highest learned one. " + fallen,
                "Realised returns came of the logged actions. Where the model would have acted otherwise they do not "
                "tell what its own action earns; where it agrees they are of decisions at which the log happened to "
                "do what was prompted for. So the gap between prompted and realised is no measure of how well a "
                "prompt is met: that takes an online experiment.",
            ),
            tables,
            tuple(plots),
        ),
    )


def _levels(name: str, reward: Document) -> Grid:
    actions = list(reward["levels"][0]["actions"])
    rows = tuple(
        (
            f"{row['level']:g}{'*' if row['learned'] else ''}",
            number(row["predicted"]),
            *(number(row["distribution"][f"{share:g}"]) for share in SHOWN),
            *(f"{row['actions'][action]:.3f}" for action in actions),
            f"{row['agreeing']:.3f}",
            number(row["realised_agreeing"]["value"]),
            between(row["realised_agreeing"]["interval"], ".4g"),
        )
        for row in reward["levels"]
    )
    quantiles = [f"{100 * share:g} %" for share in SHOWN]
    headings = ("level", "mean", *quantiles, *actions, "agrees", "realised there", "95 %")
    realised = f"{number(reward['realised']['value'])} ({between(reward['realised']['interval'], '.4g')})"
    caption = f"{name}: predicted return-to-go and actions by level; realised over all decisions: {realised}"
    return Grid(caption, headings, rows)


def _prompts(effect: Document) -> Grid:
    first = next(iter(effect["prompts"].values()))
    rows = tuple(
        (title, *(number(value) for value in row["predicted"].values()), *(f"{s:.3f}" for s in row["actions"].values()))
        for title, row in effect["prompts"].items()
    )
    headings = ("prompt", *(f"{name}, prompted" for name in first["predicted"]), *first["actions"])
    return Grid("Whole prompts: mean return prompted for, and action shares", headings, rows)


def _densities(plot: str, name: str, reward: Document) -> Plot:
    shown = [row for row in reward["levels"] if row["level"] in DENSITIES] or list(
        reward["levels"][:: len(reward["levels"]) // 2]
    )

    def into(axes: Axes) -> None:
        for colour, row in zip(COLOURS, shown, strict=False):
            axes.stairs(row["histogram"], reward["edges"], color=colour, fill=True, alpha=0.35)
            axes.stairs(row["histogram"], reward["edges"], color=colour, linewidth=1.4, label=f"level {row['level']:g}")
        axes.set_xlabel("predicted return-to-go")
        axes.set_ylabel("share of decisions")
        axes.legend(frameon=False, fontsize=9)

    caption = f"Predicted return-to-go of {name} over decisions (the paper's Figure 3); the end bars hold all beyond"
    return draw(plot, f"{name}: predicted returns", caption, into)


def _fan(plot: str, name: str, reward: Document) -> Plot:
    def into(axes: Axes) -> None:
        levels = [row["level"] for row in reward["levels"]]
        at = {share: [row["distribution"][f"{share:g}"] for row in reward["levels"]] for share in SHOWN}
        axes.fill_between(levels, at[SHOWN[0]], at[SHOWN[-1]], color=COLOURS[5], alpha=0.3, label="5 to 95 %", lw=0)
        axes.fill_between(levels, at[SHOWN[1]], at[SHOWN[-2]], color=COLOURS[5], alpha=0.6, label="25 to 75 %", lw=0)
        axes.plot(levels, at[SHOWN[2]], color=COLOURS[0], label="median")
        learned = [row for row in reward["levels"] if row["learned"]]
        axes.plot(
            [row["level"] for row in learned],
            [row["distribution"]["0.5"] for row in learned],
            "o",
            ms=4,
            color=COLOURS[0],
        )
        axes.set_xlabel("level prompted")
        axes.set_ylabel("predicted return-to-go")
        axes.legend(frameon=False, fontsize=9)

    caption = f"Predicted return-to-go of {name} over decisions, by level; dots: learned levels"
    return draw(plot, f"{name}: from level to return", caption, into)


def _shares(plot: str, name: str, reward: Document) -> Plot:
    def into(axes: Axes) -> None:
        levels = [row["level"] for row in reward["levels"]]
        for colour, action in zip(COLOURS * 9, reward["levels"][0]["actions"], strict=False):
            axes.plot(
                levels, [row["actions"][action] for row in reward["levels"]], "o-", ms=3, color=colour, label=action
            )
        axes.set_ylim(0.0, 1.0)
        axes.set_xlabel("level prompted")
        axes.set_ylabel("share of decisions")
        axes.legend(frameon=False, fontsize=9)

    return draw(plot, f"{name}: actions", f"Most probable actions by the level of {name}", into)


def _against_realised(plot: str, name: str, reward: Document) -> Plot:
    def into(axes: Axes) -> None:
        levels = [row["level"] for row in reward["levels"]]
        axes.plot(levels, [row["predicted"] for row in reward["levels"]], color=COLOURS[0], label="prompted, mean")
        known = [row for row in reward["levels"] if row["realised_agreeing"]["interval"] is not None]
        means = [row["realised_agreeing"]["value"] or 0.0 for row in known]
        reach = [
            [mean - row["realised_agreeing"]["interval"][0] for mean, row in zip(means, known, strict=True)
             if row["realised_agreeing"]["interval"]],
            [row["realised_agreeing"]["interval"][1] - mean for mean, row in zip(means, known, strict=True)
             if row["realised_agreeing"]["interval"]],
        ]  # fmt: skip
        axes.errorbar(
            [row["level"] for row in known], means, yerr=reach, fmt="o", ms=4, capsize=2, color=COLOURS[1],
            label="realised where it agrees",
        )  # fmt: skip
        if reward["realised"]["value"] is not None:
            axes.axhline(reward["realised"]["value"], color=GREY, linestyle="--", linewidth=1, label="realised, all")
        axes.set_xlabel("level prompted")
        axes.set_ylabel("return")
        axes.legend(frameon=False, fontsize=9)

    caption = f"Mean return of {name} prompted for and realised under the logged actions; bars: 95 %"
    return draw(plot, f"{name}: prompted and realised", caption, into)
