"""``python -m benchmarks.control``: returns on Acrobot-v1 beside d3rlpy's, from the same log, over several seeds."""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.control.task import ENV, TEST_SEED, make_log, worlds
from benchmarks.peers import peers_python
from contracts.errors import PacerError
from models import Absolute, FitConfig, Model, Progress, Rollout, Training, fit, rollout

PEER: Final = Path(__file__).with_name("peer.py")
LEVEL: Final = 0.95
"""The highest level that a fit learns by default. Beside it, both models are prompted with the best return in the log,
less what was earned: no prompt is tuned."""
MAX_STEPS: Final = 500
"""Of an episode: the task's own limit."""


@dataclass(frozen=True)
class Plan:
    """What both are given."""

    seeds: int = 5
    log_episodes: int = 200
    test_episodes: int = 20
    epochs: int = 10
    context_length: int = 4
    width: int = 64
    layers: int = 2
    heads: int = 4
    batch_size: int = 64
    learning_rate: float = 1e-3

    def config(self, seed: int) -> FitConfig:
        """Return our settings: returns without discount that look ahead further than a good attempt takes.

        Actions go with true returns alone. High returns are rare where the links hang at rest, and predicted ones
        (training.predicted_returns) would be asked for there as often, beside the actions of failed attempts.
        """
        return FitConfig(
            horizon=300,
            discount=1.0,
            context_length=self.context_length,
            model=Model(width=self.width, layers=self.layers, heads=self.heads),
            training=Training(
                epochs=self.epochs,
                batch_size=self.batch_size,
                learning_rate=self.learning_rate,
                predicted_returns=0.0,
                seed=seed,
            ),
        )


@dataclass(frozen=True)
class Played:
    """One seed of our model."""

    by_level: list[float]  # return of every test episode, prompted with LEVEL
    by_return: list[float]  # prompted with the best return in the log
    steps: int  # of the optimiser


def train_and_play(log: Rollout, plan: Plan, seed: int, console: Console) -> Played:
    """Fit our model and let it play the test episodes under both prompts."""
    steps = 0

    def note(progress: Progress) -> None:
        nonlocal steps
        steps = progress.steps

    policy = fit(log.trajectories, plan.config(seed), on_progress=note)
    best = Absolute(float(log.returns.max()))

    def play(prompt: float | Absolute) -> list[float]:
        decrement = isinstance(prompt, Absolute)
        count = plan.test_episodes
        played = rollout(policy, worlds(count), prompt, count, TEST_SEED, decrement=decrement)
        return [float(value) for value in played.returns[:, 0]]

    result = Played(play(LEVEL), play(best), steps)
    means = (float(np.mean(returns)) for returns in (result.by_level, result.by_return))
    console.print("pacer, seed {}: mean return {:.1f} by level, {:.1f} by return".format(seed, *means), highlight=False)
    return result


def peer_returns(log: Rollout, plan: Plan, steps: int) -> list[list[float]]:
    """Train and roll out d3rlpy's model in the peers' environment: as many steps, the same batches and test episodes.

    Raises PacerError where the script fails; its last words are on standard error.
    """
    data = log.trajectories
    settings = asdict(plan) | {
        "env": ENV,
        "steps": steps,
        "seeds": list(range(plan.seeds)),
        "episodes": plan.test_episodes,
        "test_seed": TEST_SEED,
        "max_steps": MAX_STEPS,
        "warmup_share": Training().warmup_share,
        "target_return": float(log.returns.max()),
    }
    with tempfile.TemporaryDirectory() as folder:
        arrays, asked = Path(folder) / "log.npz", Path(folder) / "settings.json"
        fields = ("states", "actions", "eligible", "rewards", "starts", "ended")
        np.savez(arrays, **{name: getattr(data, name) for name in fields})
        asked.write_text(json.dumps(settings), encoding="utf-8")
        done = subprocess.run(
            [str(peers_python()), str(PEER), str(arrays), str(asked)], stdout=subprocess.PIPE, text=True, check=False
        )
    if done.returncode != 0:
        raise PacerError(f"{PEER} ended with code {done.returncode}; what it said is above")
    returns: list[list[float]] = json.loads(done.stdout.splitlines()[-1])["returns"]
    return returns


def spread(by_seed: Sequence[Sequence[float]]) -> dict[str, float]:
    """Return the mean return, and the standard deviation and the extremes of the seeds' means."""
    means = [float(np.mean(returns)) for returns in by_seed]
    return {
        "mean": float(np.mean(means)),
        "sd": float(np.std(means, ddof=1)) if len(means) > 1 else math.nan,
        "worst": min(means),
        "best": max(means),
    }


def show(rows: Mapping[str, Mapping[str, float]], title: str, console: Console) -> None:
    """Print a table for people."""
    table = Table(title=title)
    table.add_column("who")
    for heading in ("mean return", "sd over seeds", "worst seed", "best seed"):
        table.add_column(heading, justify="right")
    for name, row in rows.items():
        table.add_row(
            name, *("" if math.isnan(row[key]) else f"{row[key]:.1f}" for key in ("mean", "sd", "worst", "best"))
        )
    console.print(table)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.control", description=__doc__)
    plan = Plan()
    for name in ("seeds", "log_episodes", "test_episodes", "epochs", "context_length"):
        flag, default = f"--{name.replace('_', '-')}", getattr(plan, name)
        parser.add_argument(flag, type=int, default=default, help=f"default {default}")
    plan = Plan(**vars(parser.parse_args(arguments)))
    console = Console(stderr=True)
    try:
        log = make_log(plan.log_episodes)
        ours = [train_and_play(log, plan, 0, console)]
        with ThreadPoolExecutor(1) as beside:
            waiting = beside.submit(peer_returns, log, plan, ours[0].steps)
            ours += [train_and_play(log, plan, seed, console) for seed in range(1, plan.seeds)]
            theirs = waiting.result()
    except (PacerError, ValueError) as error:
        console.print(f"[red]error:[/] {error}", highlight=False)
        return 1
    behaviour = {"mean": float(log.returns.mean()), "sd": math.nan}
    behaviour |= {"worst": float(log.returns.min()), "best": float(log.returns.max())}
    rows = {
        "behaviour": behaviour,
        "pacer": spread([played.by_return for played in ours]),
        "pacer_by_level": spread([played.by_level for played in ours]),
        "d3rlpy": spread(theirs),
    }
    title = f"{ENV}: return of {plan.test_episodes} episodes, {plan.seeds} seeds (behaviour: of the log's episodes)"
    show(rows, title, console)
    figures = {
        "task": ENV,
        "return": {
            name: {key: None if math.isnan(x) else round(x, 2) for key, x in row.items()} for name, row in rows.items()
        },
        "prompt": {"return": behaviour["best"], "level": LEVEL},
        "log_decisions": len(log.trajectories),
        "optimiser_steps": ours[0].steps,
        "plan": asdict(plan),
    }
    print(json.dumps(figures, allow_nan=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
