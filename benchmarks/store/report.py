"""The figures of a run: as JSON, and as tables for people."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.store.cost import CORE_MONTH, DECISIONS_PER_S, GIB_MONTH, Cost
from benchmarks.store.frontier import Point
from benchmarks.store.growth import READ_BATCH, Read
from benchmarks.store.layouts import SAFE_PEERS
from benchmarks.store.physical import Measured
from benchmarks.store.speed import BATCHES, Pace


@dataclass(frozen=True)
class Bytes:
    """Bytes of one layout: a member's in memory and in values alone, and those that an append writes."""

    per_member: float
    values: float
    written: float


@dataclass
class Results:
    """Everything that a run measured; names of layouts are those of ``layouts``."""

    title: str
    members: int
    columns: int
    """Of the state."""
    environment: str
    decisions_per_day: float
    ours: dict[str, Bytes] = field(default_factory=dict)
    natural: dict[str, Bytes] = field(default_factory=dict)
    paces: dict[str, Pace] = field(default_factory=dict)
    """With our codec, and the floor as ``floor``."""
    natural_paces: dict[str, Pace] = field(default_factory=dict)
    reads: dict[int, Read] = field(default_factory=dict)
    physical: dict[str, Measured] = field(default_factory=dict)
    frontier: dict[int, Point] = field(default_factory=dict)
    """Entries that are compressed together -> what that takes."""
    other: Results | None = None
    """The same of another log: bytes alone."""

    def ratio(self, layout: str, figure: str = "per_member") -> float:
        """Return how many bytes ``raw_avro_ring`` takes for one of ``layout``."""
        return float(getattr(self.ours["raw_avro_ring"], figure) / getattr(self.ours[layout], figure))

    def costs(self) -> dict[str, Cost]:
        """Return layout -> what it costs at work."""
        return {
            name: Cost.of(self.paces[name], row.per_member, row.written, self.decisions_per_day)
            for name, row in self.ours.items()
        }

    def frontier_cost(self, point: Point) -> Cost:
        """Return what a ring with such packs would cost, if it took no more time than the shipped one."""
        return Cost.of(self.paces["ring"], point.per_member, point.written, self.decisions_per_day)

    def targets(self) -> list[tuple[str, float, str, bool]]:
        """Return (figure, value, target, whether it is met) of the figures that were promised."""
        ring, whole = self.ours["ring"], self.ours["whole_record"]
        largest = max(BATCHES)
        pace = self.paces["ring"].per_s[largest]
        above = max(ring.per_member / self.ours[name].per_member for name in _ABOVE)
        safe = {name: self.paces[name].per_s[largest] for name in SAFE_PEERS}
        as_used = {name: self.natural_paces[name].per_s[largest] for name in SAFE_PEERS}
        rows: list[tuple[str, float, str, bool]] = []

        def at_least(text: str, value: float, bound: float) -> None:
            rows.append((text, value, f"{bound:g} or more", value >= bound))

        def at_most(text: str, value: float, bound: float) -> None:
            rows.append((text, value, f"{bound:.3g} or less", value <= bound))

        at_least("bytes a member, raw_avro_ring / ring", self.ratio("ring"), 5.0)
        at_most(f"bytes a member, ring / best of {', '.join(_ABOVE)}", above, 1.0)
        at_most("bytes a member, ring / whole_record", ring.per_member / whole.per_member, 1.1)
        at_most("bytes written, ring / whole_record", ring.written / whole.written, 1 / 6)
        best = max(safe, key=safe.__getitem__)
        at_least(f"read + append of {largest}, ring / {best} with our codec", pace / safe[best], 2.0)
        best = max(as_used, key=as_used.__getitem__)
        at_least(f"read + append of {largest}, ring / {best} with its natural codec", pace / as_used[best], 2.0)
        at_least(f"read + append of {largest}, ring / floor", pace / self.paces["floor"].per_s[largest], 0.4)
        return rows

    def to_json(self) -> dict[str, Any]:
        """Return the figures as plain JSON values."""
        tree = _bytes_tree(self.ours) | {
            "round_trips_per_decision": _rounded({n: p.round_trips[1] for n, p in self.paces.items() if n != "floor"}),
            "read_append_per_s": {n: _per_s(p) for n, p in self.paces.items() if n != "floor"},
            "floor_per_s": _per_s(self.paces["floor"]) if "floor" in self.paces else {},
            "ratio_vs_raw_avro": round(self.ratio("ring"), 3),
            "ratio_vs_raw_avro_lossless": round(self.ratio("ring_lossless"), 3),
            "value_bytes_ratio_vs_raw_avro": round(self.ratio("ring", "values"), 3),
            "value_bytes_ratio_vs_raw_avro_lossless": round(self.ratio("ring_lossless", "values"), 3),
            "members": self.members,
            "state_columns": self.columns,
            "environment": self.environment,
        }
        if not self.paces:
            return {key: value for key, value in tree.items() if value != {}}
        return tree | {
            "spread": {
                name: {str(batch): round(share, 3) for batch, share in pace.spread.items()}
                for name, pace in self.paces.items()
            },
            "cpu_us_per_decision": {
                name: {"client": round(pace.client_us, 1), "server": round(pace.server_us, 1)}
                for name, pace in self.paces.items()
            },
            "natural": _bytes_tree(self.natural)
            | {"read_append_per_s": {name: _per_s(pace) for name, pace in self.natural_paces.items()}},
            "read_us_by_members": {
                str(members): {"us": round(read.us, 2), "used_memory": read.memory_bytes}
                for members, read in self.reads.items()
            },
            "physical": {
                name: {key: round(value, 1) for key, value in dataclasses.asdict(row).items()}
                for name, row in self.physical.items()
            },
            "frontier": {
                str(size): {key: round(value, 1) for key, value in dataclasses.asdict(point).items()}
                | {"usd_month": round(self.frontier_cost(point).usd_month)}
                for size, point in self.frontier.items()
            },
            "cost_at_150000_per_s": {
                name: {key: round(value, 2) for key, value in dataclasses.asdict(cost).items()}
                | {"usd_month": round(cost.usd_month)}
                for name, cost in self.costs().items()
            },
            "targets": {text: {"value": round(value, 3), "met": met} for text, value, _, met in self.targets()},
            **({self.other.title: self.other.to_json()} if self.other else {}),
        }


