"""Which action is taken, and with what propensity: the most probable one, but for epsilon-greedy exploration.

Draws are hashes of member and cycle, not random numbers: a retry of the same cycle draws the same.
"""

from __future__ import annotations

import hashlib

import numpy as np

from contracts.spec import Spec
from models.steps import Bools, Floats


def choose_action(
    spec: Spec, member_id: str, cycle_id: str, probabilities: Floats, eligible: Bools
) -> tuple[int, float]:
    """Return the action taken and its propensity.

    A share of the members explores (by hash of the member, so that a member stays in or out); in it, with probability
    epsilon, the action is uniform over the eligible ones.

    Parameters
    ----------
    probabilities : [A]
    eligible : [A]
    """
    best = int(probabilities.argmax())
    if draw(spec.name, "share", member_id) >= spec.exploration.share:
        return best, 1.0
    epsilon, actions = spec.exploration.epsilon, np.flatnonzero(eligible)
    action = best
    if draw(spec.name, "explore", member_id, cycle_id) < epsilon:
        action = int(actions[int(draw(spec.name, "action", member_id, cycle_id) * len(actions))])
    return action, (1.0 - epsilon) * (action == best) + epsilon / len(actions)


def draw(*parts: str) -> float:
    """Return a number in [0, 1), uniform over its arguments: the first 53 bits of their hash."""
    text = "\x00".join(f"{len(part)}:{part}" for part in parts)
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) / 2.0**53
