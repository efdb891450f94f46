"""Files of a model's folder: written whole or not at all, read with errors that name them."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from contracts.errors import ArtifactError


@contextmanager
def staging(folder: Path) -> Iterator[Path]:
    """Give a new folder inside ``folder``, to be renamed to its place when whole; gone if an error comes first."""
    folder.mkdir(parents=True, exist_ok=True)
    place = Path(tempfile.mkdtemp(dir=folder, prefix=".staging-"))
    place.chmod(0o755)
    try:
        yield place
    except BaseException:
        shutil.rmtree(place, ignore_errors=True)
        raise


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write ``document``; NaN and infinity become null, for JSON has none."""
    path.write_text(json.dumps(_finite(document), indent=1, allow_nan=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object. Raises ArtifactError naming the file that is missing or holds none."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror}; is {path.parent} a model artifact?") from None
    except ValueError as error:
        raise ArtifactError(f"{path} is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise ArtifactError(f"{path} holds no JSON object")
    return document


def check_hashes(folder: Path, hashes: Mapping[str, str]) -> None:
    """Raise ArtifactError at the first file of ``folder`` that is missing or does not have its SHA-256."""
    for name, expected in hashes.items():
        path = folder / name
        if not path.is_file():
            raise ArtifactError(f"{path} is missing; the artifact is not whole: train or copy it anew")
        if sha256(path) != expected:
            raise ArtifactError(f"{path} does not match its hash: train or copy the artifact anew")


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file as hexadecimal text."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
