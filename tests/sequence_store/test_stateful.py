"""Any interleaving of reads, appends from old and new reads, expiry and emptying agrees with a plain model."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from sequence_store import Append, AppendOutcome, Entry, Layout, Version
from tests.sequence_store.samples import DAY_MS, NOW_MS, make_entry
from tests.sequence_store.stores import Harness

CAPACITY = 11
MEMBERS = ("a", "b")
LAYOUT = Layout((), ("none",))
AGES_MS = (0, 13 * DAY_MS, 15 * DAY_MS, -40 * DAY_MS)


@dataclass
class Modelled:
    """A ring: every entry since it began. Its identity stands for the incarnation."""

    entries: list[Entry] = field(default_factory=list)


@dataclass(frozen=True)
class Seen:
    """What a reader remembers: the store's version, and the model's state at that moment."""

    member_id: str
    version: Version
    generation: int
    ring: Modelled
    count: int


class Machine(RuleBasedStateMachine):
    """Drives one store and its model side by side."""

    harness: Harness
    seen: Bundle[Seen] = Bundle("seen")

    @initialize()
    def begin(self) -> None:
        self.store = self.harness.open(layout=LAYOUT, capacity=CAPACITY, ttl_days=14)
        self.rings = {member_id: Modelled() for member_id in MEMBERS}
        self.rows: list[bytes] = []
        self.generation = 0

    @rule(target=seen, member_id=st.sampled_from(MEMBERS))
    def read(self, member_id: str) -> Seen:
        return self._look(member_id)

    def _look(self, member_id: str) -> Seen:
        (ring,) = self.store.read([member_id], [NOW_MS])
        modelled = self.rings[member_id]
        return Seen(member_id, ring.version, self.generation, modelled, len(modelled.entries))

    @rule(seen=consumes(seen), age_ms=st.sampled_from(AGES_MS))
    def append(self, seen: Seen, age_ms: int) -> None:
        self._append(seen, age_ms)

    @rule(seen=seen, age_ms=st.sampled_from(AGES_MS))
    def append_and_keep_the_version(self, seen: Seen, age_ms: int) -> None:
        self._append(seen, age_ms)

    @rule(member_id=st.sampled_from(MEMBERS), number=st.integers(1, 13))
    def grow(self, member_id: str, number: int) -> None:
        for _ in range(number):
            self._append(self._look(member_id), 0)

    @rule()
    def expire(self) -> None:
        self.harness.expire_rings()
        self.rings = {member_id: Modelled() for member_id in MEMBERS}

    @rule()
    def empty(self) -> None:
        self.store.empty()
        self.rings = {member_id: Modelled() for member_id in MEMBERS}
        self.generation += 1

    @rule(limit=st.integers(1, 5))
    def drain(self, limit: int) -> None:
        drained = self.store.drain(limit)
        assert bool(drained) == bool(self.rows)
        assert self.store.trim([cursor for cursor, _ in drained]) == len(drained)
        for _, row in drained:
            self.rows.remove(row)

    @invariant()
    def agrees(self) -> None:
        for member_id, ring in zip(MEMBERS, self.store.read(MEMBERS, [NOW_MS] * len(MEMBERS)), strict=True):
            modelled = self.rings[member_id].entries
            newest = modelled[-CAPACITY:]
            live = [entry for entry in newest if entry.at_ms >= NOW_MS - 14 * DAY_MS]
            assert list(ring.entries) == live
            assert ring.version.count == len(modelled)
            assert sum(ring.skipped.values()) == len(newest) - len(live)

    def _append(self, seen: Seen, age_ms: int) -> None:
        entry = make_entry(seen.count, layout=LAYOUT, at_ms=NOW_MS - age_ms)
        row = f"{seen.member_id}{seen.count}".encode()
        current = self.rings[seen.member_id]
        # Absent is absent: a ring may have come and gone since it was read so, and left nothing to be wrong about.
        same = current is seen.ring or seen.count == 0
        expected = same and (len(current.entries), self.generation) == (seen.count, seen.generation)
        (outcome,) = self.store.append([Append(seen.member_id, seen.version, entry, row)])
        assert outcome is (AppendOutcome.APPENDED if expected else AppendOutcome.CONFLICT)
        if expected:
            current.entries.append(entry)
            self.rows.append(row)


def test_any_interleaving_agrees_with_the_model(harness: Harness) -> None:
    class OnHarness(Machine):
        pass

    OnHarness.harness = harness
    run_state_machine_as_test(
        OnHarness,
        settings=settings(
            max_examples=30,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
