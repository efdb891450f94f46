"""A training set holds each decision once, with what was known at it and nothing that came later."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from contracts.errors import LogError, SpecError, StoreError
from contracts.settings import Settings
from feature_repo import training_set
from feature_repo.training_set import build_training_set
from simulator.features import WINDOWS
from simulator.members import PROFILE
from tests.feature_repo.conftest import MEMBERS
from tests.feature_repo.tables import (
    CLOCK,
    LIVE_STATE,
    NOTIFICATION,
    SERVED,
    at,
    shop,
    write_log,
    write_table,
)

pytestmark = pytest.mark.integration

FEATURES = (*SERVED, *CLOCK)


def build(settings: Settings, rows: list[tuple[str, datetime]], **context: list[Any]) -> pa.Table:
    write_log(settings, NOTIFICATION, rows, **context)
    build_training_set(NOTIFICATION, settings, progress=False)
    return read(settings)


def read(settings: Settings) -> pa.Table:
    parts = sorted(settings.workspace("notification").training_set.glob("part-*.parquet"))
    return pa.concat_tables([pq.read_table(part) for part in parts])


def expected(settings: Settings, table: str, names: tuple[str, ...], member: str, moment: datetime) -> list[Any]:
    """Return a member's last row at or before ``moment``, found row by row."""
    rows = pq.read_table(settings.workspace("notification").features / f"{table}.parquet").to_pylist()
    known = [row for row in rows if row["member_id"] == member and row["event_timestamp"] <= moment]
    last: dict[str, Any] = max(known, key=lambda row: row["event_timestamp"], default={})
    return [last.get(name) for name in names]


def test_each_decision_gets_what_was_known_at_it(on_repo: Settings) -> None:
    rows = [(member, at(day)) for member in MEMBERS for day in (0.0, 0.25, 0.75, 1.5, 2.0, 6.0)]
    joined = build(on_repo, rows)
    assert joined.column_names[-len(FEATURES) :] == list(FEATURES)
    listing = on_repo.workspace("notification").training_set / "features.json"
    assert json.loads(listing.read_text(encoding="utf-8")) == list(FEATURES)
    assert all(joined[name].type == pa.float64() for name in FEATURES)
    for i in range(0, len(rows), 7):
        member, moment = rows[i]
        row = joined.slice(i, 1).to_pylist()[0]
        assert (row["member_id"], row["decided_at"], row["reward_click"]) == (member, moment, float(i))
        assert [row[name] for name in PROFILE] == expected(on_repo, "member_profile", PROFILE, member, moment)
        assert [row[name] for name in WINDOWS] == expected(on_repo, "member_activity", WINDOWS, member, moment)
        assert [row[name] for name in LIVE_STATE] == expected(on_repo, "member_live", LIVE_STATE, member, moment)


def test_no_value_from_the_future_leaks(on_repo: Settings) -> None:
    # The activity rows of every member are at 12:00 of days 0 to 2, and visits_total counts the days.
    half = 0.5
    moments = [at(half, -1), at(half), at(half, 1), at(1 + half, -1), at(1 + half)]
    joined = build(on_repo, [(MEMBERS[0], moment) for moment in moments])
    assert joined["visits_total"].to_pylist() == [None, 0.0, 0.0, 0.0, 1.0]


def test_values_planted_in_the_future_stay_there(on_repo: Settings) -> None:
    """Each row says when it was known; one stands a microsecond after each decision, and one long after it."""
    path = on_repo.workspace("shop").features / "orders.parquet"
    kept = path.read_bytes()
    rng = np.random.default_rng(0)
    decisions = sorted({(str(rng.integers(7, 30)), at(float(rng.integers(0, 9)))) for _ in range(120)})
    known = [(member, moment - timedelta(hours=int(rng.integers(0, 20)))) for member, moment in decisions[::2]]
    known += [(m, t + later) for m, t in decisions for later in (timedelta(microseconds=1), timedelta(hours=23))]
    members, times = zip(*(known[i] for i in rng.permutation(len(known))), strict=True)
    try:
        spent = [moment.timestamp() for moment in times]
        write_table(on_repo, "shop", "orders", members, times, {"spent": spent, "orders_total": [3] * len(times)})
        write_log(on_repo, shop(), decisions)
        build_training_set(shop(), on_repo, progress=False)
    finally:
        path.write_bytes(kept)
    joined = pq.read_table(on_repo.workspace("shop").training_set / "part-00000.parquet")
    for (member, moment), seen in zip(decisions, joined["spent"].to_pylist(), strict=True):
        assert seen == max((t.timestamp() for m, t in known if m == member and t <= moment), default=None)


def test_a_value_older_than_its_ttl_is_missing(on_repo: Settings) -> None:
    last = at(2.5) + timedelta(days=14)
    joined = build(on_repo, [(MEMBERS[0], last), (MEMBERS[0], last + timedelta(microseconds=1))])
    assert joined["visits_total"].to_pylist() == [2.0, None]
    assert joined["tenure_days"].null_count == 0


