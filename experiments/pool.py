"""Two processes of one thread each do the runs that are not done yet; what is done stays done if they are killed."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from experiments.cost import cost_us
from experiments.jobs import Job
from experiments.sources import Source


def run_all(jobs: Sequence[Job], cache: Path, workers: int, console: Console) -> int:
    """Do what is not done yet and return how many runs that were.

    Raises whatever a run raises, as soon as it does; the others' results are kept.
    """
    waiting = [job for job in jobs if not job.is_done(cache)]
    if len(waiting) < len(jobs):
        console.print(f"{len(jobs) - len(waiting)} of {len(jobs)} runs are done already", highlight=False)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as bar, _pool(workers) as pool:
        task = bar.add_task("runs", total=len(waiting))
        futures = {pool.submit(job.run, cache): job for job in waiting}
        try:
            for future in as_completed(futures):
                future.result()
                job = futures[future]
                bar.update(task, advance=1, description=f"{job.source.name}, {job.variant.name}, seed {job.seed}")
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return len(waiting)


def measure_cost(source: Source, context_lengths: Sequence[int]) -> dict[int, float]:
    """Measure ``experiments.cost`` in a process of its own with one thread, nothing else of ours running."""
    with _pool(1) as pool:
        return pool.submit(cost_us, source, tuple(context_lengths)).result()


def _pool(workers: int) -> ProcessPoolExecutor:
    # Spawned, not forked: a fork of a process that has used its threads may hang.
    return ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_start)


def _start() -> None:
    import torch

    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this process when its parent is gone, killed or not: its queue would never say so."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
