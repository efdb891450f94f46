"""The ring as bytes: whatever is appended, at whatever capacity, and whatever is done to it behind its back."""

from __future__ import annotations

import math
import random
import tracemalloc
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sequence_store import Fault, Layout
from sequence_store.codec import Codec
from sequence_store.frame import Codecs, Owner, Sealed
from sequence_store.packed import (
    CHANGES_FROM,
    HEADER_BYTES,
    MAX_SEARCHED_BYTES,
    Change,
    Found,
    Held,
    append,
    lay_out,
    parse,
)
from tests.sequence_store.forging import MEMBER, OWNER, PLAIN, TENANT, frame_of

pytestmark = pytest.mark.unit

KNOWN: Codecs = {PLAIN.tag: (PLAIN,)}
STRANGER = Codec(Layout((), ("of a later release",)))
BOTH: Codecs = {PLAIN.tag: (PLAIN,), STRANGER.tag: (STRANGER,)}
assert PLAIN.tag != STRANGER.tag


def found_of(held: Held) -> Found:
    assert isinstance(held.version.found, Found)
    return held.version.found


def frames_of(held: Held) -> list[bytes]:
    return [sealed.frame for sealed in held.frames]


@dataclass
class Ring:
    """A ring's value, and beside it the plain list of what was appended."""

    value: bytes = b""
    kept: list[bytes] = field(default_factory=list)
    count: int = 0

    def append(self, size: int, capacity: int, codec: Codec = PLAIN, codecs: Codecs = KNOWN) -> Change:
        """Append a frame of ``size`` bytes as a store of that capacity does."""
        held = parse(self.value, OWNER, codecs, capacity)
        frame = frame_of(self.count, size, codec)
        change = append(held.version, found_of(held), frame, OWNER, capacity)
        assert change.expected == self.value[:HEADER_BYTES]
        self.value = change.apply(self.value)
        self.kept = [*self.kept[-capacity:], frame][-capacity:]
        self.count += 1
        return change

    def grown(self, sizes: Sequence[int], capacity: int) -> Ring:
        for size in sizes:
            self.append(size, capacity)
        return self


sizes = st.one_of(
    st.integers(12, 150), st.sampled_from([12, 126, 127, 128, 129, 16_382, 16_383, 16_384, 16_385]), st.just(200_000)
)
usual_sizes = st.integers(12, 300)
capacities = st.sampled_from([1, 2, 3, 11, 16])


@given(st.lists(st.tuples(sizes, capacities), max_size=40))
def test_any_appends_at_any_capacities_are_a_plain_list(steps: list[tuple[int, int]]) -> None:
    ring = Ring()
    for size, capacity in steps:
        held = parse(ring.value, OWNER, KNOWN, capacity)
        assert frames_of(held) == ring.kept[-capacity:]
        assert (held.version.count, held.faults) == (ring.count, ())
        ring.append(size, capacity)
    assert frames_of(parse(ring.value, OWNER, KNOWN, 1024)) == ring.kept


@given(st.lists(usual_sizes, max_size=60), capacities, st.integers(1, 30))
def test_a_steady_ring_is_a_plain_list_lap_after_lap(first: list[int], capacity: int, laps: int) -> None:
    ring = Ring()
    for size in (first or [50]) * laps:
        ring.append(size, capacity)
        held = parse(ring.value, OWNER, KNOWN, capacity)
        assert frames_of(held) == ring.kept
        assert (held.version.count, held.faults) == (ring.count, ())


@given(st.lists(usual_sizes, min_size=1, max_size=40), capacities)
def test_a_change_gives_the_same_ring_as_laying_it_out_whole(before: list[int], capacity: int) -> None:
    ring = Ring().grown(before, capacity)
    held = parse(ring.value, OWNER, KNOWN, capacity)
    ring.append(100, capacity)
    whole = lay_out(found_of(held), ring.kept, ring.count, OWNER, capacity).apply(b"")
    for value in (whole, ring.value):
        again = parse(value, OWNER, KNOWN, capacity)
        assert frames_of(again) == ring.kept
        assert again.version.count == ring.count


