"""A policy by itself on disk: ``model.safetensors`` and ``policy.json``, for those who deploy it in their own way.

A deployment of Pacer's keeps more beside it, in an artifact (models/artifact.py).
"""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Final

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from contracts.errors import ArtifactError
from models.batch import Normalization
from models.decision_transformer import DecisionTransformer, DecisionTransformerConfig
from models.files import check_hashes, read_json, sha256, staging, write_json
from models.policy import Policy

FORMAT: Final = 1
WEIGHTS: Final = "model.safetensors"
DESCRIPTION: Final = "policy.json"


def save_policy(folder: Path, policy: Policy) -> None:
    """Write ``policy`` to ``folder``; a policy that is there is replaced whole.

    Raises ArtifactError if the folder holds something else.
    """
    folder = Path(folder)
    if folder.exists() and not (folder / DESCRIPTION).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise ArtifactError(f"{folder} exists and holds no policy; name another folder, or remove it")
    with staging(folder.resolve().parent) as whole:
        save_file(policy.model.state_dict(), whole / WEIGHTS)
        write_json(
            whole / DESCRIPTION,
            {
                "format": FORMAT,
                "model": asdict(policy.model.config),
                "reward_names": policy.reward_names,
                "normalization": policy.normalization.to_json(),
                "sha256": {WEIGHTS: sha256(whole / WEIGHTS)},
            },
        )
        old = whole.with_name(f"{whole.name}-old")
        if folder.exists():
            folder.rename(old)
        whole.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def load_policy(folder: Path) -> Policy:
    """Read what ``save_policy`` wrote. Raises ArtifactError naming the file that is missing, altered or unreadable."""
    folder = Path(folder)
    document = read_json(folder / DESCRIPTION)
    if document.get("format") != FORMAT:
        raise ArtifactError(
            f"{folder / DESCRIPTION}: format {document.get('format')!r}; this code reads format {FORMAT}: train anew"
        )
    try:
        check_hashes(folder, document["sha256"])
        shape = document["model"]
        model = DecisionTransformer(DecisionTransformerConfig(**{**shape, "quantiles": tuple(shape["quantiles"])}))
        model.load_state_dict(load_file(folder / WEIGHTS))
        policy = Policy(
            model.eval(), Normalization.from_json(document["normalization"]), tuple(document["reward_names"])
        )
    except (SafetensorError, RuntimeError, KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"{folder}: made by another version of the code? {error}; train anew") from error
    return policy
