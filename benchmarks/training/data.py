"""The log that every contender trains on: made-up members, as one ``.npz`` that needs no Pacer to be read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from models.trajectories import Trajectories, returns_to_go

HORIZON: Final = 16
DISCOUNT: Final = 0.97


@dataclass(frozen=True)
class Problem:
    """The sizes that all contenders share. Dropout is 0 in all of them."""

    members: int = 1_200
    length: int = 168
    """Decisions a member: three weeks of eight a day."""
    states: int = 64
    actions: int = 3
    rewards: int = 3
    """The peers know one return: they get the first."""
    context: int = 4
    width: int = 64
    layers: int = 2
    heads: int = 4


def make_log(problem: Problem, seed: int = 0) -> Trajectories:
    """Draw a log: states standard normal, actions at random among the eligible ones, rewards that depend on both."""
    rng = np.random.default_rng(seed)
    n = problem.members * problem.length
    states = rng.standard_normal((n, problem.states), dtype=np.float32)
    eligible = rng.random((n, problem.actions)) < 0.8
    eligible[:, 0] = True
    actions = np.argmax(np.where(eligible, rng.random(eligible.shape), -1.0), axis=1)
    noise = rng.standard_normal((n, problem.rewards), dtype=np.float32)
    return Trajectories(
        states=states,
        actions=actions,
        eligible=eligible,
        rewards=(actions[:, None] * states[:, : problem.rewards] + noise).astype(np.float32),
        times_ms=np.tile(np.arange(problem.length) * 10_800_000, problem.members),
        starts=np.arange(problem.members + 1) * problem.length,
    )


def write_log(log: Trajectories, path: Path) -> None:
    """Write the log with its returns-to-go, so that no contender has to compute them."""
    returns, is_target = returns_to_go(log.rewards, log.starts, HORIZON, DISCOUNT)
    np.savez(
        path,
        states=log.states,
        actions=log.actions,
        eligible=log.eligible,
        rewards=log.rewards,
        times_ms=log.times_ms,
        starts=log.starts,
        returns=np.nan_to_num(returns),
        ends=np.flatnonzero(is_target),
    )
