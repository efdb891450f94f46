"""What every scenario is given, and what it reports: counts, and the laws it holds the store to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.progress import Progress

EXAMPLES = 3
"""How many cases that broke a law are shown."""

Count = int | float


class SoakError(Exception):
    """A scenario could not be carried out, so that it shows nothing: a process died, a server did not come up."""


@dataclass
class Law:
    """What must hold, and what broke it."""

    broken: int = 0
    examples: list[str] = field(default_factory=list)


@dataclass
class Report:
    """What a scenario saw.

    Attributes
    ----------
    counts
        Part of the scenario -> name -> count.
    laws
        The law in words -> what broke it.
    remarks
        What a reader must know to read the counts right.
    """

    counts: dict[str, dict[str, Count]] = field(default_factory=dict)
    laws: dict[str, Law] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)

    def part(self, name: str) -> dict[str, Count]:
        """Return the counts of a part, to fill."""
        return self.counts.setdefault(name, {})

    def law(self, text: str, broken: Sequence[object]) -> None:
        """Note that a law was looked at, and the cases that broke it. A law looked at twice must hold twice."""
        law = self.laws.setdefault(text, Law())
        law.broken += len(broken)
        law.examples += [str(case)[:300] for case in broken[: EXAMPLES - len(law.examples)]]

    @property
    def broken(self) -> bool:
        """Whether any law was broken."""
        return any(law.broken for law in self.laws.values())

    def to_tree(self) -> dict[str, Any]:
        """Return counts, and how often each law was broken, as plain JSON values."""
        return {"counts": self.counts, "broken": {text: law.broken for text, law in self.laws.items()}}


@dataclass(frozen=True)
class Soak:
    """One run.

    Attributes
    ----------
    scale
        Fraction of the full amount of work.
    seed
        Of everything drawn at random.
    progress
        Where scenarios show how far they are.
    """

    scale: float
    seed: int
    progress: Progress

    def amount(self, full: int, least: int) -> int:
        """Return ``full`` at this run's scale, but never less than ``least``."""
        return max(least, round(full * self.scale))


Scenario = Callable[[Soak], Report]
