"""Feast's registry as a file under ``var``: written whole or not at all, and by one writer at a time."""

from __future__ import annotations

import fcntl
import os
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from feast.infra.registry.file import FileRegistryStore

from contracts.errors import StoreError
from contracts.settings import load_settings


class LocalRegistryStore(FileRegistryStore):
    """Feast's file registry with a path relative to ``PACER_VAR``, atomic writes and no lost updates.

    Feast keeps the whole registry in memory between its reads and writes, so that of two commands at once the
    last would undo what the first wrote. Here the second is refused, and can simply be run again.
    """

    def __init__(self, registry_config: Any, repo_path: Path | None) -> None:
        super().__init__(registry_config, repo_path or Path())
        self._filepath: Path = load_settings().var / registry_config.path  # an absolute path stays as it is
        self._version_read: str | None = None

    def get_registry_proto(self) -> Any:
        """Read the registry. Raises FileNotFoundError, which Feast expects, where there is none."""
        proto = super().get_registry_proto()  # type: ignore[no-untyped-call]
        self._version_read = proto.version_id
        return proto

    def _write_registry(self, registry_proto: Any) -> None:
        self._filepath.parent.mkdir(parents=True, exist_ok=True)
        with self._filepath.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._refuse_if_changed()
            registry_proto.version_id = str(uuid.uuid4())
            registry_proto.last_updated.FromDatetime(datetime.now(UTC))
            written = self._filepath.with_suffix(".tmp")
            written.write_bytes(registry_proto.SerializeToString())
            os.replace(written, self._filepath)
            self._version_read = registry_proto.version_id

    def _refuse_if_changed(self) -> None:
        """Raise StoreError where another process wrote the registry since this one read it."""
        try:
            current = super().get_registry_proto().version_id  # type: ignore[no-untyped-call]
        except FileNotFoundError:
            return
        if current != self._version_read:
            raise StoreError(
                f"{self._filepath}: another process changed Feast's registry meanwhile (two `feast apply` at once?); "
                "nothing was written, run the command again"
            )
