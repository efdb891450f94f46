"""The store benchmark: every layout holds the same entries, refuses what it must, and yields the figures named."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from rich.console import Console

from benchmarks.store.__main__ import QUICK, measure
from benchmarks.store.bytes_used import Loaded, bytes_written, load, member_id, next_times, same_history
from benchmarks.store.cost import CORE_MONTH, DECISIONS_PER_S, GIB_MONTH, Cost
from benchmarks.store.decisions import Decisions, cut, cycle_id, unscaled
from benchmarks.store.growth import sealed
from benchmarks.store.layouts import PEERS, RINGS, SAFE_PEERS, Codecs
from benchmarks.store.peers import TENANT, Held, Open
from benchmarks.store.report import Results, show
from benchmarks.store.server import Server
from benchmarks.store.speed import Pace, look
from contracts.errors import LogError, StoreError
from sequence_store import FloatGroup, Layout, packed
from sequence_store.frame import Owner

CAPACITY, MEMBERS, OTHERS = 16, 128, 2_000
HOUR_MS = 3_600_000


def made_up_decisions() -> Decisions:
    """Counts that change seldom, as real ones are, and a few numbers that do not repeat."""
    rng = np.random.default_rng(0)
    rows = MEMBERS * CAPACITY + OTHERS
    state = np.repeat(rng.poisson(2.0, (rows // 8, 40)), 8, axis=0).astype(np.float32)
    state[:, :3] = rng.normal(size=(rows, 3))
    floats: dict[str, NDArray[np.floating[Any]]] = {
        "state": state,
        "rewards": rng.normal(size=(rows, 2)).astype(np.float32),
        "scores": rng.random((rows, 1)).astype(np.float32),
        "counters": np.arange(2 * rows, dtype=np.float64).reshape(rows, 2),
        "probabilities": rng.random((rows, 2)).astype(np.float32),
    }
    layout = Layout(
        groups=(
            FloatGroup("state", tuple(f"f{i}" for i in range(40)), "uint8", ((0.0, 0.25),) * 3 + ((2.0, 1.0),) * 37),
            FloatGroup("scores", ("click",), "uint8", ((0.5, 0.01),)),
            FloatGroup("rewards", ("click", "volume"), "uint8", ((0.0, 0.1),) * 2),
            FloatGroup("counters", ("visits", "clicks"), "float64"),
            FloatGroup("probabilities", ("badge", "push"), "uint16", ((0.5, 1 / 65532),) * 2),
        ),
        actions=("none", "badge", "push"),
    )
    at_ms = 1_767_225_600_000 + HOUR_MS * np.arange(rows) + rng.integers(0, HOUR_MS, rows)
    return Decisions(
        layout=layout,
        floats=floats,
        at_ms=at_ms,
        actions=rng.integers(0, 3, rows),
        eligible=np.full(rows, 0b111),
        cycle_ids=[cycle_id(at) for at in at_ms.tolist()],
        notification_ids=[f"n{row}" for row in range(rows)],
        mask_key="utility-v1",
        model="notification/1",
        runs=np.arange(MEMBERS * CAPACITY).reshape(MEMBERS, CAPACITY),
        per_day=6.0,
    )


@pytest.fixture(scope="module")
def decisions() -> Decisions:
    return made_up_decisions()


@pytest.fixture(scope="module")
def codecs(decisions: Decisions) -> Codecs:
    return Codecs.of(decisions)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A redis-server for all tests, each of which has databases of its own."""
    with Server() as running:
        yield running


@pytest.fixture(scope="module")
def results(decisions: Decisions) -> Results:
    """What a quick run measures."""
    return measure(decisions, "made up", QUICK, Console(stderr=True))


def opened(codecs: Codecs, layout: str) -> Open:
    """Return a layout with our codec, or with its natural one where its name ends in *."""
    return codecs.natural()[layout[:-1]] if layout.endswith("*") else codecs.ours()[layout]


