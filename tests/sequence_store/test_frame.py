"""A stored value is read as what was written for this member, or refused; nothing in between."""

from __future__ import annotations

import struct
import zlib

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from contracts.errors import FrameError, StoreError
from sequence_store import Entry, Fault, FloatGroup, Layout, UnreadableFrame
from sequence_store.frame import HEADER_BYTES, MAX_AVRO_BYTES, cycle_hash, owner, seal, unseal
from tests.sequence_store.samples import LAYOUT, entries, make_entry

pytestmark = pytest.mark.unit

OWNER = owner("tenant", "member")
FRAME = seal(make_entry(5), OWNER)


def fault_of(frame: bytes, key: bytes = OWNER, layout: Layout | None = LAYOUT) -> Fault:
    with pytest.raises(UnreadableFrame) as caught:
        unseal(frame, key).entry(layout)
    assert isinstance(caught.value, FrameError)
    return caught.value.fault


def forge(payload: bytes) -> bytes:
    """Return a frame with any payload and a checksum that holds."""
    head = FRAME[: HEADER_BYTES - 4]
    return head + struct.pack(">I", zlib.crc32(OWNER + head + payload)) + payload


def zstd(content: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(content)[4:]


@given(entries(), st.binary(max_size=20))
def test_any_entry_is_read_as_it_was_written(entry: Entry, key: bytes) -> None:
    sealed = unseal(seal(entry, key), key)
    assert sealed.entry(entry.layout) == entry
    assert (sealed.sequence, sealed.at_ms) == (entry.sequence, entry.at_ms)
    assert sealed.cycle == cycle_hash(entry.cycle_id)


def test_every_flipped_bit_is_detected() -> None:
    for bit in range(len(FRAME) * 8):
        flipped = bytearray(FRAME)
        flipped[bit // 8] ^= 1 << bit % 8
        assert fault_of(bytes(flipped)) in {Fault.CHECKSUM, Fault.FOREIGN_VERSION}


def test_every_truncation_and_extension_is_detected() -> None:
    for size in range(len(FRAME)):
        assert fault_of(FRAME[:size]) is (Fault.TRUNCATED if size < HEADER_BYTES else Fault.CHECKSUM)
    assert fault_of(FRAME + b"\0") is Fault.CHECKSUM


@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_refused(content: bytes) -> None:
    fault_of(content)
    fault_of(FRAME[:1] + content)


@given(st.text(max_size=20), st.text(max_size=20))
def test_another_members_value_is_refused(one: str, other: str) -> None:
    if one != other:
        frame = seal(make_entry(), owner("tenant", one))
        assert fault_of(frame, owner("tenant", other)) is Fault.CHECKSUM
        assert fault_of(frame, owner("other", one)) is Fault.CHECKSUM


def test_a_later_format_is_told_from_damage() -> None:
    assert fault_of(b"\xf2" + FRAME[1:]) is Fault.FOREIGN_VERSION


def test_an_unknown_or_another_layout_is_refused() -> None:
    assert fault_of(FRAME, layout=None) is Fault.FOREIGN_LAYOUT
    assert fault_of(FRAME, layout=Layout((), ("none",))) is Fault.FOREIGN_LAYOUT


def test_a_decompression_bomb_is_refused_before_it_is_unpacked() -> None:
    assert fault_of(forge(zstd(bytes(MAX_AVRO_BYTES + 1)))) is Fault.BOMB
    unstated = zstandard.ZstdCompressor().compressobj()
    assert fault_of(forge((unstated.compress(bytes(100)) + unstated.flush())[4:])) is Fault.BOMB
    # The size stated is a lie: 2 bytes, where 64 MiB follow.
    bomb = bytearray(zstandard.ZstdCompressor().compress(bytes(64 * 1024 * 1024)))
    assert bomb[4] & 0xC0 == 0x80, "a frame with its size in 4 bytes"
    size_at = 5 if bomb[4] & 0x20 else 6
    bomb[size_at : size_at + 4] = (2).to_bytes(4, "little")
    assert fault_of(forge(bytes(bomb[4:]))) is Fault.PAYLOAD


@given(st.binary(max_size=400))
def test_a_payload_that_is_no_record_is_refused(content: bytes) -> None:
    assert fault_of(forge(zstd(content))) is Fault.PAYLOAD
    assert fault_of(forge(content)) in {Fault.PAYLOAD, Fault.BOMB}


def test_a_payload_with_something_behind_it_is_refused() -> None:
    payload = FRAME[HEADER_BYTES:]
    record = zstandard.ZstdDecompressor().decompress(b"\x28\xb5\x2f\xfd" + payload)
    assert fault_of(forge(payload + b"\0")) is Fault.PAYLOAD
    assert fault_of(forge(zstd(record + b"\0"))) is Fault.PAYLOAD
    assert fault_of(forge(zstd(record[:-1]))) is Fault.PAYLOAD
    assert unseal(forge(zstd(record)), OWNER).entry(LAYOUT) == make_entry(5)


def test_a_payload_of_another_sequence_than_its_header_is_refused() -> None:
    assert fault_of(forge(seal(make_entry(6), OWNER)[HEADER_BYTES:])) is Fault.PAYLOAD


def test_an_entry_larger_than_the_limit_is_refused() -> None:
    layout = Layout((FloatGroup("state", tuple(map(str, range(140_000))), "float64"),), ("none",))
    with pytest.raises(StoreError, match="fewer columns"):
        seal(make_entry(0, layout=layout), OWNER)
