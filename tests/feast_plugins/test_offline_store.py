"""The offline store behind Feast's own commands: joins, saved datasets, materialization; and what it refuses."""

from __future__ import annotations

import gc
from datetime import timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import FeatureService, FeatureStore, FeatureView, Field, FileSource, RequestSource
from feast.errors import FeastEntityDFMissingColumnsError, SavedDatasetLocationAlreadyExists
from feast.feature_logging import FeatureServiceLoggingSource, LoggingConfig
from feast.infra.offline_stores.file_source import FileLoggingDestination, SavedDatasetFileStorage
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Bool, Bytes, Float32, Float64, Int32, Int64, String

from feast_plugins.duckdb_session import OfflineStoreError
from tests.feast_plugins.offline import ITEM, SHOP, Row, Table, at, frame, join, open_feast, values

pytestmark = pytest.mark.integration


def row(shop: str | None, hours: float | None, price: float | None, created: float | None = 0, item: int = 1) -> Row:
    time = None if hours is None else at(hours)
    made = None if created is None else at(created)
    return {"shop_id": shop, "item_id": item, "time": time, "created": made, "price": price}


def asked(*pairs: tuple[str, float]) -> pd.DataFrame:
    return frame([{"shop_id": shop, "event_timestamp": at(hours)} for shop, hours in pairs])


@pytest.fixture
def feast(tmp_path: Path) -> FeatureStore:
    return open_feast(tmp_path)


def prices(table: pa.Table) -> list[Any]:
    return [found[0] for found in values(table, ["price"]).values()]


@pytest.fixture
def shops(feast: FeatureStore, tmp_path: Path) -> FeatureView:
    """A view of three shops, applied, with a feature made of it on demand."""
    view = Table("shops", [row("a", 1, 1.0), row("b", 2, 2.0), row("a", 3, 3.0)]).write(tmp_path)

    @on_demand_feature_view(  # type: ignore[untyped-decorator]
        sources=[view, RequestSource(name="asked", schema=[Field(name="factor", dtype=Int64)])],
        schema=[Field(name="total", dtype=Float64)],
        mode="python",
    )
    def totals(inputs: dict[str, Any]) -> dict[str, Any]:
        return {"total": [p and p * f for p, f in zip(inputs["price"], inputs["factor"], strict=True)]}

    feast.apply([SHOP, view, totals])
    return view


