"""Great Expectations' file context of a deployment: built anew by each run, put in place when whole.

A run builds beside the folder and moves the result in at its end, so what a killed run leaves is never
read, and Data Docs stay readable meanwhile. Earlier runs' results are carried over, for the history in Data Docs.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from great_expectations.data_context.data_context.file_data_context import FileDataContext

RUNS_KEPT = 10
"""Runs that Data Docs show, this one included."""

_RESULTS = Path("uncommitted", "validations")
_SITE = Path("uncommitted", "data_docs", "local_site")
_REMOTE_LOGO = re.compile(rb'https://[^"]*/logo-long\.png\?[^"]*')


def data_docs_index(folder: Path) -> Path:
    """Return where the Data Docs of the context in ``folder`` start."""
    return folder / _SITE / "index.html"


@contextmanager
def new_context(folder: Path, progress: Callable[[str], None]) -> Iterator[FileDataContext]:
    """Yield an empty file context that takes the place of ``folder`` when the block ends without an error.

    One run at a time: a second one waits, and says so through ``progress``.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(folder.name + ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("waiting for another validation of this deployment to end")
            fcntl.flock(lock, fcntl.LOCK_EX)
        new, old = folder.with_name(folder.name + ".new"), folder.with_name(folder.name + ".old")
        _remove(new)
        _remove(old)
        _carry_history(folder, new)
        try:
            yield _context(new)
        except BaseException:
            _remove(new)
            raise
        _use_local_logo(new / _SITE)
        if folder.exists():
            folder.rename(old)
        new.rename(folder)
        _remove(old)


def _context(root: Path) -> FileDataContext:
    import great_expectations as gx
    from great_expectations.data_context.types.base import (
        DataContextConfig,
        FilesystemStoreBackendDefaults,
        ProgressBarsConfig,
    )

    config = DataContextConfig(
        analytics_enabled=False,
        progress_bars=ProgressBarsConfig(globally=False),
        store_backend_defaults=FilesystemStoreBackendDefaults(),
    )
    context = gx.get_context(mode="file", context_root_dir=root, project_config=config)
    context.variables.save()
    return context


def _use_local_logo(site: Path) -> None:
    """Take the pages' logo from the site itself: Great Expectations' own server is asked for it by the context's id."""
    for page in site.rglob("*.html"):
        logo = os.path.relpath(site / "static" / "images" / "logo-long.png", page.parent)
        page.write_bytes(_REMOTE_LOGO.sub(logo.encode(), page.read_bytes()))


def _carry_history(folder: Path, new: Path) -> None:
    """Copy the newest results and their pages; both lie at ``<suite>/<run name>/<run time>/<batch>``."""
    results = folder / _RESULTS
    files = [file for file in results.glob("*/*/*/*.json") if file.is_file()]
    kept = sorted({file.parent.name for file in files})[1 - RUNS_KEPT :]
    for file in files:
        place = file.relative_to(results)
        page = (_SITE / "validations" / place).with_suffix(".html")
        if file.parent.name in kept and (folder / page).is_file():
            for part in (_RESULTS / place, page):
                (new / part).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(folder / part, new / part)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
