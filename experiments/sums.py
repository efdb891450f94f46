"""Figures as sums by member: what a run keeps, so that runs can be pooled and every interval clustered by member."""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.clustered import Estimate, Values, member_sums, ratios_of_sums
from models.steps import Ints


@dataclass(frozen=True)
class Sums:
    """Sums over the decisions of each of G members, by figure."""

    members: Ints  # [G] rising
    columns: Mapping[str, Values]  # each [G]

    @staticmethod
    def of(rows: Mapping[str, NDArray[np.generic]], members: Ints) -> Sums:
        """Sum figures of N decisions, each [N], by ``members`` [N]."""
        sums = member_sums(np.column_stack([column.astype(np.float64) for column in rows.values()]), members)
        return Sums(np.unique(members), dict(zip(rows, sums.T, strict=True)))

    @staticmethod
    def pooled(parts: Sequence[Sums]) -> Sums:
        """Put runs together: a member that is in several counts as one, with all of its decisions."""
        names = list(parts[0].columns)
        members = np.concatenate([part.members for part in parts])
        matrix = np.column_stack([np.concatenate([part.columns[name] for part in parts]) for name in names])
        return Sums(np.unique(members), dict(zip(names, member_sums(matrix, members).T, strict=True)))

    def ratio(self, numerator: str, denominator: str = "decisions") -> Estimate:
        """Return one figure over another, clustered by member."""
        return self._estimate(self.columns[numerator], self.columns[denominator])

    def gain(self, other: Sums, numerator: str, denominator: str = "decisions") -> Estimate:
        """Return how much this ratio is above that of ``other`` on the same decisions.

        Raises ValueError if the decisions are not the same.
        """
        self._check_same(other)
        return self._estimate(self.columns[numerator] - other.columns[numerator], self.columns[denominator])

    def relative(self, other: Sums, figure: str) -> Estimate:
        """Return this figure's sum over that of ``other``. Raises ValueError as ``gain`` does."""
        self._check_same(other)
        return self._estimate(self.columns[figure], other.columns[figure])

    def _check_same(self, other: Sums) -> None:
        counts = self.columns["decisions"], other.columns["decisions"]
        if not np.array_equal(self.members, other.members) or not np.array_equal(*counts):
            raise ValueError("the two were not evaluated at the same decisions: nothing can be compared")

    def save(self, path: Path) -> None:
        """Write the sums in one step."""
        path.parent.mkdir(parents=True, exist_ok=True)
        written = io.BytesIO()
        np.savez_compressed(
            written,
            members=self.members,
            names=np.asarray(list(self.columns)),
            sums=np.column_stack(list(self.columns.values())),
        )
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".", delete=False) as file:
            file.write(written.getvalue())
        os.replace(file.name, path)

    @staticmethod
    def load(path: Path) -> Sums:
        """Read what ``save`` wrote."""
        with np.load(path, allow_pickle=False) as file:
            columns = dict(zip(map(str, file["names"]), file["sums"].T, strict=True))
            return Sums(file["members"], columns)

    @staticmethod
    def _estimate(numerator: Values, denominator: Values) -> Estimate:
        return ratios_of_sums(numerator[:, None], denominator[:, None]).at(0)


@dataclass(frozen=True)
class Spread:
    """A figure over seeds."""

    mean: float
    sd: float | None
    """None with one seed."""

    @staticmethod
    def of(values: Sequence[float]) -> Spread:
        """Return the mean and standard deviation of one value a seed."""
        return Spread(float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None)

    def to_json(self) -> dict[str, float | None]:
        """Return plain numbers."""
        return {"mean": self.mean, "sd": self.sd}
