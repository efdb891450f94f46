"""d3rlpy's DiscreteDecisionTransformer, trained and rolled out: a script of ``.venv-peers``, nothing of ours in it.

Usage: ``python peer.py log.npz settings.json``. The last line printed is JSON, ``{"returns": [[...], ...]}``: a list of
episode returns for every seed.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import d3rlpy
import gymnasium
import numpy as np


def dataset(log: Any) -> Any:
    """Return the log as d3rlpy's data set."""
    last = log["starts"][1:] - 1
    terminals, timeouts = np.zeros((2, len(log["actions"])), np.float32)
    terminals[last[log["ended"]]] = 1.0
    timeouts[last[~log["ended"]]] = 1.0
    return d3rlpy.dataset.MDPDataset(
        observations=log["states"],
        actions=log["actions"].reshape(-1, 1),
        rewards=log["rewards"].reshape(-1, 1),
        terminals=terminals,
        timeouts=timeouts,
        action_space=d3rlpy.ActionSpace.DISCRETE,
        action_size=int(log["eligible"].shape[1]),
    )


def train(data: Any, settings: dict[str, Any], seed: int) -> Any:
    """Train with d3rlpy's own loop; what ``settings`` does not name stays as d3rlpy has it."""
    d3rlpy.seed(seed)
    tokens = settings["steps"] * settings["batch_size"] * settings["context_length"]
    algorithm = d3rlpy.algos.DiscreteDecisionTransformerConfig(
        context_size=settings["context_length"],
        max_timestep=settings["max_steps"],
        batch_size=settings["batch_size"],
        learning_rate=settings["learning_rate"],
        num_heads=settings["heads"],
        num_layers=settings["layers"],
        encoder_factory=d3rlpy.models.VectorEncoderFactory(hidden_units=[settings["width"]]),
        observation_scaler=d3rlpy.preprocessing.StandardObservationScaler(),
        reward_scaler=d3rlpy.preprocessing.ReturnBasedRewardScaler(),
        warmup_tokens=int(tokens * settings["warmup_share"]),
        final_tokens=tokens,
    ).create(device="cpu:0")
    algorithm.fit(
        data,
        n_steps=settings["steps"],
        n_steps_per_epoch=settings["steps"],
        logger_adapter=d3rlpy.logging.NoopAdapterFactory(),
        show_progress=False,
    )
    return algorithm


def play(algorithm: Any, settings: dict[str, Any]) -> list[float]:
    """Return what each test episode earns, prompted with ``target_return`` less what was earned."""
    player = algorithm.as_stateful_wrapper(
        target_return=settings["target_return"], action_sampler=d3rlpy.algos.GreedyTransformerActionSampler()
    )
    env = gymnasium.make(settings["env"])
    returns = []
    for episode in range(settings["episodes"]):
        player.reset()
        observation, _ = env.reset(seed=settings["test_seed"] + episode)
        reward, earned, over = 0.0, 0.0, False
        while not over:
            observation, given, terminated, truncated, _ = env.step(player.predict(observation, reward))
            reward, over = float(given), terminated or truncated
            earned += reward
        returns.append(earned)
    return returns


def main() -> None:
    """Train and play once a seed."""
    log = np.load(sys.argv[1])
    settings = json.loads(Path(sys.argv[2]).read_text(encoding="utf-8"))
    data = dataset(log)
    returns = []
    for seed in settings["seeds"]:
        returns.append(play(train(data, settings, seed), settings))
        print(f"d3rlpy, seed {seed}: mean return {np.mean(returns[-1]):.1f}", file=sys.stderr, flush=True)
    print(json.dumps({"returns": returns}))


if __name__ == "__main__":
    main()
