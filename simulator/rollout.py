"""Rollout: a policy at work in the environment, one cycle at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from simulator.arrays import FloatArray, IntArray
from simulator.env import NotificationEnv
from simulator.observation import Observation
from simulator.policy import Policy, sample


@dataclass(frozen=True)
class Step:
    """One cycle: what was seen, what was done, and what it earned until the next."""

    cycle: int
    observation: Observation
    live: IntArray  # (N, len(LIVE)), as known at the decision
    notification_ids: list[str]  # (N,), of the top-1 candidates
    actions: IntArray  # (N,), indices into ACTIONS
    propensities: FloatArray  # (N,), probability of the action taken
    rewards: Mapping[str, FloatArray]  # (N,) a reward, in the spec's order
    last: bool


def rollout(env: NotificationEnv, policy: Policy, seed: int) -> Iterator[Step]:
    """Reset ``env`` with ``seed`` and yield every cycle of one episode under ``policy``.

    ``seed`` fixes the population and the policy's draws, each through a stream of its own.
    """
    rng = np.random.default_rng([seed, 1])
    rows = np.arange(env.num_envs)
    observation, _ = env.reset(seed=seed)
    for cycle in range(env.cycles):
        probabilities = policy.probabilities(observation)
        actions = sample(probabilities, rng)
        ids, live = env.notification_ids, env.live
        following, _, _, truncated, infos = env.step(actions)
        yield Step(
            cycle=cycle,
            observation=observation,
            live=live,
            notification_ids=ids,
            actions=actions,
            propensities=probabilities[rows, actions],
            rewards=infos["rewards"],
            last=bool(truncated.all()),
        )
        observation = following
