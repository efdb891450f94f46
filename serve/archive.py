"""Archives: a model artifact and the handler as the ``.mar`` file that TorchServe loads."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from contracts.errors import ArtifactError
from contracts.settings import Settings
from serve.torchserve_config import TorchServeConfig

HANDLER = Path(__file__).with_name("handler.py")

logger = logging.getLogger(__name__)

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
# By default a worker whose model did not load for five minutes, say for want of Redis, is given up for
# good. TorchServe multiplies by 1,000 in 32 bits, so this is the most it can take: 24 days. Where an archive has a
# configuration, its time limits are those that hold, whatever config.properties says.
_MODEL_CONFIG = f"""maxRetryTimeoutInSec: 2147483
responseTimeout: {TorchServeConfig.response_timeout_s}
startupTimeout: {TorchServeConfig.startup_timeout_s}
"""


def pack(artifact: Path, tenant: str, version: str, out: Path, *, handler: Path = HANDLER) -> Path:
    """Pack the files of folder ``artifact`` with ``handler`` as ``out/<tenant>.mar`` and return its path.

    The archive appears in one step, in place of an older one.

    Raises ArtifactError if a name cannot stand in a URL, the artifact is no folder with files in it, or
    torch-model-archiver fails.
    """
    if not _NAME.fullmatch(tenant):
        raise ArtifactError(f"tenant {tenant!r} cannot name an archive: letters, digits, - and _, a letter first")
    if not _VERSION.fullmatch(version):
        raise ArtifactError(f"version {version!r} cannot name an archive's version: letters, digits, '.', - and _")
    if not artifact.is_dir() or not any(artifact.iterdir()):
        raise ArtifactError(f"{artifact} is no model artifact: a folder with files; `make train` writes one")
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".pack-", dir=out) as folder:
        stage = Path(folder)
        # The archiver takes globs and comma-separated lists, so paths that come from outside stay out
        # of its command line; and it empties <TMPDIR>/<model name>, so it gets a TMPDIR of its own.
        (stage / "artifact").symlink_to(artifact.resolve())
        (stage / "model-config.yaml").write_text(_MODEL_CONFIG, encoding="ascii")
        (stage / "tmp").mkdir()
        shutil.copy(handler, stage / "handler.py")
        command = [
            *(sys.executable, "-m", "model_archiver.model_packaging"),
            *("--model-name", tenant, "--version", version),
            *("--handler", "handler.py", "--extra-files", "artifact", "--config-file", "model-config.yaml"),
            *("--export-path", "."),
        ]
        environment = {"PATH": os.defpath, "TMPDIR": str(stage / "tmp"), "LC_ALL": "C.UTF-8"}
        done = subprocess.run(command, cwd=stage, env=environment, capture_output=True, text=True, check=False)
        packed = stage / f"{tenant}.mar"
        if done.returncode != 0 or not packed.is_file():
            raise ArtifactError(f"torch-model-archiver could not pack {artifact}:\n{done.stderr.strip()}")
        return packed.replace(out / packed.name)


def deployed_archives(settings: Settings) -> dict[str, Path]:
    """Return the archive of every tenant that has one: tenant -> ``.mar`` file.

    One that is no archive is left out with a warning, lest it keeps the other tenants from being served.
    """
    archives: dict[str, Path] = {}
    for path in sorted(settings.var.glob("*/archive/*.mar")):
        if path.parent != settings.workspace(path.stem).archives:
            continue
        try:
            archive_version(path)
        except ArtifactError as error:
            logger.warning("%s; the tenant is left out", error)
        else:
            archives[path.stem] = path
    return archives


def archive_version(archive: Path) -> str:
    """Return the model version that the manifest of ``archive`` names. Raises ArtifactError."""
    try:
        with zipfile.ZipFile(archive) as content:
            manifest = json.loads(content.read("MAR-INF/MANIFEST.json"))
        return str(manifest["model"]["modelVersion"])
    except (OSError, zipfile.BadZipFile, KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"{archive} is no model archive ({error}); `make archive` writes one") from error
