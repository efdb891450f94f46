"""The offline experiments on small logs: same decisions for every variant, done once, whole tables and a page."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from contracts.settings import Settings, load_settings
from contracts.spec import Spec, load_spec
from experiments import jobs as jobs_module
from experiments import offline, offline_report
from experiments.__main__ import main
from experiments.jobs import Job
from experiments.offline import Plan, run_offline
from experiments.pool import run_all
from experiments.sources import Source, find_source, fold_members, load_case, rotated
from experiments.sums import Sums
from experiments.variants import BASE, CONTEXTS, VARIANTS, find_base
from models.config import FitConfig
from tests.models.test_training_data import table, write
from tests.serve.deployment import spec_with

pytestmark = pytest.mark.unit


def small_spec() -> Spec:
    spec = spec_with(("horizon: 16", "horizon: 4"))
    return dataclasses.replace(spec, training=dataclasses.replace(spec.training, epochs=1, batch_size=32))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return find_source(small_spec(), write(tmp_path_factory.mktemp("set") / "training_set", table(members=10, rows=12)))


@pytest.fixture(scope="module")
def folded(tmp_path_factory: pytest.TempPathFactory) -> Source:
    folder = tmp_path_factory.mktemp("folded") / "training_set"
    return find_source(small_spec(), write(folder, table(members=10, rows=12)), folds=2)


def run_job(source: Source, cache: Path, **more: Any) -> Sums:
    job = dataclasses.replace(Job(source, BASE, 0, 0), **more)
    job.run(cache)
    return Sums.load(job.sums_in(cache))


def test_every_variant_answers_the_same_decisions(source: Source, tmp_path: Path) -> None:
    base = run_job(source, tmp_path, most_decisions=20)
    assert base.columns["decisions"].sum() == 20
    for length in (1, 8):
        other = run_job(source, tmp_path, variant=CONTEXTS[length], most_decisions=20)
        np.testing.assert_array_equal(other.members, base.members)
        for name in ("decisions", "logged push", "marginal pinball visit", "right, majority"):
            np.testing.assert_allclose(other.columns[name], base.columns[name])


def test_sums_are_consistent(source: Source, tmp_path: Path) -> None:
    sums = run_job(source, tmp_path)
    total = {name: column.sum() for name, column in sums.columns.items()}
    assert total["illegal"] == total["crossing"] == total["falls"] == 0.0
    for kind in ("answered {}", "logged {}", "answered {}, constant prompt"):
        assert sum(total[kind.format(action)] for action in source.spec.actions) == total["decisions"]
    levels = [total[f"covered visit {level:g}"] for level in source.spec.quantiles]
    assert levels == sorted(levels)


def test_folds_hold_everyone_out_once(folded: Source) -> None:
    held_out = [load_case(folded, 1, fold) for fold in folded.parts]
    assert sorted(np.concatenate([case.validation_members for case in held_out]).tolist()) == list(range(10))
    for case in held_out:
        assert sorted([*case.train_members, *case.validation_members]) == list(range(10))
    assert [len(part) for part in fold_members(37, 5, 0)] == [8, 8, 7, 7, 7]
    assert fold_members(37, 5, 0)[0].tolist() != fold_members(37, 5, 1)[0].tolist()


def test_every_member_is_held_out_as_often_as_any_other() -> None:
    turns = [rotated(2000, 0.3, turn) for turn in range(5)]
    assert {len(set(turn.tolist())) for turn in turns} == {600}
    assert set(np.bincount(np.concatenate(turns), minlength=2000).tolist()) == {1, 2}
    assert len(rotated(2, 0.01, 3)) == 1


def test_contexts_take_as_many_steps_over_as_many_decisions() -> None:
    base = FitConfig(context_length=4)
    for length, variant in CONTEXTS.items():
        config = variant.config(base, seed=3)
        assert config.context_length == length
        assert config.training.batch_size * length == base.training.batch_size * 4
        assert config.training.seed == 3
    assert len({repr(variant.config(base, 0)) for variant in VARIANTS}) == len(VARIANTS) - 1  # context 4 is the base
    assert len(find_base(VARIANTS, 4)) == len(VARIANTS) - 1


def test_a_key_depends_on_all_that_a_result_does(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    job = Job(source, BASE, 0, 0)
    others = [
        dataclasses.replace(job, seed=1),
        dataclasses.replace(job, fold=1),
        dataclasses.replace(job, epochs=2),
        dataclasses.replace(job, most_decisions=7),
        dataclasses.replace(job, variant=CONTEXTS[1]),
        dataclasses.replace(job, source=dataclasses.replace(source, fingerprint="other")),
        dataclasses.replace(job, source=dataclasses.replace(source, folds=2)),
        dataclasses.replace(
            job, source=dataclasses.replace(source, spec=dataclasses.replace(source.spec, discount=0.5))
        ),
    ]
    keys = {job.key, *(other.key for other in others)}
    assert len(keys) == len(others) + 1
    assert dataclasses.replace(job, with_effect=True).key == job.key
    monkeypatch.setattr(jobs_module, "code_digest", lambda: "other code")
    assert job.key not in keys


@pytest.fixture
def settings(source: Source, folded: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Both sources are the small ones, wherever the real ones would be looked for."""
    monkeypatch.setenv("PACER_VAR", str(tmp_path / "var"))
    by_name = {offline.SIMULATED_SPEC: source, offline.HEARTSTEPS_SPEC: folded}
    specs = {path: dataclasses.replace(found.spec, name=path.stem) for path, found in by_name.items()}
    sets = {path.stem: found.training_set for path, found in by_name.items()}
    monkeypatch.setattr(offline, "load_spec", lambda path: specs[path])
    monkeypatch.setattr(offline, "find_training_set", lambda spec, *_: sets[spec.name])
    monkeypatch.setattr(offline, "FOLDS", folded.folds)
    monkeypatch.setattr(offline, "run_all", lambda jobs, cache, *_: run_here(jobs, cache))
    monkeypatch.setattr(offline, "measure_cost", lambda _, lengths: {length: 10.0 * length for length in lengths})
    return load_settings()


