"""Frames with any payload and a checksum that holds, made by the words of docs/formats.md, not by the code."""

from __future__ import annotations

import hashlib
import zlib

from sequence_store.codec import Codec
from sequence_store.frame import FORMAT, STORED, Owner
from sequence_store.layout import Layout

TENANT, MEMBER, GENERATION = "tenant", "member", 0
OWNER = Owner(TENANT, MEMBER, GENERATION)
PLAIN = Codec(Layout((), ("none",)))


def checksum(covered: bytes, codec: Codec = PLAIN, member: str = MEMBER) -> bytes:
    """Return the last four bytes of a frame whose other bytes are ``covered``."""
    owner = f"{TENANT}\0{member}\0{GENERATION}".encode()
    return zlib.crc32(owner + codec.fingerprint + covered).to_bytes(4, "little")


def forge(form: int, payload: bytes, codec: Codec = PLAIN, longs: bytes = bytes(4)) -> bytes:
    """Return a frame of OWNER with that payload, of an entry without a cycle id."""
    cycle = hashlib.blake2b(b"", digest_size=8).digest()[:2]
    covered = bytes((FORMAT + form, codec.tag)) + cycle + longs + payload
    return covered + checksum(covered, codec)


def avro_long(number: int) -> bytes:
    """Return a number as Avro writes it."""
    zigzag = (number << 1) ^ (number >> 63)
    coded = bytearray()
    while zigzag > 0x7F:
        coded.append(zigzag & 0x7F | 0x80)
        zigzag >>= 7
    return bytes((*coded, zigzag))


def frame_of(sequence: int, size: int, codec: Codec = PLAIN) -> bytes:
    """Return a frame of OWNER that is as near to ``size`` bytes as its numbers allow; its payload is no entry."""
    longs = avro_long(sequence) + bytes(3)
    filler = hashlib.shake_128(b"%d" % sequence).digest(max(0, size - 8 - len(longs)))
    return forge(STORED, filler, codec, longs)
