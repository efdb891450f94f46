"""The join gives what Feast documents, on any tables, and what Feast's own file stores give wherever they do."""

from __future__ import annotations

import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Any

import ibis  # type: ignore[import-untyped]
import pyarrow as pa
import pytest
from feast import FeatureStore
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.feast_plugins.offline import AWARE, NAIVE, NANOSECONDS, Row, Table, at, frame, join, open_feast, values

pytestmark = pytest.mark.integration

HOURS = st.integers(0, 8).map(lambda eighths: at(eighths / 2))
SHOPS, ITEMS = st.sampled_from(["a", "b", "c"]), st.integers(1, 2)


def rows(shops: Any = SHOPS, times: Any = HOURS, created: Any = HOURS, unique: tuple[str, ...] = ()) -> Any:
    """Feature rows in any order; ``unique``: no two of them are equal in all of these."""
    row = st.fixed_dictionaries({"shop_id": shops, "item_id": ITEMS, "time": times, "created": created})
    key = (lambda r: tuple(r[name] for name in unique)) if unique else None
    return st.lists(row, max_size=25, unique_by=key).map(
        lambda rows: [{**r, "price": float(i), "stock": None if i % 4 == 0 else -float(i)} for i, r in enumerate(rows)]
    )


def tables(time_types: Any, **kinds: Any) -> Any:
    """Two views: one of shops, one of the items in them, told apart by every way of naming and dating rows."""
    return st.tuples(
        st.builds(
            Table,
            st.just("shops"),
            rows(**kinds),
            st.just(("shop_id",)),
            st.just(("price",)),
            st.sampled_from([timedelta(), timedelta(hours=1), timedelta(days=9)]),
            st.just(True),
            time_types,
            st.sampled_from([{}, {"Shop": "shop_id", "at": "time", "made": "created", "cost": "price"}]),
        ),
        st.builds(
            Table,
            st.just("items"),
            rows(**kinds),
            st.just(("shop_id", "item_id")),
            st.just(("stock",)),
            st.sampled_from([timedelta(), timedelta(minutes=30)]),
            st.just(True),
            time_types,
        ),
    )


def entities(shops: Any = SHOPS) -> Any:
    entity = st.fixed_dictionaries({"shop_id": shops, "item_id": ITEMS, "event_timestamp": HOURS})
    return st.lists(entity, min_size=1, max_size=12)


def expected(views: tuple[Table, Table], asked: list[Row], **options: bool) -> dict[int, tuple[Any, ...]]:
    found = [[view.known(row, **options) for view in views] for row in asked]
    return {
        i: tuple(row and row[name] for row, name in zip(both, ("price", "stock"), strict=True))
        for i, both in enumerate(found)
    }


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, FeatureStore]:
    folder = tmp_path_factory.mktemp("stores")
    ibis.get_backend().raw_sql("SET TimeZone = 'UTC'")  # Feast's duckdb store takes naive times for local ones
    return {kind: open_feast(folder, kind) for kind in ("duckdb", "dask")} | {"ours": open_feast(folder)}


def ask(feast: FeatureStore, views: tuple[Table, Table], asked: list[Row], **options: Any) -> pa.Table:
    with tempfile.TemporaryDirectory() as folder:
        return join(feast, [view.write(Path(folder)) for view in views], frame(asked), **options).to_arrow()


anything = given(
    views=tables(
        st.sampled_from([AWARE, NAIVE, NANOSECONDS]),
        shops=st.sampled_from(["a", "b", None]),
        times=st.one_of(st.none(), HOURS),
        created=st.one_of(st.none(), HOURS),
    ),
    asked=entities(st.sampled_from(["a", "b", None])),
)
many = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


@many
@anything
def test_the_join_is_what_feast_documents(
    stores: dict[str, FeatureStore], views: tuple[Table, Table], asked: list[Row]
) -> None:
    joined = ask(stores["ours"], views, asked)
    assert joined["number"].to_pylist() == list(range(len(asked)))
    assert joined["event_timestamp"].to_pylist() == [row["event_timestamp"] for row in asked]
    assert values(joined, ["price", "stock"]) == expected(views, asked)


@many
@anything
def test_rows_created_later_can_be_left_out(
    stores: dict[str, FeatureStore], views: tuple[Table, Table], asked: list[Row]
) -> None:
    joined = ask(stores["ours"], views, asked, filter_by_created_timestamp=True)
    assert values(joined, ["price", "stock"]) == expected(views, asked, created_first=True)


@settings(parent=many, max_examples=40)
@given(
    views=tables(
        st.sampled_from([AWARE, NAIVE]), created=st.one_of(st.none(), HOURS), unique=("shop_id", "time", "created")
    ),
    asked=entities(),
    full=st.booleans(),
    created=st.booleans(),
)
def test_rows_are_those_of_feasts_duckdb_store(
    stores: dict[str, FeatureStore], views: tuple[Table, Table], asked: list[Row], full: bool, created: bool
) -> None:
    options = {"full_feature_names": full, "filter_by_created_timestamp": created}
    ours, theirs = (ask(stores[kind], views, asked, **options) for kind in ("ours", "duckdb"))
    assert ours.column_names == theirs.column_names
    assert ours.equals(theirs.sort_by("number").cast(ours.schema))


@settings(parent=many, max_examples=15)
@given(views=tables(st.just(AWARE), unique=("shop_id", "time")), asked=entities())
def test_rows_that_feasts_dask_store_keeps_are_the_same(
    stores: dict[str, FeatureStore], views: tuple[Table, Table], asked: list[Row]
) -> None:
    ours = values(ask(stores["ours"], views, asked), ["price", "stock"])
    theirs = values(ask(stores["dask"], views, asked), ["price", "stock"])
    assert {i: ours[i] for i in theirs} == theirs
