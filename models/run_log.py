"""Training runs: a folder each, with settings, TensorBoard log, and the checkpoint while one is under way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from models.config import FitConfig, dump_fit_config
from models.training import CHECKPOINT, Progress

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

SETTINGS = "run.yaml"


def open_run(runs: Path, config: FitConfig, data_fingerprint: str) -> Path:
    """Return the folder for a fit of ``config``: the newest unfinished one of the same settings and data.

    Else a new one, named by the time. It holds ``run.yaml``: the settings, every default written out, and the data's
    fingerprint. A run is unfinished while its checkpoint is there; ``close_run`` removes it.
    """
    settings = dump_fit_config(config) + yaml.safe_dump({"data_fingerprint": data_fingerprint})
    for folder in sorted(runs.glob("*/"), reverse=True):
        about = folder / SETTINGS
        if (folder / CHECKPOINT).exists() and about.is_file() and about.read_text(encoding="utf-8") == settings:
            return folder
    folder = runs / f"{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}"
    folder.mkdir(parents=True)
    (folder / SETTINGS).write_text(settings, encoding="utf-8")
    return folder


def close_run(folder: Path) -> None:
    """Mark a run as finished: what it made is kept elsewhere."""
    (folder / CHECKPOINT).unlink(missing_ok=True)


@contextmanager
def tensorboard(folder: Path) -> Iterator[Callable[[Progress], None]]:
    """Give a progress callback that writes losses and learning rate for TensorBoard to ``folder``.

    A run that goes on from a checkpoint writes its steps anew; TensorBoard shows the later ones.
    """
    writer: SummaryWriter | None = None

    def write(progress: Progress) -> None:
        nonlocal writer
        if writer is None:
            from torch.utils.tensorboard import SummaryWriter

            writer = SummaryWriter(folder, purge_step=progress.step)
        figures = {
            "loss/action": progress.action_loss,
            "loss/return_to_go": progress.rtg_loss,
            "learning_rate": progress.learning_rate,
            "epoch": progress.epoch,
        }
        if progress.watched_loss is not None:
            figures["loss/watched"] = progress.watched_loss
        for name, value in figures.items():
            writer.add_scalar(name, value, progress.step)

    try:
        yield write
    finally:
        if writer is not None:
            writer.close()
