"""Tables: cycles of a rollout as Arrow tables, in the data folder's columns and types."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pyarrow as pa

from contracts.spec import Spec
from simulator.arrays import FloatArray, IntArray
from simulator.candidates import ACTIONS, TYPES
from simulator.clock import START
from simulator.features import LIVE, WINDOWS
from simulator.members import PROFILE
from simulator.observation import Observation, feature
from simulator.rollout import Step

_TIME = pa.timestamp("us", tz="UTC")
_KEY = [pa.field("member_id", pa.string(), nullable=False), pa.field("event_timestamp", _TIME, nullable=False)]
PROFILE_SCHEMA = pa.schema([*_KEY, *(pa.field(name, pa.float32()) for name in PROFILE)])
ACTIVITY_SCHEMA = pa.schema([*_KEY, *(pa.field(name, pa.float32()) for name in WINDOWS)])
# Counters and times are whole numbers: kept as such, their differences are exact whatever their size.
LIVE_SCHEMA = pa.schema([*_KEY, *(pa.field(name, pa.int64()) for name in LIVE)])
_ACTION_NAMES = pa.array(ACTIONS)
_TYPE_NAMES = pa.array(TYPES)
# Every subset of the actions, at the index whose bits name the actions in it.
_SUBSETS = pa.array(
    [[name for bit, name in enumerate(ACTIONS) if subset >> bit & 1] for subset in range(1 << len(ACTIONS))],
    pa.list_(pa.string()),
)


def decisions_schema(spec: Spec) -> pa.Schema:
    """Return the columns of ``decisions.parquet``: the log contract's, a reward each, then the context columns."""
    return pa.schema(
        [
            pa.field("member_id", pa.string(), nullable=False),
            pa.field("decided_at", _TIME, nullable=False),
            pa.field("eligible", pa.list_(pa.string())),
            pa.field("action", pa.string()),
            pa.field("propensity", pa.float64()),
            *(pa.field(f"reward_{name}", pa.float64()) for name in spec.rewards),
            pa.field("type", pa.string()),
            pa.field("relevance", pa.float64()),
            pa.field("age_hours", pa.float64()),
            pa.field("notification_id", pa.string()),
        ]
    )


def decisions_table(spec: Spec, member_ids: pa.Array, step: Step) -> pa.Table:
    """Return the log rows of one cycle, in order of time.

    In the episode's last cycle every reward but a penalty is null: it would be earned after the log ends.
    """
    seen, order = step.observation, _time_order(step.observation)
    subset = (seen["eligible"].astype(np.int64) << np.arange(len(ACTIONS))).sum(axis=1)
    rewards = [
        pa.nulls(len(order), pa.float64())
        if step.last and reward.kind != "penalty"
        else pa.array(step.rewards[name][order])
        for name, reward in spec.rewards.items()
    ]
    columns = [
        member_ids.take(order),
        _times(seen, order),
        _SUBSETS.take(subset[order]),
        _ACTION_NAMES.take(step.actions[order]),
        pa.array(step.propensities[order]),
        *rewards,
        _TYPE_NAMES.take(seen["type"][order]),
        pa.array(seen["relevance"][order].astype(np.float64)),
        pa.array(seen["age_hours"][order].astype(np.float64)),
        pa.array(step.notification_ids).take(order),
    ]
    return pa.Table.from_arrays(columns, schema=decisions_schema(spec))


def activity_table(member_ids: pa.Array, step: Step) -> pa.Table:
    """Return the ``member_activity`` rows of one cycle: what was known just before each decision, at its time."""
    order = _time_order(step.observation)
    values = [pa.array(feature(step.observation, name)[order]) for name in WINDOWS]
    keys = [member_ids.take(order), _times(step.observation, order)]
    return pa.Table.from_arrays([*keys, *values], schema=ACTIVITY_SCHEMA)


def live_table(member_ids: pa.Array, step: Step) -> pa.Table:
    """Return the ``member_live`` rows of one cycle: what events had left behind at each decision, at its time."""
    order = _time_order(step.observation)
    keys = [member_ids.take(order), _times(step.observation, order)]
    return pa.Table.from_arrays([*keys, *(pa.array(column[order]) for column in step.live.T)], schema=LIVE_SCHEMA)


def profile_table(member_ids: pa.Array, features: FloatArray, week: int) -> pa.Table:
    """Return the ``member_profile`` snapshot of one week; ``features`` has shape (N, len(PROFILE))."""
    taken_at = pa.repeat(pa.scalar(START + timedelta(weeks=week), _TIME), len(member_ids))
    values = [pa.array(column.astype(np.float32)) for column in features.T]
    return pa.Table.from_arrays([member_ids, taken_at, *values], schema=PROFILE_SCHEMA)


def _time_order(observation: Observation) -> IntArray:
    return np.argsort(observation["decided_at_ms"], kind="stable")


def _times(observation: Observation, order: IntArray) -> pa.Array:
    return pa.array(observation["decided_at_ms"][order] * 1000).cast(_TIME)
