"""Steps: the one input form of the model, made from a log in training and from a ring in service."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Steps:
    """B windows of T steps in raw units, oldest first, left-padded; the last step is the one to decide.

    The action and reward of the last step are not known when it is decided; nothing reads them for it. NaN is what is
    not known: a reward, or a column of history that its ring lacks or that is masked.
    Raises ValueError naming the field and the shape, if shapes disagree or padding is not on the left.
    """

    states: Floats  # [B, T, S]  features, candidate, scores; NaN where not known
    actions: Ints  # [B, T]     index of the action taken
    rewards: Floats  # [B, T, R]  NaN where not known
    eligible: Bools  # [B, T, A]
    times_ms: Ints  # [B, T]     decision time, epoch milliseconds
    valid: Bools  # [B, T]     True = real step

    def __post_init__(self) -> None:
        check_windows(self)
        if self.valid.shape[1] and not bool(np.all(self.valid[:, -1])):
            raise ValueError("valid: the last step of every window must be real (True)")

    def __len__(self) -> int:
        """Return the number of windows B."""
        return int(self.valid.shape[0])

    @property
    def gaps_s(self) -> Floats:
        """Seconds since the previous step of the window, 0 for its first real step and never negative: [B, T]."""
        gaps = np.zeros(self.times_ms.shape, dtype=np.float32)
        both = self.valid[:, 1:] & self.valid[:, :-1]
        delta = np.maximum(self.times_ms[:, 1:] - self.times_ms[:, :-1], 0) / 1000.0
        gaps[:, 1:] = np.where(both, delta, 0.0)
        return gaps


def check_windows(windows: object) -> None:
    """Raise ValueError if the six fields of ``windows`` are not B rows of T steps, padded on the left.

    ``windows`` is a Steps, or a history: the same without a step to decide. The message names the field and its shape.
    """
    valid: Bools = getattr(windows, "valid")  # noqa: B009
    if valid.ndim != 2:
        raise ValueError(f"valid has shape {valid.shape}, expected [B, T]")
    b, t = valid.shape
    for name, trailing in (("states", 1), ("actions", 0), ("rewards", 1), ("eligible", 1), ("times_ms", 0)):
        shape = getattr(windows, name).shape
        if shape[:2] != (b, t) or len(shape) != 2 + trailing:
            expected = ["B", "T", "n"][: 2 + trailing]
            raise ValueError(f"{name} has shape {shape}, expected [{', '.join(expected)}] with B={b}, T={t}")
    if bool(np.any(valid[:, :-1] & ~valid[:, 1:])):
        raise ValueError("valid: padding must be on the left, before every real step")
