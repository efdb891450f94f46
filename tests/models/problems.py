"""Small made-up problems for the model's tests."""

from __future__ import annotations

import numpy as np

from models.batch import Normalization
from models.decision_transformer import DecisionTransformerConfig
from models.steps import Steps
from models.trajectories import Trajectories

LEVELS = (0.1, 0.5, 0.9)


def random_steps(b: int, t: int, *, seed: int = 0, states: int = 3, actions: int = 3, rewards: int = 2) -> Steps:
    """Windows of random content, with 0..t-1 padded places on the left."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, t + 1, size=b)
    valid = np.arange(t)[None, :] >= t - lengths[:, None]
    taken = rng.integers(0, actions, size=(b, t))
    eligible = rng.random((b, t, actions)) < 0.6
    eligible[..., 0] = True
    np.put_along_axis(eligible, taken[..., None], True, axis=-1)
    return Steps(
        states=rng.normal(size=(b, t, states)).astype(np.float32),
        actions=taken,
        rewards=rng.normal(size=(b, t, rewards)).astype(np.float32),
        eligible=eligible,
        times_ms=np.cumsum(rng.integers(1, 10**7, size=(b, t)), axis=1),
        valid=valid,
    )


def normalization(states: int, rewards: int, mean: float = 0.0, scale: float = 1.0) -> Normalization:
    """The same mean (and median) and scale for every column; none is whole."""

    def of(size: int, value: float) -> np.ndarray:
        return np.full(size, value, np.float32)

    return Normalization(
        state_mean=of(states, mean),
        state_scale=of(states, scale),
        reward_mean=of(rewards, mean),
        reward_scale=of(rewards, scale),
        return_mean=of(rewards, mean),
        return_scale=of(rewards, scale),
        state_centre=of(states, mean),
        state_whole=np.zeros(states, np.bool_),
        reward_centre=of(rewards, mean),
        reward_whole=np.zeros(rewards, np.bool_),
    )


def small_config(**changes: object) -> DecisionTransformerConfig:
    shape = {
        "state_dim": 3,
        "n_actions": 3,
        "n_rewards": 2,
        "quantiles": LEVELS,
        "context_length": 4,
        "width": 16,
        "layers": 2,
        "heads": 2,
        "dropout": 0.0,
    }
    return DecisionTransformerConfig(**(shape | changes))  # type: ignore[arg-type]


def two_arm_trajectories(members: int, length: int, seed: int = 0) -> Trajectories:
    """Two actions taken at random; action 1 earns 1 of reward 0 and costs 0.5 of reward 1, action 0 earns nothing.

    The higher the return of reward 0 asked for, the more often action 1 is right; the state is noise.
    """
    rng = np.random.default_rng(seed)
    # Members differ in how often they act, so that returns differ and a return says something about the action.
    habit = np.repeat(rng.uniform(0.05, 0.95, size=members), length)
    actions = (rng.random(members * length) < habit).astype(np.int64)
    rewards = np.stack([actions * 1.0, actions * -0.5], axis=1).astype(np.float32)
    return Trajectories(
        states=rng.normal(size=(members * length, 2)).astype(np.float32),
        actions=actions,
        eligible=np.ones((members * length, 2), dtype=np.bool_),
        rewards=rewards,
        times_ms=np.tile(np.arange(length) * 3_600_000, members),
        starts=np.arange(members + 1) * length,
    )