def decide(loaded: Loaded, decisions: Decisions, numbers: range, row: int) -> Sequence[Held]:
    """Append one more entry to each of some members; return what was read before."""
    names, times = [member_id(number) for number in numbers], next_times(loaded, decisions, numbers)
    held = loaded.peer.read(names, times)
    entries = [
        decisions.entry(int(decisions.runs[number, row]), one.version.count, loaded.peer.layout, at_ms)
        for number, one, at_ms in zip(numbers, held, times, strict=True)
    ]
    loaded.peer.append(names, held, entries)
    return held


@pytest.mark.integration
@pytest.mark.parametrize(
    ("layout", "like"),
    [
        *((layout, "ring") for layout in PEERS),
        *((f"{layout}*", "ring_lossless") for layout in PEERS if layout != "stream"),
        ("stream*", "raw_avro_ring"),
    ],
)
def test_a_peer_holds_the_entries_of_a_ring_of_the_same_storage_types(
    server: Server, decisions: Decisions, codecs: Codecs, layout: str, like: str
) -> None:
    numbers = range(3)
    peer, ring = (load(server, opened(codecs, name), decisions, len(numbers)) for name in (layout, like))
    for row in (5, 3, 1):
        for one, other in zip(
            decide(peer, decisions, numbers, row), decide(ring, decisions, numbers, row), strict=True
        ):
            assert len(other.longs) == CAPACITY
            assert same_history(one, other)


@pytest.mark.integration
@pytest.mark.parametrize("layout", ["ring", *SAFE_PEERS, *(f"{layout}*" for layout in SAFE_PEERS)])
def test_of_two_appends_from_the_same_read_a_safe_layout_refuses_one(
    server: Server, decisions: Decisions, codecs: Codecs, layout: str
) -> None:
    loaded = load(server, opened(codecs, layout), decisions, 2)
    other = opened(codecs, layout)(server.same_database(loaded.client))
    name, now = [member_id(1)], next_times(loaded, decisions, [1])
    first, second = loaded.peer.read(name, now), other.read(name, now)
    row = int(decisions.runs[1, 0])
    entry = [decisions.entry(row, first[0].version.count, loaded.peer.layout, now[0])]
    other.append(name, second, entry)
    with pytest.raises(StoreError, match="refused"):
        loaded.peer.append(name, first, entry)


@pytest.mark.integration
def test_a_cycle_that_was_decided_is_found_in_every_layout(
    server: Server, decisions: Decisions, codecs: Codecs
) -> None:
    for layout in (*codecs.ours(), *(f"{layout}*" for layout in PEERS)):
        loaded = load(server, opened(codecs, layout), decisions, 1)
        now = next_times(loaded, decisions, [0])
        (held,) = loaded.peer.read([member_id(0)], now)
        newest, sends = look(held, "never decided", now[0])
        assert [entry.sequence for entry in newest] == [15, 14, 13], layout
        day = [row for row in decisions.runs[0] if decisions.at_ms[row] > now[0] - 24 * HOUR_MS]
        assert sends == (decisions.actions[day] != 0).sum()
        with pytest.raises(StoreError, match="decided"):
            look(held, decisions.cycle_ids[int(decisions.runs[0, 0])], now[0])


@pytest.mark.integration
def test_what_an_append_writes_and_a_member_takes(server: Server, decisions: Decisions, codecs: Codecs) -> None:
    frame = Owner(TENANT, member_id(0), 0).seal(
        decisions.entry(int(decisions.runs[0, 0]), 0, decisions.layout), codecs.shipped
    )
    for layout in ("list", "stream"):
        loaded = load(server, opened(codecs, layout), decisions, 1)
        empty = loaded.peer.read(["nobody"], [0])[0]
        entry = decisions.entry(int(decisions.runs[0, 0]), 0, decisions.layout)
        assert loaded.peer.written(member_id(0), empty, entry) == len(frame)
    whole = load(server, opened(codecs, "whole_record"), decisions, 1)
    assert bytes_written(whole, decisions) == pytest.approx(whole.value_bytes_per_member, rel=0.2)
    assert whole.bytes_per_member > whole.value_bytes_per_member