class TestJoin:
    def test_repeated_and_unsorted_entity_rows_stay_as_they_are(self, feast: FeatureStore, shops: FeatureView) -> None:
        rows = asked(("b", 5), ("a", 2), ("b", 5), ("z", 5), ("a", 0.5), ("a", 3))
        joined = join(feast, [shops], rows).to_arrow()
        assert joined["shop_id"].to_pylist() == list(rows["shop_id"])
        assert prices(joined) == [2.0, 1.0, 2.0, None, None, 3.0]
        assert list(rows.columns) == ["shop_id", "event_timestamp", "number"]

    def test_no_entity_rows_give_none(self, feast: FeatureStore, shops: FeatureView) -> None:
        joined = join(feast, [shops], asked(("a", 2)).iloc[:0]).to_arrow()
        assert joined.num_rows == 0
        assert joined.column_names == ["shop_id", "event_timestamp", "number", "price"]

    def test_of_equal_times_the_last_created_and_then_the_last_in_the_file_counts(
        self, feast: FeatureStore, tmp_path: Path
    ) -> None:
        same = [row("a", 1, 1.0, 5), row("a", 1, 2.0, 9), row("a", 1, 3.0, None), row("b", 1, 4.0), row("b", 1, 5.0)]
        view = Table("shops", same).write(tmp_path)
        assert prices(join(feast, [view], asked(("a", 1), ("b", 1))).to_arrow()) == [2.0, 5.0]

    def test_a_row_counts_to_the_end_of_its_ttl_and_from_its_own_microsecond(
        self, feast: FeatureStore, tmp_path: Path
    ) -> None:
        view = Table("shops", [row("a", 1, 1.0)], ttl=timedelta(hours=1)).write(tmp_path)
        microsecond = 1 / 3_600_000_000
        hours = (1 - microsecond, 1, 2, 2 + microsecond)
        assert prices(join(feast, [view], asked(*(("a", h) for h in hours))).to_arrow()) == [None, 1.0, 1.0, None]

    def test_on_demand_features_and_full_names(self, feast: FeatureStore, shops: FeatureView) -> None:
        rows = asked(("a", 2), ("b", 1)).assign(factor=[10, 10])
        job = feast.get_historical_features(rows, features=["shops:price", "totals:total"], full_feature_names=True)
        joined = job.to_df()
        assert joined["shops__price"].tolist()[:1] == [1.0]
        assert joined["totals__total"].tolist()[:1] == [10.0]
        assert joined[["shops__price", "totals__total"]].isna().to_numpy().tolist() == [[False] * 2, [True] * 2]

    def test_one_view_under_two_join_keys(self, feast: FeatureStore, tmp_path: Path) -> None:
        rows = [row("a", 1, 1.0, item=7), row("b", 1, 2.0, item=7), row("b", 1, 3.0, item=8)]
        table = Table("prices", rows, keys=("shop_id", "item_id"))
        views = [
            table.write(tmp_path).with_name(f"{role}_prices").with_join_key_map({"shop_id": f"{role}_shop"})
            for role in ("here", "there")
        ]
        entity = pd.DataFrame({"here_shop": ["a"], "there_shop": ["b"], "item_id": [7], "event_timestamp": [at(2)]})
        joined = join(feast, views, entity, full_feature_names=True).to_arrow()
        assert joined.select(["here_prices__price", "there_prices__price"]).to_pylist() == [
            {"here_prices__price": 1.0, "there_prices__price": 2.0}
        ]

    def test_entity_rows_may_be_a_query_or_arrow(self, feast: FeatureStore, shops: FeatureView, tmp_path: Path) -> None:
        rows = pa.Table.from_pandas(asked(("b", 2), ("a", 2)))
        pq.write_table(rows, tmp_path / "asked.parquet")
        query = f"SELECT * FROM '{tmp_path / 'asked.parquet'}' WHERE number < 9"  # noqa: S608
        for entities in (rows, query):
            assert prices(join(feast, [shops], entities).to_arrow()) == [2.0, 1.0]

    def test_without_entity_rows_all_entities_known_at_the_end(self, feast: FeatureStore, shops: FeatureView) -> None:
        job = feast.get_historical_features(features=["shops:price"], end_date=at(2.5))
        known = job.to_arrow().select(["shop_id", "event_timestamp", "price"]).to_pylist()
        assert [tuple(one.values()) for one in known] == [("a", at(2.5), 1.0), ("b", at(2.5), 2.0)]
        later = feast.get_historical_features(features=["shops:price"], start_date=at(2), end_date=at(2.5))
        assert later.to_arrow()["shop_id"].to_pylist() == ["b"]

    def test_nothing_is_read_before_the_result_is_asked_for(
        self, feast: FeatureStore, shops: FeatureView, tmp_path: Path
    ) -> None:
        job = join(feast, [shops], asked(("a", 9)))
        path = tmp_path / "shops.parquet"
        pq.write_table(pq.read_table(path).slice(0, 1), path)
        assert prices(job.to_arrow()) == [1.0]

    def test_values_of_every_type_come_through(self, feast: FeatureStore, tmp_path: Path) -> None:
        types: dict[str, tuple[Any, pa.DataType]] = {
            "text": ("é", pa.string()),
            "bytes": (b"\x00", pa.binary()),
            "flag": (True, pa.bool_()),
            "small": (3, pa.int32()),
            "single": (0.5, pa.float32()),
            "when": (at(1), pa.timestamp("us", tz="UTC")),
            "list": ([1, 2], pa.list_(pa.int64())),
            "lists": ([["a"]], pa.list_(pa.list_(pa.string()))),
            "map": ([("k", 1)], pa.map_(pa.string(), pa.int64())),
            "struct": ({"x": 1}, pa.struct([("x", pa.int64())])),
        }
        columns = {name: pa.array([value], kind) for name, (value, kind) in types.items()}
        keys = {"shop_id": ["a"], "time": pa.array([at(1)], pa.timestamp("us", tz="UTC"))}
        pq.write_table(pa.table({**keys, **columns}), tmp_path / "all.parquet")
        declared = {"text": String, "flag": Bool, "small": Int32, "single": Float32}
        table = Table("all", [], features=tuple(types), created=False)
        view = table.view("all.parquet", **dict.fromkeys(types, Bytes) | declared)
        joined = join(feast, [view], asked(("a", 2), ("b", 2))).to_arrow()
        for field in view.features:
            value, kind = types[field.name]
            assert joined[field.name].type == kind
            assert joined[field.name].to_pylist() == [value, None]


