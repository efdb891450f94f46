"""The skew check: what decisions were served with, against what the offline store says of the same moments.

Every row that serving logged names, a view each, the event time of the row that was read. Feast's point-in-time join
at exactly that time gives the value that training sees; on-demand features are made of it for the time of the
decision. Where the two differ, the model is trained on something else than it is served.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from feast import FeatureStore, FeatureView
from numpy.typing import NDArray

from contracts.errors import ArtifactError, LogError
from contracts.settings import Settings
from contracts.spec import Spec, nearest
from feature_repo.catalog import applied_service, stored_views
from feature_repo.online_reader import DECIDED_AT
from feature_repo.online_source import JOIN_KEY
from feature_repo.pushed_rows import take_in_pushes
from feature_repo.store import feast_errors, open_store
from feature_repo.tables import EVENT_TIME
from models.artifact import load_artifact
from models.encoding import to_float32
from serve.log_rows import FEATURES, VIEW_TIME, unpack_features

ROWS_AT_ONCE = 20_000


@dataclass(frozen=True)
class Difference:
    """One value that was served and is another one offline."""

    member_id: str
    decided_at: datetime
    known_at: datetime | None
    """Event time of the row that was read; None: there was none."""
    served: float
    offline: float


@dataclass
class SkewReport:
    """What a skew check found."""

    decisions: int = 0
    """Decisions compared."""
    skipped: int = 0
    """Rows of the log that do not say what was read: another version wrote them."""
    values: int = 0
    differing: dict[str, int] = field(default_factory=dict)
    """Values that differ, by feature; features without any are not named."""
    examples: dict[str, Difference] = field(default_factory=dict)
    missing: dict[str, int] = field(default_factory=dict)
    """By view: decisions whose member it held nothing of."""
    stale: dict[str, int] = field(default_factory=dict)
    """By view: decisions at which what it held was older than its ttl."""


def check_skew(spec: Spec, settings: Settings, folder: Path | None = None) -> SkewReport:
    """Compare every decision in the served log with the offline store.

    Parameters
    ----------
    spec
        The deployment.
    settings
        Where the artifacts, the registry and the tables are.
    folder
        Parquet files that ``python -m serve drain`` wrote; None: those of the deployment.

    Raises
    ------
    LogError
        If there is no served log, or a row is damaged.
    ArtifactError
        If a model that decided is not there any more, or read features that the service has not.
    StoreError
        If the service was not applied as it is defined, or Feast fails.
    """
    workspace = settings.workspace(spec.name)
    folder = folder or workspace.served
    files = sorted(folder.glob("*.parquet"))
    if not files:
        raise LogError(f"{folder}: no decisions served; ask for some, then `make drain`")
    store = open_store(settings)
    check = _Check(store, spec, settings)
    for file in files:
        for rows in _portions(file):
            check.add(rows, file)
    return check.report


class _Check:
    def __init__(self, store: FeatureStore, spec: Spec, settings: Settings) -> None:
        self.report = SkewReport()
        self._store, self._artifacts = store, settings.workspace(spec.name).artifacts
        service = applied_service(store, spec, settings)
        self._views = stored_views(store, service)
        take_in_pushes(self._views, settings)
        on_demand = {view.name: view for view in store.list_on_demand_feature_views()}
        self._references: dict[str, dict[str, str]] = {view.name: {} for view in self._views}
        """For each stored view: the service's features that follow from it, and their references in Feast."""
        for projection in service.feature_view_projections:
            made = on_demand.get(projection.name)
            sources = [s.name for s in made.source_feature_view_projections.values()] if made else [projection.name]
            if len(sources) == 1:  # what is made of rows of two times can't be joined at one
                self._references[sources[0]] |= {f.name: f"{projection.name}:{f.name}" for f in projection.features}
        self._names: dict[str, tuple[str, ...]] = {}

    def add(self, rows: pa.Table, file: Path) -> None:
        """Compare rows of the served log in ``file``."""
        whole = rows.filter(rows[FEATURES].is_valid()) if FEATURES in rows.column_names else rows.slice(0, 0)
        self.report.skipped += rows.num_rows - whole.num_rows
        for model in whole["model"].unique().to_pylist() if whole.num_rows else ():
            decided = whole.filter(pa.compute.equal(whole["model"], model))
            names = self._features_of(str(model))
            try:
                served = unpack_features(decided[FEATURES].to_pylist(), len(names))
            except ValueError as error:
                raise LogError(f"{file}: a row of {model}: {error}; the log is damaged") from None
            self.report.decisions += decided.num_rows
            for view in self._views:
                self._compare(view, decided, dict(zip(names, served.T, strict=True)))

    def _compare(self, view: FeatureView, decided: pa.Table, served: Mapping[str, NDArray[np.float32]]) -> None:
        references = {name: ref for name, ref in self._references[view.name].items() if name in served}
        column = VIEW_TIME + view.name
        known = decided[column] if column in decided.column_names else pa.nulls(decided.num_rows, pa.float64())
        known_us = known.cast(pa.float64()).fill_null(-1).to_numpy().astype(np.int64)
        at_us = decided["decided_at"].cast(pa.int64()).to_numpy()
        ttl_us = (view.ttl or timedelta()) // timedelta(microseconds=1)
        stale = (known_us >= 0) & (at_us - known_us > ttl_us) if ttl_us else np.zeros(len(at_us), np.bool_)
        _count(self.report.missing, view.name, known_us < 0)
        _count(self.report.stale, view.name, stale)
        joined = np.flatnonzero((known_us >= 0) & ~stale)
        offline = {name: np.full(len(at_us), np.nan, np.float32) for name in references}
        for name, values in self._join(references, decided.take(joined), known_us[joined]).items():
            offline[name][joined] = values
        for name, values in offline.items():
            differ = ~((values == served[name]) | (np.isnan(values) & np.isnan(served[name])))
            self.report.values += len(values)
            _count(self.report.differing, name, differ)
            if differ.any() and name not in self.report.examples:
                row = int(np.argmax(differ))
                self.report.examples[name] = Difference(
                    decided["member_id"][row].as_py(),
                    decided["decided_at"][row].as_py(),
                    _moment(int(known_us[row])) if known_us[row] >= 0 else None,
                    float(served[name][row]),
                    float(values[row]),
                )

    def _join(
        self, references: Mapping[str, str], decided: pa.Table, known_us: NDArray[np.int64]
    ) -> dict[str, NDArray[np.float32]]:
        """Return the features at ``known_us`` from the offline store, in the order of ``decided``."""
        if not references or not decided.num_rows:
            return {}
        at_ms = decided["decided_at"].cast(pa.int64()).to_numpy() // 1_000
        entities = pa.table(
            {
                JOIN_KEY: decided["member_id"],
                EVENT_TIME: pa.array(known_us).cast(pa.timestamp("us", "UTC")),
                DECIDED_AT: at_ms,
                # Two decisions may be alike in all of the above: theirs are the same values.
            }
        ).to_pandas()
        order = [JOIN_KEY, EVENT_TIME, DECIDED_AT]
        with feast_errors(f"joining {len(entities)} decisions served"):
            joined = self._store.get_historical_features(
                entity_df=entities.drop_duplicates(), features=list(references.values())
            ).to_df()
        joined[EVENT_TIME] = joined[EVENT_TIME].astype(entities[EVENT_TIME].dtype)
        joined[JOIN_KEY] = joined[JOIN_KEY].astype(str)
        found = entities.merge(joined, on=order, how="left", validate="many_to_one")
        return {name: to_float32(found[name].to_numpy(dtype=np.float64, na_value=np.nan)) for name in references}

    def _features_of(self, model: str) -> tuple[str, ...]:
        if model not in self._names:
            names = load_artifact(self._artifacts / model.rpartition("/")[2]).service_features
            known = {name for references in self._references.values() for name in references}
            gone = [name for name in names if name not in known]
            if gone:
                said = ", ".join(f"{name!r}{nearest(name, known)}" for name in gone)
                raise ArtifactError(
                    f"{model} was served features that the service has no more, or makes of two views: {said}"
                )
            self._names[model] = names
        return self._names[model]


def _portions(file: Path) -> Iterator[pa.Table]:
    try:
        for batch in pq.ParquetFile(file).iter_batches(batch_size=ROWS_AT_ONCE):
            yield pa.Table.from_batches([batch])
    except (OSError, pa.ArrowInvalid) as error:
        raise LogError(f"{file}: not a whole Parquet file ({error}); remove it") from None


def _count(counts: dict[str, int], name: str, which: NDArray[np.bool_]) -> None:
    if which.any():
        counts[name] = counts.get(name, 0) + int(which.sum())


def _moment(us: int) -> datetime:
    return datetime.fromtimestamp(0, UTC) + timedelta(microseconds=us)


def rows_of(report: SkewReport) -> Sequence[tuple[Any, ...]]:
    """Return a table of the differences: feature, values that differ, and one of them."""
    return [
        (name, count, one.member_id, one.decided_at, one.known_at, one.served, one.offline)
        for name, count in sorted(report.differing.items(), key=lambda item: -item[1])
        for one in [report.examples[name]]
    ]
