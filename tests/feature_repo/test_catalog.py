"""What is defined is what the tables hold, or the error says which table and column is wrong."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from feast import Entity, FeatureService, FeatureView
from feast.base_feature_view import BaseFeatureView
from feast.data_source import DataSource
from feast.repo_operations import get_repo_files

from contracts.errors import LogError, SpecError
from contracts.settings import CHECKOUT, Settings
from contracts.spec import parse_spec
from feature_repo import entities, heartsteps, notification
from feature_repo.catalog import check_service, check_tables, service_features
from feature_repo.own_tables import own_definitions
from feature_repo.store import REPO
from simulator.members import PROFILE
from tests.feature_repo.tables import (
    CLOCK,
    NOTIFICATION,
    SERVED,
    SHOP,
    at,
    deploy_spec,
    shop,
    write_notification,
    write_table,
)

pytestmark = pytest.mark.unit


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(var=tmp_path / "var", redis_url=None, java_home=None, heartsteps=tmp_path)


def test_features_of_a_service_are_in_its_order(settings: Settings) -> None:
    names = service_features("notification_state_v1", settings)
    assert names == (*SERVED, *CLOCK)
    assert len(set(names)) == len(names) == 58


def test_own_features_are_in_the_specs_order(settings: Settings) -> None:
    deploy_spec(settings, shop())
    assert service_features("shop_state_v1", settings) == ("spent", "orders_total", "age")


def test_unknown_service_names_the_nearest(settings: Settings) -> None:
    with pytest.raises(SpecError, match=r"'notification_state_v2'.*did you mean 'notification_state_v1'"):
        service_features("notification_state_v2", settings)


def test_a_feature_renamed_in_the_repository_and_not_in_the_spec_is_named(settings: Settings) -> None:
    path = Path("specs") / "notification.yaml"
    old = (CHECKOUT / path).read_text(encoding="utf-8").replace("visits_total", "visit_total")
    with pytest.raises(SpecError) as caught:
        check_service(parse_spec(old, str(path)), settings, str(path))
    assert str(caught.value) == (
        "specs/notification.yaml: rewards.visit.feature = 'visit_total': feature service 'notification_state_v1' has "
        "no such feature; did you mean 'visits_total'?"
    )


def definitions() -> list[Any]:
    """Everything that `feast apply` finds in the modules that it imports."""
    kinds = (Entity, BaseFeatureView, FeatureService, DataSource)
    found = [item for module in (entities, notification, heartsteps) for item in vars(module).values()]
    return [item for item in found if isinstance(item, kinds)]


def test_every_definition_has_a_description_an_owner_and_tags() -> None:
    described = definitions()
    views = [item for item in described if isinstance(item, BaseFeatureView)]
    assert {"member_live", "member_recency", "decision_clock", "heartsteps_live"} <= {view.name for view in views}
    sources = [
        source for view in views if isinstance(view, FeatureView) for source in (view.batch_source, view.stream_source)
    ]
    for item in [*described, *(source for source in sources if source is not None)]:
        assert item.description, item.name
        assert item.owner, item.name
        assert item.tags, item.name


def test_every_feature_of_every_view_is_described() -> None:
    for view in [item for item in definitions() if isinstance(item, BaseFeatureView)]:
        if isinstance(view, FeatureView):
            assert view.ttl, view.name
            assert all(column.description for column in (*view.entity_columns, *view.features)), view.name
        else:
            # Feast takes no description of an on-demand feature: the view's says what each is.
            assert all(f" {feature.name}: " in view.description for feature in view.features), view.name


def test_feast_imports_definitions_only() -> None:
    assert {path.stem for path in get_repo_files(REPO)} == {"entities", "heartsteps", "notification", "own_data"}


def test_tables_as_the_simulator_writes_them_fit(settings: Settings) -> None:
    write_notification(settings, ["a", "b"])
    check_tables(NOTIFICATION, settings)


def test_own_tables_fit_with_further_columns_and_any_type_of_number(settings: Settings) -> None:
    orders = {"spent": pa.array([1], pa.int32()), "orders_total": pa.array([1], pa.int64()), "more": ["text"]}
    write_table(settings, "shop", "orders", ["a"], [at()], orders)
    write_table(settings, "shop", "member_profile", ["a"], [at()], {"age": pa.array([1.0], pa.float32())})
    check_tables(shop(), settings)


def test_each_thing_wrong_with_a_table_is_named(settings: Settings) -> None:
    wrong = {"spend": [1.0], "orders_total": ["three"]}
    orders = write_table(settings, "shop", "orders", ["a"], [at()], wrong)
    with pytest.raises(LogError) as caught:
        check_tables(shop(), settings)
    lines = str(caught.value).splitlines()
    assert lines == [
        f"{orders}: missing column 'spent'; did you mean 'spend'?",
        f"{orders}: column 'orders_total' must be one of double, float, int64, int32, bool, is string",
        f"{orders.with_name('member_profile.parquet')}: no such feature table; import the data, or simulate it",
    ]


def test_key_columns_of_a_wrong_type_are_named(settings: Settings) -> None:
    write_notification(settings, ["a"])
    path = settings.workspace("notification").features / "member_profile.parquet"
    table = pa.parquet.read_table(path)
    table = table.set_column(0, "member_id", pa.array([1]))
    pa.parquet.write_table(table.drop_columns("event_timestamp"), path)
    with pytest.raises(LogError, match=r"'member_id' must be string, is int64") as caught:
        check_tables(NOTIFICATION, settings)
    assert "'event_timestamp' must be timestamp[us, tz=UTC], is missing" in str(caught.value)


def test_a_table_cut_in_half_is_named(settings: Settings) -> None:
    write_notification(settings, ["a"])
    path = settings.workspace("notification").features / "member_activity.parquet"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(LogError, match=r"member_activity.parquet: not a whole Parquet file"):
        check_tables(NOTIFICATION, settings)


def test_a_spec_that_brought_tables_does_not_read_those_of_another(settings: Settings) -> None:
    other = replace(NOTIFICATION, name="other")
    write_notification(settings, ["a"])
    check_tables(other, settings)
    write_table(settings, "other", "member_profile", ["a"], [at()], {name: [1.0] for name in PROFILE})
    with pytest.raises(SpecError, match="name your tables"):
        check_tables(other, settings)


def test_tenants_may_have_tables_of_one_name(settings: Settings) -> None:
    deploy_spec(settings, shop())
    deploy_spec(settings, shop(SHOP.replace("name: shop", "name: mall").replace("shop_state_v1", "mall_state_v1")))
    names = [item.name for item in own_definitions(settings, taken=())]
    assert len(names) == len(set(names)) == 6


@pytest.mark.parametrize("service", ["shop_state_v1", "notification_state_v1"])
def test_one_service_defined_twice_is_refused(settings: Settings, service: str) -> None:
    deploy_spec(settings, shop())
    text = SHOP.replace("name: shop", "name: mall").replace("shop_state_v1", service)
    deploy_spec(settings, shop(text))
    with pytest.raises(SpecError, match=rf"state.feature_service = '{service}' is defined by"):
        own_definitions(settings, taken=["notification_state_v1"])
