"""The newest artifact on its workspace's held-out members: evaluation and prompts, as tables, JSON and a page."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from contracts.errors import LogError
from contracts.settings import Workspace
from contracts.spec import Prompt, Spec
from models import prompt_report, report
from models.artifact import Artifact, load_artifact, newest_artifact
from models.config import FitConfig
from models.decision_table import TrainingSet
from models.evaluation import evaluate
from models.held_out import HeldOut
from models.page import Page, Section, write_whole
from models.prompt_effect import MOST_DECISIONS, PromptEffect, prompt_effect
from models.prompts import cohort_prompts
from models.steps import Ints
from models.training_data import encode_all
from models.trajectories import Trajectories, split_members

NOT_TRAINED: Final = ("exploration", "limits", "ring", "deadlines_ms", "cohorts", "prompt")
"""Parts of a spec that change nothing about what was learned."""


@dataclass(frozen=True)
class Subject:
    """What is evaluated: an artifact, on data it was not fitted to."""

    artifact: Artifact
    trajectories: Trajectories
    train_members: Ints
    validation_members: Ints
    reports: Path
    """Folder of this artifact's reports."""

    @property
    def spec(self) -> Spec:
        """The spec the artifact was trained with."""
        return self.artifact.spec


def load_subject(spec: Spec, workspace: Workspace, console: Console) -> Subject:
    """Load the newest artifact and the training set it came of, split as it was in training.

    The artifact's own spec counts; where ``spec`` is another by now, that is said.
    Raises ArtifactError or LogError where either is missing, or the training set was made anew since.
    """
    folder = newest_artifact(workspace.artifacts)
    artifact = load_artifact(folder)
    changed = [
        field.name
        for field in dataclasses.fields(spec)
        if field.name not in NOT_TRAINED and getattr(spec, field.name) != getattr(artifact.spec, field.name)
    ]
    if changed:
        console.print(
            f"[yellow]the spec has changed since {artifact.name} was trained ({', '.join(changed)}); what follows is "
            "of the artifact's own spec[/]",
            highlight=False,
        )
    training_set = TrainingSet.open(workspace.training_set, artifact.spec)
    trained_on = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["data_fingerprint"]
    if training_set.fingerprint != trained_on:
        raise LogError(
            f"{workspace.training_set} is not what {artifact.name} was trained on, so that nobody knows which of its "
            "members were held out; train anew: make train"
        )
    training = artifact.spec.training
    trajectories = encode_all(training_set, artifact.spec, artifact.encoder, artifact.utility, workspace.trajectories)
    train_members, held_out = split_members(trajectories.members, training.validation_share, training.seed)
    return Subject(artifact, trajectories, train_members, held_out, workspace.reports / artifact.version)


def effect_of_prompts(subject: Subject, prompts: Mapping[str, Mapping[str, Prompt]]) -> PromptEffect:
    """Answer a sample of the held-out decisions at many levels, and under every cohort's and the given prompts."""
    spec = subject.spec
    held_out = HeldOut.of(subject.trajectories, subject.validation_members, FitConfig.of(spec))
    return prompt_effect(
        subject.artifact.policy,
        subject.trajectories,
        held_out.sample(MOST_DECISIONS, spec.training.seed),
        spec.prompt,
        reward_names=spec.reward_names,
        action_names=spec.actions,
        prompts={**{f"cohort {name}": prompt for name, prompt in cohort_prompts(spec).items()}, **prompts},
    )


def evaluate_newest(spec: Spec, workspace: Workspace, console: Console) -> dict[str, Any]:
    """Evaluate the newest artifact, show the figures, write ``report.json`` and ``report.html``; return the former."""
    subject = load_subject(spec, workspace, console)
    with console.status("evaluating held-out decisions"):
        evaluation = evaluate(
            subject.artifact.policy,
            subject.trajectories,
            subject.train_members,
            subject.validation_members,
            subject.spec.prompt,
            FitConfig.of(subject.spec),
            reward_names=subject.spec.reward_names,
            action_names=subject.spec.actions,
        )
    metrics = {**evaluation.to_json(), "utility": subject.artifact.metrics.get("utility", {})}
    report.show_metrics(metrics, console)
    with console.status("answering at many prompt levels"):
        effect = effect_of_prompts(subject, {})
    document: dict[str, Any] = {"artifact": subject.artifact.name, "metrics": metrics, "prompts": effect.to_json()}
    lead = (
        f"{metrics['decisions']:,} decisions of {metrics['members']:,} held-out members, each answered as in service: "
        "under the return that the model itself predicts at the prompted level, never the true one. Intervals are of "
        "95 % and clustered by member.",
    )
    sections = (*report.sections(metrics), *prompt_report.sections(document["prompts"]))
    _write(subject, "report", document, lead, sections, console)
    return document


def show_prompts(
    spec: Spec, workspace: Workspace, prompts: Mapping[str, Mapping[str, Prompt]], console: Console
) -> dict[str, Any]:
    """Show what prompts do, write ``prompts.json`` and ``prompts.html``; return the former without its histograms.

    ``prompts`` are complete prompts by name, to be shown beside the deployment's and its cohorts'.
    """
    subject = load_subject(spec, workspace, console)
    with console.status("answering at many prompt levels"):
        effect = effect_of_prompts(subject, prompts)
    document: dict[str, Any] = {"artifact": subject.artifact.name, **effect.to_json()}
    for grid in prompt_report.grids(document):
        grid.show(console)
    lead = ("What the policy answers when more or less of a reward is asked for.",)
    _write(subject, "prompts", document, lead, prompt_report.sections(document), console)
    for reward in document["rewards"].values():
        del reward["edges"]
        for level in reward["levels"]:
            del level["histogram"]
    return document


def _write(
    subject: Subject,
    name: str,
    document: Mapping[str, Any],
    lead: tuple[str, ...],
    sections: tuple[Section, ...],
    console: Console,
) -> None:
    write_whole(subject.reports / f"{name}.json", json.dumps(document, indent=1, allow_nan=False) + "\n")
    page = subject.reports / f"{name}.html"
    write_whole(page, Page(f"{subject.artifact.name}: offline {name}", lead, sections).html())
    console.print(f"{name}: {page}", highlight=False, soft_wrap=True)