RAN: list[str] = []


def run_here(jobs: list[Job], cache: Path) -> int:
    waiting = [job for job in jobs if not job.is_done(cache)]
    for job in waiting:
        job.run(cache)
        RAN.append(job.key)
    return len(waiting)


def test_tables_page_and_resuming(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("as deployed", "context 1", "context 8", "h_R alone", "3 quantiles")
    chosen = tuple(variant for variant in VARIANTS if variant.name in names)
    plan = Plan(chosen, 2, 1, quick=True, heartsteps=tmp_path)
    RAN.clear()
    document = run_offline(plan, settings, Console(quiet=True))
    json.dumps(document, allow_nan=False)
    simulated, heartsteps = document["sources"]["notification"], document["sources"]["heartsteps"]
    assert list(simulated["context"]) == ["1", "4", "8"]
    assert simulated["context"]["8"]["cost_relative"] == 8.0
    assert simulated["context"]["4"]["accuracy"] == simulated["accuracy"]["model"]
    assert set(simulated["context"]["8"]["pinball"]) == set(simulated["pinball"])
    assert set(simulated["variants"]) == {"h_R alone", "3 quantiles"}
    assert simulated["variants"]["3 quantiles"]["pinball"] == {}
    assert set(simulated["constant_prompt"]) == {"as deployed", "context 1"}
    assert heartsteps["members"] == 10
    assert set(simulated["checks"]) > {"coverage_within_2_points", "monotone", "more_context_lowers_pinball"}
    assert "coverage_within_interval" in heartsteps["checks"]
    folder = settings.var / "experiments" / "offline-quick"
    assert json.loads((folder / "report.json").read_text()) == document
    page = (folder / "report.html").read_text()
    assert page.count("<svg") == 2 * (3 + 4 * 3)
    assert "| context | accuracy |" in (folder / "report.md").read_text()
    for words in ("Table 2", "h_R alone", "Figure 3", "core-µs"):
        assert words in page
    first = len(RAN)
    # As a killed run leaves it: some results are there, the others are not.
    lost = next(iter(sorted((folder / "runs").glob("*.npz"))))
    lost.unlink()
    monkeypatch.setattr(offline_report, "sections", lambda *_: [])  # plots take time
    assert run_offline(plan, settings, Console(quiet=True)) == document
    assert RAN[first:] == [lost.stem]


def test_without_heartsteps_it_goes_on_with_the_simulator_alone(settings: Settings, tmp_path: Path) -> None:
    plan = Plan((BASE,), 1, 1, quick=True, heartsteps=tmp_path / "nowhere")
    said = Console(record=True, width=200, file=(tmp_path / "said").open("w"))
    document = run_offline(plan, settings, said)
    assert list(document["sources"]) == ["notification"]
    assert "nowhere is no folder" in said.export_text()


def test_wrong_numbers_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["offline", "--seeds", "0"])
    assert "--seeds 0: at least 1" in capsys.readouterr().err


def test_specs_are_where_the_experiments_look() -> None:
    assert load_spec(offline.SIMULATED_SPEC).name == "notification"
    assert load_spec(offline.HEARTSTEPS_SPEC).log.importer == "heartsteps"


@dataclasses.dataclass(frozen=True)
class Noted:
    """A run that leaves its process and number of threads; the second fails until there is a file to say it may not."""

    name: str
    fails_without: str | None = None

    @property
    def source(self) -> Any:
        return self

    variant = source
    seed = 0

    def is_done(self, cache: Path) -> bool:
        return (cache / self.name).exists()

    def run(self, cache: Path) -> None:
        if self.fails_without and not (cache / self.fails_without).exists():
            raise ValueError(self.name)
        (cache / self.name).write_text(f"{os.getpid()} {torch.get_num_threads()}")


def test_runs_have_processes_of_one_thread_and_go_on_after_a_failure(tmp_path: Path) -> None:
    jobs: Any = [Noted("a"), Noted("b", "allowed")]
    with pytest.raises(ValueError, match="b"):
        run_all(jobs, tmp_path, 1, Console(quiet=True))
    before = (tmp_path / "a").read_text()
    process, threads = before.split()
    assert int(process) != os.getpid()
    assert threads == "1"
    (tmp_path / "allowed").touch()
    assert run_all(jobs, tmp_path, 1, Console(quiet=True)) == 1
    assert (tmp_path / "a").read_text() == before
    assert (tmp_path / "b").exists()