class TestLargerThanMemory:
    @pytest.fixture
    def table(self) -> Table:
        rows = [row(f"s{shop:02}", hour, float(100 * shop + hour)) for hour in range(9) for shop in range(30)]
        return Table("shops", rows)

    def rows(self) -> pd.DataFrame:
        return asked(*((f"s{shop:02}", hour) for hour in (4, 8) for shop in (*range(28), 7, 7, 99)))

    @pytest.mark.parametrize("query", [False, True])
    def test_partitions_give_the_same_rows_in_the_same_order(self, tmp_path: Path, table: Table, query: bool) -> None:
        view = table.write(tmp_path)
        rows: Any = self.rows()
        if query:
            rows.to_parquet(tmp_path / "asked.parquet")
            rows = f"SELECT * FROM '{tmp_path / 'asked.parquet'}'"  # noqa: S608
        whole, parted = (
            join(open_feast(tmp_path, {"partition_rows": n, "memory_limit": "200MB", "threads": 1}), [view], rows)
            for n in (1_000, 10)
        )
        assert parted.to_arrow().equals(whole.to_arrow())
        parts = list(parted.to_arrow_parts())
        assert len(parts) > 3
        assert sum(part.num_rows for part in parts) == 62
        shops = [set(part["shop_id"].to_pylist()) for part in parts]
        assert sum(map(len, shops)) == len(set().union(*shops))  # all rows of a shop are in one part

    def test_what_it_spilled_to_goes_with_the_job(self, tmp_path: Path, table: Table) -> None:
        spill = tmp_path / "spill"
        spill.mkdir()
        job = join(open_feast(tmp_path, {"temp_directory": str(spill)}), [table.write(tmp_path)], self.rows())
        job.to_arrow()
        assert len(list(spill.iterdir())) == 1
        del job
        gc.collect()
        assert list(spill.iterdir()) == []

    def test_a_memory_limit_that_is_none_is_refused(self, tmp_path: Path, table: Table) -> None:
        with pytest.raises(OfflineStoreError, match=r"memory_limit.*lots"):
            join(open_feast(tmp_path, {"memory_limit": "lots"}), [table.write(tmp_path)], self.rows())

    def test_a_folder_to_spill_to_that_is_not_there_is_refused(self, tmp_path: Path, table: Table) -> None:
        with pytest.raises(OfflineStoreError, match="temp_directory = '/nowhere'"):
            join(open_feast(tmp_path, {"temp_directory": "/nowhere"}), [table.write(tmp_path)], self.rows())


class TestSavedDatasets:
    def test_a_saved_dataset_comes_back(self, feast: FeatureStore, shops: FeatureView, tmp_path: Path) -> None:
        rows = asked(("b", 5), ("a", 2)).assign(factor=[2, 3])
        job = feast.get_historical_features(rows, features=["shops:price", "totals:total"])
        storage = SavedDatasetFileStorage(path="saved/set.parquet")
        feast.create_saved_dataset(job, "set", storage)
        saved = feast.get_saved_dataset("set").to_df().sort_values("price")
        assert saved[["price", "total"]].to_numpy().tolist() == [[1.0, 3.0], [2.0, 4.0]]
        assert [path.name for path in (tmp_path / "saved").iterdir()] == ["set.parquet"]
        with pytest.raises(SavedDatasetLocationAlreadyExists):
            feast.create_saved_dataset(job, "set", storage)
        feast.create_saved_dataset(job, "set", storage, allow_overwrite=True)


