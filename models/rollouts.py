"""Policies at work in a Gymnasium environment: what they earn, and the log that they leave."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from contracts.spec import Absolute
from models.checks import STEP_MS, all_eligible, as_indices, has_shape
from models.history import PastSteps
from models.policy import Policy
from models.prompts import Asked, Prompts, as_prompts
from models.steps import Bools, Floats, Ints
from models.trajectories import Trajectories
from models.worlds import Outcome, Read, Reading, Seen, Worlds

Behaviour = Callable[[Floats, Bools, np.random.Generator], Ints]
"""Chooses actions [B], indices from 0, from states [B, S] and eligible actions [B, A]."""


@dataclass(frozen=True)
class Rollout:
    """E whole episodes."""

    returns: Floats  # [E, R] sums of rewards, without discount
    lengths: Ints  # [E] decisions
    terminated: Bools  # [E] False: truncated
    trajectories: Trajectories
    """The same episodes as a log, each one a member."""


def rollout(
    policy: Policy,
    env: Any,
    prompt: Asked,
    episodes: int,
    seed: int,
    *,
    sample: bool = False,
    decrement: bool = False,
    state: Callable[[Any], Any] | None = None,
    eligible: str | Read | None = None,
    reward: str | Read | None = None,
    time: str | Read | None = None,
) -> Rollout:
    """Let ``policy`` act in ``env`` for a number of whole episodes.

    Levels are turned into returns anew at every decision, from the quantiles that the model predicts there. An Absolute
    is asked for at every decision as it is; with ``decrement`` it is what the episode is still to earn, less by every
    reward earned, as in the Decision Transformer of Chen et al. (2021, algorithm 1): for a model whose returns have no
    discount and look ahead to the end of an episode.

    Parameters
    ----------
    env : a Gymnasium Env, or a VectorEnv with any autoreset mode; its actions are a Discrete space, from any start.
        Its episodes must end: wrap it in TimeLimit if they may not. Worlds of a vector share the episodes as evenly as
        may be, so that short ones count no more than long ones
    prompt : as for ``Policy.act``
    seed : of the first reset, and of the draws
    sample : draw actions from their probabilities, instead of taking the most probable one
    state : of an observation, [S] or [B, S]; None: it is flattened (a Discrete one becomes one-hot)
    eligible : a key of info, or a function of (observation, info), [A] or [B, A]; None: info["action_mask"] where the
        environment has one, else all actions
    reward : a key of info, or a function of (reward, info), giving [R] or [B, R], or a mapping of name to number or
        [B]; None: the environment's reward, a number or a vector
    time : a key of info, or a function of (observation, info): datetime64, or seconds; None: a second a step

    Raises ValueError naming what does not fit the policy or the environment.
    """
    worlds = Worlds(env, Reading(state, eligible, reward, time))
    player = _PolicyPlayer(policy, worlds, prompt, sample, decrement)
    return _play(worlds, player, episodes, seed)


def collect(
    env: Any,
    behaviour: Behaviour | None,
    episodes: int,
    seed: int,
    *,
    state: Callable[[Any], Any] | None = None,
    eligible: str | Read | None = None,
    reward: str | Read | None = None,
    time: str | Read | None = None,
) -> Rollout:
    """Log a number of whole episodes of ``behaviour`` (None: any eligible action, equally likely) to learn from.

    Its ``trajectories`` are ready for ``fit``. Arguments and errors are those of ``rollout``.
    """
    worlds = Worlds(env, Reading(state, eligible, reward, time))
    return _play(worlds, _BehaviourPlayer(behaviour or at_random), episodes, seed)


def at_random(_: Floats, eligible: Bools, rng: np.random.Generator) -> Ints:
    """Choose any eligible action, equally likely."""
    drawn: Ints = np.where(eligible, rng.random(eligible.shape), -1.0).argmax(axis=1)
    return drawn


class _Player(Protocol):
    def choose(self, seen: Seen, rng: np.random.Generator) -> Ints:
        """Return actions [B]."""

    def learn(self, step: _Step) -> None:
        """Take note of what they led to."""


@dataclass(frozen=True)
class _Step:
    seen: Seen
    actions: Ints  # [B]
    outcome: Outcome

    @property
    def over(self) -> Bools:
        """Which worlds' next step is the first of an episode: [B]."""
        return self.outcome.terminated | self.outcome.truncated | ~self.outcome.played


def _time(seen: Seen) -> NDArray[np.datetime64]:
    assert seen.times_ms is not None
    return seen.times_ms.astype("datetime64[ms]")


@dataclass
class _BehaviourPlayer:
    behaviour: Behaviour

    def choose(self, seen: Seen, rng: np.random.Generator) -> Ints:
        chosen = self.behaviour(seen.states, seen.eligible, rng)
        actions = as_indices("the behaviour's action", chosen, seen.eligible.shape[1])
        has_shape("the behaviour's action", actions.shape, (len(seen.states),), "B")
        all_eligible("the behaviour's action", actions, seen.eligible)
        return actions

    def learn(self, step: _Step) -> None:
        pass


