"""Policies: what is sent, given what may be seen; each says with which probability."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from simulator.arrays import FloatArray, IntArray
from simulator.candidates import ACTIONS, BADGE, NONE, PUSH
from simulator.clock import DAY_S
from simulator.observation import Observation, feature


class Policy(Protocol):
    """Anything that gives each action a probability."""

    def probabilities(self, observation: Observation) -> FloatArray:
        """Return the probability of each action, shape (N, len(ACTIONS)): rows sum to 1, ineligible ones are 0."""
        ...


@dataclass(frozen=True)
class ConstantPolicy:
    """Take one action wherever it is eligible, else stay silent: always push, never send."""

    action: int

    def probabilities(self, observation: Observation) -> FloatArray:
        """Return 1 for the action taken, shape (N, len(ACTIONS))."""
        wanted = np.full(len(observation["eligible"]), self.action)
        return _certain(_fall_back(wanted, observation))


@dataclass(frozen=True)
class ThresholdPolicy:
    """The logging policy: an epsilon-greedy threshold on a visible score.

    The score is the candidate's relevance, less what recent sends take away: ``per_send`` for each send in 24 hours,
    and ``too_soon`` for a send just now, fading over ``soon_hours``. Above ``push_above`` it pushes, above
    ``badge_above`` it badges (also where the push is not eligible), else it stays silent. With probability ``epsilon``
    it takes any eligible action instead, each as likely as the other.

    Both thresholds rise and fall by ``swing`` over about ``swing_days``, each member's at a pace of its own, as they do
    where a budget is spread over a week. No feature says how high they stand; what was done of late does.
    """

    push_above: float = 0.60
    badge_above: float = 0.55
    per_send: float = 0.03
    too_soon: float = 0.12
    soon_hours: float = 6.0
    epsilon: float = 0.1
    swing: float = 0.05
    swing_days: float = 7.0

    def score(self, observation: Observation) -> FloatArray:
        """Return the visible score of each member's top-1 candidate, shape (N,)."""
        wait = feature(observation, "hours_since_send").astype(np.float64)
        sends = feature(observation, "sends_24h").astype(np.float64)
        return observation["relevance"] - self.per_send * sends - self.too_soon * np.exp(-wait / self.soon_hours)

    def raised(self, observation: Observation) -> FloatArray:
        """Return how much higher than usual each member's thresholds stand now, shape (N,), within +-swing."""
        member = np.arange(len(observation["type"]))
        days = observation["decided_at_ms"] / (1000.0 * DAY_S)
        # Multiples of the plastic number's inverse and its square: pairs spread evenly, however many members.
        pace = 0.75 + 0.5 * (member * 0.7548776662466927 % 1.0)
        turns = days / (self.swing_days * pace) + member * 0.5698402909980532 % 1.0
        return np.asarray(self.swing * np.sin(2.0 * np.pi * turns), dtype=np.float64)

    def probabilities(self, observation: Observation) -> FloatArray:
        """Return the exact probability of each action, exploration included, shape (N, len(ACTIONS))."""
        score = self.score(observation) - self.raised(observation)
        push = (score > self.push_above) & (observation["eligible"][:, PUSH] == 1)
        wanted = np.where(push, PUSH, np.where(score > self.badge_above, BADGE, NONE))
        greedy = _certain(_fall_back(wanted, observation))
        uniform = observation["eligible"] / observation["eligible"].sum(axis=1, keepdims=True)
        mixed: FloatArray = (1.0 - self.epsilon) * greedy + self.epsilon * uniform
        return mixed


def sample(probabilities: FloatArray, rng: np.random.Generator) -> IntArray:
    """Draw one action a row of ``probabilities``, shape (N,); an action of probability 0 is never drawn."""
    # Dividing by the sum makes the last step exactly 1, which no draw reaches.
    steps = np.cumsum(probabilities, axis=1)
    steps /= steps[:, -1:]
    drawn: IntArray = np.sum(rng.random(len(steps))[:, None] >= steps, axis=1)
    return drawn


def _fall_back(wanted: IntArray, observation: Observation) -> IntArray:
    """Stay silent where the wanted action is not eligible."""
    allowed = observation["eligible"][np.arange(len(wanted)), wanted] == 1
    return np.where(allowed, wanted, NONE)


def _certain(actions: IntArray) -> FloatArray:
    return np.eye(len(ACTIONS))[actions]