class TestPulls:
    def test_latest_rows_and_all_rows(self, feast: FeatureStore, tmp_path: Path) -> None:
        rows = [row("b", 1, 1.0), row("a", 2, 2.0, 5), row("a", 2, 3.0, 7), row("a", 2, 4.0, 7), row("a", 9, 5.0)]
        view = Table("shops", [*rows, row("a", None, 6.0)]).write(tmp_path)
        store: Any = feast._get_provider().offline_store
        common = (feast.config, view.batch_source, ["shop_id"], ["price"], "time", "created", at(1), at(2))
        latest = store.pull_latest_from_table_or_query(*common).to_arrow().sort_by("shop_id")
        assert latest.column_names == ["shop_id", "price", "time", "created"]
        assert latest["price"].to_pylist() == [4.0, 1.0]
        assert sorted(store.pull_all_from_table_or_query(*common).to_arrow()["price"].to_pylist()) == [1, 2, 3, 4]
        everything = store.pull_all_from_table_or_query(*common[:6]).to_arrow()
        assert sorted(everything["price"].to_pylist()) == [1, 2, 3, 4, 5]

    @pytest.mark.parametrize("latest", [True, False])
    def test_views_with_and_without_entities_go_online(self, tmp_path: Path, latest: bool) -> None:
        feast = open_feast(tmp_path)
        feast.config.materialization_config.pull_latest_features = latest
        table = Table("shops", [row("a", 1, 1.0), row("a", 3, 3.0), row("b", 2, 2.0)], mapping={"cost": "price"})
        view = table.write(tmp_path)
        anyone = FeatureView(
            name="anyone",
            schema=[Field(name="price", dtype=Float64)],
            ttl=timedelta(),
            source=FileSource(
                name="anyone_file", path="shops.parquet", timestamp_field="time", field_mapping={"cost": "price"}
            ),
        )
        feast.apply([SHOP, view, anyone])
        feast.materialize(at(0), at(9))
        online = feast.get_online_features(
            ["shops:price", "anyone:price"], [{"shop_id": "a"}, {"shop_id": "b"}], full_feature_names=True
        ).to_dict()
        assert online["shops__price"] == [3.0, 2.0]
        assert online["anyone__price"] == [3.0, 3.0]
        joined = join(feast, [feast.get_feature_view("anyone")], asked(("z", 2.5))).to_arrow()
        assert prices(joined) == [2.0]

    def test_a_folder_of_files_is_one_table(self, feast: FeatureStore, tmp_path: Path) -> None:
        for day, price in (("1", 1.0), ("2", 2.0)):
            (tmp_path / "shops" / day).mkdir(parents=True)
            Table("shops", [row("a", price, price)]).write(tmp_path / "shops" / day)
        view = Table("shops", []).view("shops")
        assert prices(join(feast, [view], asked(("a", 1.5), ("a", 2))).to_arrow()) == [1.0, 2.0]

    def test_features_that_were_served_are_logged_and_found(
        self, feast: FeatureStore, shops: FeatureView, tmp_path: Path
    ) -> None:
        (tmp_path / "served").mkdir()
        logging = LoggingConfig(destination=FileLoggingDestination(path=str(tmp_path / "served")))
        service = FeatureService(name="served", features=[shops], logging_config=logging)
        feast.apply([service])
        schema = FeatureServiceLoggingSource(service, feast.project).get_schema(feast.registry)
        found = {"shop_id": "a", "shops__price": 1.0, "shops__price__status": 2, "shops__price__timestamp": at(1)}
        found |= {"__request_id": "r"}
        times = {"__log_timestamp": at(2), "__log_date": at(2).date()}
        rows = pa.Table.from_pylist([{name: (found | times)[name] for name in schema.names}], schema=schema)
        feast.write_logged_features(rows, service)
        logs = feast._get_provider().retrieve_feature_service_logs(service, at(0), at(3), feast.config, feast.registry)
        assert logs.to_arrow()["shops__price"].to_pylist() == [1.0]

    def test_rows_written_through_feast_are_read(self, feast: FeatureStore, shops: FeatureView) -> None:
        new = pa.table({"shop_id": ["c"], "time": pa.array([at(4)]), "created": pa.array([at(4)]), "price": [4.0]})
        feast.write_to_offline_store("shops", new.to_pandas())
        assert prices(join(feast, [shops], asked(("c", 5), ("a", 5))).to_arrow()) == [4.0, 3.0]


