"""The stored value of one entry: a small header that can be read as it is, the compressed rest, a checksum.

Format 2:

| bytes | field |
| --- | --- |
| 1 | format and form: 0x20 + form of the payload |
| 1 | tag of the codec: the first byte of its fingerprint |
| 2 | first bytes of BLAKE2b-8 of the cycle id |
| 4 to 23 | the entry's Longs, as Avro: sequence number, time, action, eligible actions |
| rest | payload: the rest of the entry's Avro record |
| 4 | CRC-32, little-endian, of owner (tenant, member, generation), codec fingerprint and all bytes above |

| form | payload |
| --- | --- |
| 0 | as it is: zstd would not make it smaller |
| 1 | one zstd block of up to 255 bytes, behind its size in 1 byte: the zstd frame's constant bytes are left out |
| 2 | the same of 256 to 65,791 bytes, behind that size less 256 in 2 bytes, little-endian |
| 3 | one zstd frame without its 4 magic bytes |

A CRC-32 finds every flipped bit and every damaged run of up to 32 bits; anything else, such as another member's
value, with a chance of 1 - 2**-32. It also settles which of two codecs with the same tag is meant.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Mapping, Sequence
from enum import StrEnum
from functools import lru_cache
from typing import Final

import zstandard

from contracts.errors import FrameError, StoreError
from sequence_store import avro
from sequence_store.codec import MAGIC, MAX_BODY_BYTES, BombError, Codec
from sequence_store.entry import Entry

FORMAT: Final = 0x20
"""Version 2 in the upper half of the first byte; the lower half is the form of the payload."""
STORED, SHORT_BLOCK, BLOCK, WHOLE = range(4)

LONGS_AT: Final = 4
CHECKSUM_BYTES: Final = 4
FRAME_RESIDUE: Final = 0x2144DF1C
"""CRC-32 of anything followed by its own CRC-32, little-endian."""
MIN_FRAME_BYTES: Final = LONGS_AT + 4 + CHECKSUM_BYTES
# RFC 8878, 3.1.1.1: a single segment whose content size takes 1 or 2 bytes, no checksum, no dictionary id.
_DESCRIPTORS: Final = {SHORT_BLOCK: (b"\x20", 1), BLOCK: (b"\x60", 2)}
SHORT_FRAME: Final = MAGIC + _DESCRIPTORS[SHORT_BLOCK][0]
"""What a zstd frame of form SHORT_BLOCK begins with."""
_LAST_COMPRESSED_BLOCK: Final = 0b101

Codecs = Mapping[int, Sequence[Codec]]
"""Tag -> the codecs that have it."""


class Fault(StrEnum):
    """Why a stored value is left out of a read."""

    TRUNCATED = "truncated"
    """Shorter than a header."""
    FOREIGN_VERSION = "foreign_version"
    """Of a format that this code does not know."""
    CHECKSUM = "checksum"
    """Damaged, cut off, or another member's value."""
    FOREIGN_CODEC = "foreign_codec"
    """Of a layout or dictionary that is not registered (any more), or that this code does not understand."""
    BOMB = "bomb"
    """Of a decompressed size that is not stated or above the limit."""
    PAYLOAD = "payload"
    """The payload is not the rest of one Avro record of the layout."""
    HEADER = "header"
    """The ring's own header is damaged, or another member's; its frames are looked for all the same."""


class UnreadableFrame(FrameError):
    """One stored value is not a whole, genuine entry of this member; ``fault`` says in which way."""

    def __init__(self, fault: Fault, detail: str) -> None:
        super().__init__(f"{fault}: {detail}")
        self.fault = fault


class Sealed:
    """A frame whose checksum holds: its Longs are read, the rest waits to be decoded."""

    __slots__ = ("_payload_at", "codec", "frame", "longs", "sequence")

    def __init__(self, frame: bytes, codec: Codec) -> None:
        self.frame = frame
        self.codec = codec
        try:
            self.longs, self._payload_at = avro.decode_head(frame, LONGS_AT)
        except (IndexError, ValueError) as error:
            raise UnreadableFrame(Fault.PAYLOAD, f"no Longs: {error}") from error
        self.sequence = self.longs.sequence

    @property
    def clear(self) -> bytes:
        """What of the entry is kept as it is: cycle hash and Longs."""
        return self.frame[LONGS_AT - 2 : self._payload_at]

    def may_be_cycle(self, hashed: bytes) -> bool:
        """Tell whether this may be the entry of the cycle with that ``cycle_hash``: one in 65,536 others may, too."""
        return self.frame[2:4] == hashed

    def body(self) -> bytes:
        """Decompress the Avro record behind its Longs. Raises UnreadableFrame."""
        payload = self.frame[self._payload_at : -CHECKSUM_BYTES]
        try:
            return _expand(self.frame[0] - FORMAT, payload, self.codec)
        except BombError as error:
            raise UnreadableFrame(Fault.BOMB, str(error)) from error
        except (ValueError, zstandard.ZstdError) as error:
            raise UnreadableFrame(Fault.PAYLOAD, str(error)) from error

    def entry(self) -> Entry:
        """Decompress and decode the entry. Raises UnreadableFrame."""
        body = self.body()
        try:
            return avro.decode_body(body, self.longs, self.codec.layout)
        except ValueError as error:
            raise UnreadableFrame(Fault.PAYLOAD, str(error)) from error