_ABOVE = ("stream", "list", "whole_record_json", "feast_arrays")
"""Peers that a ring must be smaller than."""


def show(results: Results, console: Console) -> None:
    """Print the tables."""
    console.print(_bytes_table(results))
    if results.other:
        console.print(_bytes_table(results.other))
    if not results.paces:
        return
    console.print(_speed_table(results))
    console.print(_physical_table(results))
    console.print(_frontier_table(results))
    console.print(_growth_table(results))
    console.print(_cost_table(results))
    costs = results.costs()
    console.print(f"cheapest of ring and those as safe: {min(('ring', *SAFE_PEERS), key=lambda n: costs[n].usd_month)}")
    table = Table(title="targets")
    for heading in ("figure", "value", "target", ""):
        table.add_column(heading, justify="right" if heading == "value" else "left")
    for text, value, target, met in results.targets():
        table.add_row(text, f"{value:.3f}", target, "met" if met else "NOT MET")
    console.print(table)


def _bytes_table(results: Results) -> Table:
    table = _table(
        f"{results.title}: bytes, {results.members:,} members, {results.columns} state columns, our codec (natural)",
        ("layout", "a member", "of values", "written an append", "raw_avro_ring / it"),
    )
    for name, row in results.ours.items():
        natural = results.natural.get(name)
        cells = [
            f"{ours:,.0f}" + (f" ({theirs:,.0f})" if theirs is not None else "")
            for ours, theirs in zip(
                dataclasses.astuple(row), dataclasses.astuple(natural) if natural else (None,) * 3, strict=True
            )
        ]
        table.add_row(name, *cells, f"{results.ratio(name):.2f}")
    return table


