"""Features for serving: all members and views of a batch in one round trip, as one array.

Values are those of Feast's ``get_online_features``, but for the stale: Feast's SDK returns a value however old it
is, while its point-in-time join, and so the training set, drops one older than its view's ttl. Here, as there, a
stale value is missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Self

import numpy as np
import pyarrow as pa
from feast import FeatureStore, OnDemandFeatureView
from feast.errors import FeatureServiceNotFoundException
from numpy.typing import NDArray

from contracts.errors import SpecError
from contracts.settings import Settings
from feature_repo.online_arrays import StoredView
from feature_repo.online_source import JOIN_KEY, OnlineSource, online_source
from feature_repo.store import feast_errors, open_store

DECIDED_AT = "decided_at_ms"
"""The request field of on-demand views: the moment asked for, Unix time in ms."""


@dataclass(frozen=True)
class OnlineFeatures:
    """F features of n members, from V stored views. Where one is not known, one of three masks says why."""

    values: NDArray[np.float64]
    """[n, F], in the order of the reader's ``feature_names``; NaN where not known."""
    stale: NDArray[np.bool_]
    """[n, F]: what is stored was older than its view's ttl at the moment asked for."""
    never_materialized: NDArray[np.bool_]
    """[n, F]: its view holds nothing of any member seen so far, and Feast's registry says it was never filled."""
    event_us: NDArray[np.int64]
    """[n, V]: since when the values of each of the reader's ``view_names`` were known, Unix time in µs; -1: the view
    holds nothing of the member."""

    @property
    def event_ms(self) -> NDArray[np.int64]:
        """The same in ms."""
        return np.where(self.event_us < 0, -1, self.event_us // 1_000)

    @property
    def missing(self) -> NDArray[np.bool_]:
        """[n, F]: nothing is stored of the member, or no value, in a view that holds others."""
        return np.isnan(self.values) & ~self.stale & ~self.never_materialized


class OnlineReader:
    """Reads the features of one feature service. May be shared by threads."""

    def __init__(self, plan: _Plan, source: OnlineSource, store: FeatureStore) -> None:
        self._plan, self._source, self._store = plan, source, store
        self._filled = np.zeros(len(plan.views), dtype=np.bool_)
        lengths = [len(view.features) for view in plan.views]
        self._view_of_column = np.repeat(np.arange(len(lengths)), lengths)
        stored = {name: i for i, name in enumerate(name for view in plan.views for name in view.features)}
        self._stored = stored
        self._from_stored = [(i, stored[name]) for i, name in enumerate(plan.feature_names) if name in stored]
        ttls_us = [(view.definition.ttl or timedelta()) // timedelta(microseconds=1) for view in plan.views]
        self._ttls_us = np.array([ttl or np.iinfo(np.int64).max for ttl in ttls_us], dtype=np.int64)

    @classmethod
    def open(cls, service_name: str, settings: Settings, timeout_seconds: float = 1.0) -> Self:
        """Open a reader of ``service_name`` as it was last applied. Connects at the first read.

        Parameters
        ----------
        service_name
            The feature service (``spec.state.feature_service``).
        settings
            Where the registry and Redis are.
        timeout_seconds
            A read fails when Redis takes longer.

        Raises
        ------
        StoreError
            If nothing was applied, or the registry can't be read.
        SpecError
            If there is no such service, or it has what can't be served: a feature that is no number, a view of
            another entity, a request field other than ``decided_at_ms``.
        """
        return cls.of(open_store(settings), service_name, timeout_seconds)

    @classmethod
    def of(cls, store: FeatureStore, service_name: str, timeout_seconds: float = 1.0) -> Self:
        """Open a reader on a feature store of any kind; see ``open``."""
        with feast_errors(f"opening feature service {service_name!r}"):
            plan = _make_plan(store, service_name)
            return cls(plan, online_source(store, plan.views, timeout_seconds), store)

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Every feature of the service, on-demand ones and counters included, in its order."""
        return self._plan.feature_names

    @property
    def view_names(self) -> tuple[str, ...]:
        """The stored views that are read, in the order of ``OnlineFeatures.event_us``."""
        return tuple(view.definition.name for view in self._plan.views)

    def read(self, member_ids: Sequence[str], at_ms: Sequence[int]) -> OnlineFeatures:
        """Read the features of n members, each as of its own moment.

        Parameters
        ----------
        member_ids
            n ids; a member may stand there twice.
        at_ms
            n moments, Unix time in ms: on-demand features are computed for them, and a value is stale when it is
            older than its view's ttl then. The store holds each member's last values only: they are returned for
            an earlier moment, too.

        Raises
        ------
        StoreUnavailable
            If Redis does not answer in time.
        StoreError
            If another online store, or an on-demand transformation, fails.
        """
        if len(member_ids) != len(at_ms):
            raise ValueError(f"{len(member_ids)} member_ids, but {len(at_ms)} at_ms")
        at = np.asarray(at_ms, dtype=np.int64)
        with feast_errors(f"reading features of {len(member_ids)} members"):
            stored = self._source.fetch({JOIN_KEY: member_ids})
            times_us = stored.times_us
            aged = (times_us >= 0) & (at[:, None] * 1_000 - times_us > self._ttls_us)
            aged_columns = aged[:, self._view_of_column] & ~stored.missing
            values = np.where(aged_columns, np.nan, stored.values)
            never = np.broadcast_to(~self._were_filled(times_us)[self._view_of_column], values.shape)
            return self._assemble(values, aged_columns, never, at, times_us)

    def _were_filled(self, times_us: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return for each view whether it ever held something: of a member read, or by what Feast's registry says."""
        self._filled |= (times_us >= 0).any(axis=0)
        for number in np.flatnonzero(~self._filled) if len(times_us) else ():
            name = self._plan.views[number].definition.name
            view = self._store.registry.get_feature_view(name, self._store.project, allow_cache=True)
            # Views here start as if materialized up to the epoch (tables.table_view).
            self._filled[number] = any(end > start for start, end in view.materialization_intervals)
        return self._filled

    def _assemble(
        self,
        stored: NDArray[np.float64],
        aged: NDArray[np.bool_],
        never: NDArray[np.bool_],
        at: NDArray[np.int64],
        event_us: NDArray[np.int64],
    ) -> OnlineFeatures:
        shape = (len(at), len(self.feature_names))
        values = np.empty(shape)
        stale, never_materialized = np.zeros(shape, dtype=np.bool_), np.zeros(shape, dtype=np.bool_)
        for to, column in self._from_stored:
            values[:, to], stale[:, to] = stored[:, column], aged[:, column]
            never_materialized[:, to] = never[:, column]
        for view in self._plan.on_demand:
            inputs = [self._stored[name] for name in view.inputs]
            outputs = view.compute({**{name: stored[:, self._stored[name]] for name in view.inputs}, DECIDED_AT: at})
            for to, name in view.outputs:
                values[:, to], stale[:, to] = outputs[name], aged[:, inputs].any(axis=1)
                never_materialized[:, to] = never[:, inputs].any(axis=1)
        return OnlineFeatures(values, stale & ~never_materialized, never_materialized, event_us)


@dataclass(frozen=True)
class _OnDemand:
    definition: OnDemandFeatureView
    inputs: tuple[str, ...]  # stored features
    outputs: tuple[tuple[int, str], ...]  # position among the service's features, name

    def compute(self, columns: dict[str, Any]) -> dict[str, NDArray[np.float64]]:
        """Run Feast's transformation on whole columns."""
        if not len(columns[DECIDED_AT]):
            return {name: np.empty(0) for _, name in self.outputs}
        if self.definition.mode == "python":
            made = self.definition.transform_dict(columns)
        else:
            made = self.definition.transform_arrow(pa.table(columns)).to_pydict()
        return {name: np.asarray(made[name], dtype=np.float64) for _, name in self.outputs}


@dataclass(frozen=True)
class _Plan:
    feature_names: tuple[str, ...]
    views: tuple[StoredView, ...]
    on_demand: tuple[_OnDemand, ...]


def _make_plan(store: FeatureStore, service_name: str) -> _Plan:
    try:
        service = store.get_feature_service(service_name)
    except FeatureServiceNotFoundException:
        known = ", ".join(service.name for service in store.list_feature_services())
        raise SpecError(
            f"feature service {service_name!r} was never applied (known: {known or 'none'}); run `make apply`"
        ) from None
    made = {view.name: view for view in store.list_on_demand_feature_views()}
    wanted: dict[str, dict[str, None]] = {}  # stored view -> its features, in order, without repeats
    names: list[str] = []
    on_demand: list[_OnDemand] = []
    for projection in service.feature_view_projections:
        features = [feature.name for feature in projection.features]
        if projection.name in made:
            definition = made[projection.name]
            sources = definition.source_feature_view_projections.values()
            _check_on_demand(service_name, definition)
            for source in sources:
                wanted.setdefault(source.name, {}).update(dict.fromkeys(field.name for field in source.features))
            inputs = tuple(field.name for source in sources for field in source.features)
            on_demand.append(_OnDemand(definition, inputs, tuple(enumerate(features, start=len(names)))))
        else:
            wanted.setdefault(projection.name, {}).update(dict.fromkeys(features))
        names += features
    views = tuple(StoredView(store.get_feature_view(name), tuple(features)) for name, features in wanted.items())
    for view in views:
        _check_stored(service_name, view)
    read = [name for view in views for name in view.features]
    repeated = sorted({name for group in (names, read) for name in group if group.count(name) > 1})
    if repeated:
        raise SpecError(f"feature service {service_name!r} has two features named {', '.join(repeated)}")
    return _Plan(tuple(names), views, tuple(on_demand))


def _check_on_demand(service_name: str, definition: OnDemandFeatureView) -> None:
    fields = set(definition.get_request_data_schema()) - {DECIDED_AT}
    if fields or definition.singleton:
        reason = f"asks for request fields {sorted(fields)}" if fields else "takes one row at a time (singleton)"
        raise SpecError(
            f"feature service {service_name!r}: on-demand view {definition.name!r} {reason}; a decision brings "
            f"{DECIDED_AT} only, in columns"
        )


def _check_stored(service_name: str, view: StoredView) -> None:
    definition = view.definition
    if definition.join_keys != [JOIN_KEY]:
        raise SpecError(
            f"feature service {service_name!r}: view {definition.name!r} is keyed by {definition.join_keys}, not by "
            f"[{JOIN_KEY!r}]"
        )
