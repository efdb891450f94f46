"""Progress bars of the commands."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from models.training import Progress as FitProgress


def progress_bar(console: Console) -> Progress:
    """Return a bar that counts."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console)


@contextmanager
def fit_bar(console: Console) -> Iterator[Callable[[FitProgress], None]]:
    """Give a progress callback for ``fit`` that shows steps and losses."""
    with progress_bar(console) as bar:
        task = bar.add_task("training", total=None)

        def show(progress: FitProgress) -> None:
            text = f"training  action loss {progress.action_loss:.3f}  return loss {progress.rtg_loss:.3f}"
            bar.update(task, completed=progress.step, total=progress.steps, description=text)

        yield show
