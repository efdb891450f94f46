"""Dictionaries are trained on the store's own entries, and made the current one if they are better."""

from __future__ import annotations

import contextlib
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Final, NamedTuple

from contracts.errors import StoreError
from sequence_store import registry
from sequence_store.codec import DICTIONARY_BYTES, Codec, train_dictionary
from sequence_store.frame import Owner, Sealed, UnreadableFrame
from sequence_store.keys import Keys
from sequence_store.layout import Layout
from sequence_store.maintenance import PAGE
from sequence_store.stored import StoredRings, avro_bytes_of, recoded
from sequence_store.walk import Place, draw, walk
from sequence_store.wire import Wire, checked

SAMPLE: Final = 20_000
"""Entries to train on: about a hundred times the bytes of a dictionary is what zstd asks for."""
FEWEST_ENTRIES: Final = 200
_HELD_OUT = 5
"""One member in so many is kept from training, to measure on."""
_LATEST = 4
"""One member in so many, those of the latest decisions, tells which layout is in use."""


@dataclass(frozen=True)
class Training:
    """A dictionary that was trained.

    Attributes
    ----------
    layout, dictionary, previous
        Fingerprints, in hex: of the layout that was trained for, of the new dictionary, and of the current one at the
        time; empty for none.
    bytes
        Size of the new dictionary.
    members, entries, held_out_entries
        Members sampled, entries trained on, and entries of other members that the ratios are measured on.
    ratio_before, ratio_after
        Bytes of Avro for one byte stored, under the current dictionary and under the new one.
    is_current
        Whether the new one is the one to write with from now on.
    """

    layout: str
    dictionary: str
    previous: str
    bytes: int
    members: int
    entries: int
    held_out_entries: int
    ratio_before: float
    ratio_after: float
    is_current: bool


class _Sample(NamedTuple):
    sealed: Sealed
    owner: Owner
    body: bytes


def train(
    wire: Wire, keys: Keys, *, sample: int = SAMPLE, size: int = DICTIONARY_BYTES, force: bool = False
) -> Training:
    """Train a dictionary on entries drawn at random from all rings, and make it the current one if it is better.

    The entries are of the layout that most of the latest decisions have. Writers take up the new dictionary at their
    next read; entries under the old one stay readable.

    Parameters
    ----------
    sample
        Entries to draw, of as many members as possible.
    size
        Most bytes of the dictionary.
    force
        Make it the current one even if it is no better.

    Raises
    ------
    StoreError
        There are too few entries, or Redis does not answer or refuses.
    """
    rng = random.Random()
    rings = StoredRings(wire, keys)
    members = draw(walk(wire, keys, Place(), PAGE), sample, rng)
    layout, samples = _samples(rings, members, -(-sample // max(1, len(members))), rng)
    rng.shuffle(samples)
    held_out = [one for of_member in samples[::_HELD_OUT] for one in of_member]
    bodies = [one.body for number, of_member in enumerate(samples) if number % _HELD_OUT for one in of_member]
    if layout is None or not bodies or len(held_out) + len(bodies) < FEWEST_ENTRIES:
        raise StoreError(
            f"tenant {keys.tenant!r} has {len(held_out) + len(bodies)} entries of {len(samples)} members to train a "
            f"dictionary on; at least {FEWEST_ENTRIES} of several members are needed: train again when there are more"
        )
    dictionary = train_dictionary(bodies, size)
    before, after = rings.registered.writing(layout), Codec(layout, dictionary)
    ratios = [_ratio(held_out, codec) for codec in (before, after)]
    is_better = ratios[1] > ratios[0]
    if is_better or force:
        checked(wire.exchange([registry.use_command(keys, dictionary)], writes=True))
    return Training(
        layout=layout.fingerprint.hex(),
        dictionary=registry.name_of(dictionary),
        previous=registry.name_of(before.dictionary),
        bytes=len(dictionary),
        members=len(members),
        entries=len(bodies),
        held_out_entries=len(held_out),
        ratio_before=round(ratios[0], 3),
        ratio_after=round(ratios[1], 3),
        is_current=is_better or force,
    )


def _samples(
    rings: StoredRings, members: Sequence[str], each: int, rng: random.Random
) -> tuple[Layout | None, list[list[_Sample]]]:
    """Return the layout of most of the latest decisions, and of each member up to ``each`` entries under it."""
    newest: list[tuple[int, Layout]] = []
    found: dict[Layout, list[list[_Sample]]] = {}
    for start in range(0, len(members), PAGE):
        for ring in rings.read(members[start : start + PAGE]):
            of_member: dict[Layout, list[_Sample]] = {}
            for sealed in ring.held.frames:
                with contextlib.suppress(UnreadableFrame):
                    of_member.setdefault(sealed.codec.layout, []).append(_Sample(sealed, ring.owner, sealed.body()))
            for layout, samples in of_member.items():
                found.setdefault(layout, []).append(rng.sample(samples, min(each, len(samples))))
                newest.append((samples[-1].sealed.longs.at_ms, layout))
    newest.sort(key=itemgetter(0), reverse=True)
    votes = Counter(layout for _, layout in newest[: -(-len(newest) // _LATEST)])
    if not votes:
        return None, []
    ((layout, _),) = votes.most_common(1)
    return layout, found[layout]


def _ratio(samples: Iterable[_Sample], codec: Codec) -> float:
    """Return the bytes of Avro for one byte stored under ``codec``."""
    avro_bytes = stored_bytes = 0
    for sample in samples:
        avro_bytes += avro_bytes_of(sample.sealed, sample.body)
        stored_bytes += len(recoded(sample.sealed, sample.owner, codec))
    return avro_bytes / stored_bytes