class Owner:
    """What ties values to one ring: tenant and member; frames also to the generation of the namespace."""

    def __init__(self, tenant: str, member_id: str, generation: int) -> None:
        self.generation = generation
        self.ring_seed = zlib.crc32(member_id.encode(), _tenant_seed(tenant))
        self._frame_seed = zlib.crc32(b"\0%d" % generation, self.ring_seed)
        self._seeds: dict[bytes, int] = {}

    def ring_checksum(self, covered: bytes) -> bytes:
        """Return the checksum of something that belongs to the ring in every generation: its header."""
        return zlib.crc32(covered, self.ring_seed).to_bytes(CHECKSUM_BYTES, "little")

    def is_ring(self, header: bytes) -> bool:
        """Tell whether ``header`` ends with the ``ring_checksum`` of what precedes it."""
        return zlib.crc32(header, self.ring_seed) == FRAME_RESIDUE

    def is_frame(self, frame: bytes, codec: Codec) -> bool:
        """Tell whether ``frame`` ends with its checksum, as one of this ring's under ``codec``."""
        return zlib.crc32(frame, self.frame_seed(codec)) == FRAME_RESIDUE

    def unseal(self, frame: bytes, codecs: Codecs) -> Sealed:
        """Return ``frame``, found in this owner's ring, with its checksum verified. Raises UnreadableFrame."""
        if len(frame) < MIN_FRAME_BYTES:
            raise UnreadableFrame(Fault.TRUNCATED, f"{len(frame)} bytes are no frame")
        if not is_format(frame[0]):
            raise UnreadableFrame(Fault.FOREIGN_VERSION, f"format byte {frame[0]:#04x}; known is {FORMAT:#04x}")
        candidates = codecs.get(frame[1], ())
        for codec in candidates:
            if self.is_frame(frame, codec):
                return Sealed(frame, codec)
        if not candidates:
            raise UnreadableFrame(Fault.FOREIGN_CODEC, f"codec {frame[1]:#04x}.. is not known")
        raise UnreadableFrame(Fault.CHECKSUM, f"CRC-32 {frame[-4:].hex()} does not hold for this value in this ring")

    def frame_seed(self, codec: Codec) -> int:
        """Return what the checksum of a frame of this ring under ``codec`` begins with."""
        seed = self._seeds.get(codec.fingerprint)
        if seed is None:
            seed = self._seeds[codec.fingerprint] = zlib.crc32(codec.fingerprint, self._frame_seed)
        return seed

    def seal(self, entry: Entry, codec: Codec) -> bytes:
        """Return the stored value of ``entry`` in this owner's ring.

        Raises StoreError, naming the field and its value, if the entry breaks a limit or does not fit its layout.
        """
        return self.seal_encoded(entry.cycle_id, *avro.encode(entry), codec)

    def seal_encoded(self, cycle_id: str, head: bytes, body: bytes, codec: Codec) -> bytes:
        """Return the stored value of an entry of that cycle, encoded as ``head`` and ``body``. Raises StoreError."""
        if len(body) > MAX_BODY_BYTES:
            raise StoreError(f"entry: {len(body)} bytes of Avro; at most {MAX_BODY_BYTES} are kept: use fewer columns")
        return self._sealed(cycle_hash(cycle_id) + head, body, codec)

    def reseal(self, sealed: Sealed, codec: Codec) -> bytes:
        """Return the entry of ``sealed`` under another codec of its layout, its Avro record byte for byte the same.

        Raises UnreadableFrame.
        """
        return self._sealed(sealed.clear, sealed.body(), codec)

    def _sealed(self, clear: bytes, body: bytes, codec: Codec) -> bytes:
        form, payload = _shrink(body, codec)
        covered = bytes((FORMAT + form, codec.tag)) + clear + payload
        return covered + zlib.crc32(covered, self.frame_seed(codec)).to_bytes(CHECKSUM_BYTES, "little")


def is_format(byte: int) -> bool:
    """Tell whether a frame may start with ``byte``."""
    return FORMAT <= byte <= FORMAT + WHOLE


@lru_cache(maxsize=4096)
def cycle_hash(cycle_id: str) -> bytes:
    """Return the 2 bytes that stand for ``cycle_id`` in a header."""
    return hashlib.blake2b(cycle_id.encode(), digest_size=8).digest()[:2]


def _shrink(body: bytes, codec: Codec) -> tuple[int, bytes]:
    """Return the form and the payload that keep ``body`` in the fewest bytes."""
    frame = codec.compress(body)
    form, payload = WHOLE, frame
    for block_form, (descriptor, size_bytes) in _DESCRIPTORS.items():
        block_at = 1 + size_bytes + 3
        if frame.startswith(descriptor) and frame[1 + size_bytes : block_at] == block_header(len(frame) - block_at):
            form, payload = block_form, frame[1 : 1 + size_bytes] + frame[block_at:]
            break
    return (form, payload) if len(payload) < len(body) else (STORED, body)


def _expand(form: int, payload: bytes, codec: Codec) -> bytes:
    """Return the body that ``_shrink`` kept. Raises ValueError or zstandard.ZstdError where it is none."""
    if form == STORED:
        return payload
    if form == WHOLE:
        return codec.decompress(payload)
    return codec.decompress_small([as_frame(form, payload)])[0]


def as_frame(form: int, payload: bytes) -> bytes:
    """Return a payload of form SHORT_BLOCK or BLOCK as the zstd frame that it came from."""
    descriptor, size_bytes = _DESCRIPTORS[form]
    block_bytes = len(payload) - size_bytes
    return MAGIC + descriptor + payload[:size_bytes] + block_header(block_bytes) + payload[size_bytes:]


@lru_cache(maxsize=16)
def _tenant_seed(tenant: str) -> int:
    return zlib.crc32(f"{tenant}\0".encode())


@lru_cache(maxsize=1024)
def block_header(block_bytes: int) -> bytes:
    """Return the header of a frame's last, compressed block (RFC 8878, 3.1.1.2)."""
    return ((block_bytes << 3 | _LAST_COMPRESSED_BLOCK) & 0xFFFFFF).to_bytes(3, "little")
