"""What keeping history in fewer bits costs: ``python -m benchmarks.storage_effect --spec specs/notification.yaml``.

For every seed a policy is trained, and its held-out decisions are evaluated with the history as a ring gives it back
under each storage type; the step to decide is exact, as in service. Differences are taken within a seed.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from contracts.errors import LogError, PacerError
from contracts.settings import Settings, load_settings
from contracts.spec import Spec, Storage, load_spec
from importers.run import run_import
from models.artifact import Artifact
from models.decision_table import TrainingSet
from models.evaluation import pinball
from models.held_out import CHUNK
from models.policy import Policy
from models.prompts import make_prompts
from models.steps import Bools, Floats, Ints
from models.train import fit_policy
from models.training_data import TrainingData, prepare
from models.trajectories import Trajectories, returns_to_go
from sequence_store.layout import SCALED, FloatGroup, Layout
from serve.history import STEP, layout_of
from simulator.log import simulate
from workflows.main_job import DAYS, MEMBERS, SEED, SIMULATED_SERVICE

SEEDS: Final = 5
EXACT: Final = "float32"

Figures = dict[str, float]
"""Accuracy, and one pinball loss a reward as ``pinball <reward>``."""


@dataclass(frozen=True)
class Variant:
    """One way to keep history."""

    storage: Storage
    step: float | None = None
    """Step of a scaled type in standard deviations, where it is not the shipped one."""

    @property
    def name(self) -> str:
        """As in the table and the JSON."""
        return self.storage if self.step is None else f"{self.storage}, step {self.step:g}"

    def layout(self, artifact: Artifact) -> Layout:
        """Return the layout that the artifact's entries would have."""
        state = dataclasses.replace(artifact.spec.state, storage={"default": self.storage})
        artifact = dataclasses.replace(artifact, spec=dataclasses.replace(artifact.spec, state=state))
        return layout_of(artifact, STEP if self.step is None else {self.storage: self.step})


VARIANTS: Final = (
    Variant(EXACT),
    Variant("float16"),
    Variant("uint16"),
    Variant("uint8"),
    *(Variant("uint8", step) for step in (1 / 8, 1 / 2, 1.0)),
)


def rounded_rows(values: Floats, group: FloatGroup) -> Floats:
    """Return rows [N, C] as a reader finds them: ``sequence_store.storage.rounded`` of every row at once."""
    if group.storage in SCALED:
        centres, steps = np.asarray(group.scales, np.float64).reshape(-1, 2).T
        furthest = SCALED[group.storage]
        k = np.clip(np.rint((values.astype(np.float64) - centres) / steps), -furthest, furthest)
        kept: Floats = (centres + steps * k).astype(np.float32)
    else:
        largest = np.finfo(group.storage).max
        kept = np.clip(values, -largest, largest).astype(group.storage).astype(np.float32)
    return kept


def kept_by_ring(exact: Trajectories, columns: Sequence[str], rewards: Sequence[str], layout: Layout) -> Trajectories:
    """Return ``exact`` with states and known rewards as a ring of ``layout`` gives them back.

    Counters are kept exactly, so that the rewards made of them are exact, too.
    """
    new_states, new_rewards = exact.states.copy(), exact.rewards.copy()
    for name, names, matrix in (
        ("state", columns, new_states),
        ("scores", columns, new_states),
        ("rewards", rewards, new_rewards),
    ):
        group = next(group for group in layout.groups if group.name == name)
        at = [names.index(column) for column in group.columns]
        matrix[:, at] = rounded_rows(matrix[:, at], group)
    return dataclasses.replace(exact, states=new_states, rewards=new_rewards)


