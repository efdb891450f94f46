"""The task and its log: Gymnasium's Acrobot-v1, played by controllers of every quality."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import gymnasium
import numpy as np

from models import Rollout, collect
from models.steps import Bools, Floats, Ints

ENV: Final = "Acrobot-v1"
"""Two links hang from a joint; torque on the second, left, none or right, is to swing its tip above a line. Every step
until then costs 1; 500 steps end the attempt."""
SPEED: Final = 5
"""Column of the second link's angular velocity."""
LOG_SEED: Final = 1_000
TEST_SEED: Final = 1_000_000
"""Of the first test episode; the next ones follow. No choice was made by looking at these episodes."""


@dataclass(frozen=True)
class ErringController:
    """Pushes the second link the way it turns, which adds energy, but in a share of steps the other way, which brakes.

    Above a share of one half, attempts fail and are long, so that most of the log brakes where the links hang at rest:
    who imitates the log fails, and who imitates its good episodes succeeds.
    """

    error: Floats  # [B] of each world

    def __call__(self, states: Floats, eligible: Bools, rng: np.random.Generator) -> Ints:
        """Choose actions [B]."""
        errs = rng.random(len(states)) < self.error
        highest = eligible.shape[1] - 1
        return np.where((states[:, SPEED] > 0.0) != errs, highest, 0).astype(np.int64)


def worlds(count: int) -> Any:
    """Return ``count`` environments side by side; reset with a seed, each gets the next one."""
    return gymnasium.make_vec(ENV, count, vectorization_mode="sync")


def make_log(episodes: int) -> Rollout:
    """Log ``episodes`` episodes, one a world, whose shares of errors rise evenly from 0.1 to 0.7."""
    error = np.linspace(0.1, 0.7, episodes, dtype=np.float32)
    return collect(worlds(episodes), ErringController(error), episodes, LOG_SEED)
