"""Rings read together: each by itself where that is asked for, and all of them a column at a time.

One by one, what a decision needs of a ring costs ten times what Redis does. So the sound rings of a batch, which are
all but a few, are walked, verified and decoded side by side: frame k of every ring in one step. What is not
sound (damaged, of a codec or format that is not known) is left to ``packed.parse`` and ``Ring``, and its answer put in
its place: both ways give the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import islice
from typing import overload

import numpy as np
from numpy.typing import NDArray

from contracts.errors import StoreError
from sequence_store import avro, packed
from sequence_store.avro_columns import FEW
from sequence_store.columns import EntryColumns
from sequence_store.entry import Entry
from sequence_store.frame import (
    Codecs,
    Owner,
    cycle_hash,
)
from sequence_store.joined import Ints
from sequence_store.layout import Layout
from sequence_store.retention import Retention
from sequence_store.ring import Append, Ring, Version
from sequence_store.side_by_side import NewestEntries, RingValue, SideBySide

Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class RingLongs:
    """The Longs of B rings of at most K entries: column 0 is the newest entry, whatever the time it names.

    Attributes
    ----------
    sequence, at_ms, action, eligible
        [B, K], 0 where there is no entry.
    there
        [B, K] whether there is one: readable, and not aged.
    """

    sequence: Ints
    at_ms: Ints
    action: Ints
    eligible: Ints
    there: Bools


@dataclass(frozen=True)
class Appends(Sequence[Append]):
    """One append to each of N rings, as columns; ``Append`` says what they are."""

    member_ids: Sequence[str]
    versions: Sequence[Version]
    entries: EntryColumns
    log_rows: Sequence[bytes | None]

    def __len__(self) -> int:
        return len(self.member_ids)

    @overload
    def __getitem__(self, number: int) -> Append: ...
    @overload
    def __getitem__(self, number: slice) -> list[Append]: ...
    def __getitem__(self, number: int | slice) -> Append | list[Append]:
        if isinstance(number, slice):
            return [self[one] for one in range(*number.indices(len(self)))]
        return Append(self.member_ids[number], self.versions[number], self.entries.entry(number), self.log_rows[number])

    @classmethod
    def of(cls, appends: Sequence[Append]) -> Appends:
        """Return some appends as columns. Raises ValueError where they do not go together."""
        return cls(
            [append.member_id for append in appends],
            [append.version for append in appends],
            EntryColumns.of([append.entry for append in appends]),
            [append.log_row for append in appends],
        )


class Rings(Sequence[Ring | StoreError]):
    """The rings that were read for some members, in their order. A StoreError stands for one that was not.

    Parameters
    ----------
    member_ids, now_ms
        B members, and the time of each one's decision.
    found
        What the store holds of each, or why that is not known.
    """

    def __init__(
        self,
        tenant: str,
        member_ids: Sequence[str],
        now_ms: Sequence[int],
        found: Sequence[RingValue | StoreError],
        codecs: Codecs,
        retention: Retention,
    ) -> None:
        self._members, self._found, self._codecs, self._retention = member_ids, found, codecs, retention
        self._oldest_ms = np.asarray(now_ms, np.int64).reshape(-1) - retention.ttl_ms
        self._owners = [
            Owner(tenant, member, 0 if isinstance(one, StoreError) else one.generation)
            for member, one in zip(member_ids, found, strict=True)
        ]
        self._rings: dict[int, Ring | StoreError] = {}
        self._versions: dict[int, Version] = {}
        few = len(found) < FEW
        self._sound = _no_rings() if few else SideBySide(self._owners, found, codecs, retention.capacity)
        self._others: Sequence[int] = range(len(found)) if few else self._sound.others
        self.unknown_tags: frozenset[int] = frozenset()
        """Tags of frames whose codec is not known."""
        for number in self._others:
            self._open(number)

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        return [*self] == [*other] if isinstance(other, Sequence) else NotImplemented

    def __len__(self) -> int:
        return len(self._members)

    @overload
    def __getitem__(self, number: int) -> Ring | StoreError: ...
    @overload
    def __getitem__(self, number: slice) -> list[Ring | StoreError]: ...
    def __getitem__(self, number: int | slice) -> Ring | StoreError | list[Ring | StoreError]:
        if isinstance(number, slice):
            return [self[one] for one in range(*number.indices(len(self)))]
        return self._open(range(len(self))[number])

    def error(self, number: int) -> StoreError | None:
        """Return why a ring could not be read, or None."""
        found = self._found[number]
        return found if isinstance(found, StoreError) else None

    def version(self, number: int) -> Version:
        """Return what an append to a ring gives back. Raises the StoreError of one that could not be read."""
        if number not in self._versions:
            version = self._sound.version(number)
            if version is None:
                ring = self._open(number)
                if isinstance(ring, StoreError):
                    raise ring
                version = ring.version
            self._versions[number] = version
        return self._versions[number]

    @cached_property
    def longs(self) -> RingLongs:
        """The Longs of all rings: known without decoding an entry."""
        sound = self._sound
        listed = {number: self._longs_of(number) for number in self._others}
        k = max([sound.there.shape[1], *map(len, listed.values())])
        columns = np.zeros((4, len(self), k), np.int64)
        there = np.zeros((len(self), k), np.bool_)
        width = sound.there.shape[1]
        columns[:, sound.numbers, :width] = sound.longs.transpose(2, 0, 1)
        there[sound.numbers, :width] = sound.there & (sound.longs[:, :, 1] >= self._oldest_ms[sound.numbers, None])
        for number, longs in listed.items():
            columns[:, number, : len(longs)] = np.asarray(longs, np.int64).reshape(-1, 4).T
            there[number, : len(longs)] = True
        columns *= there
        sequence, at_ms, action, eligible = columns
        return RingLongs(sequence, at_ms, action, eligible, there)

    def cycles(self, cycle_ids: Sequence[str]) -> list[Entry | None]:
        """Return the newest entry of a cycle in each ring, as ``Ring.cycle``; None where it is not, or no ring was."""
        entries: list[Entry | None] = [None] * len(self)
        hashes = np.frombuffer(b"".join(map(cycle_hash, cycle_ids)), ">u2")
        suspects = self._sound.numbers[
            (self._sound.there & (self._sound.cycles == hashes[self._sound.numbers, None])).any(axis=1)
        ]
        for number in (*suspects.tolist(), *self._others):
            ring = self._open(number)
            entries[number] = None if isinstance(ring, StoreError) else ring.cycle(cycle_ids[number])
        return entries

    def newest(self, number: int) -> list[NewestEntries]:
        """Return the ``number`` newest entries of each ring, by layout: neither aged ones nor unreadable ones.

        An entry that cannot be read costs itself alone: the next newest is taken for it.
        """
        found, broken = self._sound.newest(number, self._oldest_ms)
        others = self._each([*self._others, *broken])
        entries = {one: list(islice(ring.newest(), number)) for one, ring in others}
        if broken:
            found = [kept for one in found if (kept := _without(one, broken)) is not None]
        by_layout: dict[Layout, list[tuple[Entry, int, int]]] = {}
        for one, several in entries.items():
            for place, entry in enumerate(several):
                by_layout.setdefault(entry.layout, []).append((entry, one, place))
        for rows in by_layout.values():
            of_layout, numbers, places = zip(*rows, strict=True)
            found.append(NewestEntries(EntryColumns.of(of_layout), np.asarray(numbers), np.asarray(places)))
        return found

    def _each(self, numbers: Iterable[int]) -> Iterable[tuple[int, Ring]]:
        for number in numbers:
            ring = self._open(number)
            if isinstance(ring, Ring):
                yield number, ring

    def _longs_of(self, number: int) -> list[avro.Longs]:
        ring = self._open(number)
        return list(reversed(ring.longs)) if isinstance(ring, Ring) else []

    def _open(self, number: int) -> Ring | StoreError:
        if number not in self._rings:
            found = self._found[number]
            if isinstance(found, StoreError):
                self._rings[number] = found
            else:
                held = packed.parse(found.value, self._owners[number], self._codecs, self._retention.capacity)
                self.unknown_tags |= held.unknown_tags
                self._rings[number] = Ring(
                    self._members[number], held.version, held.frames, held.faults, int(self._oldest_ms[number])
                )
        return self._rings[number]


@lru_cache(maxsize=1)
def _no_rings() -> SideBySide:
    return SideBySide([], [], {}, 0)


def _without(found: NewestEntries, rings: Iterable[int]) -> NewestEntries | None:
    """Return the entries that are of other rings than ``rings``, None if there are none."""
    rows = np.flatnonzero(~np.isin(found.ring, list(rings)))
    return NewestEntries(found.entries.take(rows), found.ring[rows], found.place[rows]) if len(rows) else None