def figures(
    policy: Policy, exact: Trajectories, kept: Trajectories, ends: Ints, returns: Floats, spec: Spec
) -> Figures:
    """Evaluate the decisions at rows ``ends`` under the spec's prompt, their history taken from ``kept``."""
    actions, quantiles = [], []
    for part in np.array_split(ends, -(-len(ends) // CHUNK)):
        windows = kept.windows(part, policy.model.config.context_length)
        windows.states[:, -1] = exact.states[part]
        decisions = policy.decide(windows, make_prompts(spec.reward_names, [spec.prompt] * len(part)))
        actions.append(decisions.actions)
        quantiles.append(decisions.quantiles)
    loss = pinball(np.concatenate(quantiles), returns[ends], spec.quantiles)
    return {
        "accuracy": float((np.concatenate(actions) == exact.actions[ends]).mean()),
        **{f"pinball {name}": float(loss[j]) for j, name in enumerate(spec.reward_names)},
    }


def measure_seed(training_set: TrainingSet, seed: int, console: Console) -> dict[str, Figures]:
    """Train with ``seed`` (of the split, too) and evaluate every variant: name -> figures.

    Raises LogError where no decision can be evaluated.
    """
    spec = training_set.spec
    spec = dataclasses.replace(spec, training=dataclasses.replace(spec.training, seed=seed))
    try:
        data = prepare(dataclasses.replace(training_set, spec=spec))
        policy = fit_policy(data, spec, console)
    except ValueError as error:
        raise LogError(f"training set: {error}") from error
    artifact = Artifact(spec, policy, data.utility, data.encoder, data.service_features, {}, "benchmark")
    exact = data.trajectories
    returns, is_target = returns_to_go(exact.rewards, exact.starts, spec.horizon, spec.discount)
    ends = _held_out(data, is_target)
    measured: dict[str, Figures] = {}
    for variant in track(VARIANTS, "evaluating", console=console):
        kept = kept_by_ring(exact, data.encoder.columns, spec.reward_names, variant.layout(artifact))
        measured[variant.name] = figures(policy, exact, kept, ends, returns, spec)
    return measured


def _held_out(data: TrainingData, is_target: Bools) -> Ints:
    rows = data.trajectories.rows_of(data.validation_members)
    ends: Ints = rows[is_target[rows]]
    if len(ends) == 0:
        raise LogError("no held-out decision has a full look-ahead: shorten the horizon or bring a longer log")
    return ends


def summary(by_seed: Sequence[Mapping[str, Figures]]) -> dict[str, Any]:
    """Return variant -> figure -> mean and sd over seeds, and those of its difference to float32 in the same seed.

    Differences of accuracy are absolute, those of pinball relative. With one seed the sd is None.
    """

    def spread(values: Sequence[float]) -> dict[str, float | None]:
        return {"mean": float(np.mean(values)), "sd": float(np.std(values, ddof=1)) if len(values) > 1 else None}

    def difference(figure: str, value: float, exact: float) -> float:
        return value - exact if figure == "accuracy" else value / exact - 1.0

    return {
        variant: {
            figure: {
                **spread([seed[variant][figure] for seed in by_seed]),
                "difference": spread(
                    [difference(figure, seed[variant][figure], seed[EXACT][figure]) for seed in by_seed]
                ),
            }
            for figure in by_seed[0][variant]
        }
        for variant in by_seed[0]
    }


def show(result: Mapping[str, Any], seeds: int, console: Console) -> None:
    """Print mean +- sd over seeds, and below it the difference to float32 within a seed."""
    names = list(next(iter(result.values())))
    table = Table(
        title=f"held-out decisions, history kept as ..., {seeds} seeds: mean ± sd; difference to float32 "
        "(accuracy: absolute; pinball: relative)"
    )
    table.add_column("storage")
    for name in names:
        table.add_column(name, justify="right")
    for variant, row in result.items():
        cells = [_cell(row[name], ".4f") + "\n" + _cell(row[name]["difference"], "+.1e") for name in names]
        table.add_row(variant, *cells)
    console.print(table)


def _cell(spread: Mapping[str, Any], form: str) -> str:
    sd = "" if spread["sd"] is None else f" ± {spread['sd']:{form.lstrip('+')}}"
    return f"{spread['mean']:{form}}{sd}"


def find_training_set(spec: Spec, settings: Settings, console: Console) -> Path:
    """Return the deployment's training set, made now where it has none.

    Where it has no log either, that is made of the HeartSteps files or by the simulator, as for ``make run``; another
    spec's log is the user's to bring. Raises LogError, SpecError, StoreError.
    """
    workspace = settings.workspace(spec.name)
    if workspace.training_set.is_dir():
        return workspace.training_set
    if not workspace.log.exists():
        if spec.log.importer == "heartsteps":
            data = settings.heartsteps
        elif spec.state.feature_service == SIMULATED_SERVICE:
            data = workspace.root / "simulated"
            simulate(data, spec, MEMBERS, DAYS, SEED)
        else:
            return workspace.training_set
        run_import(spec, data, workspace).show(console)
    from feature_repo.deploy import apply
    from feature_repo.training_set import build_training_set

    with contextlib.redirect_stdout(io.StringIO()):  # the last line of standard output is ours
        apply(settings)
    build_training_set(spec, settings)
    return workspace.training_set


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.storage_effect", description=__doc__)
    parser.add_argument("--spec", type=Path, default=Path("specs/notification.yaml"))
    parser.add_argument("--seeds", type=int, default=SEEDS, help="how many policies to train (default %(default)s)")
    options = parser.parse_args(arguments)
    if options.seeds < 1:
        parser.error(f"--seeds {options.seeds}: at least 1")
    console = Console(stderr=True)
    try:
        spec = load_spec(options.spec)
        training_set = TrainingSet.open(find_training_set(spec, load_settings(), console), spec)
        by_seed = []
        for seed in range(options.seeds):
            console.print(f"seed {seed} ({seed + 1} of {options.seeds})", highlight=False)
            by_seed.append(measure_seed(training_set, seed, console))
    except PacerError as error:
        console.print(f"[red]error:[/] {error}", highlight=False)
        return 1
    result = summary(by_seed)
    show(result, options.seeds, console)
    rows = sum(len(part.actions) for part in training_set)
    print(json.dumps({"spec": spec.name, "seeds": options.seeds, "rows": rows, "storage": result}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
