"""The offline experiments: every variant, split and seed; tables, targets, figures; a page and one line of JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from benchmarks.storage_effect import find_training_set
from contracts.settings import CHECKOUT, Settings
from contracts.spec import load_spec
from experiments import offline_report
from experiments.jobs import MOST_DECISIONS, Job
from experiments.pool import measure_cost, run_all
from experiments.sources import Source, find_source
from experiments.summary import checks, summarise
from experiments.sums import Sums
from experiments.variants import BASE, CONTEXTS, Variant, find_base
from models.page import Page, write_whole

SIMULATED_SPEC: Final = CHECKOUT / "specs" / "notification.yaml"
HEARTSTEPS_SPEC: Final = CHECKOUT / "specs" / "heartsteps.yaml"
FOLDS: Final = 5
"""Of HeartSteps: 37 people, 7 or 8 held out at a time, everyone once a seed."""
QUICK_EPOCHS, QUICK_DECISIONS = 1, 5_000


@dataclass(frozen=True)
class Plan:
    """How much is done."""

    variants: tuple[Variant, ...]
    seeds: int
    workers: int
    quick: bool
    heartsteps: Path | None
    """Folder of the HeartSteps files, if they are to be used."""

    def jobs(self, source: Source) -> list[Job]:
        """Return every run on ``source``, seed by seed: what a seed prepares serves all of its runs."""
        variants = find_base(
            (BASE, *(variant for variant in self.variants if variant != BASE)), source.spec.context_length
        )
        return [
            Job(
                source,
                variant,
                seed,
                fold,
                QUICK_EPOCHS if self.quick else None,
                QUICK_DECISIONS if self.quick else MOST_DECISIONS,
                with_effect=variant == BASE and seed == 0 and fold == 0,
            )
            for seed in range(self.seeds)
            for fold in source.parts
            for variant in variants
            if variant.most_seeds is None or seed < variant.most_seeds
        ]


def run_offline(plan: Plan, settings: Settings, console: Console) -> dict[str, Any]:
    """Run what is not done yet, show the tables, write the page; return the figures.

    Raises PacerError where a log is missing or cannot be used.
    """
    folder = settings.var / "experiments" / ("offline-quick" if plan.quick else "offline")
    sources = _sources(plan, settings, console)
    jobs = [job for source in sources for job in plan.jobs(source)]
    run_all(jobs, folder / "runs", plan.workers, console)
    document: dict[str, Any] = {"seeds": plan.seeds, "quick": plan.quick, "sources": {}}
    sections, tables_in_markdown = [], []
    for source in sources:
        tables = _tables(source, plan, folder / "runs")
        effect = json.loads(_with_effect(plan.jobs(source)).effect_in(folder / "runs").read_text(encoding="utf-8"))
        for grid in offline_report.grids(source.name, tables, source.folds):
            grid.show(console)
            tables_in_markdown.append(grid.markdown())
        sections += offline_report.sections(source.name, tables, effect, source.folds)
        document["sources"][source.name] = tables
    offline_report.show_checks(document["sources"], console)
    write_whole(folder / "report.json", json.dumps(document, indent=1, allow_nan=False) + "\n")
    page = Page("Offline experiments", offline_report.lead(document), tuple(sections))
    write_whole(folder / "report.html", page.html())
    write_whole(folder / "report.md", "\n".join(tables_in_markdown))
    console.print(f"report: {folder / 'report.html'}", highlight=False, soft_wrap=True)
    return document


def _sources(plan: Plan, settings: Settings, console: Console) -> list[Source]:
    spec = load_spec(SIMULATED_SPEC)
    sources = [find_source(spec, find_training_set(spec, settings, console))]
    if plan.heartsteps is None or not plan.heartsteps.is_dir():
        where = "" if plan.heartsteps is None else f" ({plan.heartsteps} is no folder)"
        console.print(
            f"[yellow]no HeartSteps files{where}: what follows is of the simulator alone; name their folder with "
            "--heartsteps or PACER_HEARTSTEPS[/]",
            highlight=False,
        )
        return sources
    spec = load_spec(HEARTSTEPS_SPEC)
    at = Settings(settings.var, settings.redis_url, settings.java_home, plan.heartsteps)
    return [*sources, find_source(spec, find_training_set(spec, at, console), FOLDS)]


def _tables(source: Source, plan: Plan, cache: Path) -> dict[str, Any]:
    jobs = plan.jobs(source)
    runs = _by_variant(jobs, cache)
    lengths = [source.spec.context_length, *(n for n, variant in CONTEXTS.items() if variant.name in runs)]
    cost_us = measure_cost(source, sorted(set(lengths)))
    tables = summarise(runs, source.spec, plan.variants, cost_us)
    return {**tables, "checks": checks(tables, simulated=source.folds == 0)}


def _by_variant(jobs: Sequence[Job], cache: Path) -> Mapping[str, Sequence[Sums]]:
    """Put the folds of each seed together: variant -> the sums of every seed."""
    parts: dict[str, dict[int, list[Sums]]] = {}
    for job in jobs:
        parts.setdefault(job.variant.name, {}).setdefault(job.seed, []).append(Sums.load(job.sums_in(cache)))
    return {name: [Sums.pooled(folds) for folds in seeds.values()] for name, seeds in parts.items()}


def _with_effect(jobs: Sequence[Job]) -> Job:
    return next(job for job in jobs if job.with_effect)
