"""The training set: the decision log joined with its features, each as it was known at the decision.

Feast's ``get_historical_features`` does the join, some members at a time: it takes the memory of one part, however
long the log is.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from feast import FeatureService, FeatureStore
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from contracts.decision_log import CORE
from contracts.errors import LogError, SpecError, StoreError
from contracts.settings import Settings
from contracts.spec import Spec
from feature_repo.catalog import applied_service, check_tables, feature_names, stored_views
from feature_repo.online_reader import DECIDED_AT
from feature_repo.online_source import JOIN_KEY
from feature_repo.pushed_rows import take_in_pushes
from feature_repo.store import feast_errors, open_store

ROWS_PER_PART = 100_000
"""Decisions after which a part ends with its member: with 50 features about 100 MB while it is joined."""
_ROWS_AT_ONCE = 65_536
_KEY = ("member_id", "decided_at")


@dataclass(frozen=True)
class TrainingSetReport:
    """What a training set holds."""

    rows: int
    members: int
    parts: int
    missing: dict[str, float]
    """Share of the rows in which each feature, in the service's order, is missing: never known, or stale."""
    seconds: float


def build_training_set(spec: Spec, settings: Settings, progress: bool = True) -> TrainingSetReport:
    """Join the tenant's clean log with the features of its service, point in time, into ``Workspace.training_set``.

    A row's features are the last ones whose event time is at or before ``decided_at`` and no older than their view's
    ttl; on-demand features are computed for ``decided_at``. The parts ``part-00000.parquet``, ... hold whole members,
    sorted by member_id and decided_at, with the log's columns, then the features as double, null where missing;
    ``features.json`` beside them lists the features in the service's order. A context column of the log that is named
    like a feature gives way to it. An earlier training set is replaced when the new one is complete.

    Parameters
    ----------
    spec
        The deployment.
    settings
        Where the log, the tables and the registry are.
    progress
        Show a progress bar on standard error.

    Raises
    ------
    LogError
        If there is no log or no table, or the log is not sorted, or says twice what was decided for one member and
        moment.
    SpecError
        If the service is unknown, or a candidate feature is named like a feature of the service.
    StoreError
        If the service was not applied, or Feast fails or does not return each decision once.
    """
    started = monotonic()
    workspace = settings.workspace(spec.name)
    check_tables(spec, settings)
    log = _open_log(workspace.log)
    store = open_store(settings)
    service = applied_service(store, spec, settings)
    take_in_pushes(stored_views(store, service), settings)
    features = feature_names(service)
    context = _replaced_columns(spec, log.schema_arrow.names, features)
    missing = np.zeros(len(features), dtype=np.int64)
    rows, members, parts = log.metadata.num_rows, 0, 0
    workspace.root.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix=".training-set-", dir=workspace.root) as folder,
        _progress_bar(progress) as bar,
    ):
        new = Path(folder) / "new"
        new.mkdir()
        task = bar.add_task("joining features", total=rows)
        for part in _parts(log, workspace.log):
            joined = part.drop_columns(context)
            for name, column in zip(features, _join(store, service, part, features), strict=True):
                joined = joined.append_column(name, column)
            pq.write_table(joined, new / f"part-{parts:05}.parquet", compression="zstd")
            missing += [joined[name].null_count for name in features]
            members += pc.count_distinct(part["member_id"]).as_py()
            parts += 1
            bar.advance(task, part.num_rows)
        # What trains on the parts does not know Feast, and must know the service's order.
        (new / "features.json").write_text(json.dumps(features), encoding="utf-8")
        if workspace.training_set.exists():
            workspace.training_set.rename(Path(folder) / "old")
        new.rename(workspace.training_set)
    shares = dict(zip(features, (missing / rows).tolist(), strict=True))
    return TrainingSetReport(rows, members, parts, shares, monotonic() - started)


