"""The public names: complete, and PyTorch stays out of processes that do not need it; policies on disk."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import models
from contracts.errors import ArtifactError
from models.decision_transformer import DecisionTransformer
from models.policy import Policy
from tests.models.problems import normalization, small_config

pytestmark = pytest.mark.unit


def test_every_public_name_is_there() -> None:
    for name in models.__all__:
        assert getattr(models, name).__name__.split(".")[-1] == name
    assert set(models.__all__) <= set(dir(models))
    with pytest.raises(AttributeError, match="no attribute 'Fit'; its names are"):
        _ = models.Fit


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import models.steps, models.history, models.build, models.trajectories", ["torch", "gymnasium", "pyarrow"]),
        ("from models import fit, rollout, Policy", ["gymnasium", "redis", "feast"]),
    ],
)
def test_what_is_not_needed_is_not_imported(statement: str, absent: list[str]) -> None:
    code = f"import sys\n{statement}\nprint([name for name in {absent!r} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def policy_of(seed: int) -> Policy:
    torch.manual_seed(seed)
    return Policy(DecisionTransformer(small_config()).eval(), normalization(3, 2, 0.5, 2.0), ("gain", "cost"))


def answers(policy: Policy) -> np.ndarray:
    return policy.act(policy.new_history(), [0.1, -0.2, 0.3], None, {"gain": 0.9, "cost": 0.2}).probabilities


def test_a_policy_is_read_back_the_same_and_replaced_whole(tmp_path: Path) -> None:
    place = tmp_path / "mine" / "policy"
    for seed in (0, 1):
        policy = policy_of(seed)
        policy.save(place)
        loaded = Policy.load(place)
        np.testing.assert_array_equal(answers(loaded), answers(policy))
        assert loaded.reward_names == policy.reward_names
        assert loaded.model.config == policy.model.config
        assert sorted(path.name for path in place.iterdir()) == ["model.safetensors", "policy.json"]
        assert [path.name for path in place.parent.iterdir()] == ["policy"]


def test_a_folder_with_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ArtifactError, match="holds no policy; name another folder"):
        policy_of(0).save(tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


@pytest.mark.parametrize("name", ["model.safetensors", "policy.json"])
def test_a_torn_or_missing_file_is_named(tmp_path: Path, name: str) -> None:
    policy_of(0).save(tmp_path / "p")
    path = tmp_path / "p" / name
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ArtifactError, match=name):
        Policy.load(tmp_path / "p")
    path.unlink()
    with pytest.raises(ArtifactError, match=name):
        Policy.load(tmp_path / "p")


def test_another_format_is_named(tmp_path: Path) -> None:
    policy_of(0).save(tmp_path)
    path = tmp_path / "policy.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 99}))
    with pytest.raises(ArtifactError, match="format 99"):
        Policy.load(tmp_path)


def test_no_module_hides_a_public_name() -> None:
    """A submodule that is imported becomes an attribute of its package, in the place of what the package exports."""
    folder = Path(models.__file__).parent
    assert not {path.stem for path in folder.glob("*.py")} & set(models.__all__)
