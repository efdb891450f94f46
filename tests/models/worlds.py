"""A small Gymnasium environment whose every step says what it should be."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

FIRST = 3
"""The environment's own number of the first of its two actions."""


class Stairs(gymnasium.Env[NDArray[np.float32], np.int64]):
    """Episodes of 1 to 5 steps, their length drawn at reset; even ones terminate, odd ones are truncated.

    It shows [[step, length], [0, 0]]. The second action is eligible on odd steps. It gains 1 and costs 0.5, the first
    gains nothing; each step adds 0.1 times its number to the gain.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012
    action_space = spaces.Discrete(2, start=FIRST)
    observation_space = spaces.Box(-10, 10, (2, 2), np.float32)

    def __init__(self, vector_reward: bool = False) -> None:
        self.vector_reward = vector_reward
        self.step_number = self.length = 0
        self.over = True

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        super().reset(seed=seed)
        self.length, self.step_number, self.over = int(self.np_random.integers(1, 6)), 0, False
        return self._observation(), self._info()

    def step(self, action: Any) -> tuple[NDArray[np.float32], Any, bool, bool, dict[str, Any]]:
        assert not self.over, "stepped after its end"
        taken = int(action) - FIRST
        assert taken in (0, 1)
        assert taken == 0 or self.step_number % 2 == 1, "not eligible"
        gain, cost = taken + 0.1 * self.step_number, -0.5 * taken
        self.step_number += 1
        self.over = self.step_number == self.length
        even = self.length % 2 == 0
        reward: Any = np.array([gain, cost]) if self.vector_reward else gain
        info = self._info() | {"pair": np.array([gain, cost]), "gain": gain, "cost": cost}
        return self._observation(), reward, self.over and even, self.over and not even, info

    def _observation(self) -> NDArray[np.float32]:
        return np.array([[self.step_number, self.length], [0, 0]], np.float32)

    def _info(self) -> dict[str, Any]:
        odd = self.step_number % 2 == 1
        return {"action_mask": np.array([1, odd], np.int8), "clock": 60.0 * self.step_number}
