"""Where the plugin and Feast's own file stores differ: each case that docs/feast-plugins.md names, seen in both.

A test that fails after an upgrade of Feast says that a difference is gone: take it out of the page, too.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import ibis  # type: ignore[import-untyped]
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import FeatureStore, FeatureView, Field, FileSource, RequestSource
from feast.infra.offline_stores.file_source import SavedDatasetFileStorage
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float64, Int64

from feast_plugins.duckdb_session import OfflineStoreError
from tests.feast_plugins.offline import NAIVE, SHOP, Table, at, frame, join, open_feast
from tests.feast_plugins.test_offline_store import asked, prices, row

pytestmark = pytest.mark.integration


@pytest.fixture
def ours(tmp_path: Path) -> FeatureStore:
    return open_feast(tmp_path)


@pytest.fixture
def duckdb_store(tmp_path: Path) -> FeatureStore:
    return open_feast(tmp_path, "duckdb")


@pytest.fixture
def dask_store(tmp_path: Path) -> FeatureStore:
    return open_feast(tmp_path, "dask")


class TestDuckDBStore:
    def test_takes_another_of_equal_rows_than_the_last_in_the_file(
        self, ours: FeatureStore, duckdb_store: FeatureStore, tmp_path: Path
    ) -> None:
        view = Table("shops", [row(f"s{shop:02}", 1, float(i)) for i in range(3) for shop in range(60)]).write(tmp_path)
        rows = asked(*((f"s{shop:02}", 2) for shop in range(60)))
        assert prices(join(ours, [view], rows).to_arrow()) == [2.0] * 60
        assert set(join(duckdb_store, [view], rows).to_df()["price"]) != {2.0}

    def test_brings_rows_back_in_another_order(
        self, ours: FeatureStore, duckdb_store: FeatureStore, tmp_path: Path
    ) -> None:
        view = Table("shops", [row(f"s{shop:02}", 1, 1.0) for shop in range(60)]).write(tmp_path)
        rows = asked(*((f"s{shop:02}", 2) for shop in range(60)))
        assert join(ours, [view], rows).to_df()["number"].tolist() == list(range(60))
        assert join(duckdb_store, [view], rows).to_df()["number"].tolist() != list(range(60))

    def test_loses_features_whose_name_ends_in_y(
        self, ours: FeatureStore, duckdb_store: FeatureStore, tmp_path: Path
    ) -> None:
        rows = [{**row("a", 1, None), "loyalty_y": 1.0}]
        view = Table("shops", rows, features=("loyalty_y",)).write(tmp_path)
        assert join(ours, [view], asked(("a", 2))).to_df()["loyalty_y"].tolist() == [1.0]
        with pytest.raises(Exception, match="Column 'loyalty_y' is not found"):
            join(duckdb_store, [view], asked(("a", 2)))

    def test_looks_for_relative_paths_in_the_working_directory(
        self, ours: FeatureStore, duckdb_store: FeatureStore, tmp_path: Path
    ) -> None:
        table = Table("shops", [row("a", 1, 1.0)])
        table.write(tmp_path)
        assert prices(join(ours, [table.view("shops.parquet")], asked(("a", 2))).to_arrow()) == [1.0]
        with pytest.raises(Exception, match=r"shops\.parquet"):
            join(duckdb_store, [table.view("shops.parquet")], asked(("a", 2)))

    def test_takes_times_without_zone_for_the_machines_own(
        self, ours: FeatureStore, duckdb_store: FeatureStore, tmp_path: Path
    ) -> None:
        view = Table("shops", [row("a", 1, 1.0)], time_type=NAIVE).write(tmp_path)
        backend = ibis.get_backend()
        before = backend.raw_sql("SELECT current_setting('TimeZone')").fetchone()[0]
        try:
            backend.raw_sql("SET TimeZone = 'Asia/Tokyo'")
            assert prices(join(ours, [view], asked(("a", 0), ("a", 1))).to_arrow()) == [None, 1.0]
            assert prices(join(duckdb_store, [view], asked(("a", 0), ("a", 1))).to_arrow()) == [1.0, 1.0]
        finally:
            backend.raw_sql(f"SET TimeZone = '{before}'")

    def test_forgets_the_join_keys_that_a_map_leaves_as_they_are(
        self, ours: FeatureStore, duckdb_store: FeatureStore, tmp_path: Path
    ) -> None:
        rows = [row("a", 1, 1.0, item=1), row("a", 2, 2.0, item=2)]
        view = Table("prices", rows, keys=("shop_id", "item_id"), join_key_map={"shop_id": "there"}).write(tmp_path)
        entity = frame([{"there": "a", "item_id": 1, "event_timestamp": at(3)}])
        assert prices(join(ours, [view], entity).to_arrow()) == [1.0]
        assert prices(join(duckdb_store, [view], entity).to_arrow()) == [2.0]

    def test_cannot_materialize_views_without_entities(
        self, ours: FeatureStore, duckdb_store: FeatureStore, tmp_path: Path
    ) -> None:
        view = Table("shops", [row("a", 1, 1.0)]).write(tmp_path)
        source = FileSource(name="file", path=str(tmp_path / "shops.parquet"), timestamp_field="time")
        schema = [Field(name="price", dtype=Float64)]
        for feast in (ours, duckdb_store):
            feast.apply([SHOP, view, FeatureView(name="anyone", schema=schema, ttl=timedelta(), source=source)])
        ours.materialize(at(0), at(9), ["anyone"])
        online = ours.get_online_features(["shops:price", "anyone:price"], [{"shop_id": "a"}], full_feature_names=True)
        assert online.to_dict()["anyone__price"] == [1.0]
        with pytest.raises(ValueError, match="__dummy_id not found"):
            duckdb_store.materialize(at(0), at(9), ["anyone"])

    def test_takes_entity_rows_as_a_data_frame_only(
        self, ours: FeatureStore, duckdb_store: FeatureStore, tmp_path: Path
    ) -> None:
        view = Table("shops", [row("a", 1, 1.0)]).write(tmp_path)
        query = f"SELECT 'a' AS shop_id, TIMESTAMPTZ '{at(2)}' AS event_timestamp"
        for feast in (ours, duckdb_store):
            feast.apply([SHOP, view])
        assert join(ours, [view], query).to_df()["price"].tolist() == [1.0]
        assert ours.get_historical_features(features=["shops:price"], end_date=at(2)).to_df()["price"].tolist() == [1.0]
        with pytest.raises(AttributeError):
            join(duckdb_store, [view], query)
        with pytest.raises(TypeError):
            duckdb_store.get_historical_features(features=["shops:price"], end_date=at(2))

    def test_saves_datasets_without_on_demand_features(
        self, ours: FeatureStore, duckdb_store: FeatureStore, tmp_path: Path
    ) -> None:
        view = Table("shops", [row("a", 1, 1.0)]).write(tmp_path)

        @on_demand_feature_view(  # type: ignore[untyped-decorator]
            sources=[view, RequestSource(name="asked", schema=[Field(name="number", dtype=Int64)])],
            schema=[Field(name="twice", dtype=Float64)],
            mode="python",
        )
        def doubled(inputs: dict[str, Any]) -> dict[str, Any]:
            return {"twice": [2 * p for p in inputs["price"]]}

        saved = {}
        for name, feast in (("ours", ours), ("duckdb", duckdb_store)):
            feast.apply([SHOP, view, doubled])
            job = feast.get_historical_features(asked(("a", 2)), features=["doubled:twice"])
            job.persist(SavedDatasetFileStorage(path=str(tmp_path / f"{name}.parquet")))
            assert "twice" in job.to_df()
            saved[name] = "twice" in pq.read_schema(tmp_path / f"{name}.parquet").names
        assert saved == {"ours": True, "duckdb": False}


class TestDaskStore:
    def test_drops_entity_rows_all_of_whose_candidates_are_too_old_or_too_new(
        self, ours: FeatureStore, dask_store: FeatureStore, tmp_path: Path
    ) -> None:
        view = Table("shops", [row("a", 1, 1.0)], ttl=timedelta(hours=1)).write(tmp_path)
        rows = asked(("a", 0), ("a", 1), ("a", 9), ("z", 9))
        assert prices(join(ours, [view], rows).to_arrow()) == [None, 1.0, None, None]
        assert sorted(join(dask_store, [view], rows).to_df()["number"]) == [1, 3]

    def test_may_take_another_row_than_the_one_created_last(
        self, ours: FeatureStore, dask_store: FeatureStore, tmp_path: Path
    ) -> None:
        rng = np.random.default_rng(0)
        rows = [row(f"s{shop:02}", 1, float(made), made) for shop in range(60) for made in range(3)]
        view = Table("shops", [rows[i] for i in rng.permutation(len(rows))]).write(tmp_path)
        entity = asked(*((f"s{shop:02}", 2) for shop in range(60)))
        assert prices(join(ours, [view], entity).to_arrow()) == [2.0] * 60
        assert set(join(dask_store, [view], entity).to_df()["price"]) != {2.0}

    def test_drops_repeated_entity_rows_whatever_else_they_hold(
        self, ours: FeatureStore, dask_store: FeatureStore, tmp_path: Path
    ) -> None:
        view = Table("shops", [row("a", 1, 1.0)]).write(tmp_path)
        rows = asked(("a", 1), ("a", 1))
        assert prices(join(ours, [view], rows).to_arrow()) == [1.0, 1.0]
        assert len(join(dask_store, [view], rows).to_df()) == 1

    def test_sorts_rows_by_the_time_of_what_they_got(
        self, ours: FeatureStore, dask_store: FeatureStore, tmp_path: Path
    ) -> None:
        view = Table("shops", [row("a", 1, 1.0), row("a", 4, 2.0)]).write(tmp_path)
        rows = asked(("a", 5), ("a", 2))
        assert join(ours, [view], rows).to_df()["number"].tolist() == [0, 1]
        assert join(dask_store, [view], rows).to_df()["number"].tolist() == [1, 0]

    def test_joins_rows_without_a_key_to_each_other(
        self, ours: FeatureStore, dask_store: FeatureStore, tmp_path: Path
    ) -> None:
        view = Table("shops", [row(None, 1, 1.0), row("a", 1, 2.0)]).write(tmp_path)
        rows = pd.DataFrame({"shop_id": [None, "a"], "event_timestamp": [at(2), at(2)], "number": [0, 1]})
        assert prices(join(ours, [view], rows).to_arrow()) == [None, 2.0]
        assert join(dask_store, [view], rows).to_df().set_index("number")["price"].to_dict() == {0: 1.0, 1: 2.0}

    def test_does_not_mind_the_start_of_a_span(
        self, ours: FeatureStore, dask_store: FeatureStore, tmp_path: Path
    ) -> None:
        view = Table("shops", [row("a", 1, 1.0), row("b", 3, 2.0)]).write(tmp_path)
        found = []
        for feast in (ours, dask_store):
            feast.apply([SHOP, view])
            job = feast.get_historical_features(features=["shops:price"], start_date=at(2), end_date=at(4))
            found.append(sorted(job.to_df()["shop_id"]))
        assert found == [["b"], ["a", "b"]]


def test_times_are_compared_in_whole_microseconds(ours: FeatureStore, dask_store: FeatureStore, tmp_path: Path) -> None:
    """DuckDB, in Feast's store as in the plugin, has no finer time with a zone; the dask store compares nanoseconds."""
    late = pd.Timestamp(at(1)) + pd.Timedelta(nanoseconds=500)
    Table("shops", [row("a", 1, 1.0)], created=False).write(tmp_path)
    times = pa.array([late], pa.timestamp("ns", tz="UTC"))
    pq.write_table(pa.table({"shop_id": ["a"], "time": times, "price": [1.0]}), tmp_path / "shops.parquet")
    view = Table("shops", [], created=False).view(tmp_path / "shops.parquet")
    assert prices(join(ours, [view], asked(("a", 1))).to_arrow()) == [1.0]
    assert len(join(dask_store, [view], asked(("a", 1))).to_df()) == 0


