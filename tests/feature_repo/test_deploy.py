"""Apply and materialize do what is typed by hand, twice in a row, and notice what changed in between."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import redis
from feast.protos.feast.core.Registry_pb2 import Registry
from feast.repo_config import RegistryConfig

from contracts.errors import LogError, StoreError, StoreUnavailable
from contracts.settings import CHECKOUT, Settings, load_settings
from feature_repo.deploy import apply, materialize
from feature_repo.load_records import LoadRecord, write_record
from feature_repo.online_reader import OnlineFeatures, OnlineReader
from feature_repo.registry_store import LocalRegistryStore
from feature_repo.store import open_store
from feature_repo.tables import EPOCH
from tests.feature_repo.conftest import MEMBERS, run_feast
from tests.feature_repo.tables import (
    NOTIFICATION,
    at,
    deploy_spec,
    shop,
    write_notification,
    write_table,
)

pytestmark = pytest.mark.integration

SERVICE = "notification_state_v1"
VIEWS = ("member_profile", "member_activity", "member_live")


@pytest.fixture
def changing(on_repo: Settings) -> Iterator[Settings]:
    """The applied repository, with tables that a test may change."""
    yield on_repo
    write_notification(on_repo, MEMBERS)


def read(settings: Settings, *members: str) -> OnlineFeatures:
    reader = OnlineReader.open(SERVICE, settings)
    return reader.read(members, [int(at(3).timestamp() * 1000)] * len(members))


def visits(settings: Settings, *members: str) -> list[float]:
    column = OnlineReader.open(SERVICE, settings).feature_names.index("visits_total")
    return [float(value) for value in read(settings, *members).values[:, column]]


def test_the_commands_typed_by_hand_work_where_a_tenant_was_never_imported(on_repo: Settings) -> None:
    printed = run_feast("materialize-incremental", "2026-02-01T00:00:00")
    # From the first row on, however long ago.
    assert "from 1970-01-01" in printed.replace("\x1b[1m\x1b[32m", "")
    assert "heartsteps" not in printed
    assert not read(on_repo, MEMBERS[0]).missing.any()
    listed = run_feast("feature-views", "list")
    for view in (
        "member_profile",
        "member_activity",
        "member_live",
        "member_recency",
        "decision_clock",
        "heartsteps_day",
        "shop__orders",
    ):
        assert view in listed


def test_a_second_materialization_has_nothing_to_do_and_new_rows_are_an_increment(changing: Settings) -> None:
    first = materialize(NOTIFICATION, changing)
    assert first.loads == dict.fromkeys(VIEWS, "reloaded")
    assert first.end == at(2.5)
    assert materialize(NOTIFICATION, changing).loads == dict.fromkeys(VIEWS, "current")
    write_notification(changing, MEMBERS, days=4)
    again = materialize(NOTIFICATION, changing)
    assert again.loads == dict.fromkeys(VIEWS, "incremental")
    assert visits(changing, *MEMBERS[:2]) == [3.0, 3.0]


def test_rows_after_the_end_stay_offline(changing: Settings) -> None:
    materialize(NOTIFICATION, changing, end=at(1.5))
    assert visits(changing, MEMBERS[0]) == [1.0]
    materialize(NOTIFICATION, changing, end=at(2.5))
    assert visits(changing, MEMBERS[0]) == [2.0]


def test_replaced_tables_are_loaded_anew_and_former_members_are_gone(changing: Settings) -> None:
    materialize(NOTIFICATION, changing)
    before = read(changing, MEMBERS[0])
    write_notification(changing, MEMBERS[:10], seed=1)
    report = materialize(NOTIFICATION, changing)
    assert report.loads == dict.fromkeys(VIEWS, "reloaded")
    assert not np.array_equal(before.values, read(changing, MEMBERS[0]).values)
    assert read(changing, MEMBERS[15]).missing.all()


def test_older_tables_replace_newer_ones(changing: Settings) -> None:
    # Feast's Redis store drops a value that is older than the one stored.
    materialize(NOTIFICATION, changing)
    write_notification(changing, MEMBERS, days=2)
    materialize(NOTIFICATION, changing)
    assert visits(changing, MEMBERS[0]) == [1.0]


def test_an_emptied_redis_is_filled_again(on_repo: Settings, redis_url: str) -> None:
    materialize(NOTIFICATION, on_repo)
    with redis.Redis.from_url(redis_url) as client:
        client.flushdb()
    assert set(materialize(NOTIFICATION, on_repo).loads.values()) == {"reloaded"}
    assert not read(on_repo, *MEMBERS).missing.any()


def test_what_was_materialized_by_hand_meanwhile_is_caught_up_with(changing: Settings, redis_url: str) -> None:
    materialize(NOTIFICATION, changing, end=at(1))
    # The registry says day 2, as after a materialization into another Redis.
    open_store(changing).materialize(at(1), at(2), ["member_live"])
    with redis.Redis.from_url(redis_url) as client:
        assert client.exists(*client.keys("*member_id*")) == len(MEMBERS)
    assert materialize(NOTIFICATION, changing).loads["member_live"] == "incremental"
    assert visits(changing, MEMBERS[0]) == [2.0]


def test_a_load_that_broke_off_is_made_again(on_repo: Settings) -> None:
    materialize(NOTIFICATION, on_repo)
    store = open_store(on_repo)
    write_record(store, store.get_feature_view("member_activity"), LoadRecord("", EPOCH))
    loads = materialize(NOTIFICATION, on_repo).loads
    assert loads == {**dict.fromkeys(VIEWS, "current"), "member_activity": "reloaded"}


def test_a_registry_made_anew_is_not_believed(changing: Settings) -> None:
    # `feast teardown` removes the members' values, and not the records of loads.
    materialize(NOTIFICATION, changing)
    store = open_store(changing)
    view = store.get_feature_view("member_profile")
    store.registry.delete_feature_view(view.name, store.project)
    view.materialization_intervals = [(EPOCH, EPOCH)]
    store.registry.apply_feature_view(view, store.project)
    assert materialize(NOTIFICATION, changing).loads["member_profile"] == "reloaded"


def test_a_damaged_table_is_named(changing: Settings) -> None:
    table = changing.workspace("notification").features / "member_activity.parquet"
    with table.open("r+b") as file:
        file.seek(4)
        file.write(bytes(400))
    with pytest.raises(LogError, match=r"member_activity.parquet: damaged .* import the data again"):
        materialize(NOTIFICATION, changing)


def test_redis_down_is_said(on_repo: Settings) -> None:
    with pytest.raises(StoreUnavailable, match="Redis does not answer"):
        materialize(NOTIFICATION, replace(on_repo, redis_url="redis://127.0.0.1:1/0"))


def test_a_type_that_changed_asks_for_apply(changing: Settings) -> None:
    write_table(changing, "shop", "orders", ["7"], [at(1)], {"spent": [2.5], "orders_total": [3.5]})
    try:
        with pytest.raises(StoreError, match="other names, types or order of orders_total"):
            materialize(shop(), changing)
    finally:
        write_table(changing, "shop", "orders", ["7"], [at(1)], {"spent": [2.5], "orders_total": [3]})


def test_own_data_comes_online(on_repo: Settings) -> None:
    materialize(shop(), on_repo)
    reader = OnlineReader.open("shop_state_v1", on_repo)
    assert reader.feature_names == ("spent", "orders_total", "age")
    assert reader.read(["7"], [int(at(2).timestamp() * 1000)]).values.tolist() == [[2.5, 3.0, 40.0]]


def test_two_applies_at_once_both_succeed_and_a_moved_folder_is_applied_anew(
    elsewhere: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_notification(elsewhere, MEMBERS[:2])
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(apply, [elsewhere, elsewhere]))
    materialize(NOTIFICATION, elsewhere)
    moved = replace(elsewhere, var=elsewhere.var.with_name("moved"))
    shutil.move(elsewhere.var, moved.var)
    monkeypatch.setenv("PACER_VAR", str(moved.var))
    apply(moved)
    materialize(NOTIFICATION, moved)
    assert not read(moved, MEMBERS[0]).missing.any()


def test_redis_down_at_apply_is_said_where_a_view_is_to_be_removed_and_nowhere_else(
    elsewhere: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1/0")
    down = load_settings()
    deploy_spec(down, shop())
    write_table(down, "shop", "orders", ["7"], [at(1)], {"spent": [2.5], "orders_total": [3]})
    assert "shop__orders" in apply(down)
    down.workspace("shop").spec.unlink()
    with pytest.raises(StoreUnavailable, match=r"feast apply failed: .*127.0.0.1:1"):
        apply(down)
    monkeypatch.setenv("REDIS_URL", str(elsewhere.redis_url))
    assert "shop__orders" in apply(load_settings())  # again, with Redis there


def test_apply_on_another_folder_than_the_environments_is_refused(on_repo: Settings, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="set PACER_VAR="):
        apply(replace(on_repo, var=tmp_path))


def test_a_reason_to_refuse_is_feasts_own(elsewhere: Settings) -> None:
    deploy_spec(elsewhere, shop())
    path = elsewhere.workspace("shop").spec
    path.write_text(path.read_text(encoding="utf-8").replace("ttl_days", "ttl_day"), encoding="utf-8")
    with pytest.raises(StoreError, match=r"feast apply failed: .*spec.yaml.*ttl_day: unknown key"):
        apply(elsewhere)


def test_of_two_writers_at_once_the_second_is_refused(tmp_path: Path) -> None:
    first, second = (LocalRegistryStore(RegistryConfig(path=str(tmp_path / "registry.db")), None) for _ in range(2))
    first.update_registry_proto(Registry())
    ours, theirs = first.get_registry_proto(), second.get_registry_proto()
    second.update_registry_proto(theirs)
    with pytest.raises(StoreError, match=r"another process changed Feast's registry .* run the command again"):
        first.update_registry_proto(ours)
    first.update_registry_proto(first.get_registry_proto())


def test_a_file_that_is_no_registry_is_named(elsewhere: Settings) -> None:
    path = elsewhere.var / "feast" / "registry.db"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"\xff" * 50)
    with pytest.raises(StoreError, match=r"registry.db.*not a feature registry.*remove it"):
        open_store(elsewhere)


def test_the_command_line_says_what_is_wrong_in_one_line() -> None:
    command = [sys.executable, "-m", "feature_repo", "materialize", "--spec", "specs/none.yaml"]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "error: specs/none.yaml: no such spec; see specs/ for examples\n")
