"""The stored value of one entry: a small uncompressed header, then the entry's Avro, compressed by zstd.

Format 1, big-endian, 31 bytes before the payload:

| bytes | field |
| --- | --- |
| 1 | format: 0xF1 |
| 8 | fingerprint of the layout |
| 4 | sequence number |
| 6 | time of the decision, ms since 1970 |
| 8 | BLAKE2b-8 of the cycle id |
| 4 | CRC-32 of the owner (tenant, NUL, member id), the 27 bytes above and the payload |
| rest | one zstd frame without its 4 magic bytes, which the format byte stands for |

A CRC-32 finds every flipped bit and every damaged run of up to 32 bits; anything else, such as another member's
value, with a chance of 1 - 2**-32.
"""

from __future__ import annotations

import hashlib
import struct
import threading
import zlib
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import zstandard

from contracts.errors import FrameError, StoreError
from sequence_store import avro
from sequence_store.entry import Entry
from sequence_store.layout import Layout

FORMAT: Final = 0xF1
MAX_AVRO_BYTES: Final = 1024 * 1024
"""No entry is larger, and no stored value makes a reader allocate more."""

_FIELDS = struct.Struct(">B8sIHI8s")
_CHECKSUM = struct.Struct(">I")
HEADER_BYTES: Final = _FIELDS.size + _CHECKSUM.size
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_LEVEL = 3
# zstd contexts are not safe to share between threads.
_local = threading.local()


class Fault(StrEnum):
    """Why a stored value is left out of a read."""

    TRUNCATED = "truncated"
    """Shorter than a header."""
    FOREIGN_VERSION = "foreign_version"
    """Of a format that this code does not know."""
    CHECKSUM = "checksum"
    """Damaged, cut off, or another member's value."""
    MISPLACED = "misplaced"
    """Whole, but not the entry that belongs into its slot."""
    FOREIGN_LAYOUT = "foreign_layout"
    """Under a layout that is not registered, or that this code does not understand."""
    BOMB = "bomb"
    """Of a decompressed size that is not stated or above the limit."""
    PAYLOAD = "payload"
    """The payload is not one zstd frame with one Avro record of the layout."""


class UnreadableFrame(FrameError):
    """One stored value is not a whole, genuine entry of this member; ``fault`` says in which way."""

    def __init__(self, fault: Fault, detail: str) -> None:
        super().__init__(f"{fault}: {detail}")
        self.fault = fault


@dataclass(frozen=True)
class Sealed:
    """A frame whose checksum holds: the header's fields, and the payload still compressed.

    ``fingerprint`` is that of the layout, ``cycle`` the hash of the cycle id (see ``cycle_hash``).
    """

    fingerprint: bytes
    sequence: int
    at_ms: int
    cycle: bytes
    payload: bytes

    def entry(self, layout: Layout | None) -> Entry:
        """Decompress and decode the entry under ``layout``. Raises UnreadableFrame."""
        if layout is None or layout.fingerprint != self.fingerprint:
            raise UnreadableFrame(Fault.FOREIGN_LAYOUT, f"layout {self.fingerprint.hex()} is not known")
        try:
            entry = avro.decode(_decompress(_ZSTD_MAGIC + self.payload), layout)
        except (ValueError, zstandard.ZstdError) as error:
            raise UnreadableFrame(Fault.PAYLOAD, str(error)) from error
        if (entry.sequence, entry.at_ms) != (self.sequence, self.at_ms):
            raise UnreadableFrame(Fault.PAYLOAD, "sequence or time differ between header and payload")
        return entry


def owner(tenant: str, member_id: str) -> bytes:
    """Return the bytes that tie a frame to its ring."""
    return f"{tenant}\0{member_id}".encode()


def cycle_hash(cycle_id: str) -> bytes:
    """Return the 8 bytes that stand for ``cycle_id`` in a header."""
    return hashlib.blake2b(cycle_id.encode(), digest_size=8).digest()


def seal(entry: Entry, owner: bytes) -> bytes:
    """Return the stored value of ``entry`` in the ring of ``owner``.

    Raises StoreError, naming the field and its value, if the entry breaks a limit or does not fit its layout.
    """
    record = avro.encode(entry)
    if len(record) > MAX_AVRO_BYTES:
        raise StoreError(f"entry: {len(record)} bytes of Avro; at most {MAX_AVRO_BYTES} are kept: use fewer columns")
    header = _FIELDS.pack(
        FORMAT,
        entry.layout.fingerprint,
        entry.sequence,
        entry.at_ms >> 32,
        entry.at_ms & 0xFFFFFFFF,
        cycle_hash(entry.cycle_id),
    )
    payload = _compressor().compress(record).removeprefix(_ZSTD_MAGIC)
    return header + _CHECKSUM.pack(_checksum(owner, header, payload)) + payload


def unseal(frame: bytes, owner: bytes) -> Sealed:
    """Return the checked header and the payload of ``frame``, found in the ring of ``owner``.

    Raises UnreadableFrame.
    """
    if len(frame) < HEADER_BYTES:
        raise UnreadableFrame(Fault.TRUNCATED, f"{len(frame)} bytes are no header of {HEADER_BYTES}")
    if frame[0] != FORMAT:
        raise UnreadableFrame(Fault.FOREIGN_VERSION, f"format byte {frame[0]:#04x}; known is {FORMAT:#04x}")
    header, payload = frame[: _FIELDS.size], frame[HEADER_BYTES:]
    (stored,) = _CHECKSUM.unpack_from(frame, _FIELDS.size)
    if stored != _checksum(owner, header, payload):
        raise UnreadableFrame(Fault.CHECKSUM, f"CRC-32 {stored:#010x} does not hold for this value in this ring")
    _, fingerprint, sequence, at_high, at_low, cycle = _FIELDS.unpack(header)
    return Sealed(fingerprint, sequence, (at_high << 32) | at_low, cycle, payload)


def _checksum(owner: bytes, header: bytes, payload: bytes) -> int:
    return zlib.crc32(payload, zlib.crc32(header, zlib.crc32(owner)))


def _decompress(zstd_frame: bytes) -> bytes:
    # zstandard allocates what the frame announces, whatever limit it is given: so look first.
    announced = zstandard.get_frame_parameters(zstd_frame).content_size
    if announced > MAX_AVRO_BYTES:
        raise UnreadableFrame(Fault.BOMB, f"the payload does not promise to stay within {MAX_AVRO_BYTES} bytes")
    return _decompressor().decompress(zstd_frame, max_output_size=MAX_AVRO_BYTES, allow_extra_data=False)


def _compressor() -> zstandard.ZstdCompressor:
    if not hasattr(_local, "compressor"):
        _local.compressor = zstandard.ZstdCompressor(level=_LEVEL, write_content_size=True)
    compressor: zstandard.ZstdCompressor = _local.compressor
    return compressor


def _decompressor() -> zstandard.ZstdDecompressor:
    if not hasattr(_local, "decompressor"):
        _local.decompressor = zstandard.ZstdDecompressor()
    decompressor: zstandard.ZstdDecompressor = _local.decompressor
    return decompressor
