"""The model artifact: a folder of safetensors, YAML and JSON, no pickle; written whole or not at all (DESIGN 4.5)."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from contracts.errors import ArtifactError, SpecError
from contracts.spec import Spec, dump_spec, parse_spec
from models.batch import Normalization
from models.config import FitConfig
from models.decision_transformer import DecisionTransformer, DecisionTransformerConfig
from models.encoding import StateEncoder
from models.export import can_export, export_onnx
from models.files import check_hashes, read_json, sha256, staging, write_json
from models.policy import Policy
from models.runtime import DECIDE, EagerRuntime, OnnxRuntime, Runtime
from models.utility import UtilityModel

FORMAT = 4
HASHED = ("model.safetensors", "utility.safetensors", "spec.yaml", "normalization.json", "metrics.json")
EXPORTED = (DECIDE,)
"""The graph of ONNX Runtime, where the spec asks for it and the model can be exported."""
FILES = (*HASHED, *EXPORTED, "manifest.json")


@dataclass(frozen=True)
class Artifact:
    """A trained deployment in memory."""

    spec: Spec
    policy: Policy
    utility: UtilityModel
    encoder: StateEncoder
    service_features: tuple[str, ...]
    """All features of the feature service, counters included, in its order."""
    metrics: Mapping[str, Any]
    version: str

    @property
    def name(self) -> str:
        """``<tenant>/<version>``, as answered with every decision."""
        return f"{self.spec.name}/{self.version}"


def config_of(spec: Spec, state_dim: int) -> DecisionTransformerConfig:
    """Return the model shape that ``spec`` asks for."""
    return FitConfig.of(spec).shape(state_dim, len(spec.actions), len(spec.rewards))


def save_artifact(
    folder: Path,
    spec: Spec,
    policy: Policy,
    utility: UtilityModel,
    encoder: StateEncoder,
    service_features: tuple[str, ...],
    metrics: Mapping[str, Any],
    data_fingerprint: str,
) -> Path:
    """Write a new artifact under ``folder`` and return its own folder, named ``<UTC time>-<hash>``.

    It is written beside its place and renamed, so that a reader never meets half an artifact.
    """
    made_at = datetime.now(UTC)
    with staging(folder) as whole:
        save_file(policy.model.state_dict(), whole / "model.safetensors")
        save_file(utility.state_dict(), whole / "utility.safetensors")
        (whole / "spec.yaml").write_text(dump_spec(spec), encoding="utf-8")
        write_json(
            whole / "normalization.json",
            {
                "encoder": encoder.to_json(),
                "service_features": list(service_features),
                "columns": list(encoder.columns),
                "rewards": list(spec.reward_names),
                **policy.normalization.to_json(),
            },
        )
        write_json(whole / "metrics.json", metrics)
        if is_exported(spec, policy.model.config):
            export_onnx(policy.model, whole)
        hashes = {name: sha256(whole / name) for name in (*HASHED, *EXPORTED) if (whole / name).exists()}
        digest = hashlib.sha256("".join(hashes.values()).encode()).hexdigest()[:8]
        version = f"{made_at:%Y%m%dT%H%M%SZ}-{digest}"
        write_json(
            whole / "manifest.json",
            {
                "format": FORMAT,
                "version": version,
                "made_at": made_at.isoformat(),
                "code_version": _code_version(),
                "data_fingerprint": data_fingerprint,
                "seeds": {"training": spec.training.seed},
                "sha256": hashes,
            },
        )
        place = folder / version
        if place.exists():  # the same second and the same content
            shutil.rmtree(place)
        os.replace(whole, place)
    return place


def load_artifact(folder: Path) -> Artifact:
    """Load an artifact after checking its hashes.

    Raises ArtifactError naming the file that is missing, altered or unreadable.
    """
    manifest = read_json(folder / "manifest.json")
    if manifest.get("format") != FORMAT:
        raise ArtifactError(
            f"{folder}: artifact format {manifest.get('format')!r}; this code reads format {FORMAT}: train anew"
        )
    hashes = manifest.get("sha256")
    if not isinstance(hashes, dict) or not isinstance(manifest.get("version"), str):
        raise ArtifactError(f"{folder / 'manifest.json'} names no version or no hashes; train anew")
    check_hashes(folder, {name: hashes.get(name, "none") for name in dict.fromkeys((*HASHED, *hashes))})
    try:
        spec = parse_spec((folder / "spec.yaml").read_text(encoding="utf-8"), str(folder / "spec.yaml"))
        document = read_json(folder / "normalization.json")
        encoder = StateEncoder.from_json(document.pop("encoder"))
        service_features = tuple(document.pop("service_features"))
        del document["columns"], document["rewards"]
        normalization = Normalization.from_json(document)
        model = DecisionTransformer(config_of(spec, len(encoder.columns)))
        model.load_state_dict(load_file(folder / "model.safetensors"))
        utility = UtilityModel(
            len(encoder.features) + len(encoder.candidate_columns), len(spec.predicted_rewards), len(spec.actions)
        )
        utility.load_state_dict(load_file(folder / "utility.safetensors"))
    except (SpecError, SafetensorError, RuntimeError, KeyError, TypeError) as error:
        raise ArtifactError(f"{folder}: made by another version of the code? {error}") from error
    model.eval()
    utility.eval()
    return Artifact(
        spec,
        Policy(model, normalization, spec.reward_names, runtime=_runtime(spec, model, folder)),
        utility,
        encoder,
        service_features,
        read_json(folder / "metrics.json"),
        str(manifest["version"]),
    )


def check_spec(artifact: Artifact, spec: Spec) -> None:
    """Raise ArtifactError naming every key in which ``spec`` has changed since ``artifact`` was trained.

    An artifact decides by the spec inside it, so that training and serving cannot disagree; a changed file would
    have no effect, and nobody would know.
    """
    changed = [
        f"{field.name} is {getattr(spec, field.name)!r}, was {getattr(artifact.spec, field.name)!r}"
        for field in dataclasses.fields(spec)
        if getattr(spec, field.name) != getattr(artifact.spec, field.name)
    ]
    if changed:
        raise ArtifactError(
            f"the spec has changed since artifact {artifact.name} was trained: {'; '.join(changed)}. Train anew, or "
            "name the spec.yaml inside the artifact's folder"
        )


def is_exported(spec: Spec, config: DecisionTransformerConfig) -> bool:
    """Whether an artifact of this spec and model holds the graph of ONNX Runtime, and is served with it."""
    return spec.serving.runtime == "onnx" and can_export(config)


def _runtime(spec: Spec, model: DecisionTransformer, folder: Path) -> Runtime:
    if is_exported(spec, model.config):
        try:
            return OnnxRuntime(folder, model.config.context_length)
        except Exception as error:  # ONNX Runtime's own errors have no common base but this
            raise ArtifactError(f"{folder}: ONNX Runtime cannot read {DECIDE}: {error}") from error
    return EagerRuntime(model, torch.bfloat16 if spec.serving.runtime == "eager_bfloat16" else torch.float32)


def newest_artifact(folder: Path) -> Path:
    """Return the newest artifact's folder under ``folder``. Raises ArtifactError where there is none."""
    made = sorted(path.parent for path in folder.glob("[0-9]*/manifest.json")) if folder.is_dir() else []
    if not made:
        raise ArtifactError(f"{folder} holds no artifact; `make train` makes one")
    return made[-1]


def _code_version() -> str:
    try:
        return package_version("pacer")
    except PackageNotFoundError:
        return "not installed"
