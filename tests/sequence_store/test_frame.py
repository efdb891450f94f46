"""A stored value is read as what was written for this ring, or refused; nothing in between."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from contracts.errors import FrameError, StoreError
from sequence_store import Entry, Fault, FloatGroup, Layout, UnreadableFrame
from sequence_store.avro import encode
from sequence_store.codec import MAX_BODY_BYTES, Codec
from sequence_store.frame import BLOCK, FORMAT, SHORT_BLOCK, STORED, WHOLE, Codecs, Owner, cycle_hash
from tests.sequence_store.forging import OWNER, PLAIN, avro_long, checksum, forge
from tests.sequence_store.samples import LAYOUT, entries, make_entry

pytestmark = pytest.mark.unit

CODEC = Codec(LAYOUT)
KNOWN = {CODEC.tag: (CODEC,)}
FRAME = OWNER.seal(make_entry(5), CODEC)
CHECKSUM_BYTES = 4
NO_GROUPS = PLAIN.layout

OF_FORM: dict[int, dict[str, Any]] = {
    STORED: {"cycle_id": "", "notification_id": ""},
    SHORT_BLOCK: {"cycle_id": "ab" * 50},
    BLOCK: {"cycle_id": "ab" * 200},
    WHOLE: {"cycle_id": "a" * 60_000, "notification_id": "b" * 60_000},
}
"""Form of the payload -> texts that are kept so."""


def fault_of(frame: bytes, owner: Owner = OWNER, codecs: Codecs = KNOWN) -> Fault:
    with pytest.raises(UnreadableFrame) as caught:
        owner.unseal(frame, codecs).entry()
    assert isinstance(caught.value, FrameError)
    return caught.value.fault


def forged_fault(form: int, payload: bytes, codec: Codec = PLAIN, longs: bytes = bytes(4)) -> Fault:
    return fault_of(forge(form, payload, codec, longs=longs), codecs={codec.tag: (codec,)})


def zstd(content: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(content)[4:]


@given(entries(), st.text(max_size=20), st.integers(0, 2**32 - 1), st.binary(max_size=20))
def test_any_entry_is_read_as_it_was_written(entry: Entry, member: str, generation: int, dictionary: bytes) -> None:
    owner, codec = Owner("tenant", member, generation), Codec(entry.layout, dictionary)
    sealed = owner.unseal(owner.seal(entry, codec), {codec.tag: (codec,)})
    assert sealed.entry() == entry
    assert sealed.longs == (entry.sequence, entry.at_ms, entry.action, entry.eligible)
    assert sealed.body() == encode(entry)[1]
    assert sealed.may_be_cycle(cycle_hash(entry.cycle_id))
    assert sealed.codec == codec


@pytest.mark.parametrize("form", OF_FORM)
def test_every_form_of_payload_is_written_where_it_is_smallest_and_read_back(form: int) -> None:
    entry = make_entry(7, layout=NO_GROUPS, **OF_FORM[form])
    frame = OWNER.seal(entry, PLAIN)
    assert frame[0] == FORMAT + form
    assert OWNER.unseal(frame, {PLAIN.tag: (PLAIN,)}).entry() == entry
    assert frame[-CHECKSUM_BYTES:] == checksum(frame[:-CHECKSUM_BYTES])


def entry_of(size: int, filling: str) -> Entry:
    """Return an entry whose body has ``size`` bytes."""
    half = max(0, size - 20) // 2
    for more in range(21):
        texts: dict[str, Any] = {"cycle_id": filling * half, "notification_id": filling * half, "model": filling * more}
        entry = make_entry(layout=NO_GROUPS, mask_key="", **texts)
        if len(encode(entry)[1]) == size:
            return entry
    raise AssertionError(size)


@pytest.mark.parametrize("codec", [PLAIN, Codec(NO_GROUPS, b"notification/1" * 3000)])
@pytest.mark.parametrize("size", [20, 255, 256, 257, 1024, 1025, 65_535, 65_536, 65_791, 65_792, 131_072, 131_073])
def test_bodies_at_the_bounds_of_the_forms_come_back(size: int, codec: Codec) -> None:
    entry = entry_of(size, "a")
    assert OWNER.unseal(OWNER.seal(entry, codec), {codec.tag: (codec,)}).entry() == entry


def test_a_value_is_small() -> None:
    texts: dict[str, Any] = {"cycle_id": "", "notification_id": "", "model": "", "mask_key": ""}
    assert len(OWNER.seal(make_entry(0, layout=NO_GROUPS, at_ms=0, eligible=0, **texts), PLAIN)) == 4 + 4 + 4 + 4


def test_every_flipped_bit_is_detected() -> None:
    for bit in range(len(FRAME) * 8):
        flipped = bytearray(FRAME)
        flipped[bit // 8] ^= 1 << bit % 8
        expected = {0: {Fault.FOREIGN_VERSION, Fault.CHECKSUM}, 1: {Fault.FOREIGN_CODEC}}
        assert fault_of(bytes(flipped)) in expected.get(bit // 8, {Fault.CHECKSUM})


def test_every_truncation_and_extension_is_detected() -> None:
    for size in range(len(FRAME)):
        assert fault_of(FRAME[:size]) is (Fault.TRUNCATED if size < 12 else Fault.CHECKSUM)
    for more in (b"\0", b"\xff", FRAME):
        assert fault_of(FRAME + more) is Fault.CHECKSUM


@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_refused(content: bytes) -> None:
    fault_of(content)
    fault_of(FRAME[:2] + content)


@given(st.text(max_size=20), st.text(max_size=20), st.integers(0, 99), st.integers(0, 99))
def test_a_value_of_another_member_tenant_or_generation_is_refused(one: str, other: str, old: int, new: int) -> None:
    frame = Owner("tenant", one, old).seal(make_entry(), CODEC)
    if (one, old) != (other, new):
        assert fault_of(frame, Owner("tenant", other, new)) is Fault.CHECKSUM
    assert fault_of(frame, Owner("other", one, old)) is Fault.CHECKSUM


def test_owners_whose_names_run_into_each_other_are_told_apart() -> None:
    frame = Owner("t", "m\x001", 2).seal(make_entry(), CODEC)
    for owner in (Owner("t", "m", 12), Owner("t", "m\x001", 1), Owner("t", "m\x001\x002", 0), Owner("tm", "\x001", 2)):
        assert fault_of(frame, owner) is Fault.CHECKSUM


def test_another_version_is_told_from_damage() -> None:
    assert fault_of(b"\x30" + FRAME[1:]) is Fault.FOREIGN_VERSION
    assert fault_of(bytes((FORMAT + WHOLE + 1,)) + FRAME[1:]) is Fault.FOREIGN_VERSION
    assert fault_of(b"\xf1" + FRAME[1:]) is Fault.FOREIGN_VERSION


@cache
def namesakes() -> tuple[Codec, Codec]:
    """Return two codecs whose fingerprints begin alike."""
    by_tag: dict[int, Codec] = {}
    number = 0
    while True:
        codec = Codec(Layout((), (f"action {number}",)))
        if codec.tag in by_tag:
            return by_tag[codec.tag], codec
        by_tag[codec.tag] = codec
        number += 1


def test_a_codec_that_is_not_known_is_told() -> None:
    assert fault_of(FRAME, codecs={}) is Fault.FOREIGN_CODEC


def test_the_checksum_settles_which_of_two_codecs_with_one_tag_is_meant() -> None:
    one, other = namesakes()
    for codec in (one, other):
        entry = make_entry(layout=codec.layout)
        frame = OWNER.seal(entry, codec)
        for order in ((one, other), (other, one)):
            assert OWNER.unseal(frame, {codec.tag: order}).entry() == entry
    assert fault_of(OWNER.seal(make_entry(layout=one.layout), one), codecs={one.tag: (other,)}) is Fault.CHECKSUM


@pytest.mark.parametrize("form", [STORED, SHORT_BLOCK, BLOCK, WHOLE])
@given(content=st.binary(max_size=400))
def test_a_payload_that_is_no_record_is_refused(form: int, content: bytes) -> None:
    # Of a STORED one, any bytes that happen to be four short strings are a record.
    assert forged_fault(form, content, CODEC) in {Fault.PAYLOAD, Fault.BOMB}


@pytest.mark.parametrize("content", [b"", b"\0", bytes(5), b"\x01", b"\x08abc"])
def test_a_body_that_is_not_exactly_the_rest_of_the_record_is_refused(content: bytes) -> None:
    assert OWNER.unseal(forge(STORED, bytes(4)), {PLAIN.tag: (PLAIN,)}).entry().cycle_id == ""
    assert forged_fault(STORED, content) is Fault.PAYLOAD
    assert forged_fault(WHOLE, zstd(content)) is Fault.PAYLOAD


@pytest.mark.parametrize("form", OF_FORM)
def test_a_payload_with_something_behind_it_or_missing_is_refused(form: int) -> None:
    entry = make_entry(7, layout=NO_GROUPS, **OF_FORM[form])
    head, _ = encode(entry)
    payload = OWNER.seal(entry, PLAIN)[4 + len(head) : -CHECKSUM_BYTES]
    assert OWNER.unseal(forge(form, payload, longs=head), {PLAIN.tag: (PLAIN,)}).entry() == entry
    assert forged_fault(form, payload + b"\0", longs=head) in {Fault.PAYLOAD, Fault.BOMB}
    assert forged_fault(form, payload[:-1], longs=head) in {Fault.PAYLOAD, Fault.BOMB}


@pytest.mark.parametrize("longs", [b"\xff" * 30, bytes(3) + b"\x04", bytes(2) + b"\x02\0", bytes(2) + b"\x01\0"])
def test_longs_that_the_layout_does_not_have_are_refused(longs: bytes) -> None:
    assert forged_fault(STORED, bytes(4), longs=longs) is Fault.PAYLOAD


def bombs() -> dict[str, bytes]:
    unstated = zstandard.ZstdCompressor().compressobj()
    lying = bytearray(zstandard.ZstdCompressor().compress(bytes(64 * 1024 * 1024)))
    assert lying[4] & 0xC0 == 0x80, "a frame with its size in 4 bytes"
    size_at = 5 if lying[4] & 0x20 else 6
    lying[size_at : size_at + 4] = (2).to_bytes(4, "little")
    return {
        "one byte too large": zstd(bytes(MAX_BODY_BYTES + 1)),
        "a gigabyte": b"\xa0" + (2**30).to_bytes(4, "little") + b"\x53" + bytes(3),
        "16 exabytes": b"\xe0" + b"\xff" * 7 + b"\xef" + bytes(3),
        "of a size that is not stated": (unstated.compress(bytes(10**6)) + unstated.flush())[4:],
        "larger than its stated size": bytes(lying[4:]),
        "the largest size, and a block that is cut": b"\xa0" + MAX_BODY_BYTES.to_bytes(4, "little") + b"\x05",
        "the largest window": b"\x80\xff" + (100).to_bytes(4, "little") + b"\x05\x00\x00",
        "the largest size, all of it one byte": zstd(bytes(MAX_BODY_BYTES)),
    }


def peak_of(read: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        with pytest.raises(UnreadableFrame):
            read()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", bombs())
def test_a_decompression_bomb_is_refused_and_nothing_beyond_the_limit_is_allocated(name: str) -> None:
    frame = forge(WHOLE, bombs()[name])
    sealed = OWNER.unseal(frame, {PLAIN.tag: (PLAIN,)})
    assert peak_of(sealed.entry) <= 1.1 * MAX_BODY_BYTES


@pytest.mark.parametrize("name", ["one byte too large", "a gigabyte", "16 exabytes", "of a size that is not stated"])
def test_a_payload_that_promises_too_much_is_not_even_begun(name: str) -> None:
    sealed = OWNER.unseal(forge(WHOLE, bombs()[name]), {PLAIN.tag: (PLAIN,)})
    assert peak_of(sealed.entry) < 100_000
    assert forged_fault(WHOLE, bombs()[name]) is Fault.BOMB


@pytest.mark.parametrize("claimed", [2**20, 2**31, 2**62, -1, -(2**63)])
def test_a_length_that_lies_allocates_nothing(claimed: int) -> None:
    sealed = OWNER.unseal(forge(STORED, avro_long(claimed) + b"abc"), {PLAIN.tag: (PLAIN,)})
    assert peak_of(sealed.entry) < 100_000


def test_a_text_longer_than_any_that_is_written_is_refused_before_it_is_decoded() -> None:
    text = "a" * (MAX_BODY_BYTES - 20) + "\N{ROCKET}"
    body = avro_long(len(text.encode())) + text.encode() + bytes(3)
    sealed = OWNER.unseal(forge(WHOLE, zstd(body)), {PLAIN.tag: (PLAIN,)})
    assert peak_of(sealed.entry) <= 2.1 * MAX_BODY_BYTES


def test_an_entry_larger_than_the_limit_is_refused() -> None:
    layout = Layout((FloatGroup("state", tuple(map(str, range(140_000))), "float64"),), ("none",))
    with pytest.raises(StoreError, match="fewer columns"):
        OWNER.seal(make_entry(0, layout=layout), Codec(layout))
