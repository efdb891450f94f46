"""``feast apply`` and ``feast materialize-incremental`` for one deployment, as a person would type them."""

from __future__ import annotations

import fcntl
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

import pyarrow as pa
from feast import FeatureStore, FeatureView, FileSource

from contracts.errors import LogError, StoreError, StoreUnavailable
from contracts.settings import CHECKOUT, Settings, load_settings
from contracts.spec import Spec
from feature_repo.catalog import applied_service, check_tables, is_pushed, service_features, stored_views
from feature_repo.ingest import restore
from feature_repo.load_records import LoadRecord, fingerprint, last_event, read_record, write_record
from feature_repo.online_rows import OnlineRows
from feature_repo.pushed_rows import keep_rows, take_in
from feature_repo.store import REPO, feast_errors, open_store
from feature_repo.tables import EPOCH

__all__ = ["MaterializationReport", "apply", "materialize", "service_features"]

_UNAVAILABLE = (
    *(f"redis.exceptions.{name}" for name in ("ConnectionError", "TimeoutError", "RedisClusterException")),
    "contracts.errors.ServerError",
)

Load = Literal["reloaded", "incremental", "current"]


@dataclass(frozen=True)
class MaterializationReport:
    """What a materialization did."""

    end: datetime
    """Rows known up to here are online."""
    loads: dict[str, Load]
    """For each view: all rows anew, those since the last time, or nothing to do."""


def apply(settings: Settings) -> str:
    """Run ``feast apply`` and return what it says. Of two calls at once the second waits for the first.

    It runs in a process of its own, so that definitions are read afresh: own data is defined by the specs in ``var``.

    Raises
    ------
    StoreUnavailable
        If Redis does not answer; it is asked only where a view that held data is removed.
    StoreError
        With Feast's reason, if it refuses.
    """
    _check_environment(settings)
    command = [sys.executable, "-m", "feast.cli.cli", "--chdir", str(REPO), "apply"]
    with _one_at_a_time(settings):
        _forget_moved_tables(settings)
        # From the checkout, so that the class paths in feature_store.yaml resolve, installed or not.
        done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = _reason(done.stderr or done.stdout)
        unavailable = reason.startswith(_UNAVAILABLE)
        raise (StoreUnavailable if unavailable else StoreError)(f"feast apply failed: {reason}")
    return done.stdout


def materialize(spec: Spec, settings: Settings, end: datetime | None = None) -> MaterializationReport:
    """Bring the views of ``spec``'s service online, up to ``end``, by Feast's ``materialize_incremental``.

    A view whose rows are not those that were loaded, or that the online store does not hold (emptied, another
    server), is cleared and loaded from its first row. Calls wait for each other.

    Pushes outlive that: a pushed view's table first takes in the rows that ingest kept; rows online that are newer
    than the last load stay; and the counters of members with events are pushed again over what was loaded.

    Parameters
    ----------
    spec
        The deployment.
    settings
        Where the tables, the registry and Redis are.
    end
        Rows known after it stay offline; timezone-aware. None: the last row of the tables.

    Raises
    ------
    LogError
        If a table is missing or does not hold what its view names.
    StoreUnavailable
        If Redis does not answer.
    StoreError
        If the service was not applied as it is defined now, or Feast fails.
    """
    if end is not None and end.tzinfo is None:
        raise ValueError(f"end {end} has no time zone; use UTC")
    check_tables(spec, settings)
    with _one_at_a_time(settings), feast_errors(f"materializing {spec.state.feature_service!r}"):
        store = open_store(settings)
        views = _stored_views(store, spec, settings)
        pushed = [view for view in views if is_pushed(view)]
        only_online = [(view, _take_in_pushes(store, view, settings)) for view in pushed]
        end = end or max(filter(None, (last_event(_table(view)) for view in views)), default=None)
        if end is None:
            raise LogError(f"{', '.join(str(_table(view)) for view in views)}: no rows; import tables that have some")
        loads = _load(store, views, end)
        for view, rows in only_online:
            OnlineRows(store, view).push(rows)
        # Over what a reload left, or where a table has newer rows than events have seen.
        restore(store, [view for view in pushed if loads[view.name] != "current"], settings)
        return MaterializationReport(end, loads)


