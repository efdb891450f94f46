"""What an import did: counts for programs, a table for people."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class TableReport:
    """One table of an import."""

    name: str
    rows: int
    """Rows kept."""
    rejected: int
    reasons: Mapping[str, int]
    """Number of rejects by reason."""
    notes: tuple[str, ...]
    written_to: Path
    rejects_at: Path


@dataclass(frozen=True)
class ImportReport:
    """One import: the decision log, then the feature tables by name."""

    tenant: str
    log: TableReport
    members: int
    """Members of the log."""
    features: tuple[TableReport, ...]

    def show(self, console: Console) -> None:
        """Print the report."""
        table = Table(title=f"{self.tenant}: import")
        for heading in ("table", "rows", "rejected"):
            table.add_column(heading, justify="left" if heading == "table" else "right")
        table.add_column("notes", overflow="fold")
        for part in (self.log, *self.features):
            reasons = [f"{count:,} x {reason}" for reason, count in part.reasons.items()]
            if part.rejected:
                reasons.append(f"rejects: {part.rejects_at}")
            table.add_row(part.name, f"{part.rows:,}", f"{part.rejected:,}", "\n".join((*reasons, *part.notes)))
        console.print(table)
        console.print(f"{self.members:,} members; log: {self.log.written_to}")
