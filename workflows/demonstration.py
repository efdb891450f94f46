"""Decisions over REST for real members of the log: several cycles, and one cycle asked twice."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from contracts.errors import ServerError
from contracts.settings import Workspace
from contracts.spec import Spec
from serve.client import Client

MEMBERS = 8
CYCLES = 5
CANDIDATES = 3
"""Candidates an item where a utility model ranks them; else one."""
SHOWN_MEMBERS = 3

Item = dict[str, Any]


@dataclass(frozen=True)
class DemonstrationReport:
    """What was asked and answered."""

    decisions: int
    replayed: int
    history_used_max: int


@dataclass(frozen=True)
class Caller:
    """A member of the log who is asked about, from the time of their last decision on."""

    member_id: str
    last: datetime


def demonstrate(spec: Spec, workspace: Workspace, client: Client, console: Console) -> DemonstrationReport:
    """Ask for decisions over several cycles, print them, and ask the last cycle again.

    Candidates are those of rows drawn from the log. Raises ServerError if an item is neither decided nor replayed.
    """
    log = pq.read_table(workspace.log, columns=["member_id", "decided_at", "eligible", *spec.state.candidate])
    rng = np.random.default_rng(spec.training.seed)
    callers = _callers(log, rng)
    gap = _usual_gap(log)
    run = uuid.uuid4().hex[:8]
    answered: list[tuple[Item, Mapping[str, Any]]] = []
    for cycle in range(CYCLES):
        items = [_item(spec, log, caller, f"{run}/{cycle}", caller.last + gap * (cycle + 1), rng) for caller in callers]
        answered += _ask(spec, client, items)
    again = _ask(spec, client, [item for item, _ in answered[-len(callers) :]])
    _show(spec, answered, again, [caller.member_id for caller in callers[:SHOWN_MEMBERS]], console)
    return DemonstrationReport(
        decisions=len(answered),
        replayed=sum(answer["status"] == "replayed" for _, answer in again),
        history_used_max=max(answer["history_used"] for _, answer in answered),
    )


def _callers(log: pa.Table, rng: np.random.Generator) -> list[Caller]:
    last = log.group_by("member_id").aggregate([("decided_at", "max")]).sort_by("member_id")
    chosen = np.sort(rng.permutation(last.num_rows)[:MEMBERS])
    return [Caller(row["member_id"], row["decided_at_max"]) for row in last.take(pa.array(chosen)).to_pylist()]


def _usual_gap(log: pa.Table) -> timedelta:
    """Median time between two decisions of one member; an hour if nobody has two."""
    ordered = log.select(["member_id", "decided_at"]).sort_by([("member_id", "ascending"), ("decided_at", "ascending")])
    times = ordered["decided_at"].cast(pa.int64()).to_numpy()
    same = pc.equal(ordered["member_id"][1:], ordered["member_id"][:-1]).to_numpy()
    gaps = np.diff(times)[same]
    return timedelta(microseconds=int(np.median(gaps))) if len(gaps) else timedelta(hours=1)


def _item(spec: Spec, log: pa.Table, caller: Caller, cycle_id: str, at: datetime, rng: np.random.Generator) -> Item:
    rows = rng.integers(0, log.num_rows, CANDIDATES if spec.predicted_rewards else 1)
    return {
        "member_id": caller.member_id,
        "cycle_id": cycle_id,
        "at": at.astimezone(UTC).isoformat(),
        "candidates": [
            _candidate(spec, log, int(row), f"{cycle_id}/{caller.member_id}/{k}") for k, row in enumerate(rows)
        ],
    }


def _candidate(spec: Spec, log: pa.Table, row: int, notification_id: str) -> Item:
    features = {name: log[name][row].as_py() for name in spec.state.candidate}
    candidate = {"notification_id": notification_id, "eligible": log["eligible"][row].as_py(), "features": features}
    if isinstance(features.get("type"), str):
        candidate["type"] = features.pop("type")
    return candidate


def _ask(spec: Spec, client: Client, items: Sequence[Item]) -> list[tuple[Item, Mapping[str, Any]]]:
    answers = client.decide(spec.name, {"decisions": list(items)})["decisions"]
    for answer in answers:
        if answer["status"] not in {"decided", "replayed"}:
            raise ServerError(f"member {answer['member_id']}: {answer['status']}: {answer['reason']}")
    return list(zip(items, answers, strict=True))


def _show(
    spec: Spec,
    answered: Sequence[tuple[Item, Mapping[str, Any]]],
    again: Sequence[tuple[Item, Mapping[str, Any]]],
    members: Sequence[str],
    console: Console,
) -> None:
    prompt = answered[0][1]["prompt"]
    shown = f"{len(members)} of {MEMBERS} members shown"
    console.print(f"Decisions over REST ({shown}; the last cycle is asked twice):")
    table = Table()
    table.add_column("member")
    table.add_column("cycle", justify="right")
    table.add_column("candidates\n(* the top one)", overflow="fold")
    table.add_column("eligible", overflow="fold")
    table.add_column("action")
    table.add_column("probabilities\n" + ", ".join(spec.actions))
    table.add_column(
        "prompt: prompted return\n" + ", ".join(f"{name} {_plain(prompt[name])}" for name in spec.reward_names)
    )
    table.add_column("history\nused", justify="right")
    table.add_column("status")
    for member in members:
        for item, answer in (pair for pair in (*answered, *again) if pair[0]["member_id"] == member):
            table.add_row(*_cells(spec, item, answer))
        table.add_section()
    console.print(table)


def _cells(spec: Spec, item: Item, answer: Mapping[str, Any]) -> Iterator[str]:
    top = next(c for c in item["candidates"] if c["notification_id"] == answer["notification_id"])
    yield answer["member_id"]
    yield answer["cycle_id"].rpartition("/")[2]
    yield ", ".join(f"{c.get('type', 'candidate')}{'*' * (c is top)}" for c in item["candidates"])
    yield ", ".join(top["eligible"])
    yield answer["action"]
    yield ", ".join(f"{answer['probabilities'][name]:.2f}" for name in spec.actions)
    returns = answer.get("prompted_return")
    yield ", ".join(f"{returns[name]:.2f}" for name in spec.reward_names) if returns else ""
    yield str(answer.get("history_used", ""))
    yield answer["status"]


def _plain(asked: float | Mapping[str, float]) -> str:
    return f"= {asked['value']:g}" if isinstance(asked, Mapping) else f"{asked:g}"
