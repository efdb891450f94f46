"""Reward attribution: what consecutive rows of a member say about the reward earned between them."""

from __future__ import annotations

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from contracts.errors import LogError, SpecError
from contracts.spec import Spec, nearest
from contracts.table_files import INTERNAL, to_arrow

COUNTER = "counter_"
REWARD = "reward_"
SEQUENCE = "sequence"
SUCCESSOR_MISSING = "successor_missing"
COUNTER_RESET = "counter_reset"

_CLOCK_SKEW_SECONDS = 60
_RUN, _NEXT, _INDEX = f"{INTERNAL}run", f"{INTERNAL}next_", f"{INTERNAL}index"


def penalties(
    spec: Spec,
    reward_name: str,
    action_indices: NDArray[np.integer],
    grows_with_values: NDArray[np.floating] | None = None,
) -> NDArray[np.float64]:
    """Return the penalty of each action taken: per_action[a] * (1 + max(x, 0)).

    Parameters
    ----------
    spec
        The deployment.
    reward_name
        A reward of kind penalty.
    action_indices
        Indices into ``spec.actions``, shape (n,).
    grows_with_values
        The reward's ``grows_with`` feature x at each decision, shape (n,); not-a-number stands for the feature's
        missing value. None where the penalty does not grow.

    Returns
    -------
    ndarray
        Shape (n,).

    Raises
    ------
    SpecError
        If the reward is no penalty, or grows with a feature whose values are not given.
    """
    reward = spec.rewards.get(reward_name)
    if reward is None or reward.kind != "penalty":
        known = [name for name, other in spec.rewards.items() if other.kind == "penalty"]
        raise SpecError(f"rewards.{reward_name}: no such penalty in spec {spec.name!r}{nearest(reward_name, known)}")
    per_action: NDArray[np.float64] = np.array([reward.per_action.get(action, 0.0) for action in spec.actions])
    base: NDArray[np.float64] = per_action[action_indices]
    if reward.grows_with is None:
        return base
    if grows_with_values is None:
        raise SpecError(f"rewards.{reward_name}.grows_with: the values of {reward.grows_with!r} are needed")
    given = np.asarray(grows_with_values, dtype=np.float64)
    x: NDArray[np.float64] = np.where(np.isnan(given), spec.state.missing_value(reward.grows_with), given)
    penalty: NDArray[np.float64] = base * (1.0 + np.maximum(x, 0.0))
    return penalty


def attribute(table: pa.Table, spec: Spec) -> pa.Table:
    """Return a log that serving wrote with the reward columns that it lacks.

    A counter's reward is the difference of ``counter_<feature>`` between a row and its successor: the row of the same
    member with the next sequence number. So is the label of a predicted reward that names a feature, but at most 1.
    A penalty follows from the action and its ``grows_with`` column. Reward columns that are there already stay.

    Parameters
    ----------
    table
        Columns ``member_id``, ``decided_at``, ``action``, ``sequence``, ``counter_<feature>`` of each reward to
        attribute, and the ``grows_with`` column of each growing penalty to attribute; rows in any order.

    Returns
    -------
    Table
        The same rows in the same order, with ``reward_<name>`` (double), and two boolean columns:
        ``successor_missing`` (the row with the next number is not in the log, so nothing is known of what was earned)
        and ``counter_reset`` (some counter fell; its reward is null, never negative).

    Raises
    ------
    LogError
        If a column is missing.
    """
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    wanted = [name for name in spec.rewards if REWARD + name not in frame.columns]
    problems = missing_for_attribution(spec, tuple(frame.columns))
    if problems:
        raise LogError("the log lacks what its rewards are made of: " + "; ".join(problems))
    read_from = {name: spec.rewards[name].feature for name in wanted if spec.rewards[name].kind != "penalty"}
    counters = [COUNTER + feature for feature in dict.fromkeys(read_from.values()) if feature]
    frame = _with_successors(frame, counters)
    differences = {name: pl.col(_NEXT + name) - pl.col(name) for name in counters}
    rewards = []
    for name, feature in read_from.items():
        difference = differences[f"{COUNTER}{feature}"]
        # Comparison with null is null, which otherwise turns into null too.
        reward: pl.Expr = pl.when(difference >= 0).then(difference)
        # A predicted reward's label is whether it happened, not how often.
        reward = reward.clip(upper_bound=1.0) if spec.rewards[name].kind == "predicted" else reward
        rewards.append(reward.alias(REWARD + name))
    reset = pl.any_horizontal(pl.lit(False), *(difference < 0 for difference in differences.values()))
    frame = frame.with_columns(
        *rewards,
        pl.col(_NEXT + SEQUENCE).is_null().alias(SUCCESSOR_MISSING),
        reset.fill_null(False).alias(COUNTER_RESET),
    ).select(pl.exclude(rf"^{INTERNAL}.*$"))
    for name in wanted:
        if spec.rewards[name].kind == "penalty":
            frame = frame.with_columns(_penalty_column(frame, name, spec))
    return to_arrow(frame)


def missing_for_attribution(spec: Spec, columns: tuple[str, ...]) -> list[str]:
    """Return what ``columns`` lack for making the reward columns that are not among them, in words."""
    problems: list[str] = []
    for name, reward in spec.rewards.items():
        if REWARD + name in columns:
            continue
        if reward.kind == "penalty":
            needed = reward.grows_with
        elif reward.feature is None:
            problems.append(f"column {REWARD + name} (rewards.{name} names no feature to count it by)")
            continue
        else:
            needed = COUNTER + reward.feature
        if needed is not None and needed not in columns:
            problems.append(f"column {needed} or {REWARD + name}{nearest(needed, columns)}")
    if SEQUENCE not in columns:
        problems.append(f"column {SEQUENCE}")
    return problems


def _with_successors(frame: pl.DataFrame, counters: list[str]) -> pl.DataFrame:
    """Add the successor's sequence number and counters, null where there is no successor."""
    ordered = frame.with_row_index(_INDEX).sort("member_id", "decided_at", SEQUENCE)
    # A ring that expired or was emptied counts from the start again. Two decisions in the wrong order by a clock's
    # skew do not mean that: only a number that falls while the clock moves on opens a new run.
    fell = pl.col(SEQUENCE) < pl.col(SEQUENCE).shift(1)
    moved_on = pl.col("decided_at").diff() > pl.duration(seconds=_CLOCK_SKEW_SECONDS)
    ordered = ordered.with_columns((fell & moved_on).fill_null(False).cum_sum().over("member_id").alias(_RUN))
    successors = ordered.select(
        "member_id",
        _RUN,
        (pl.col(SEQUENCE) - 1).alias(SEQUENCE),
        pl.col(SEQUENCE).alias(_NEXT + SEQUENCE),
        *(pl.col(name).alias(_NEXT + name) for name in counters),
    ).unique(["member_id", _RUN, SEQUENCE], keep="first", maintain_order=True)
    return ordered.join(successors, on=["member_id", _RUN, SEQUENCE], how="left").sort(_INDEX)


def _penalty_column(frame: pl.DataFrame, name: str, spec: Spec) -> pl.Series:
    actions = frame["action"].cast(pl.Enum(spec.actions)).to_physical().to_numpy()
    grows_with = spec.rewards[name].grows_with
    values = frame[grows_with].cast(pl.Float64).fill_null(float("nan")).to_numpy() if grows_with else None
    return pl.Series(REWARD + name, penalties(spec, name, actions, values), dtype=pl.Float64)