def test_a_member_without_features_stays(on_repo: Settings) -> None:
    joined = build(on_repo, [(MEMBERS[0], at(1)), ("zz-unknown", at(1))])
    assert joined["member_id"].to_pylist() == [MEMBERS[0], "zz-unknown"]
    assert [joined[name].null_count for name in FEATURES] == [1] * len(FEATURES)


def test_on_demand_features_are_of_the_decision(on_repo: Settings) -> None:
    joined = build(on_repo, [(MEMBERS[0], at(0.25)), (MEMBERS[0], at(5.0))])
    offset = joined["utc_offset_hours"].to_numpy()
    hours = np.array([6.0, 0.0]) + offset
    np.testing.assert_allclose(joined["hour_sin"].to_numpy(), np.sin(2 * np.pi * hours / 24), atol=1e-12)
    assert joined["is_weekend"].to_pylist() == [0.0, float(offset[1] >= 0)]


def test_parts_hold_whole_members_and_join_to_the_same(on_repo: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [(member, at(0.1 * i)) for member in MEMBERS for i in range(9)]
    whole = build(on_repo, rows)
    monkeypatch.setattr(training_set, "ROWS_PER_PART", 18)
    monkeypatch.setattr(training_set, "_ROWS_AT_ONCE", 50)
    report = build_training_set(NOTIFICATION, on_repo, progress=False)
    assert read(on_repo).equals(whole)
    parts = sorted(on_repo.workspace("notification").training_set.glob("part-*"))
    members = [set(pq.read_table(part)["member_id"].to_pylist()) for part in parts]
    assert sum(map(len, members)) == len(set().union(*members)) == report.members == len(MEMBERS)
    assert report.parts == len(parts) == 10
    assert report.rows == len(rows)


def test_a_new_training_set_replaces_the_old_one(on_repo: Settings) -> None:
    folder = on_repo.workspace("notification").training_set
    build(on_repo, [(MEMBERS[0], at(1))])
    (folder / "part-00007.parquet").write_bytes(b"of an earlier, longer log")
    assert build(on_repo, [(MEMBERS[1], at(1))])["member_id"].to_pylist() == [MEMBERS[1]]
    assert [path.name for path in folder.parent.iterdir() if path.name.startswith(".")] == []


def test_a_failed_build_leaves_the_old_one(on_repo: Settings) -> None:
    before = build(on_repo, [(MEMBERS[0], at(1))])
    write_log(on_repo, NOTIFICATION, [(MEMBERS[1], at(1)), (MEMBERS[0], at(1))])
    with pytest.raises(LogError, match=r"m00 at 2026-01-06.* comes after m01"):
        build_training_set(NOTIFICATION, on_repo, progress=False)
    assert read(on_repo).equals(before)


def test_one_decision_twice_is_refused(on_repo: Settings) -> None:
    with pytest.raises(LogError, match="rows must rise by member_id and decided_at"):
        build(on_repo, [(MEMBERS[0], at(1)), (MEMBERS[0], at(1))])


def test_a_context_column_gives_way_to_the_feature_of_its_name(on_repo: Settings) -> None:
    joined = build(on_repo, [(MEMBERS[0], at(1))], visits_total=[99.0], campaign=["a"])
    assert joined["visits_total"].to_pylist() == [0.0]
    assert joined["campaign"].to_pylist() == ["a"]
    assert joined.column_names.count("visits_total") == 1


def test_a_candidate_feature_named_like_a_feature_is_refused(on_repo: Settings) -> None:
    spec = replace(NOTIFICATION, state=replace(NOTIFICATION.state, candidate=("sends_24h",)))
    write_log(on_repo, spec, [(MEMBERS[0], at(1))])
    with pytest.raises(SpecError, match="'sends_24h' is a column of the decision log and a feature"):
        build_training_set(spec, on_repo, progress=False)


def test_no_log_says_so(on_repo: Settings) -> None:
    on_repo.workspace("notification").log.unlink(missing_ok=True)
    with pytest.raises(LogError, match=r"decisions.parquet: no decision log"):
        build_training_set(NOTIFICATION, on_repo, progress=False)


def test_own_data_is_joined_by_its_own_views(on_repo: Settings) -> None:
    write_log(on_repo, shop(), [("7", at(0.5)), ("7", at(1.5))])
    build_training_set(shop(), on_repo, progress=False)
    joined = pq.read_table(on_repo.workspace("shop").training_set / "part-00000.parquet")
    assert [joined[name].to_pylist() for name in ("spent", "orders_total", "age")] == [[None, 2.5], [None, 3], [40, 40]]


def test_a_service_that_was_not_applied_is_named(on_repo: Settings) -> None:
    spec = shop()
    spec = replace(spec, state=replace(spec.state, feature_service="shop_state_v2"))
    write_log(on_repo, spec, [("7", at(1))])
    with pytest.raises(StoreError, match="'shop_state_v2' was never applied; run `make apply`"):
        build_training_set(spec, on_repo, progress=False)