@given(st.lists(usual_sizes, min_size=1, max_size=40), capacities, usual_sizes)
def test_a_patch_writes_the_header_and_the_new_frame_alone(before: list[int], capacity: int, size: int) -> None:
    ring = Ring().grown(before, capacity)
    old, survivors = ring.value, ring.kept[-(capacity - 1) :] if capacity > 1 else []
    change = ring.append(size, capacity)
    if change.patches[0][0] >= 0:
        assert len(ring.value) == len(old)
        assert sum(len(data) for _, data in change.patches) <= HEADER_BYTES - CHANGES_FROM + len(ring.kept[-1]) + 2
        for frame in survivors:
            assert (old + old[HEADER_BYTES:]).find(frame) in {
                (ring.value + ring.value[HEADER_BYTES:]).find(frame),
                -1,
            }


@pytest.mark.parametrize("capacity", [1, 2, 16, 200])
def test_a_ring_grows_in_few_steps_and_is_never_laid_out_again_while_sizes_stay(capacity: int) -> None:
    ring = Ring()
    whole = [ring.append(300, capacity).patches[0][0] < 0 for _ in range(3 * capacity)]
    assert sum(whole) <= 2 + math.log(capacity, 1.4)
    assert not any(whole[capacity:])


def test_a_ring_whose_sizes_vary_is_laid_out_seldom() -> None:
    ring, dice = Ring(), random.Random(0)
    whole = [ring.append(dice.randint(80, 160), 16).patches[0][0] < 0 for _ in range(2000)]
    assert sum(whole[16:]) <= 200


@given(st.lists(st.integers(12, 3000), min_size=1, max_size=40), capacities)
def test_a_ring_takes_what_the_allocator_would_give_it_and_little_more_than_it_needs(
    before: list[int], capacity: int
) -> None:
    ring = Ring()
    for size in before:
        change = ring.append(size, capacity)
        needed = sum(len(frame) + (1 if len(frame) < 128 else 2) for frame in ring.kept)
        allocated = len(ring.value) + 6
        assert allocated % max(16, 1 << max(0, (allocated - 1).bit_length() - 3)) == 0
        if change.patches[0][0] < 0:
            allowed = 1.5 * needed if len(ring.kept) < capacity else needed * 33 / 32
            assert needed <= len(ring.value) - HEADER_BYTES <= 1.25 * (allowed + HEADER_BYTES + 6) + 16


def test_a_ring_whose_entries_became_small_becomes_small_again() -> None:
    ring = Ring().grown([20_000] * 16, 16)
    large = len(ring.value)
    ring.grown([100] * 16, 16)
    assert len(ring.value) < large / 20


def test_of_an_emptied_ring_nothing_is_read_and_the_next_append_replaces_it() -> None:
    ring = Ring().grown([100] * 5, 4)
    later = Owner(TENANT, MEMBER, 1)
    held = parse(ring.value, later, KNOWN, 4)
    assert (held.frames, held.faults, held.version.count) == ((), (), 0)
    # The frame's own owner does not matter here: only that the old frames are gone.
    value = append(held.version, found_of(held), frame_of(0, 50), later, 4).apply(ring.value)
    assert all(frame not in value for frame in ring.kept)
    # A damaged one as well.
    damaged = b"\0" + ring.value[1:]
    assert parse(damaged, later, KNOWN, 4).frames == ()


@pytest.mark.parametrize("owner", [Owner(TENANT, "other", 0), Owner("other", MEMBER, 0)])
def test_a_ring_copied_to_another_member_holds_nothing_there(owner: Owner) -> None:
    ring = Ring().grown([100] * 5, 4)
    held = parse(ring.value, owner, KNOWN, 4)
    assert (held.frames, held.faults, held.version.count) == ((), (Fault.HEADER,), 0)


def wrapped(capacity: int = 4) -> Ring:
    """Return a full ring that has gone around its end, with frames of several lengths and old ones in its room."""
    return Ring().grown([40, 200, 60, 130, 45, 50, 150, 64, 47], capacity)


def check_and_heal(value: bytes, ring: Ring, capacity: int, most_lost: int) -> None:
    """Check what a reader makes of a damaged value, and that appends make it sound again without losing more."""
    held = parse(value, OWNER, KNOWN, capacity)
    survivors = frames_of(held)
    newest = ring.kept[-capacity:]
    assert [frame for frame in ring.kept if frame in survivors] == survivors, "all of them in the ring, in order"
    assert len(survivors) >= len(newest) - most_lost
    assert held.faults or set(newest) <= set(survivors), "a loss is told"
    if survivors[-1:] == newest[-1:]:
        assert held.version.count == ring.count
    for number in range(capacity):
        held = parse(value, OWNER, KNOWN, capacity)
        frame = frame_of(held.version.count, 70)
        value = append(held.version, found_of(held), frame, OWNER, capacity).apply(value)
        again = parse(value, OWNER, KNOWN, capacity)
        assert again.version.count == held.version.count + 1
        # What is damaged may keep its place until it is the oldest.
        expected = [*frames_of(held), frame]
        assert frames_of(again) in (expected[-capacity:], expected[len(expected) - capacity + len(again.faults) :])
        assert not number or len(again.faults) <= len(held.faults)
    assert again.faults == ()
    assert len(again.frames) == capacity