@pytest.mark.parametrize(
    ("column", "value", "fails"),
    [("price", "dear", ()), ("time", "2026-01-05", ("dask",)), ("shop_id", 7, ("duckdb", "dask"))],
)
def test_a_wrong_type_in_a_file_is_returned_or_fails_somewhere(
    ours: FeatureStore,
    duckdb_store: FeatureStore,
    dask_store: FeatureStore,
    tmp_path: Path,
    column: str,
    value: Any,
    fails: tuple[str, ...],
) -> None:
    path = tmp_path / "shops.parquet"
    view = Table("shops", [row("a", 1, 1.0)]).write(tmp_path)
    table = pq.read_table(path)
    pq.write_table(table.set_column(table.column_names.index(column), column, pa.array([value])), path)
    with pytest.raises(OfflineStoreError, match=r"shops\.parquet"):
        join(ours, [view], asked(("a", 2)))
    for name, feast in (("duckdb", duckdb_store), ("dask", dask_store)):
        if name in fails:
            with pytest.raises((AttributeError, TypeError, ValueError)) as raised:
                join(feast, [view], asked(("a", 2))).to_df()
            assert "parquet" not in str(raised.value)
        else:
            found = join(feast, [view], asked(("a", 2))).to_df()
            assert found["price"].tolist() == [value if column == "price" else 1.0]
