"""The decisions that are stored: those of a log as the engine would have written them, cut into runs of 16."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from benchmarks.storage_effect import find_training_set
from contracts.errors import ArtifactError, LogError
from contracts.settings import Settings
from contracts.spec import Spec
from models.artifact import Artifact, load_artifact, newest_artifact
from models.decision_table import DecisionTable, TrainingSet
from models.prompts import make_prompts
from models.steps import Floats, Ints
from models.train import fit_policy
from models.training_data import encode, prepare
from models.trajectories import Trajectories
from sequence_store import Entry, FloatGroup, Layout
from serve.history import bitmasks, known_rewards, layout_of

CHUNK: Final = 256
"""Decisions that the policy is asked for at once."""
DICTIONARY_DECISIONS: Final = 16_000
_MS_PER_DAY = 86_400_000.0


@dataclass(frozen=True)
class Decisions:
    """N decisions in the numbers that the engine gives an entry, before they are rounded to a storage type.

    Attributes
    ----------
    layout
        The layout as shipped.
    floats
        Name of every group -> values [N, columns of the group].
    at_ms, actions, eligible
        [N]: time, index of the action, bitmask of the eligible actions.
    cycle_ids, notification_ids
        N texts each.
    mask_key, model
        Of all decisions.
    runs
        [M, K] rows of each run of K decisions of one member, in order: one measured ring each.
    per_day
        Decisions a member and day.
    """

    layout: Layout
    floats: Mapping[str, NDArray[np.floating[Any]]]
    at_ms: Ints
    actions: Ints
    eligible: Ints
    cycle_ids: Sequence[str]
    notification_ids: Sequence[str]
    mask_key: str
    model: str
    runs: Ints
    per_day: float

    def entry(self, row: int, sequence: int, layout: Layout, at_ms: int | None = None) -> Entry:
        """Return the entry of one decision under ``layout``, which has the groups of the shipped one."""
        return Entry(
            floats={name: values[row] for name, values in self.floats.items()},
            at_ms=int(self.at_ms[row]) if at_ms is None else at_ms,
            action=int(self.actions[row]),
            eligible=int(self.eligible[row]),
            sequence=sequence,
            mask_key=self.mask_key,
            cycle_id=self.cycle_ids[row],
            notification_id=self.notification_ids[row],
            model=self.model,
            layout=layout,
        )

    def training_rows(self) -> Ints:
        """Return the rows to train a dictionary on: some of the store's own, drawn at random, as it draws them."""
        number = min(DICTIONARY_DECISIONS, self.runs.size // 4)
        return np.random.default_rng(0).permutation(self.runs.ravel())[:number]


def unscaled(layout: Layout, *, exact_counters: bool) -> Layout:
    """Return ``layout`` with float32 groups; counters stay float64 where they shall be exact, as shipped."""
    return dataclasses.replace(
        layout,
        groups=tuple(
            FloatGroup(group.name, group.columns, "float64")
            if exact_counters and group.storage == "float64"
            else FloatGroup(group.name, group.columns, "float32")
            for group in layout.groups
        ),
    )


def cut(starts: Ints, length: int, members: int | None) -> Ints:
    """Return runs [M, length]: disjoint ones of consecutive decisions of one person.

    Parameters
    ----------
    starts
        [P + 1] row where each person begins; the last is the number of rows.
    members
        M; None for as many as there are.

    Raises
    ------
    LogError
        There are not so many runs.
    """
    found = []
    for person, (start, end) in enumerate(zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True)):
        number, left = divmod(end - start, length)
        # What is left of a person's decisions stands at another time for everyone.
        before = person % (number + 1)
        for run in range(number):
            first = start + run * length + (left if run >= before else 0)
            found.append(np.arange(first, first + length))
    runs = np.asarray(found, dtype=np.int64).reshape(-1, length)
    wanted = len(runs) if members is None else members
    if not 1 <= wanted <= len(runs):
        raise LogError(f"the log has {len(runs)} runs of {length} decisions, not {wanted}: ask for fewer --members")
    return runs[:wanted]