@pytest.mark.parametrize("capacity", [4, 3])
def test_every_flipped_bit_costs_one_entry_at_most(capacity: int) -> None:
    ring = wrapped()
    for bit in range(8 * len(ring.value)):
        flipped = bytearray(ring.value)
        flipped[bit // 8] ^= 1 << bit % 8
        check_and_heal(bytes(flipped), ring, capacity, most_lost=1)


@pytest.mark.parametrize("seed", range(3))
def test_a_flipped_bit_of_a_length_costs_the_entry_before_it_alone_and_brings_back_no_old_one(seed: int) -> None:
    dice = random.Random(seed)
    for _ in range(15):
        ring = Ring().grown([dice.randint(20, 150) for _ in range(dice.randint(17, 40))], 16)
        room = len(ring.value) - HEADER_BYTES
        for frame in ring.kept:
            behind = (ring.value[HEADER_BYTES:] * 2).find(frame) + len(frame)
            for place in range(behind, behind + (1 if len(frame) < 128 else 2)):
                for bit in range(8):
                    flipped = bytearray(ring.value)
                    flipped[HEADER_BYTES + place % room] ^= 1 << bit
                    held = parse(bytes(flipped), OWNER, KNOWN, 16)
                    assert frames_of(held) == [one for one in ring.kept if one != frame]
                    assert held.faults


@pytest.mark.parametrize(
    ("capacity", "laps"),
    [
        (4, 2),
        (3, 2),
        (4, 0),
        (2, 0),
    ],
)
def test_a_ring_cut_anywhere_is_read_as_far_as_it_goes_and_healed(capacity: int, laps: int) -> None:
    ring = wrapped() if laps else Ring().grown([60, 60, 60], 4)
    for size in range(1, len(ring.value)):
        check_and_heal(ring.value[:size], ring, capacity, most_lost=capacity)


@pytest.mark.parametrize("more", [b"\0", b"\xff" * 30, bytes(range(256))])
def test_a_ring_with_something_behind_it_is_read_and_healed(more: bytes) -> None:
    ring = wrapped()
    check_and_heal(ring.value + more, ring, 4, most_lost=1)


@given(st.binary(min_size=1, max_size=200))
@example(bytes([0x02]) * 27)
def test_arbitrary_bytes_hold_nothing_and_the_next_append_replaces_them(content: bytes) -> None:
    check_and_heal(content, Ring(), 4, most_lost=0)
    check_and_heal(content + wrapped().value[len(content) :], wrapped(), 4, most_lost=4)


@given(
    st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 300)), min_size=1, max_size=4),
    st.booleans(),
)
def test_frames_moved_doubled_or_overwritten_within_a_ring_are_never_misread(
    moves: list[tuple[int, int, int]], header_too: bool
) -> None:
    ring = wrapped()
    first = 0 if header_too else HEADER_BYTES
    value, room = bytearray(ring.value), len(ring.value) - first
    for source, target, size in moves:
        at = first + target % room
        moved = ring.value[first + source % room :][:size][: len(value) - at]
        value[at : at + len(moved)] = moved
    held = parse(bytes(value), OWNER, KNOWN, 4)
    sequences = [sealed.sequence for sealed in held.frames]
    assert all(earlier < later for earlier, later in pairwise(sequences))
    assert all(sealed.frame == frame_of(sealed.sequence, len(sealed.frame)) for sealed in held.frames)
    if bytes(value[:HEADER_BYTES]) == ring.value[:HEADER_BYTES]:
        assert set(frames_of(held)) <= set(ring.kept)
        assert held.version.count == ring.count


def test_a_frame_that_stands_twice_is_read_once() -> None:
    ring = Ring().grown([60] * 4, 4)
    oldest, newest = ring.kept[0], ring.kept[-1]
    held = parse(ring.value.replace(oldest, newest), OWNER, KNOWN, 4)
    assert (frames_of(held), held.faults) == (ring.kept[1:], (Fault.CHECKSUM,))


