"""Building trajectories, one way in a process of its own: ``python -m benchmarks.training.trajectories pacer 1000000``.

Each way takes one partition of the log, whole members, and gives for every training target the window of T steps that
ends there and the vector of returns-to-go. It prints one line of JSON: rows a second, and the process's peak memory.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from time import perf_counter
from typing import Final, NamedTuple

import numpy as np
import pandas as pd

from benchmarks.features.offline_contender import peak_mib
from benchmarks.training.data import DISCOUNT, HORIZON, Problem, make_log
from models.steps import Bools, Floats, Ints
from models.trajectories import Trajectories, returns_to_go

PART_MEMBERS: Final = 384
CHUNK: Final = 4_096


class Built(NamedTuple):
    """Windows that end at B targets, zero where padded, and their returns-to-go."""

    states: Floats  # [B, T, S]
    actions: Ints  # [B, T]
    rewards: Floats  # [B, T, R]
    valid: Bools  # [B, T]
    returns: Floats  # [B, R]


def pacer(log: Trajectories, context: int) -> Iterator[Built]:
    """As training does: returns-to-go of all rows, windows by one gather a chunk."""
    returns, is_target = returns_to_go(log.rewards, log.starts, HORIZON, DISCOUNT)
    targets = np.flatnonzero(is_target)
    for ends in np.array_split(targets, -(-len(targets) // CHUNK)):
        steps = log.windows(ends, context)
        yield Built(steps.states, steps.actions, steps.rewards, steps.valid, returns[ends])


def groupby(log: Trajectories, context: int) -> Iterator[Built]:
    """As a user of pandas does: groupby and apply, each group's columns shifted back T times and ahead H times."""
    state = [f"state_{j}" for j in range(log.states.shape[1])]
    reward = [f"reward_{j}" for j in range(log.rewards.shape[1])]
    frame = pd.DataFrame(np.concatenate([log.states, log.rewards], axis=1), columns=state + reward)
    frame["action"] = log.actions
    frame["member"] = np.repeat(np.arange(len(log.starts) - 1), np.diff(log.starts))

    def of_member(group: pd.DataFrame) -> Built:
        returns = sum(DISCOUNT**ahead * group[reward].shift(-ahead) for ahead in range(HORIZON + 1))
        target = returns.notna().all(axis=1).to_numpy()
        back = [group.shift(k) for k in range(context - 1, -1, -1)]
        return Built(
            np.stack([each[state].fillna(0.0).to_numpy(np.float32) for each in back], axis=1)[target],
            np.stack([each["action"].fillna(0).to_numpy(np.int64) for each in back], axis=1)[target],
            np.stack([each[reward].fillna(0.0).to_numpy(np.float32) for each in back], axis=1)[target],
            np.stack([each["action"].notna().to_numpy() for each in back], axis=1)[target],
            returns.to_numpy(np.float32)[target],
        )

    yield from frame.groupby("member", sort=False).apply(of_member, include_groups=False)


def loop(log: Trajectories, context: int) -> Iterator[Built]:
    """As the reference implementation does (``get_batch``): a window at a time, sliced, padded and summed in Python."""
    for begin, end in zip(log.starts[:-1], log.starts[1:], strict=True):
        built: list[tuple[np.ndarray, ...]] = []
        for row in range(begin, end - HORIZON):
            rows = slice(max(begin, row - context + 1), row + 1)
            blank = context - (rows.stop - rows.start)
            total = np.zeros_like(log.rewards[row], dtype=np.float64)
            for ahead in reversed(range(HORIZON + 1)):  # its discount_cumsum
                total = log.rewards[row + ahead] + DISCOUNT * total
            states, actions, rewards = log.states[rows], log.actions[rows], log.rewards[rows]
            built.append(
                (
                    np.concatenate([np.zeros((blank, states.shape[1]), np.float32), states]),
                    np.concatenate([np.zeros(blank, np.int64), actions]),
                    np.concatenate([np.zeros((blank, rewards.shape[1]), np.float32), rewards]),
                    np.concatenate([np.zeros(blank, np.bool_), np.ones(context - blank, np.bool_)]),
                    total.astype(np.float32),
                )
            )
        yield Built(*(np.stack(part) for part in zip(*built, strict=True)))


WAYS: Final[dict[str, Callable[[Trajectories, int], Iterator[Built]]]] = {
    "pacer": pacer,
    "groupby": groupby,
    "loop": loop,
}


def main() -> None:
    """Build the trajectories of about so many rows, a partition at a time; making the log is not timed."""
    build, rows = WAYS[sys.argv[1]], int(sys.argv[2])
    length, context = Problem().length, Problem().context
    members = max(rows // length, 2)
    done, seconds = 0, 0.0
    for first in range(0, members, PART_MEMBERS):
        log = make_log(Problem(members=min(PART_MEMBERS, members - first)), seed=first)
        started = perf_counter()
        for _ in build(log, context):
            pass
        seconds += perf_counter() - started
        done += len(log)
    print(json.dumps({"rows_per_s": done / seconds, "peak_mib": peak_mib()}))


if __name__ == "__main__":
    main()
