"""Train one deployment: training set in, artifact and its offline figures out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from contracts.errors import LogError
from contracts.settings import Workspace
from contracts.spec import Spec
from models.artifact import save_artifact
from models.config import FitConfig
from models.decision_table import TrainingSet
from models.evaluation import Evaluation, evaluate
from models.masking import MaskableColumns
from models.policy import Policy
from models.progress import fit_bar, progress_bar
from models.run_log import close_run, open_run, tensorboard
from models.training import Progress as FitProgress
from models.training import fit
from models.training_data import TrainingData, prepare


@dataclass(frozen=True)
class TrainingResult:
    """The artifact written and its offline figures."""

    artifact: Path
    evaluation: Evaluation
    metrics: dict[str, Any]


def train(spec: Spec, workspace: Workspace, console: Console) -> TrainingResult:
    """Fit utility model and Decision Transformer to the workspace's training set and write the artifact.

    Shows progress. A training that was killed goes on from its last checkpoint, if spec and data are the same. Raises
    LogError where the log is too short for the spec's horizon.
    """
    training_set = TrainingSet.open(workspace.training_set, spec)
    try:
        with progress_bar(console) as bar:
            task = bar.add_task("encoding", total=3 * len(training_set.parts))
            data = prepare(training_set, workspace.trajectories, lambda: bar.advance(task))
        fingerprint = training_set.fingerprint
        run = open_run(workspace.runs, FitConfig.of(spec), fingerprint)
        with tensorboard(run) as write:
            policy = fit_policy(data, spec, console, checkpoints=run, also=write)
        evaluation = evaluate(
            policy,
            data.trajectories,
            data.train_members,
            data.validation_members,
            spec.prompt,
            FitConfig.of(spec),
            reward_names=spec.reward_names,
            action_names=spec.actions,
        )
    except LogError:
        raise
    except ValueError as error:
        raise LogError(f"{workspace.log}: {error}") from error
    metrics = {**evaluation.to_json(), "utility": _utility_metrics(data, spec)}
    place = save_artifact(
        workspace.artifacts, spec, policy, data.utility, data.encoder, data.service_features, metrics, fingerprint
    )
    close_run(run)
    return TrainingResult(place, evaluation, metrics)


def fit_policy(
    data: TrainingData,
    spec: Spec,
    console: Console,
    checkpoints: Path | None = None,
    also: Callable[[FitProgress], None] = lambda _: None,
) -> Policy:
    """Fit the Decision Transformer as ``spec`` says, with a progress bar. Raises ValueError as ``fit`` does."""
    with fit_bar(console) as show:

        def tell(progress: FitProgress) -> None:
            show(progress)
            also(progress)

        return fit(
            data.trajectories,
            FitConfig.of(spec),
            members=data.train_members,
            on_progress=tell,
            maskable=MaskableColumns.of(spec, data.encoder),
            checkpoints=checkpoints,
        )


def _utility_metrics(data: TrainingData, spec: Spec) -> dict[str, dict[str, float]]:
    report = data.utility_report
    return {
        name: {
            "log_loss": float(report.log_loss[j]),
            "base_log_loss": float(report.base_log_loss[j]),
            "rows": report.rows,
        }
        for j, name in enumerate(spec.predicted_rewards)
    }
