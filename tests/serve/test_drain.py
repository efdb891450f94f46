"""The engine's own log: drained rows keep the decision-log contract, and none is lost when a drain dies."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from contracts.decision_log import read_log
from contracts.errors import StoreError
from sequence_store.memory_ring import MemoryRingStore
from sequence_store.ring import Cursor
from serve.drain import drain
from serve.engine import Engine
from serve.history import layout_of
from tests.serve.deployment import NOW, TableOfFeatures, item, untrained_artifact

pytestmark = pytest.mark.unit


class DyingBeforeTrim(MemoryRingStore):
    """Loses its server before the drained rows are confirmed, once."""

    dead = True

    def trim(self, cursors: Sequence[Cursor]) -> int:
        if self.dead:
            self.dead = False
            raise StoreError("gone")
        return super().trim(cursors)


def decided(cls: type[MemoryRingStore] = MemoryRingStore, cycles: int = 3) -> tuple[MemoryRingStore, Engine]:
    artifact = untrained_artifact()
    ring = artifact.spec.ring
    rings = cls(artifact.spec.name, layout_of(artifact), ring.capacity, ring.ttl_days)
    features = TableOfFeatures()
    engine = Engine(artifact, features, rings, now_ms=lambda: NOW)
    for cycle in range(cycles):
        for member in ("a", "b"):
            features.rows[member] = {"visits_total": 2.0 * cycle, "clicks_total": 0.0, "sends_24h": 1.0}
        items = [item(member, f"c{cycle}", at_hours=3 * cycle) for member in ("a", "b")]
        engine.answer([json.dumps({"decisions": items})])
    return rings, engine


def test_drained_rows_are_a_log_with_attributed_rewards(tmp_path: Path) -> None:
    rings, engine = decided()
    assert drain(rings, engine.spec, tmp_path) == 6
    assert drain(rings, engine.spec, tmp_path) == 0
    log = read_log(tmp_path, engine.spec)
    assert (log.table.num_rows, log.rejects.num_rows) == (6, 0)
    assert log.table["reward_visit"].to_pylist() == [2.0, 2.0, None] * 2
    volume = dict(zip(log.table["action"].to_pylist(), log.table["reward_volume"].to_pylist(), strict=True))
    for action, cost in {"none": 0.0, "badge": -0.6, "push": -2.0}.items():
        assert volume.get(action, cost) == pytest.approx(cost)


def test_a_drain_that_dies_before_it_confirms_loses_no_row(tmp_path: Path) -> None:
    rings, engine = decided(DyingBeforeTrim)
    with pytest.raises(StoreError):
        drain(rings, engine.spec, tmp_path)
    assert drain(rings, engine.spec, tmp_path) == 6
    rows = [row for path in tmp_path.glob("*.parquet") for row in pq.read_table(path).to_pylist()]
    assert len({(row["member_id"], row["sequence"]) for row in rows}) == 6


def test_a_row_that_is_no_json_is_said_so(tmp_path: Path) -> None:
    rings, engine = decided(cycles=1)
    rings._outbox.append((Cursor(0, (99, 0)), b"not json"))
    with pytest.raises(StoreError, match="no JSON"):
        drain(rings, engine.spec, tmp_path)