def _speed_table(results: Results) -> Table:
    table = _table(
        "members read and appended to a second, one process, median ± half the interquartile range",
        (
            *("layout", *(f"batch {batch}" for batch in BATCHES), "round trips"),
            *("client CPU, us", "server CPU, us", "network, bytes", "as safe"),
        ),
    )
    naturals = {f"{name}, natural": pace for name, pace in results.natural_paces.items()}
    for name, pace in (results.paces | naturals).items():
        layout = name.split(",")[0]
        safe = "" if layout == "floor" else "yes" if layout in SAFE_PEERS or "ring" in layout else "no"
        table.add_row(
            name,
            *(f"{pace.per_s[batch]:,.0f} ± {pace.spread[batch]:.0%}" for batch in BATCHES),
            f"{pace.round_trips[1]:g}",
            *(f"{pace.client_us:.0f}", f"{pace.server_us:.0f}", f"{pace.network_bytes:,.0f}", safe),
        )
    return table


def _physical_table(results: Results) -> Table:
    table = _table(
        "physical layouts with the same frames; appends alone, made beforehand, 64 at a time",
        ("layout", "bytes a member", "written an append", "appends a second"),
    )
    for name, row in results.physical.items():
        table.add_row(name, *(f"{value:,.0f}" for value in dataclasses.astuple(row)))
    return table


def _frontier_table(results: Results) -> Table:
    table = _table(
        "entries compressed together: the ring (1), and what would become of it; time as the ring's",
        ("together", "bytes a member", "written an append", "lost to a damaged byte", "$ a month"),
    )
    for size, point in results.frontier.items():
        usd = results.frontier_cost(point).usd_month
        table.add_row(str(size), f"{point.per_member:,.0f}", f"{point.written:,.0f}", str(point.lost), f"{usd:,.0f}")
    whole = results.ours["whole_record"]
    usd = results.costs()["whole_record"].usd_month
    table.add_row("whole_record", f"{whole.per_member:,.0f}", f"{whole.written:,.0f}", "16", f"{usd:,.0f}")
    return table


def _growth_table(results: Results) -> Table:
    table = _table(
        f"a read as members grow, batches of {READ_BATCH}", ("members", "microseconds a member", "used_memory, MB")
    )
    for members, read in results.reads.items():
        table.add_row(f"{members:,}", f"{read.us:.1f}", f"{read.memory_bytes / 1e6:,.0f}")
    return table


def _cost_table(results: Results) -> Table:
    costs = results.costs()
    members = next(iter(costs.values())).members
    table = _table(
        f"{DECISIONS_PER_S:,} decisions a second of {members / 1e9:.2f} billion members at "
        f"{results.decisions_per_day:.1f} a member and day; ${CORE_MONTH:g} a core and month, ${GIB_MONTH:g} a GiB; "
        "our codec, no replicas",
        ("layout", "client cores", "server cores", "memory, GiB", "network, Gbit/s", "written, MB/s", "$ a month"),
    )
    for name, cost in costs.items():
        figures = dataclasses.astuple(cost)[1:]
        table.add_row(name, *(f"{value:,.1f}" for value in figures), f"{cost.usd_month:,.0f}")
    return table


def _table(title: str, headings: tuple[str, ...]) -> Table:
    table = Table(title=title)
    for i, heading in enumerate(headings):
        table.add_column(heading, justify="right" if i else "left")
    return table


def _bytes_tree(rows: Mapping[str, Bytes]) -> dict[str, Any]:
    return {
        "bytes_per_member": _rounded({name: row.per_member for name, row in rows.items()}),
        "bytes_written_per_append": _rounded({name: row.written for name, row in rows.items()}),
        "value_bytes_per_member": _rounded({name: row.values for name, row in rows.items()}),
    }


def _per_s(pace: Pace) -> dict[str, int]:
    return {str(batch): round(value) for batch, value in pace.per_s.items()}


def _rounded(figures: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 1) for name, value in figures.items()}
