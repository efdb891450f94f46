"""One fit from one YAML, without a deployment: ``python -m models fit run.yaml --trajectories data --out run``."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.console import Console

from contracts.errors import LogError
from models.config import load_fit_config
from models.progress import fit_bar
from models.run_log import close_run, open_run, tensorboard
from models.training import Progress, fit, identity_of
from models.trajectory_files import open_trajectories

POLICY: Final = "policy"


def run_fit(settings: Path, data: Path, runs: Path, console: Console) -> dict[str, Any]:
    """Fit trajectories in a folder as a YAML file says, in a run folder under ``runs``; return what was made.

    The run folder holds the settings, the log for TensorBoard and, in the end, ``policy`` (``Policy.load`` reads it).
    A run that was killed goes on when the same is asked for again. Raises SpecError for wrong settings, LogError for
    trajectories that are not whole, or hold nothing to learn from.
    """
    config = load_fit_config(settings)
    last: list[Progress] = []
    try:
        trajectories = open_trajectories(data)
        run = open_run(runs, config, identity_of(trajectories, config, np.arange(trajectories.members)))
        console.print(f"run: {run}", highlight=False, soft_wrap=True)
        with fit_bar(console) as show, tensorboard(run) as write:

            def tell(progress: Progress) -> None:
                show(progress)
                write(progress)
                last[:] = [progress]

            policy = fit(trajectories, config, on_progress=tell, checkpoints=run)
    except ValueError as error:
        raise LogError(f"{data}: {error}") from error
    policy.save(run / POLICY)
    close_run(run)
    done: dict[str, Any] = {"run": str(run), "policy": str(run / POLICY), "decisions": len(trajectories)}
    return done | ({"steps": last[0].step, "action_loss": last[0].action_loss} if last else {})