def _open_log(path: Path) -> pq.ParquetFile:
    try:
        log = pq.ParquetFile(path)
    except FileNotFoundError:
        raise LogError(f"{path}: no decision log; import one, or simulate it") from None
    except (OSError, pa.ArrowInvalid) as error:
        raise LogError(f"{path}: not a whole Parquet file ({error}); import the log again") from None
    if not log.metadata.num_rows:
        raise LogError(f"{path}: the decision log is empty; import one with rows")
    return log


def _replaced_columns(spec: Spec, columns: Sequence[str], features: Sequence[str]) -> list[str]:
    """Return the log's context columns that a feature of the same name replaces."""
    both = [name for name in columns if name in features]
    contract = {*CORE, *spec.state.candidate, *(f"reward_{name}" for name in spec.rewards)}
    for name in both:
        if name in contract:
            raise SpecError(
                f"spec {spec.name!r}: {name!r} is a column of the decision log and a feature of "
                f"{spec.state.feature_service!r}; rename one of them"
            )
    return both


def _parts(log: pq.ParquetFile, path: Path) -> Iterator[pa.Table]:
    """Yield the log in parts of whole members, in its order."""
    rest = log.schema_arrow.empty_table()
    for batch in log.iter_batches(batch_size=_ROWS_AT_ONCE):
        rest = pa.concat_tables([rest, pa.Table.from_batches([batch])])
        _check_order(rest, path)
        rest = yield from _whole_members(rest)
    yield rest


def _whole_members(table: pa.Table) -> Generator[pa.Table, None, pa.Table]:
    """Yield full parts of ``table``; return the rows after them, the last member's among them."""
    members = table["member_id"].combine_chunks()
    starts = np.flatnonzero(pc.not_equal(members[1:], members[:-1]).to_numpy(zero_copy_only=False)) + 1
    first = 0
    for end in starts.tolist():
        if end - first >= ROWS_PER_PART:
            yield table.slice(first, end - first)
            first = end
    return table.slice(first)


def _check_order(table: pa.Table, path: Path) -> None:
    members, times = (table[name].combine_chunks() for name in _KEY)
    later = pc.greater(times[1:], times[:-1])
    ordered = pc.or_(
        pc.greater(members[1:], members[:-1]), pc.and_(pc.equal(members[1:], members[:-1]), later)
    ).to_numpy(zero_copy_only=False)
    if not ordered.all():
        row = int(np.argmin(ordered)) + 1
        raise LogError(
            f"{path}: rows must rise by member_id and decided_at; {members[row]} at {times[row]} comes after "
            f"{members[row - 1]} at {times[row - 1]}. Import the log again"
        )


def _join(store: FeatureStore, service: FeatureService, part: pa.Table, features: Sequence[str]) -> list[pa.Array]:
    """Return the features of each row of ``part``, in its order, as doubles; null where missing."""
    at = part["decided_at"]
    decisions = pa.table(
        {
            JOIN_KEY: part["member_id"],
            "event_timestamp": at,
            DECIDED_AT: at.cast(pa.timestamp("ms", tz="UTC"), safe=False).cast(pa.int64()),
        }
    ).to_pandas()
    with feast_errors(f"joining {len(decisions)} decisions with {service.name!r}"):
        joined = store.get_historical_features(entity_df=decisions, features=service).to_arrow()
    joined = joined.sort_by([(JOIN_KEY, "ascending"), ("event_timestamp", "ascending")])
    keys = [joined[JOIN_KEY].cast(pa.string()), joined["event_timestamp"].cast(at.type)]
    if not (keys[0].equals(part["member_id"]) and keys[1].equals(at)):
        raise StoreError(
            f"Feast returned {joined.num_rows} rows for {part.num_rows} decisions, or other ones; is the log damaged?"
        )
    columns = [joined[name].cast(pa.float64(), safe=False).combine_chunks() for name in features]
    return [pc.if_else(pc.is_nan(column), pa.scalar(None, pa.float64()), column) for column in columns]


def _progress_bar(shown: bool) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not shown,
    )