def test_a_ring_put_back_to_an_earlier_state_is_that_state() -> None:
    ring = wrapped()
    old, kept = ring.value, list(ring.kept)
    ring.append(60, 4)
    held = parse(old, OWNER, KNOWN, 4)
    assert (frames_of(held), held.version.count) == (kept, ring.count - 1)


def test_a_loss_is_told_even_where_overwritten_frames_are_found_instead() -> None:
    ring = Ring().grown([69] * 40, 16)
    lost = next(frame for frame in ring.kept[5:] if frame in ring.value)
    damaged = ring.value.replace(lost, lost[:30] + bytes((lost[30] ^ 1,)) + lost[31:])
    held = parse(damaged, OWNER, KNOWN, 32)
    assert lost not in frames_of(held)
    assert held.faults


def with_strangers(capacity: int = 8) -> Ring:
    """Return a ring in which every other frame is of a codec that KNOWN does not have."""
    ring = Ring()
    for number in range(12):
        ring.append(60 + number, capacity, STRANGER if number % 2 else PLAIN, BOTH)
    return ring


def test_frames_of_an_unknown_codec_are_counted_kept_by_appends_and_read_once_it_is_known() -> None:
    ring = with_strangers()
    held = parse(ring.value, OWNER, KNOWN, 8)
    assert frames_of(held) == ring.kept[::2]
    assert held.faults == (Fault.FOREIGN_CODEC,) * 4
    assert held.unknown_tags == {STRANGER.tag}
    for size in (70, 300):
        ring.append(size, 8)
        held = parse(ring.value, OWNER, BOTH, 8)
        assert (frames_of(held), held.faults) == (ring.kept, ())


def test_frames_of_a_later_format_are_counted_and_kept_by_appends() -> None:
    ring = Ring().grown([60, 60], 4)
    held = parse(ring.value, OWNER, KNOWN, 4)
    later = b"\x30" + frame_of(2, 60)[1:]
    ring.value = append(held.version, found_of(held), later, OWNER, 4).apply(ring.value)
    ring.kept.append(later)
    ring.count += 1
    for size in (60, 2000):
        ring.append(size, 4)
        held = parse(ring.value, OWNER, KNOWN, 4)
        assert held.faults == (Fault.FOREIGN_VERSION,)
        assert list(found_of(held).frames) == ring.kept


def test_a_damaged_frame_that_leaves_costs_a_ring_with_gaps_nothing_more() -> None:
    capacity = 4
    held = parse(Ring().grown([60] * 8, 8).value, OWNER, KNOWN, 8)
    frames = [frame.frame for frame in held.frames if frame.sequence in (2, 3, 6, 7)]
    value = lay_out(found_of(held), frames, 8, OWNER, capacity).apply(b"")
    assert frames_of(parse(value, OWNER, KNOWN, capacity)) == frames
    damaged = value.replace(frames[0], bytes((*frames[0][:-1], frames[0][-1] ^ 1)))
    held = parse(damaged, OWNER, KNOWN, capacity)
    # An older entry than the newest ``capacity`` sequence numbers could be the rest of an overwritten one.
    assert (frames_of(held), held.faults) == (frames[2:], (Fault.CHECKSUM, Fault.CHECKSUM))

    frames = [frame.frame for frame in parse(Ring().grown([60] * 8, 8).value, OWNER, KNOWN, 8).frames][3:]
    frames.remove(frames[2])
    value = lay_out(Found(), frames, 8, OWNER, capacity).apply(b"")
    damaged = value.replace(frames[0], bytes((*frames[0][:-1], frames[0][-1] ^ 1)))
    for number in range(8, 11):
        held = parse(damaged, OWNER, KNOWN, capacity)
        assert frames_of(held) == frames[1:]
        newest = frame_of(number, 60)
        damaged = append(held.version, found_of(held), newest, OWNER, capacity).apply(damaged)
        frames = [*frames[1:], newest]
        held = parse(damaged, OWNER, KNOWN, capacity)
        assert (frames_of(held), held.faults) == (frames, ())
        damaged = damaged.replace(frames[0], bytes((*frames[0][:-1], frames[0][-1] ^ 1)))


