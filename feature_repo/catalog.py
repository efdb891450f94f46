"""What is defined, asked from outside Feast: the features of a service, and whether its tables hold them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from feast import FeatureService, FeatureStore, FeatureView, FileSource, PushSource
from feast.errors import FeatureServiceNotFoundException

from contracts.errors import LogError, SpecError, StoreError
from contracts.settings import Settings
from contracts.spec import Spec, check_features, load_spec, nearest
from feature_repo import heartsteps, notification
from feature_repo.own_tables import own_definitions, own_service, own_views
from feature_repo.tables import EVENT_TIME, NUMBERS, feature_types

BUILT_IN: dict[str, FeatureService] = {
    service.name: service for service in (notification.notification_state_v1, heartsteps.heartsteps_state_v1)
}
BUILT_IN_VIEWS: dict[str, FeatureView] = {
    view.name: view
    for module in (notification, heartsteps)
    for view in vars(module).values()
    if type(view) is FeatureView
}
_KEY = {"member_id": pa.string(), EVENT_TIME: pa.timestamp("us", tz="UTC")}


def feature_names(service: FeatureService) -> tuple[str, ...]:
    """Return the names of a service's features in its order."""
    return tuple(feature.name for view in service.feature_view_projections for feature in view.features)


def service_features(service_name: str, settings: Settings) -> tuple[str, ...]:
    """Return all features of a service, on-demand ones and counters included, in its order.

    Raises SpecError where no definition has that service.
    """
    return feature_names(_find(service_name, settings))


def check_service(spec: Spec, settings: Settings, source: str) -> None:
    """Check the features that ``spec`` names before anything is imported; ``source`` names its file in errors.

    Raises SpecError if its feature service is not defined, or is defined by another deployment as well, or lacks a
    feature that the spec names.
    """
    if not spec.state.tables:
        check_features(spec, service_features(spec.state.feature_service, settings), source)
        return
    name = spec.state.feature_service
    owner = "feature_repo" if name in BUILT_IN else None
    for path in sorted(settings.var.glob("*/spec.yaml")):
        if path.parent.name != spec.name:
            other = load_spec(path)
            if other.state.tables and other.state.feature_service == name:
                owner = f"{path} (remove that file if the deployment is gone)"
    if owner:
        raise SpecError(
            f"{source}: state.feature_service = {name!r} is defined by {owner} already; choose another name, or drop "
            "state.tables to use the features it has"
        )
    check_features(spec, [feature for table in spec.state.tables.values() for feature in table.features], source)


def check_tables(spec: Spec, settings: Settings) -> None:
    """Check that the feature tables which ``spec``'s service reads are there, with the columns of its views.

    Raises
    ------
    SpecError
        If no such service is defined, or it reads the tables of another deployment though ``spec`` brought its own.
    LogError
        If a table is missing, or a column is missing or of a wrong type. Other columns may be there.
    """
    service = _defined(spec, settings)
    problems: list[str] = []
    for view in service.feature_view_projections:
        if view.batch_source is None:
            continue  # made on demand
        tenant, table = view.batch_source.tags["tenant"], view.batch_source.tags["table"]
        path = settings.workspace(tenant).features / f"{table}.parquet"
        # All of the view, not the service's part: on-demand views may read what the service leaves out.
        whole = BUILT_IN_VIEWS.get(view.name, view)
        brought = settings.workspace(spec.name).features / path.name
        if tenant != spec.name and brought.exists():
            raise SpecError(
                f"spec {spec.name!r}: state.feature_service = {service.name!r} reads {path}, not the {brought} that "
                f"came with the log of {spec.name!r}; name your tables in state.tables and the service anew, or remove "
                f"{brought.parent} to use the features of {tenant!r}"
            )
        problems += _table_problems(path, tuple(feature.name for feature in whole.features))
    if problems:
        raise LogError("\n".join(problems))


def applied_service(store: FeatureStore, spec: Spec, settings: Settings) -> FeatureService:
    """Return ``spec``'s feature service as it was applied last.

    Raises StoreError where it was not applied, or has other features than are defined now, or of other types.
    """
    name = spec.state.feature_service
    try:
        applied = store.get_feature_service(name)
    except FeatureServiceNotFoundException:
        raise StoreError(f"feature service {name!r} was never applied; run `make apply`") from None
    names, defined = feature_names(applied), feature_names(_defined(spec, settings))
    changed = sorted(set(names) ^ set(defined)) or list(names if names != defined else ())
    for view in applied.feature_view_projections:
        types = feature_types(Path(view.batch_source.path)) if isinstance(view.batch_source, FileSource) else {}
        changed += [
            feature.name for feature in view.features if types.get(feature.name, feature.dtype) != feature.dtype
        ]
    if changed:
        raise StoreError(
            f"feature service {name!r} was applied with other names, types or order of {', '.join(changed)} than are "
            "defined now; run `make apply`"
        )
    return applied


def stored_views(store: FeatureStore, service: FeatureService) -> list[FeatureView]:
    """Return the stored views that ``service`` reads, those that only its on-demand views read included."""
    on_demand = {view.name: view for view in store.list_on_demand_feature_views()}
    names: dict[str, None] = {}
    for projection in service.feature_view_projections:
        made = on_demand.get(projection.name)
        sources = made.source_feature_view_projections.values() if made else [projection]
        names.update(dict.fromkeys(source.name for source in sources))
    return [store.get_feature_view(name) for name in names]


def is_pushed(view: FeatureView) -> bool:
    """Return whether ``view`` is pushed to as well as materialized."""
    return isinstance(view.stream_source, PushSource)


def _defined(spec: Spec, settings: Settings) -> FeatureService:
    if spec.state.tables:
        return own_service(spec, own_views(spec, settings))
    return _find(spec.state.feature_service, settings)


def _find(service_name: str, settings: Settings) -> FeatureService:
    own = [item for item in own_definitions(settings, taken=BUILT_IN) if isinstance(item, FeatureService)]
    services = {**BUILT_IN, **{service.name: service for service in own}}
    try:
        return services[service_name]
    except KeyError:
        raise SpecError(
            f"state.feature_service = {service_name!r}: no such feature service{nearest(service_name, services)}; "
            f"defined are {', '.join(services)}. Tables of your own are named in state.tables"
        ) from None


def _table_problems(path: Path, features: tuple[str, ...]) -> Iterator[str]:
    try:
        schema = pq.read_schema(path)
    except FileNotFoundError:
        yield f"{path}: no such feature table; import the data, or simulate it"
        return
    except (OSError, pa.ArrowInvalid) as error:
        yield f"{path}: not a whole Parquet file ({error}); import the data again"
        return
    types = dict(zip(schema.names, schema.types, strict=True))
    for name, wanted in _KEY.items():
        if types.get(name) != wanted:
            yield f"{path}: column {name!r} must be {wanted}, is {types.get(name, 'missing')}"
    for name in features:
        if name not in types:
            yield f"{path}: missing column {name!r}{nearest(name, types)}"
        elif types[name] not in NUMBERS:
            yield f"{path}: column {name!r} must be one of {', '.join(map(str, NUMBERS))}, is {types[name]}"
