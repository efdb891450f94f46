"""Any interleaving of reads, appends from old and new reads, expiry, emptying, restarts and damage agrees with a model.

A restart is what a deployment does: another capacity, another layout, another dictionary to write with.
"""

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
    precondition,
    rule,
    run_state_machine_as_test,
)

from sequence_store import Append, AppendOutcome, Entry, FloatGroup, Layout, Ring, Version
from tests.sequence_store.samples import DAY_MS, NOW_MS, make_entry, read_many, read_one
from tests.sequence_store.stores import Harness

MEMBERS = ["a", "b"]
CAPACITIES = (11, 4, 1)
AGES_MS = (0, 13 * DAY_MS, 15 * DAY_MS, -40 * DAY_MS)
ACTIONS = ("none", "push")
LAYOUTS = (
    Layout((), ACTIONS),
    Layout((FloatGroup("state", ("a", "b"), "uint8", ((0.0, 0.5), (1.0, 0.25))),), ACTIONS),
    Layout((FloatGroup("state", ("a", "b", "added"), "float32"),), ACTIONS),
    Layout((FloatGroup("state", ("b", "a"), "float32"),), ACTIONS),
    Layout((FloatGroup("state", ("a",), "uint16", ((0.0, 0.5),)),), (*ACTIONS, "badge")),
)
DICTIONARIES = (b"", b"cycle-notification-" * 10, b"utility-v1notification/1" * 10)


@dataclass
class Modelled:
    """A ring: the entries it keeps, the oldest first; those it ever had; and how many were appended.

    Its identity stands for the incarnation.
    """

    kept: list[Entry] = field(default_factory=list)
    written: list[Entry] = field(default_factory=list)
    count: int = 0


@dataclass(frozen=True)
class Seen:
    """What a reader remembers: the store's version, and the model's state at that moment."""

    member_id: str
    version: Version
    generation: int
    ring: Modelled
    count: int
    capacity: int


class Machine(RuleBasedStateMachine):
    """Drives one store and its model side by side."""

    harness: Harness
    seen: Bundle[Seen] = Bundle("seen")

    @initialize()
    def begin(self) -> None:
        self.capacity, self.layout = CAPACITIES[0], LAYOUTS[0]
        self.store = self.harness.open(layout=self.layout, capacity=self.capacity, ttl_days=14)
        self.rings = {member_id: Modelled() for member_id in MEMBERS}
        self.rows: list[bytes] = []
        self.generation = 0

    @rule(target=seen, member_id=st.sampled_from(MEMBERS))
    def read(self, member_id: str) -> Seen:
        return self._look(member_id)

    def _look(self, member_id: str) -> Seen:
        modelled = self.rings[member_id]
        version = read_one(self.store, member_id).version
        return Seen(member_id, version, self.generation, modelled, modelled.count, self.capacity)

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

    @rule(
        capacity=st.sampled_from(CAPACITIES), layout=st.sampled_from(LAYOUTS), dictionary=st.sampled_from(DICTIONARIES)
    )
    def restart(self, capacity: int, layout: Layout, dictionary: bytes) -> None:
        self.capacity, self.layout = capacity, layout
        self.store = self.harness.restart(self.store, layout=layout, capacity=capacity, dictionary=dictionary)

    @rule(limit=st.integers(1, 5))
    def drain(self, limit: int) -> None:
        drained = self.store.drain(limit)
        assert bool(drained) == bool(self.rows)
        assert self.store.trim([cursor for cursor, _ in drained]) == len(drained)
        for _, row in drained:
            self.rows.remove(row)

    @precondition(lambda self: any(ring.kept for ring in self.rings.values()))
    @rule(data=st.data(), heal=st.booleans())
    def flip_a_bit(self, data: st.DataObject, heal: bool) -> None:
        member_id = data.draw(st.sampled_from([member_id for member_id, ring in self.rings.items() if ring.kept]))
        before: list[bytes] = []

        def damage(value: bytes) -> bytes:
            bit = data.draw(st.integers(0, 8 * len(value) - 1))
            before.append(value)
            return value[: bit // 8] + bytes((value[bit // 8] ^ 1 << bit % 8,)) + value[bit // 8 + 1 :]

        self.harness.rewrite(self.store, member_id, damage)
        ring, modelled = read_one(self.store, member_id), self.rings[member_id]
        found, whole = everything(ring), modelled.kept[-self.capacity :]
        # Without a header, one that was overwritten may still be found, if the reader's capacity has room for it.
        newest = modelled.written[-self.capacity :]
        assert found == [entry for entry in newest if entry in found], "what is read was written, in that order"
        lost = [entry for entry in whole if entry not in found]
        assert len(lost) <= 1
        assert not lost or set(ring.skipped) - {"expired"}
        if not heal:
            self.harness.rewrite(self.store, member_id, lambda _: before[0])
            return
        # Which entries stay until as many new ones took their places, the model does not know. For readers from
        # before, the ring is another one.
        self.rings[member_id] = Modelled(found, list(found), ring.version.count)
        for _ in range(self.capacity):
            self._append(self._look(member_id), 0)

    @invariant()
    def agrees(self) -> None:
        for member_id, ring in zip(MEMBERS, read_many(self.store, MEMBERS), strict=True):
            modelled = self.rings[member_id]
            newest = modelled.kept[-self.capacity :]
            live = [entry for entry in newest if entry.at_ms >= NOW_MS - 14 * DAY_MS]
            assert list(ring.entries) == live
            assert list(ring.aged) == [entry for entry in newest if entry not in live]
            assert ring.version.count == modelled.count
            assert sum(ring.skipped.values()) == ring.skipped.get("expired", 0) == len(newest) - len(live)

    def _append(self, seen: Seen, age_ms: int) -> None:
        entry = make_entry(seen.version.count, layout=self.layout, at_ms=NOW_MS - age_ms)
        row = f"{seen.member_id}{seen.count}".encode()
        current = self.rings[seen.member_id]
        # Absent is absent: a ring may have come and gone since it was read so, and left nothing to be wrong about.
        same = current is seen.ring or seen.count == 0
        expected = same and (current.count, self.generation) == (seen.count, seen.generation)
        (outcome,) = self.store.append([Append(seen.member_id, seen.version, entry, row)])
        assert outcome is (AppendOutcome.APPENDED if expected else AppendOutcome.CONFLICT)
        if expected:
            # What a reader of a smaller capacity left out is not carried on by its append.
            current.kept = [*current.kept[-seen.capacity :], entry][-self.capacity :]
            current.written.append(entry)
            current.count += 1
            self.rows.append(row)


def everything(ring: Ring) -> list[Entry]:
    """Return the entries of a ring, aged ones included, in order."""
    return sorted((*ring.aged, *ring.entries), key=lambda entry: entry.sequence)


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
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        ),
    )
