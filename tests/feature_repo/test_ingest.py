"""Events posted are there at the next read, whoever posts them, twice, late, at once, or killed in between."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
import redis

from contracts.errors import StoreUnavailable
from contracts.settings import CHECKOUT, Settings
from feature_repo import counter_writer
from feature_repo.deploy import materialize
from feature_repo.ingest import ingest
from feature_repo.member_events import Event
from feature_repo.online_reader import OnlineReader
from feature_repo.online_rows import OnlineRows
from feature_repo.store import open_store
from feature_repo.training_set import build_training_set
from tests.feature_repo.conftest import MEMBERS
from tests.feature_repo.tables import NOTIFICATION, TIME, at, write_log, write_notification

pytestmark = pytest.mark.integration

SERVICE = "notification_state_v1"
LAST = at(2.5)
"""The last row of every member in member_live, with visits_total 2."""
SOON = at(3)


def us(moment: datetime) -> int:
    return int(moment.timestamp() * 1_000_000)


def visit(member: str, event_id: str, moment: datetime, kind: str = "visit") -> Event:
    return Event(member, kind, event_id, us(moment))


def read(settings: Settings, name: str, members: Sequence[str], moment: datetime = SOON) -> list[float]:
    reader = OnlineReader.open(SERVICE, settings)
    values = reader.read(members, [us(moment) // 1000] * len(members)).values
    return [float(value) for value in values[:, reader.feature_names.index(name)]]


@pytest.fixture
def online(on_repo: Settings) -> Iterator[Settings]:
    """The applied repository, materialized; its tables are as before afterwards."""
    materialize(NOTIFICATION, on_repo)
    yield on_repo
    write_notification(on_repo, MEMBERS)
    for kept in on_repo.workspace("notification").pushed.rglob("*.parquet"):
        kept.unlink()


def test_events_are_there_at_the_next_read_once_each(online: Settings) -> None:
    a, b = MEMBERS[:2]
    moments = [LAST + timedelta(minutes=minute) for minute in range(4)]
    events = [visit(a, "1", moments[1]), visit(a, "2", moments[3]), visit(b, "1", moments[2], "push")]
    report = ingest([*events, events[0]], NOTIFICATION, online)
    assert (report.counted, report.duplicates, report.too_late, report.members) == (3, 1, 0, 2)
    late = visit(a, "3", moments[0] + timedelta(microseconds=1))
    before_the_row = visit(a, "4", LAST)
    report = ingest([late, before_the_row, *events], NOTIFICATION, online)
    assert (report.counted, report.duplicates, report.too_late) == (1, 3, 1)
    assert read(online, "visits_total", [a, b]) == [5.0, 2.0]
    assert read(online, "hours_since_visit", [a], moments[3] + timedelta(hours=2)) == [2.0]
    assert read(online, "hours_since_send", [b], moments[2] + timedelta(hours=3)) == [3.0]
    answer = open_store(online).get_online_features(
        features=["member_live:visits_total"], entity_rows=[{"member_id": a}]
    )
    assert answer.to_dict()["visits_total"] == [5]  # any reader of Feast's sees it


def test_a_member_never_seen_starts_from_nothing(online: Settings) -> None:
    ingest([visit("new", "1", LAST), visit("new", "2", LAST, "badge")], NOTIFICATION, online)
    assert read(online, "visits_total", ["new"]) == [1.0]
    assert read(online, "clicks_total", ["new"]) == [0.0]
    assert read(online, "hours_since_click", ["new"]) == [168.0]


def test_the_future_and_unknown_kinds_are_refused_with_a_reason_and_a_clock_that_jumps_counts_nothing_twice(
    online: Settings,
) -> None:
    ahead = visit(MEMBERS[0], "1", LAST + timedelta(hours=1))
    report = ingest([ahead, visit(MEMBERS[0], "2", LAST, "wave")], NOTIFICATION, online, now_us=us(LAST))
    assert (report.counted, report.in_the_future, report.unknown_kind, report.members) == (0, 1, 1, 0)
    assert "lies in the future" in " ".join(report.problems)
    assert "kind 'wave' changes no feature; known are badge, click, push, visit" in " ".join(report.problems)
    for clock in (at(100), at(2.6), at(50)):
        ingest([ahead], NOTIFICATION, online, now_us=us(clock))
    assert read(online, "visits_total", MEMBERS[:1]) == [3.0]


def test_ingesters_at_once_count_as_one(online: Settings) -> None:
    members = MEMBERS[:3]
    events = [visit(member, str(i), LAST + timedelta(seconds=i + 1)) for member in members for i in range(60)]

    def work(seed: int) -> int:
        mine = random.Random(seed).sample(events, len(events))
        return sum(ingest(mine[i : i + 7], NOTIFICATION, online).counted for i in range(0, len(mine), 7))

    with ThreadPoolExecutor(3) as pool:
        assert sum(pool.map(work, range(3))) == len(events)
    assert read(online, "visits_total", members) == [62.0] * 3


@pytest.mark.parametrize("where", ["_commit", "_push"])
def test_a_crash_in_between_is_made_good_by_giving_the_events_again(
    online: Settings, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    events = [visit(member, "1", LAST + timedelta(seconds=1)) for member in MEMBERS]
    whole = getattr(counter_writer.CounterWriter, where)

    def killed(self: Any, *arguments: Any) -> None:
        if where == "_commit":
            whole(self, *arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(counter_writer.CounterWriter, where, killed)
        with pytest.raises(KeyboardInterrupt):
            ingest(events, NOTIFICATION, online)
    assert read(online, "visits_total", MEMBERS[:1]) == [2.0]
    report = ingest(events, NOTIFICATION, online)
    assert (report.counted, report.duplicates) == (0, len(events))
    assert read(online, "visits_total", MEMBERS) == [3.0] * len(MEMBERS)


def test_a_row_that_a_slower_ingester_pushed_over_a_newer_one_is_put_right(
    online: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    member, whole = MEMBERS[0], OnlineRows.push
    faster_is_done, calls = threading.Event(), []

    def slow(self: OnlineRows, rows: Any) -> None:
        calls.append(rows.num_rows)
        if len(calls) == 1:
            ingest([visit(member, "2", LAST + timedelta(seconds=2))], NOTIFICATION, online)
            faster_is_done.set()
            # As if Feast's check of times and its write had the faster one's push in between.
            with redis.Redis.from_url(str(online.redis_url)) as client:
                for key in client.scan_iter("*member_id*"):
                    if member.encode() in key:
                        client.hdel(key, "_ts:member_live")
        whole(self, rows)

    monkeypatch.setattr(OnlineRows, "push", slow)
    ingest([visit(member, "1", LAST + timedelta(seconds=1))], NOTIFICATION, online)
    assert faster_is_done.is_set()
    assert read(online, "visits_total", [member]) == [4.0]


def test_what_was_ingested_outlives_a_reload_and_is_in_the_training_set(online: Settings) -> None:
    a, b = MEMBERS[:2]
    ingest([visit(a, "1", LAST + timedelta(hours=1))], NOTIFICATION, online)
    table = online.workspace("notification").features / "member_live.parquet"
    with redis.Redis.from_url(str(online.redis_url)) as client:
        client.flushdb()  # not even the counters' states are left
    assert materialize(NOTIFICATION, online).loads["member_live"] == "reloaded"
    assert read(online, "visits_total", [a, b]) == [3.0, 2.0]
    assert pq.read_table(table, filters=[("member_id", "=", a)])["visits_total"].to_pylist() == [0, 1, 2, 3]
    assert pq.read_schema(table).field("event_timestamp").type == TIME
    ingest([visit(b, "1", LAST + timedelta(hours=1))], NOTIFICATION, online)
    write_log(online, NOTIFICATION, [(a, LAST + timedelta(hours=h)) for h in (0, 2)] + [(b, LAST + timedelta(hours=2))])
    build_training_set(NOTIFICATION, online, progress=False)
    joined = pq.read_table(online.workspace("notification").training_set / "part-00000.parquet")
    assert joined["visits_total"].to_pylist() == [2.0, 3.0, 3.0]


def test_counters_go_on_from_a_newer_table_and_over_an_older_one(online: Settings) -> None:
    a, b = MEMBERS[:2]
    ingest([visit(a, "1", LAST + timedelta(hours=1)), visit(b, "1", at(3.75))], NOTIFICATION, online)
    write_notification(online, MEMBERS, days=4)  # a row at day 3.5 with visits_total 3, which knows of a's visit
    assert materialize(NOTIFICATION, online).loads["member_live"] in {"incremental", "reloaded"}
    assert read(online, "visits_total", [a, b], at(4)) == [3.0, 3.0]
    report = ingest([visit(a, "1", LAST + timedelta(hours=1)), visit(a, "2", at(3.6))], NOTIFICATION, online)
    assert (report.counted, report.too_late) == (1, 1)
    assert read(online, "visits_total", [a], at(4)) == [4.0]
    write_notification(online, MEMBERS, days=2)  # another table, which ends before the events
    assert materialize(NOTIFICATION, online).loads["member_live"] == "reloaded"
    assert read(online, "visits_total", [a, MEMBERS[2]], at(4)) == [4.0, 1.0]


def test_a_row_pushed_through_feast_alone_outlives_a_reload(online: Settings) -> None:
    store = open_store(online)
    member = MEMBERS[0]
    columns = {feature.name: [9] for feature in store.get_feature_view("member_live").features}
    row = {"member_id": [member], "event_timestamp": [LAST + timedelta(hours=1)], **columns}
    store.push("member_live_push", pd.DataFrame(row))
    assert read(online, "visits_total", [member]) == [9.0]
    write_notification(online, MEMBERS, seed=1)
    assert materialize(NOTIFICATION, online).loads["member_live"] == "reloaded"
    assert read(online, "visits_total", [member]) == [9.0]
    assert read(online, "visits_total", MEMBERS[1:2]) == [2.0]
    # The next event counts on from there.
    ingest([visit(member, "1", LAST + timedelta(hours=2))], NOTIFICATION, online)
    assert read(online, "visits_total", [member]) == [10.0]


def test_redis_down_is_said_and_nothing_is_lost(online: Settings) -> None:
    event = visit(MEMBERS[0], "1", LAST + timedelta(seconds=1))
    with pytest.raises(StoreUnavailable, match="Redis does not answer"):
        ingest([event], NOTIFICATION, replace(online, redis_url="redis://127.0.0.1:1/0"))
    assert ingest([event], NOTIFICATION, online).counted == 1


def test_the_command_counts_lines_and_says_which_are_wrong(online: Settings, tmp_path: Path) -> None:
    line = {"member_id": MEMBERS[0], "kind": "visit", "event_id": "1", "at": (LAST + timedelta(hours=1)).isoformat()}
    path = tmp_path / "events.jsonl"
    path.write_text(f"{json.dumps(line)}\n\nvisit\n{json.dumps(line)}\n", encoding="utf-8")
    command = [sys.executable, "-m", "feature_repo", "ingest", "--spec", "specs/notification.yaml", str(path)]
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    done = subprocess.run(command, cwd=CHECKOUT, env=environment, capture_output=True, text=True, check=False)
    counts = json.loads(done.stdout.splitlines()[-1])
    assert (done.returncode, counts["counted"], counts["duplicates"], counts["malformed"]) == (1, 1, 1, 1)
    assert f"{path}, line 3: no JSON" in done.stderr
    assert read(online, "visits_total", MEMBERS[:1]) == [3.0]