def decisions_of(
    artifact: Artifact, table: DecisionTable, notification_ids: Sequence[str], members: int | None, console: Console
) -> Decisions:
    """Return what ``artifact`` would have stored of the decisions in ``table``. Raises LogError."""
    spec = artifact.spec
    steps = encode(table, spec, artifact.encoder, artifact.utility)
    runs = cut(steps.starts, spec.ring.capacity, members)
    layout = layout_of(artifact)
    base = steps.states.shape[1] - len(artifact.encoder.scores)
    known = [spec.reward_names.index(name) for name in known_rewards(spec)]
    counters = [table.service_features.index(name) for name in spec.counter_features]
    spans_ms = table.times_ms[steps.starts[1:] - 1] - table.times_ms[steps.starts[:-1]]
    return Decisions(
        layout=layout,
        floats={
            "state": steps.states[:, :base],
            "scores": steps.states[:, base:],
            "rewards": steps.rewards[:, known],
            "counters": table.features[:, counters].astype(np.float64),
            "probabilities": _probabilities(artifact, steps, runs.ravel(), console),
        },
        at_ms=steps.times_ms,
        actions=steps.actions,
        eligible=bitmasks(steps.eligible),
        cycle_ids=[cycle_id(at_ms) for at_ms in steps.times_ms.tolist()],
        notification_ids=notification_ids,
        mask_key=spec.ring.mask_key,
        model=artifact.name,
        runs=runs,
        per_day=float((len(steps) - len(spans_ms)) / max(1.0, spans_ms.sum() / _MS_PER_DAY)),
    )


def cycle_id(at_ms: int) -> str:
    """Return the cycle as a scheduler would name it: by the hour it began in."""
    return f"{datetime.fromtimestamp(at_ms / 1000, UTC):%Y-%m-%dT%H}"


def load(spec: Spec, settings: Settings, members: int | None, console: Console) -> Decisions:
    """Return the decisions of the deployment's training set; what is missing of it is made first.

    The model is the deployment's newest artifact. Where there is none that fits the training set, a model is trained
    for this once. Raises LogError, SpecError, StoreError.
    """
    folder = find_training_set(spec, settings, console)
    training_set = TrainingSet.open(folder, spec)
    artifact = _artifact(training_set, settings, console)
    return decisions_of(artifact, training_set.whole(), _notification_ids(folder), members, console)


def _artifact(training_set: TrainingSet, settings: Settings, console: Console) -> Artifact:
    spec = training_set.spec
    try:
        artifact = load_artifact(newest_artifact(settings.workspace(spec.name).artifacts))
        if artifact.service_features == training_set.service_features:
            return artifact
        console.print(f"{artifact.name} was trained on other features than the training set has: training anew")
    except ArtifactError as error:
        console.print(f"training a model, since {error}", markup=False, soft_wrap=True)
    try:
        data = prepare(training_set)
        policy = fit_policy(data, spec, console)
    except ValueError as error:
        raise LogError(f"training set: {error}") from error
    version = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-benchmrk"
    return Artifact(spec, policy, data.utility, data.encoder, data.service_features, {}, version)


def _notification_ids(folder: Path) -> list[str]:
    """Return the training set's notification ids in the order of ``TrainingSet.whole``."""
    columns = ["member_id", "decided_at", "notification_id"]
    parts = sorted(folder.glob("part-*.parquet"))
    absent = [part for part in parts if "notification_id" not in pq.read_schema(part).names]
    if absent:
        # A log need not have any: then the engine's callers name them.
        return [f"n{row:07d}" for row in range(sum(pq.read_metadata(part).num_rows for part in parts))]
    table = pa.concat_tables([pq.read_table(part, columns=columns) for part in parts], promote_options="permissive")
    table = table.sort_by([("member_id", "ascending"), ("decided_at", "ascending")])
    return [str(name) for name in table["notification_id"].to_pylist()]


def _probabilities(artifact: Artifact, steps: Trajectories, rows: Ints, console: Console) -> Floats:
    """Return what the policy answers at ``rows``, but for the first action: [N, A - 1], 0 elsewhere."""
    spec = artifact.spec
    probabilities = np.zeros((len(steps), len(spec.actions) - 1), np.float32)
    for part in track(
        np.array_split(rows, -(-len(rows) // CHUNK)), "asking the policy", console=console, transient=True
    ):
        windows = steps.windows(part, spec.context_length)
        prompts = make_prompts(spec.reward_names, [spec.prompt] * len(part))
        probabilities[part] = artifact.policy.decide(windows, prompts).probabilities[:, 1:]
    return probabilities