class TestRefuses:
    def test_a_missing_file(self, feast: FeatureStore, shops: FeatureView, tmp_path: Path) -> None:
        (tmp_path / "shops.parquet").unlink()
        with pytest.raises(OfflineStoreError, match=r"shops.parquet: no such Parquet file"):
            join(feast, [shops], asked(("a", 1)))

    def test_a_file_half_written(self, feast: FeatureStore, shops: FeatureView, tmp_path: Path) -> None:
        path = tmp_path / "shops.parquet"
        path.write_bytes(path.read_bytes()[:-100])
        with pytest.raises(OfflineStoreError, match=r"shops.parquet: not a whole Parquet file"):
            join(feast, [shops], asked(("a", 1)))

    def test_a_file_damaged_inside(self, feast: FeatureStore, shops: FeatureView, tmp_path: Path) -> None:
        path = tmp_path / "shops.parquet"
        damaged = bytearray(path.read_bytes())
        damaged[4:200] = b"\xff" * 196
        path.write_bytes(damaged)
        with pytest.raises(OfflineStoreError, match=r"shops.parquet: joining feature view 'shops'"):
            join(feast, [shops], asked(("a", 1))).to_arrow()

    @pytest.mark.parametrize(
        ("column", "values_", "reason"),
        [
            ("time", ["2026-01-05"], "'time', a time in feature view 'shops', is VARCHAR; write it as a timestamp"),
            ("price", ["dear"], "'price' is VARCHAR, but shops:price is declared Float64"),
            ("shop_id", [7], "'shop_id' is VARCHAR in entity_df, but BIGINT in column 'shop_id'"),
            ("cost", [1.0], "no column 'price', which feature view 'shops' reads; there are .*cost"),
        ],
    )
    def test_a_wrong_type_or_name(
        self, feast: FeatureStore, shops: FeatureView, tmp_path: Path, column: str, values_: list[Any], reason: str
    ) -> None:
        path = tmp_path / "shops.parquet"
        table = pq.read_table(path).slice(0, 1)
        replaced = "price" if column == "cost" else column
        place = table.column_names.index(replaced)
        pq.write_table(table.set_column(place, column, pa.array(values_)), path)
        with pytest.raises(OfflineStoreError, match=reason):
            join(feast, [shops], asked(("a", 1)))

    def test_entity_rows_without_a_join_key(self, feast: FeatureStore, shops: FeatureView) -> None:
        with pytest.raises(FeastEntityDFMissingColumnsError, match="shop_id"):
            join(feast, [shops], asked(("a", 1)).drop(columns="shop_id"))

    def test_a_feature_named_like_an_entity_column(self, feast: FeatureStore, shops: FeatureView) -> None:
        rows = asked(("a", 2)).assign(price=[0.0])
        with pytest.raises(OfflineStoreError, match="'price' would stand twice in the result"):
            join(feast, [shops], rows)
        assert join(feast, [shops], rows, full_feature_names=True).to_df()["shops__price"].tolist() == [1.0]

    def test_a_query_that_is_none(self, feast: FeatureStore, shops: FeatureView) -> None:
        with pytest.raises(OfflineStoreError, match=r"entity_df = 'SELEKT': Parser Error"):
            join(feast, [shops], "SELEKT")

    def test_entities_of_two_kinds_without_entity_rows(
        self, feast: FeatureStore, shops: FeatureView, tmp_path: Path
    ) -> None:
        items = Table("items", [row("a", 1, 1.0)], keys=("item_id",), features=("price",)).write(tmp_path)
        feast.apply([ITEM, items])
        with pytest.raises(OfflineStoreError, match="without entity_df all views must have the same join keys"):
            feast.get_historical_features(
                features=["shops:price", "items:price"], full_feature_names=True, end_date=at(5)
            )