class _PolicyPlayer:
    def __init__(self, policy: Policy, worlds: Worlds, prompt: Asked, sample: bool, decrement: bool) -> None:
        shape = policy.model.config
        if shape.n_actions != worlds.n_actions:
            raise ValueError(f"env has {worlds.n_actions} actions, the policy was trained with {shape.n_actions}")
        self.policy, self.sample, self.decrement = policy, sample, decrement
        self.first = as_prompts(prompt, worlds.size, shape.n_rewards, policy.reward_names)
        if decrement and np.isnan(self.first.values).all():
            raise ValueError(f"decrement needs an absolute prompt, such as {Absolute(9.0)!r}; {prompt!r} asks by level")
        self.prompts = self.first
        self.history: PastSteps = policy.new_history(worlds.size)

    def choose(self, seen: Seen, rng: np.random.Generator) -> Ints:
        time = _time(seen)
        decisions = self.policy.act(self.history, seen.states, seen.eligible, self.prompts, time=time)
        return decisions.sample(rng) if self.sample else decisions.actions

    def learn(self, step: _Step) -> None:
        outcome, over = step.outcome, step.over
        seen = step.seen
        history = self.history.append(seen.states, step.actions, outcome.rewards, seen.eligible, _time(seen))
        self.history = history.cleared(over)
        if self.decrement:
            left = self.prompts.values - outcome.rewards
            self.prompts = Prompts(self.first.levels, np.where(over[:, None], self.first.values, left))


@dataclass
class _Episodes:
    """Which of the recorded steps make up which episode, until every world has played its share."""

    shares: Ints  # [B] episodes that each world is to play
    began: Ints  # [B] step at which the running episode began
    found: list[list[tuple[int, int, bool]]] = field(default_factory=list)  # per world: first, end, terminated

    def note(self, t: int, step: _Step) -> None:
        for b in np.flatnonzero(step.over):
            if step.outcome.played[b] and len(self.found[b]) < self.shares[b]:
                self.found[b].append((int(self.began[b]), t + 1, bool(step.outcome.terminated[b])))
            self.began[b] = t + 1

    @property
    def complete(self) -> bool:
        return all(len(found) == share for found, share in zip(self.found, self.shares, strict=True))

    def __iter__(self) -> Iterator[tuple[int, int, int, bool]]:
        """Yield world, first step, end and whether it terminated, of every episode."""
        for b, found in enumerate(self.found):
            for first, end, terminated in found:
                yield b, first, end, terminated


def _play(worlds: Worlds, player: _Player, episodes: int, seed: int) -> Rollout:
    if episodes < 1:
        raise ValueError(f"episodes = {episodes} must be at least 1")
    rng = np.random.default_rng([seed, 1])
    share, more = divmod(episodes, worlds.size)
    shares = share + (np.arange(worlds.size) < more).astype(np.int64)
    played = _Episodes(shares, np.zeros(worlds.size, np.int64), [[] for _ in range(worlds.size)])
    steps: list[_Step] = []
    seen = worlds.reset(seed)
    while True:
        t = len(steps)
        if seen.times_ms is None:
            seen = replace(seen, times_ms=(t - played.began) * STEP_MS)
        actions = player.choose(seen, rng)
        step = _Step(seen, actions, worlds.step(actions))
        steps.append(step)
        played.note(t, step)
        if played.complete:
            return _rollout(steps, list(played))
        player.learn(step)
        seen = worlds.look()


def _rollout(steps: list[_Step], episodes: list[tuple[int, int, int, bool]]) -> Rollout:
    rewards = [np.stack([step.outcome.rewards[b] for step in steps[first:end]]) for b, first, end, _ in episodes]
    lengths = np.asarray([end - first for _, first, end, _ in episodes], np.int64)
    terminated = np.asarray([flag for *_, flag in episodes], np.bool_)
    times = [_time(step.seen).astype(np.int64) for step in steps]
    at = [(t, b) for b, first, end, _ in episodes for t in range(first, end)]
    trajectories = Trajectories(
        states=np.stack([steps[t].seen.states[b] for t, b in at]),
        actions=np.asarray([steps[t].actions[b] for t, b in at], np.int64),
        eligible=np.stack([steps[t].seen.eligible[b] for t, b in at]),
        rewards=np.concatenate(rewards),
        times_ms=np.asarray([times[t][b] for t, b in at], np.int64),
        starts=np.append(0, np.cumsum(lengths)).astype(np.int64),
        ended=terminated,
        reward_names=steps[0].outcome.reward_names,
    )
    returns = np.stack([episode.sum(axis=0, dtype=np.float64) for episode in rewards]).astype(np.float32)
    return Rollout(returns, lengths, terminated, trajectories)