def _take_in_pushes(store: FeatureStore, view: FeatureView, settings: Settings) -> pa.Table:
    """Put what was pushed to ``view`` into its table; return the rows that a reload would take from the online store.

    What is newer online than the last load was pushed by someone. In the table it outlives the clearing, and a kill.
    """
    take_in(view, settings)
    rows = OnlineRows(store, view)
    if _plan(store, view, EPOCH)[0] != "reloaded":
        return rows.schema.empty_table()
    found = rows.later_than(_loaded_until(store, view), _table(view))
    keep_rows(view, found, settings)
    take_in(view, settings)
    return found


def _loaded_until(store: FeatureStore, view: FeatureView) -> datetime:
    record = read_record(store, view)
    return record.end if record else view.most_recent_end_time or EPOCH


def _load(store: FeatureStore, views: Sequence[FeatureView], end: datetime) -> dict[str, Load]:
    plans = {view.name: _plan(store, view, end) for view in views}
    for view in views:
        if plans[view.name][0] == "reloaded":
            # A load that breaks off halfway shall not pass for the one that is cleared here.
            write_record(store, view, LoadRecord("", _loaded_until(store, view)))
            _clear(store, view)
    behind = {name: start for name, (load, start) in plans.items() if load != "current"}
    for start in dict.fromkeys(behind.values()):
        names = [name for name in behind if behind[name] == start]
        if start is None:
            store.materialize_incremental(end, names)
        else:
            store.materialize(start, end, names)
    for view in views:
        if view.name in behind:
            write_record(store, view, LoadRecord(fingerprint(_table(view), view, end), end))
    return {name: load for name, (load, _) in plans.items()}


def _plan(store: FeatureStore, view: FeatureView, end: datetime) -> tuple[Load, datetime | None]:
    """Return what to do, and from when on; None: from where Feast's registry says it was left."""
    record, progress = read_record(store, view), view.most_recent_end_time
    if (
        record is None
        or progress is None
        or progress < record.end  # the registry is new, after `feast teardown` or a removal: trust nothing
        or record.rows != fingerprint(_table(view), view, record.end)
    ):
        return "reloaded", EPOCH
    if record.end >= end:
        return "current", None
    # They differ where someone typed `feast materialize-incremental` since, maybe into another server.
    return "incremental", None if record.end == progress else record.end


def _clear(store: FeatureStore, view: FeatureView) -> None:
    """Remove the view's values of all members: Feast's Redis store keeps a value that is newer than the one written."""
    online = store.provider.online_store
    online.update(store.config, [view], [], [], [], partial=True)
    online.update(store.config, [], [view], [], [], partial=True)


def _stored_views(store: FeatureStore, spec: Spec, settings: Settings) -> list[FeatureView]:
    views = stored_views(store, applied_service(store, spec, settings))
    for view in views:
        if not view.online:
            raise StoreError(
                f"feature view {view.name!r} was applied before its table {_table(view)} was there; run "
                "`make apply` again"
            )
    return views


def _table(view: FeatureView) -> Path:
    assert isinstance(view.batch_source, FileSource)
    return Path(view.batch_source.path)


def _forget_moved_tables(settings: Settings) -> None:
    """Remove a registry whose tables lie elsewhere, as after the state folder was moved: Feast never updates a path."""
    with suppress(StoreError):
        store = open_store(settings)
        if not all(_table(view).is_relative_to(settings.var) for view in store.list_feature_views()):
            Path(store.config.registry.path).unlink()


def _check_environment(settings: Settings) -> None:
    """Raise StoreError where Feast's own process would work on another state folder."""
    elsewhere = load_settings().var
    if elsewhere != settings.var:
        raise StoreError(
            f"feast would use the state folder {elsewhere}, not {settings.var}; set PACER_VAR={settings.var}"
        )


@contextmanager
def _one_at_a_time(settings: Settings) -> Iterator[None]:
    lock = settings.var / "feast" / "deploy.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _reason(output: str) -> str:
    """Return the last error in a command's output without its traceback."""
    lines = output.rstrip().splitlines()
    last_frame = max((i for i, line in enumerate(lines) if line.startswith("  File ")), default=-1)
    # Below the frame stand the line of code and its markers, indented; then the error, which may have several lines.
    error = [line for line in lines[last_frame + 1 :] if not line.startswith("    ")]
    return "\n".join(error) or output
