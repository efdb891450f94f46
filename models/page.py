"""Reports in parts: tables for a terminal or a page, plots as SVG inside the page, the page as one HTML file.

A page needs no network and no script: it can be mailed, and read on a phone.
"""

from __future__ import annotations

import io
import os
import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#1b1b1b")
"""Told apart by colour-blind eyes, too (Okabe and Ito)."""
GREY = "#767676"


@dataclass(frozen=True)
class Grid:
    """A table of texts; the first column names the row."""

    caption: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def show(self, console: Console) -> None:
        """Print the table."""
        table = Table(title=self.caption, title_justify="left")
        for index, heading in enumerate(self.headings):
            table.add_column(heading, justify="right" if index else "left")
        for row in self.rows:
            table.add_row(*row)
        console.print(table)

    def markdown(self) -> str:
        """Return the table in Markdown, its caption above it."""
        lines = [self.headings, ("---",) * len(self.headings), *self.rows]
        return "\n".join(
            [self.caption, "", *(f"| {' | '.join(cell.strip() for cell in line)} |" for line in lines), ""]
        )


@dataclass(frozen=True)
class Plot:
    """A plot as an SVG element, and what it shows in words."""

    svg: str
    caption: str


@dataclass(frozen=True)
class Section:
    """A part of a page."""

    heading: str
    text: tuple[str, ...] = ()
    grids: tuple[Grid, ...] = ()
    plots: tuple[Plot, ...] = ()


@dataclass(frozen=True)
class Page:
    """A report."""

    title: str
    lead: tuple[str, ...]
    sections: tuple[Section, ...]

    def html(self) -> str:
        """Return the page as one self-contained HTML document."""
        from jinja2 import Environment, FileSystemLoader

        environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True)
        return environment.get_template("page.html").render(page=self)


def draw(name: str, title: str, caption: str, into: Callable[[Axes], object]) -> Plot:
    """Draw a plot of one panel, small enough that its text stays legible across a phone.

    ``name`` is unique within the page: it keeps apart the ids inside its SVG.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    style: dict[Any, object] = {
        "svg.fonttype": "none",
        "svg.hashsalt": name,
        "font.family": "sans-serif",
        "font.size": 10,
    }
    with mpl.rc_context(style):
        figure = Figure(figsize=(4.2, 3.2), layout="constrained")
        axes = figure.add_subplot()
        axes.set_title(title, fontsize=10.5, loc="left")
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        axes.grid(alpha=0.25, linewidth=0.6)
        axes.set_axisbelow(True)
        into(axes)
        written = io.StringIO()
        figure.savefig(written, format="svg", metadata={"Date": None})
    return Plot(_inline(written.getvalue(), name, f"{title}. {caption}"), caption)


def write_whole(path: Path, text: str) -> None:
    """Write a file in one step: a reader meets the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=".", delete=False, encoding="utf-8") as file:
        file.write(text)
    os.chmod(file.name, 0o644)
    os.replace(file.name, path)


def number(value: float | None, digits: int = 4) -> str:
    """Return a number for people: so many significant digits, or a dash where there is none."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 10**digits else f"{value:#.{digits}g}".rstrip(".")


def between(interval: tuple[float, float] | list[float] | None, form: str = ".3f") -> str:
    """Return an interval for people."""
    return "-" if interval is None else f"{interval[0]:{form}} to {interval[1]:{form}}"


def _inline(document: str, name: str, words: str) -> str:
    """Turn an SVG file into an element of a page: no prologue, ids of its own, any width, words for a screen reader."""
    svg = document[document.index("<svg") :]
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    head, rest = svg.split(">", 1)
    head = re.sub(r'\s(width|height)="[^"]*"', "", head)
    label = words.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    return f'{head} role="img" aria-label="{label}">{rest}'
