"""Gymnasium environments, one or a vector of them, as B worlds side by side that show states, not observations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.checks import as_bools, as_floats, as_times_ms, has_shape
from models.steps import Bools, Floats, Ints

ACTION_MASK: Final = "action_mask"

Read = Callable[[Any, dict[str, Any]], Any]


@dataclass(frozen=True)
class Reading:
    """How to read what an environment gives. None: as Gymnasium has it."""

    state: Callable[[Any], Any] | None
    """Of an observation: [S], or [B, S] of a vector environment."""
    eligible: str | Read | None
    """A key of info, or of (observation, info): [A] or [B, A]."""
    reward: str | Read | None
    """A key of info, or of (reward, info): [R] or [B, R]; or name -> a number, or [B]."""
    time: str | Read | None
    """A key of info, or of (observation, info): seconds or datetime64, one or [B]."""


@dataclass(frozen=True)
class Seen:
    """What B worlds show before a decision."""

    states: Floats  # [B, S]
    eligible: Bools  # [B, A]
    times_ms: Ints | None  # [B]


@dataclass(frozen=True)
class Outcome:
    """What the decisions of B worlds led to."""

    rewards: Floats  # [B, R]
    terminated: Bools  # [B]
    truncated: Bools  # [B]
    played: Bools  # [B] False where the world only began its next episode
    reward_names: tuple[str, ...]


class Worlds:
    """B environments: ``reset``, then ``step`` and ``look`` in turn. An ended one begins anew before it is looked at.

    Raises ValueError naming the space, the shape or the key that is not as it must be.
    """

    def __init__(self, env: Any, reading: Reading) -> None:
        from gymnasium import spaces

        self.env, self.reading = env, reading
        self.is_vector = hasattr(env, "single_action_space")
        self.size: int = env.num_envs if self.is_vector else 1
        space = env.single_action_space if self.is_vector else getattr(env, "action_space", None)
        if not isinstance(space, spaces.Discrete):
            raise ValueError(f"action_space is {space}; the policy chooses among the actions of a Discrete space")
        self.n_actions, self.first_action = int(space.n), int(space.start)
        self._flatten = reading.state if reading.state is not None else _flattener(env, self.is_vector)
        mode = env.metadata.get("autoreset_mode", "NextStep")
        self._mode = str(getattr(mode, "value", mode)) if self.is_vector else "Disabled"
        self._ended = np.zeros(self.size, np.bool_)
        self._observation: Any = None
        self._info: dict[str, Any] = {}

    def reset(self, seed: int) -> Seen:
        """Begin an episode in every world."""
        self._observation, self._info = self.env.reset(seed=seed)
        self._ended[:] = False
        return self._seen(self._observation, self._info)

    def step(self, actions: Ints) -> Outcome:
        """Take ``actions`` [B], indices from 0."""
        played = ~self._ended if self._mode == "NextStep" else np.ones(self.size, np.bool_)
        given = actions + self.first_action
        observation, reward, terminated, truncated, info = self.env.step(given if self.is_vector else int(given[0]))
        terminated, truncated = (np.array(flag, np.bool_).reshape(self.size) for flag in (terminated, truncated))
        self._observation, self._info, self._ended = observation, info, terminated | truncated
        rewards, names = self._rewards(reward, _of_step(info, self._ended) if self._mode == "SameStep" else info)
        return Outcome(rewards, terminated, truncated, played, names)

    def look(self) -> Seen:
        """Return what the worlds show now; those that ended have begun anew, or will with the next step."""
        if self._mode == "Disabled" and self._ended.any():
            running = None if self._ended.all() else self._seen(self._observation, self._info)
            options = None if running is None else {"reset_mask": self._ended.copy()}
            seen = self._seen(*self.env.reset(options=options) if self.is_vector else self.env.reset())
            return seen if running is None else _merge(self._ended, seen, running)
        return self._seen(self._observation, self._info)

    def _seen(self, observation: Any, info: dict[str, Any]) -> Seen:
        states = as_floats("observation", self._flatten(observation))
        states = states.reshape(self.size, -1) if states.size else np.zeros((self.size, 0), np.float32)
        reading = self.reading
        shape = (self.size, self.n_actions)
        allowed = np.ones(shape, np.bool_)
        given = _read(reading.eligible, observation, info) if reading.eligible is not None else info.get(ACTION_MASK)
        if given is not None:
            allowed = as_bools("eligible", given)
            allowed = allowed[None, :] if allowed.ndim == 1 and not self.is_vector else allowed
            has_shape("eligible", allowed.shape, shape, "B, A")
            # Of a world that is over, or that gave no mask, nothing is known: whatever is chosen is not played.
            allowed = allowed | (self._ended & (self._mode == "NextStep"))[:, None]
        times = None
        if reading.time is not None:
            times = np.broadcast_to(as_times_ms("time", _read(reading.time, observation, info)), self.size)
        return Seen(states, allowed, times)

    def _rewards(self, reward: Any, info: dict[str, Any]) -> tuple[Floats, tuple[str, ...]]:
        """Return [B, R] and names, if any."""
        reading = self.reading.reward
        given = reward if reading is None else _read(reading, reward, info)
        names: tuple[str, ...] = ()
        if isinstance(given, Mapping):
            names = tuple(str(name) for name in given if not _is_presence(str(name), given))
            given = np.stack([np.asarray(given[name], np.float64).reshape(self.size) for name in names], axis=1)
        rewards = as_floats("reward", given, unknown=True)
        if rewards.size % self.size or rewards.ndim > 2:
            raise ValueError(f"reward has shape {rewards.shape}, expected [B] or [B, R] with B={self.size}")
        return rewards.reshape(self.size, -1), names


def _flattener(env: Any, is_vector: bool) -> Callable[[Any], Any]:
    """Return how to turn an observation into numbers: Box as it is, Discrete as one-hot, composites one by one."""
    from gymnasium import spaces
    from gymnasium.vector.utils import iterate

    single = env.single_observation_space if is_vector else env.observation_space
    if isinstance(single, spaces.Box):
        return np.asarray
    if not isinstance(spaces.flatten_space(single), spaces.Box):
        raise ValueError(f"observation_space is {single}, which is no fixed row of numbers; pass state=, a function")
    if is_vector:
        return lambda observation: [
            np.asarray(spaces.flatten(single, item)) for item in iterate(env.observation_space, observation)
        ]
    return lambda observation: spaces.flatten(single, observation)


def _read(how: str | Read, what: Any, info: dict[str, Any]) -> Any:
    if not isinstance(how, str):
        return how(what, info)
    if how not in info:
        raise ValueError(f"info has no {how!r}; it has {sorted(info)}")
    return info[how]


def _is_presence(name: str, infos: Mapping[str, Any]) -> bool:
    """Return whether ``name`` is what a vector environment adds: _x says which worlds have an x."""
    return name.startswith("_") and name[1:] in infos


def _of_step(info: dict[str, Any], ended: Bools) -> dict[str, Any]:
    """Return ``info`` with what the step of each world led to, also where the world ended and began anew at once."""
    return {**info, **_pick(ended, info["final_info"], info)} if "final_info" in info else info


def _pick(where: Bools, final: Any, given: Any) -> Any:
    """Return ``final``, but at the worlds where ``where`` is False the values of ``given``, if it has any."""
    if isinstance(final, Mapping):
        return {key: _pick(where, value, given.get(key)) for key, value in final.items()}
    if given is None:
        return final
    values: NDArray[Any] = np.array(given)
    values[where] = np.asarray(final)[where]
    return values


def _merge(where: Bools, new: Seen, old: Seen) -> Seen:
    times = None if new.times_ms is None or old.times_ms is None else np.where(where, new.times_ms, old.times_ms)
    at = where[:, None]
    return Seen(np.where(at, new.states, old.states), np.where(at, new.eligible, old.eligible), times)
