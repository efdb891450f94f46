"""The log writer: runs the logging policy in the environment and writes a data folder.

The folder holds ``decisions.parquet``, in ``features/`` the tables ``member_profile``, ``member_activity`` and
``member_live``, and ``simulation.json``, which says how it was made. All tables are sorted by time.
"""

from __future__ import annotations

import json
import shutil
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from contracts.errors import LogError
from contracts.spec import Spec
from simulator.arrays import IntArray
from simulator.candidates import ACTIONS
from simulator.env import NotificationEnv
from simulator.policy import ThresholdPolicy
from simulator.rollout import rollout
from simulator.tables import (
    ACTIVITY_SCHEMA,
    LIVE_SCHEMA,
    PROFILE_SCHEMA,
    activity_table,
    decisions_schema,
    decisions_table,
    live_table,
    profile_table,
)

_MARKER = "simulation.json"
_DECISIONS = "decisions.parquet"
_FEATURES = "features"
_PROFILE = f"{_FEATURES}/member_profile.parquet"
_ACTIVITY = f"{_FEATURES}/member_activity.parquet"
_LIVE = f"{_FEATURES}/member_live.parquet"
_OURS = {_MARKER, _DECISIONS, _FEATURES, _PROFILE, _ACTIVITY, _LIVE}
_ROW_GROUP_ROWS = 65_536


@dataclass(frozen=True)
class SimulationReport:
    """What a simulation wrote."""

    rows: int
    members: int
    days: int
    action_shares: Mapping[str, float]
    """Share of the decisions that took each action."""
    reward_means: Mapping[str, float]
    """Mean of each reward a decision, over the rows where it is known."""


def simulate(out: Path, spec: Spec, members: int, days: int, seed: int, progress: bool = True) -> SimulationReport:
    """Simulate ``members`` over ``days`` under the logging policy and write a data folder to ``out``.

    The same arguments write the same bytes. A folder that an earlier simulation wrote is replaced, once the new one is
    complete; any other folder must be empty or not there.

    Parameters
    ----------
    out
        The data folder.
    spec
        Names the rewards and caps the sends.
    members, days, seed
        What is simulated; ``seed`` is at least 0.
    progress
        Show a progress bar on standard error.

    Raises
    ------
    SpecError
        The spec asks for what the simulator has not.
    LogError
        ``out`` is taken.
    ValueError
        ``members``, ``days`` or ``seed`` is out of range.
    """
    env = NotificationEnv(spec, members, days)
    if seed < 0:
        raise ValueError(f"seed = {seed}: must be at least 0")
    with _replacing(out) as folder:
        taken, reward_means = _write(folder, env, seed, progress)
        rows = int(taken.sum())
        about = {"spec": spec.name, "members": members, "days": days, "seed": seed, "rows": rows}
        (folder / _MARKER).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    return SimulationReport(
        rows=rows,
        members=members,
        days=days,
        action_shares={name: int(count) / rows for name, count in zip(ACTIONS, taken, strict=True)},
        reward_means=reward_means,
    )


def _write(folder: Path, env: NotificationEnv, seed: int, progress: bool) -> tuple[IntArray, dict[str, float]]:
    """Write the tables; return how often each action was taken and the mean of each reward where known."""
    spec = env.deployment
    member_ids = pa.array(env.member_ids)
    taken = np.zeros(len(ACTIONS), dtype=np.int64)
    earned: defaultdict[str, float] = defaultdict(float)
    known: defaultdict[str, int] = defaultdict(int)
    (folder / _FEATURES).mkdir()
    with ExitStack() as stack:
        bar = stack.enter_context(_progress_bar(progress))
        decisions = stack.enter_context(_Writer(folder / _DECISIONS, decisions_schema(spec)))
        activity = stack.enter_context(_Writer(folder / _ACTIVITY, ACTIVITY_SCHEMA))
        live = stack.enter_context(_Writer(folder / _LIVE, LIVE_SCHEMA))
        for step in bar.track(rollout(env, ThresholdPolicy(), seed), total=env.cycles, description="simulating cycles"):
            table = decisions_table(spec, member_ids, step)
            decisions.add(table)
            activity.add(activity_table(member_ids, step))
            live.add(live_table(member_ids, step))
            taken += np.bincount(step.actions, minlength=len(ACTIONS))
            for name in spec.rewards:
                column = table[f"reward_{name}"].drop_null().to_numpy()
                earned[name] += float(column.sum())
                known[name] += len(column)
        with _Writer(folder / _PROFILE, PROFILE_SCHEMA) as profile:
            for week in range(env.weeks):
                profile.add(profile_table(member_ids, env.profile.features(week), week))
    return taken, {name: earned[name] / max(known[name], 1) for name in spec.rewards}


class _Writer:
    """A Parquet file that grows by whole row groups, so that memory holds one of them and no more."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._file = pq.ParquetWriter(path, schema, compression="zstd")
        self._waiting: list[pa.Table] = []
        self._rows = 0

    def add(self, table: pa.Table) -> None:
        self._waiting.append(table)
        self._rows += len(table)
        if self._rows >= _ROW_GROUP_ROWS:
            self._flush()

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self._flush()
        self._file.close()

    def _flush(self) -> None:
        if self._waiting:
            self._file.write_table(pa.concat_tables(self._waiting))
        self._waiting, self._rows = [], 0


@contextmanager
def _replacing(out: Path) -> Iterator[Path]:
    """Give a folder beside ``out`` to fill; it takes the place of ``out`` when the block ends well."""
    out = out.resolve()
    _check_free(out)
    partial = out.with_name(f".{out.name}.partial")
    # A run that was killed leaves this behind.
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        _check_free(out)
        if out.exists():
            shutil.rmtree(out)
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _check_free(out: Path) -> None:
    """Raise LogError unless ``out`` is absent, empty, or an earlier simulation and nothing else."""
    if not out.exists():
        return
    if not out.is_dir():
        raise LogError(f"{out} is a file; name a folder to write to")
    found = {path.relative_to(out).as_posix() for path in out.rglob("*")}
    foreign = sorted(found if _MARKER not in found else found - _OURS)
    if foreign:
        raise LogError(
            f"{out} holds what no simulation wrote ({foreign[0]}"
            f"{f' and {len(foreign) - 1} more' if len(foreign) > 1 else ''}); name a new or an empty folder"
        )


def _progress_bar(shown: bool) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not shown,
    )