def test_a_flipped_bit_costs_no_frame_of_an_unknown_codec() -> None:
    ring = with_strangers()
    damaged = ring.value.replace(ring.kept[0], bytes((*ring.kept[0][:-1], ring.kept[0][-1] ^ 1)))
    assert damaged != ring.value
    held = parse(damaged, OWNER, KNOWN, 8)
    healed = append(held.version, found_of(held), frame_of(12, 60), OWNER, 8).apply(damaged)
    assert frames_of(parse(healed, OWNER, BOTH, 8)) == [*ring.kept[1:], frame_of(12, 60)]


def namesake_of(codec: Codec) -> Codec:
    """Return another codec whose fingerprint begins like that of ``codec``."""
    others = (Codec(Layout((), (f"action {number}",))) for number in range(10**6))
    return next(other for other in others if other.tag == codec.tag)


def test_two_known_codecs_with_one_tag_are_told_apart() -> None:
    other = namesake_of(PLAIN)
    both: Codecs = {PLAIN.tag: (PLAIN, other)}
    ring = Ring()
    for number in range(10):
        ring.append(60, 4, other if number % 2 else PLAIN, both)
    held = parse(ring.value, OWNER, both, 4)
    assert (frames_of(held), held.faults) == (ring.kept, ())
    assert [sealed.codec for sealed in held.frames] == [PLAIN, other] * 2


def test_frames_of_an_unknown_codec_with_a_known_ones_tag_are_kept_by_appends() -> None:
    other = namesake_of(PLAIN)
    both: Codecs = {PLAIN.tag: (PLAIN, other)}
    ring = Ring()
    for codec in (PLAIN, other, PLAIN):
        ring.append(60, 4, codec, both)
    ring.append(60, 4)
    assert frames_of(parse(ring.value, OWNER, both, 4)) == ring.kept


class CountingOwner(Owner):
    """Counts what is looked at to verify frames."""

    frames = looked_at = 0

    def unseal(self, frame: bytes, codecs: Codecs) -> Sealed:
        self.frames += 1
        self.looked_at += len(frame)
        return super().unseal(frame, codecs)


def maze(size: int) -> bytes:
    """Return a value in which every third place claims to be the end of a long frame of a known codec."""
    length = size // 4
    ends = bytes((length >> 14, 0x80 | length >> 7 & 0x7F, 0x80 | length & 0x7F))
    return (bytes((0x20, PLAIN.tag)) * size)[: size // 2] + (ends * size)[: size // 2]


@pytest.mark.parametrize("value", [maze(2**20), bytes((0x20, PLAIN.tag)) * 2**19, bytes(2**20), b"\xff" * 2**20])
def test_a_search_for_frames_looks_at_each_byte_a_few_times_at_most_and_needs_little_memory(value: bytes) -> None:
    owner = CountingOwner(TENANT, MEMBER, 0)
    tracemalloc.start()
    assert parse(value, owner, KNOWN, 16).frames == ()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert owner.looked_at <= 16 * len(value)
    assert owner.frames <= len(value) / 10
    assert peak <= 40 * 2**20


@pytest.mark.parametrize("size", [MAX_SEARCHED_BYTES + HEADER_BYTES + 1, 64 * 1024 * 1024])
def test_a_damaged_value_of_any_size_is_read_within_a_few_times_its_size(size: int) -> None:
    value = bytes(size)
    tracemalloc.start()
    assert parse(value, OWNER, KNOWN, 16).frames == ()
    assert tracemalloc.get_traced_memory()[1] <= 3 * size
    tracemalloc.stop()


def test_a_flipped_bit_in_a_large_ring_costs_one_entry() -> None:
    ring = Ring().grown([MAX_SEARCHED_BYTES // 8] * 16, 16)
    assert len(ring.value) > MAX_SEARCHED_BYTES
    damaged = bytearray(ring.value)
    damaged[ring.value.find(ring.kept[3]) + 1000] ^= 1
    held = parse(bytes(damaged), OWNER, KNOWN, 16)
    assert (frames_of(held), held.faults) == ([*ring.kept[:3], *ring.kept[4:]], (Fault.CHECKSUM,))


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 2), st.integers(1, 20))
def test_sequence_numbers_go_on_to_their_largest(first: int, number: int) -> None:
    count = min(first, 2**32 - 1 - number)
    value = lay_out(Found(), [frame_of(count, 60)], count + 1, OWNER, 4).apply(b"")
    ring = Ring(value, [frame_of(count, 60)], count + 1)
    ring.grown([60] * (number - 1), 4)
    held = parse(ring.value, OWNER, KNOWN, 4)
    assert (frames_of(held), held.version.count) == (ring.kept, ring.count)