@pytest.mark.integration
def test_a_ring_sealed_in_bulk_is_one_that_grew(decisions: Decisions, codecs: Codecs) -> None:
    codec = codecs.shipped
    entries = [decisions.entry(row, i, codec.layout) for i, row in enumerate(decisions.runs[4].tolist())]
    value = sealed([Owner(TENANT, "another", 0).seal(entry, codec)[:-4] for entry in entries], "m", codec)
    held = packed.parse(value, Owner(TENANT, "m", 0), {codec.tag: (codec,)}, CAPACITY)
    assert held.faults == ()
    assert [frame.longs.at_ms for frame in held.frames] == [entry.at_ms for entry in entries]
    assert held.version.count == CAPACITY


@pytest.mark.integration
def test_a_quick_run_yields_the_figures_named(results: Results) -> None:
    tree = json.loads(json.dumps(results.to_json(), allow_nan=False))
    for figure in ("bytes_per_member", "bytes_written_per_append", "round_trips_per_decision", "read_append_per_s"):
        assert set(tree[figure]) == {*RINGS, *PEERS}, figure
        assert set(tree["natural"].get(figure, PEERS)) == set(PEERS)
    assert all(set(row) == {"1", "64"} for row in [*tree["read_append_per_s"].values(), tree["floor_per_s"]])
    assert tree["ratio_vs_raw_avro"] == pytest.approx(
        tree["bytes_per_member"]["raw_avro_ring"] / tree["bytes_per_member"]["ring"], rel=0.01
    )
    assert tree["ratio_vs_raw_avro_lossless"] < tree["ratio_vs_raw_avro"]
    written = tree["bytes_written_per_append"]
    assert written["list"] == written["stream"] < written["ring"] < written["whole_record"]
    assert tree["round_trips_per_decision"] == {
        **dict.fromkeys((*RINGS, *PEERS), 2),
        "feast_arrays": 3,
    }
    assert set(tree["physical"]) == {"packed", "hash_of_slots", "fixed_slots", "list_of_slots"}
    assert [int(members) for members in tree["read_us_by_members"]] == list(QUICK.sizes)
    assert all(
        value > 0 for figure in ("read_append_per_s",) for row in tree[figure].values() for value in row.values()
    )


@pytest.mark.integration
def test_the_tables_can_be_printed(results: Results) -> None:
    console = Console(record=True, width=200, file=io.StringIO())
    show(results, console)
    text = console.export_text()
    assert "whole_record_json" in text
    assert "targets" in text


@pytest.mark.unit
def test_runs_are_disjoint_and_of_one_person_and_what_is_left_is_spread_over_time() -> None:
    starts = np.array([0, 40, 40, 75, 110])
    runs = cut(starts, 16, 6)
    others = np.setdiff1d(np.arange(110), runs)
    assert len(others) + runs.size == 110
    assert {tuple(np.searchsorted(starts, run[[0, -1]], side="right")) for run in runs} == {(1, 1), (3, 3), (4, 4)}
    assert (np.diff(runs, axis=1) == 1).all()
    first_left = [int(others[others >= start][0] - start) for start in (0, 40, 75)]
    assert first_left == [0, 32, 0]
    with pytest.raises(LogError, match="6 runs of 16"):
        cut(starts, 16, 7)


@pytest.mark.unit
def test_cost_is_the_sum_of_cores_and_memory() -> None:
    cost = Cost.of(Pace(client_us=100.0, server_us=20.0, network_bytes=1_000.0), 2**30 / 1e6, 100.0, 8.64)
    assert cost.members == pytest.approx(DECISIONS_PER_S * 10_000)
    assert (cost.client_cores, cost.server_cores) == (15.0, 3.0)
    assert cost.memory_gib == pytest.approx(1_500)
    assert cost.network_gbit_s == pytest.approx(1.2)
    assert cost.usd_month == pytest.approx(18 * CORE_MONTH + 1_500 * GIB_MONTH)


@pytest.mark.unit
def test_unscaled_layouts_have_no_scales_and_keep_counters_where_they_shall_be_exact() -> None:
    layout = made_up_decisions().layout
    kinds = [group.storage for group in unscaled(layout, exact_counters=True).groups]
    assert kinds == ["float32", "float32", "float32", "float64", "float32"]
    assert {group.storage for group in unscaled(layout, exact_counters=False).groups} == {"float32"}
