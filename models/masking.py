"""Masked field groups: what another model predicted may be withheld from history, state and action kept (DESIGN 4.3).

A ring may hold entries of a model whose scores mean something else than today's. Masked fields are NaN, which the
batch builder takes for unknown. Serving masks by mask key, training at random: so that the model knows the case.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Final, get_args

import numpy as np

from contracts.spec import MaskedGroup, Spec
from models.encoding import StateEncoder
from models.steps import Bools, Ints, Steps

GROUPS: Final[tuple[MaskedGroup, ...]] = get_args(MaskedGroup)

Masked = Mapping[MaskedGroup, Bools]  # each [B, T]: True where the group is masked


@dataclasses.dataclass(frozen=True)
class MaskableColumns:
    """Which columns of Steps each group holds; none where no reward is predicted."""

    rewards: Ints  # of Steps.rewards: the predicted ones
    scores: Ints  # of Steps.states

    @staticmethod
    def of(spec: Spec, encoder: StateEncoder) -> MaskableColumns:
        """Return the columns of the states that ``encoder`` makes, and of the spec's rewards."""
        first = len(encoder.columns) - len(encoder.scores)
        return MaskableColumns(
            rewards=np.asarray([spec.reward_names.index(name) for name in spec.predicted_rewards], np.int64),
            scores=np.arange(first, len(encoder.columns)),
        )


NO_COLUMNS: Final = MaskableColumns(np.empty(0, np.int64), np.empty(0, np.int64))


def mask_history(steps: Steps, masked: Masked, maskable: MaskableColumns) -> Steps:
    """Return ``steps`` with the columns of each group not known where ``masked`` is True.

    Raises ValueError if the last step, which is the one to decide, is to be masked.
    """
    for group, where in masked.items():
        if bool(where[:, -1].any()):
            raise ValueError(f"masked[{group!r}] holds the last step: only history is masked")
    found = {group: np.nonzero(where) for group, where in masked.items() if where.any()}
    if not found:
        return steps
    states, rewards = steps.states.copy(), steps.rewards.copy()
    for group, (windows, at) in found.items():
        values, columns = (rewards, maskable.rewards) if group == "rewards" else (states, maskable.scores)
        values[windows[:, None], at[:, None], columns] = np.nan
    return dataclasses.replace(steps, states=states, rewards=rewards)


def draw_masks(random: np.random.Generator, windows: int, context_length: int, share: float) -> Masked:
    """Draw what to mask in training: in a share of the windows one group or both, each choice equally likely.

    The steps masked are the oldest, from one to all but the last: history as it is after a change of model.
    """
    choice = random.integers(1, 2 ** len(GROUPS), windows)  # a non-empty set of groups, as bits
    choice[random.random(windows) >= share] = 0
    oldest = 1 + (random.random(windows) * (context_length - 1)).astype(np.int64)
    early = np.arange(context_length) < np.minimum(oldest, context_length - 1)[:, None]  # [B, T]
    return {group: early & (choice >> bit & 1 == 1)[:, None] for bit, group in enumerate(GROUPS)}
