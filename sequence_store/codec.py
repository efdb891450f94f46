"""A codec: the layout that gives an entry's numbers their meaning, and the zstd dictionary that makes it small."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import zstandard

from contracts.errors import StoreError
from sequence_store.layout import Layout

MAX_BODY_BYTES: Final = 1024 * 1024
"""No entry is larger, and no stored value makes a reader allocate more."""
DICTIONARY_BYTES: Final = 32 * 1024
LEVEL: Final = 3
"""Measured on entries of 190 bytes with a dictionary: levels 1, 5 and 9 leave more bytes, and level 16 saves 1 % for
30 times the time."""
_MIN_MATCH = 6
"""A match takes about 3 bytes: shorter ones do not pay."""
_USUAL_BODY_BYTES = 256
MAGIC = b"\x28\xb5\x2f\xfd"


class DictionaryError(StoreError, ValueError):
    """A dictionary that zstd cannot use."""


class BombError(ValueError):
    """A payload that does not state its size, or states one above the limit."""


@dataclass(frozen=True)
class Codec:
    """How entries of one layout become bytes.

    Attributes
    ----------
    layout
        Layout of the entries.
    dictionary
        A dictionary as ``zstandard.train_dictionary`` makes it; empty for none.
    """

    layout: Layout
    dictionary: bytes = b""

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    @cached_property
    def fingerprint(self) -> bytes:
        """The codec's identity: 8 bytes of BLAKE2b over the fingerprints of layout and dictionary."""
        parts = self.layout.fingerprint + dictionary_fingerprint(self.dictionary)
        return hashlib.blake2b(parts, digest_size=8).digest()

    @cached_property
    def tag(self) -> int:
        """First byte of the fingerprint: all that a stored value says of its codec."""
        return self.fingerprint[0]

    def compress(self, body: bytes) -> bytes:
        """Return ``body`` as one zstd frame without its 4 magic bytes."""
        return self._contexts.compressor.compress(body).removeprefix(MAGIC)

    def decompress(self, frame: bytes) -> bytes:
        """Return what ``compress`` was given.

        Raises ValueError (BombError, before anything is allocated) or zstandard.ZstdError where ``frame`` is no such
        frame.
        """
        # zstandard allocates what the frame announces, whatever limit it is given: so look first.
        announced = zstandard.get_frame_parameters(MAGIC + frame).content_size
        if announced > MAX_BODY_BYTES:
            raise BombError(f"the payload does not promise to stay within {MAX_BODY_BYTES} bytes")
        return self._contexts.decompressor.decompress(
            MAGIC + frame, max_output_size=MAX_BODY_BYTES, allow_extra_data=False
        )

    def decompress_small(self, frames: Iterable[bytes]) -> list[bytes]:
        """Return what ``compress`` was given, of frames that cannot announce more than 64 KiB, so need no look.

        ``frames`` have their magic bytes. Raises ValueError or zstandard.ZstdError as ``decompress`` does.
        """
        return list(map(self._contexts.decompressor.decompress, frames))

    @cached_property
    def _contexts(self) -> _Contexts:
        return _Contexts(self.dictionary)


def dictionary_fingerprint(dictionary: bytes) -> bytes:
    """Return the identity of a dictionary: 8 bytes of BLAKE2b."""
    return hashlib.blake2b(dictionary, digest_size=8).digest()


def train_dictionary(bodies: Sequence[bytes], size: int = DICTIONARY_BYTES) -> bytes:
    """Return a dictionary of at most ``size`` bytes, trained on the bodies of entries.

    Raises StoreError if there are too few of them; some thousand make a good one.
    """
    try:
        return zstandard.train_dictionary(size, list(bodies)).as_bytes()
    except zstandard.ZstdError as error:
        raise StoreError(
            f"{len(bodies)} entries of {sum(map(len, bodies))} bytes are too few to train a dictionary of {size} bytes "
            f"({error}): train again when there are more, or ask for a smaller one"
        ) from error


class _Contexts(threading.local):
    """The zstd contexts of one thread: they are not safe to share."""

    def __init__(self, dictionary: bytes) -> None:
        try:
            self._make(dictionary)
        except zstandard.ZstdError as error:
            raise DictionaryError(
                f"zstd cannot use the dictionary {dictionary_fingerprint(dictionary).hex()} of {len(dictionary)} bytes "
                f"({error}): train another"
            ) from error

    def _make(self, dictionary: bytes) -> None:
        parameters = zstandard.ZstdCompressionParameters.from_level(
            LEVEL,
            source_size=_USUAL_BODY_BYTES,
            window_log=MAX_BODY_BYTES.bit_length() - 1,
            min_match=_MIN_MATCH,
            dict_size=len(dictionary),
            write_content_size=True,
            write_dict_id=False,
        )
        trained = zstandard.ZstdCompressionDict(dictionary) if dictionary else None
        if trained is not None:
            trained.precompute_compress(compression_params=parameters)
        self.compressor = zstandard.ZstdCompressor(dict_data=trained, compression_params=parameters)
        self.decompressor = zstandard.ZstdDecompressor(dict_data=trained)
