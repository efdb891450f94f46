"""What a decision costs: core-microseconds of the deployed two-step inference, by context length."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

import numpy as np
import torch

from experiments.sources import Source, load_case
from experiments.variants import BASE, CONTEXTS
from models.batch import Normalization
from models.config import FitConfig
from models.decision_transformer import DecisionTransformer
from models.held_out import HeldOut, one_prompt
from models.policy import Policy

BATCH: Final = 64
ROUNDS: Final = 7
DECISIONS_A_ROUND: Final = 6_400


def cost_us(source: Source, context_lengths: Sequence[int]) -> dict[int, float]:
    """Core-microseconds a decision at batch 64: batch builder, quantiles, prompt, action; by context length.

    CPU time of this process, which is to have one thread; the least of several rounds, taken by turns so that a busy
    moment does not fall on one length alone. Weights are as initialised: time does not depend on them.
    """
    case = load_case(source, source.spec.training.seed, 0)
    trajectories, spec = case.trajectories, source.spec
    held_out = HeldOut.of(trajectories, case.validation_members, FitConfig.of(spec)).sample(DECISIONS_A_ROUND)
    rows = held_out.ends
    normalization = Normalization.fit(trajectories.states[rows], trajectories.rewards[rows], held_out.returns)
    prompts = one_prompt(spec.reward_names, spec.prompt).repeated(BATCH)
    ends = np.resize(np.random.default_rng(0).permutation(rows), (DECISIONS_A_ROUND // BATCH, BATCH))
    policies = {}
    for length in context_lengths:
        config = CONTEXTS.get(length, BASE).config(FitConfig.of(spec), 0)
        sizes = (trajectories.states.shape[1], trajectories.eligible.shape[1], trajectories.rewards.shape[1])
        policies[length] = Policy(DecisionTransformer(config.shape(*sizes)).eval(), normalization)
    windows = {
        length: [trajectories.windows(part, policy.model.config.context_length) for part in ends]
        for length, policy in policies.items()
    }
    least = dict.fromkeys(context_lengths, float("inf"))
    assert torch.get_num_threads() == 1, "CPU time counts every thread"
    for turn in range(ROUNDS + 1):
        for length, policy in policies.items():
            started = time.process_time()
            for steps in windows[length]:
                policy.decide(steps, prompts)
            spent = (time.process_time() - started) * 1e6 / ends.size
            if turn:  # the first is to warm up
                least[length] = min(least[length], spent)
    return least
