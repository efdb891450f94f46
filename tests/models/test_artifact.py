"""The artifact: what is loaded answers as what was saved, and a folder that is not whole is refused by name."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from contracts.errors import ArtifactError
from contracts.spec import Serving
from models.artifact import FILES, Artifact, load_artifact, newest_artifact, save_artifact
from models.prompts import make_prompts
from models.runtime import DECIDE, EagerRuntime, OnnxRuntime
from models.steps import Steps
from tests.models.problems import random_steps
from tests.serve.deployment import untrained_artifact

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def made() -> Artifact:
    return untrained_artifact()


def save(made: Artifact, folder: Path) -> Path:
    return save_artifact(
        folder, made.spec, made.policy, made.utility, made.encoder, made.service_features, {"accuracy": 0.5}, "data"
    )


@pytest.fixture(scope="module")
def original(made: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(made, tmp_path_factory.mktemp("artifacts"))


@pytest.fixture
def saved(original: Path, tmp_path: Path) -> Path:
    """A copy to break: an artifact takes seconds to export."""
    return Path(shutil.copytree(original, tmp_path / "artifacts" / original.name))


def served(made: Artifact, serving: Serving) -> Artifact:
    return dataclasses.replace(made, spec=dataclasses.replace(made.spec, serving=serving))


def steps_for(artifact: Artifact) -> Steps:
    return random_steps(16, 4, states=len(artifact.encoder.columns), rewards=3)


def test_a_loaded_artifact_answers_as_the_saved_one(made: Artifact, saved: Path) -> None:
    loaded = load_artifact(saved)
    assert loaded.spec == made.spec
    assert loaded.encoder == made.encoder
    assert loaded.service_features == made.service_features
    assert loaded.version == saved.name
    for name, values in dataclasses.asdict(made.policy.normalization).items():
        np.testing.assert_array_equal(getattr(loaded.policy.normalization, name), values)
    prompts = make_prompts(made.spec.reward_names, [made.spec.prompt] * 16)
    before, after = (artifact.policy.decide(steps_for(made), prompts) for artifact in (made, loaded))
    np.testing.assert_allclose(before.probabilities, after.probabilities, atol=1e-5)
    np.testing.assert_allclose(before.quantiles, after.quantiles, atol=1e-5)
    assert isinstance(loaded.policy.runtime, OnnxRuntime)
    weights = loaded.policy.model.state_dict()
    assert all(torch.equal(weights[name], value) for name, value in made.policy.model.state_dict().items())
    features = np.random.default_rng(0).normal(size=(5, made.utility.n_features)).astype(np.float32)
    np.testing.assert_array_equal(made.utility.score(features), loaded.utility.score(features))


def test_its_files_are_the_contracts_and_none_is_pickle(saved: Path) -> None:
    assert sorted(path.name for path in saved.iterdir()) == sorted(FILES)
    for path in saved.iterdir():
        assert path.suffix in {".safetensors", ".onnx", ".yaml", ".json"}
    assert json.loads((saved / "manifest.json").read_text())["data_fingerprint"] == "data"


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(saved: Path, name: str) -> None:
    (saved / name).unlink()
    with pytest.raises(ArtifactError, match=name):
        load_artifact(saved)


@pytest.mark.parametrize("name", [name for name in FILES if name != "manifest.json"])
def test_an_altered_file_is_named(saved: Path, name: str) -> None:
    content = bytearray((saved / name).read_bytes())
    content[len(content) // 2] ^= 1
    (saved / name).write_bytes(content)
    with pytest.raises(ArtifactError, match=name):
        load_artifact(saved)


def test_a_file_cut_in_half_is_named(saved: Path) -> None:
    manifest = saved / "manifest.json"
    manifest.write_bytes(manifest.read_bytes()[:40])
    with pytest.raises(ArtifactError, match=r"manifest\.json"):
        load_artifact(saved)


def test_another_format_is_refused(saved: Path) -> None:
    manifest = json.loads((saved / "manifest.json").read_text())
    (saved / "manifest.json").write_text(json.dumps(manifest | {"format": 99}))
    with pytest.raises(ArtifactError, match="format 99"):
        load_artifact(saved)


def test_the_newest_is_found_and_a_staging_folder_is_not(made: Artifact, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no artifact"):
        newest_artifact(tmp_path)
    first = save(served(made, Serving(runtime="eager")), tmp_path)
    shutil.copytree(first, tmp_path / ".staging-x")
    later = tmp_path / "99990101T000000Z-00000000"
    shutil.copytree(first, later)
    assert newest_artifact(tmp_path) == later


def test_metrics_that_are_not_finite_become_null(made: Artifact, tmp_path: Path) -> None:
    eager, metrics = served(made, Serving(runtime="eager")), {"recall": {"push": float("nan")}}
    place = save_artifact(
        tmp_path, eager.spec, made.policy, made.utility, made.encoder, made.service_features, metrics, "d"
    )
    assert json.loads((place / "metrics.json").read_text()) == {"recall": {"push": None}}


@pytest.mark.parametrize("runtime", ["eager", "eager_bfloat16"])
def test_an_artifact_served_by_pytorch_holds_no_graph(made: Artifact, tmp_path: Path, runtime: str) -> None:
    place = save(served(made, Serving(runtime=runtime)), tmp_path)  # type: ignore[arg-type]
    assert sorted(path.name for path in place.iterdir()) == sorted(set(FILES) - {DECIDE})
    loaded = load_artifact(place)
    assert isinstance(loaded.policy.runtime, EagerRuntime)
    prompts = make_prompts(made.spec.reward_names, [made.spec.prompt] * 16)
    before, after = (artifact.policy.decide(steps_for(made), prompts) for artifact in (made, loaded))
    np.testing.assert_allclose(before.probabilities, after.probabilities, atol=0.0 if runtime == "eager" else 0.05)
    assert (before.probabilities == after.probabilities).all() == (runtime == "eager")


def test_a_graph_that_onnx_runtime_cannot_read_is_named(saved: Path) -> None:
    (saved / DECIDE).write_bytes(b"no graph")
    manifest = json.loads((saved / "manifest.json").read_text())
    manifest["sha256"][DECIDE] = hashlib.sha256(b"no graph").hexdigest()
    (saved / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match=r"decide\.onnx"):
        load_artifact(saved)
