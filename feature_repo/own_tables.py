"""Feature views and services of the tables that deployed specs bring (``spec.state.tables``)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta

from feast import FeatureService, FeatureView

from contracts.errors import SpecError
from contracts.settings import Settings
from contracts.spec import Spec, load_spec
from feature_repo.tables import table_view


def own_definitions(settings: Settings, taken: Iterable[str]) -> list[FeatureView | FeatureService]:
    """Return the views and services of every spec in ``var/*/spec.yaml`` that brings tables.

    Parameters
    ----------
    settings
        Where ``var`` is.
    taken
        Names of the services defined in this folder.

    Raises
    ------
    SpecError
        If a spec can't be read, or its service is defined elsewhere.
    """
    defined_by = dict.fromkeys(taken, "feature_repo")
    definitions: list[FeatureView | FeatureService] = []
    for path in sorted(settings.var.glob("*/spec.yaml")):
        spec = load_spec(path)
        if not spec.state.tables:
            continue
        name = spec.state.feature_service
        if name in defined_by:
            raise SpecError(
                f"{path}: state.feature_service = {name!r} is defined by {defined_by[name]} already; choose another "
                "name, or drop state.tables to use the features it has"
            )
        defined_by[name] = str(path)
        views = own_views(spec, settings)
        definitions += [*views, own_service(spec, views)]
    return definitions


def own_views(spec: Spec, settings: Settings) -> list[FeatureView]:
    """Return a view a table of ``spec``, in its order; the tenant's name in theirs keeps tenants apart."""
    return [
        table_view(
            spec.name,
            name,
            name=f"{spec.name}__{name}",
            features={feature: f"Column {feature} of table {name}" for feature in table.features},
            ttl=timedelta(days=table.ttl_days or 0.0),
            description=f"Table {name}, brought with the log of {spec.name}.",
            settings=settings,
        )
        for name, table in spec.state.tables.items()
    ]


def own_service(spec: Spec, views: Sequence[FeatureView]) -> FeatureService:
    """Return the service over the tables of ``spec``."""
    return FeatureService(
        name=spec.state.feature_service,
        features=list(views),
        description=f"State of {spec.name}: the tables brought with its log.",
        tags={"tenant": spec.name},
        owner="pacer",
    )
