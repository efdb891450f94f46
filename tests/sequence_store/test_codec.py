"""A codec is its layout and its dictionary: both are its identity, and neither lets a payload grow without bound."""

from __future__ import annotations

import threading

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from contracts.errors import StoreError
from sequence_store import Layout
from sequence_store.avro import encode
from sequence_store.codec import (
    DICTIONARY_BYTES,
    MAX_BODY_BYTES,
    BombError,
    Codec,
    dictionary_fingerprint,
    train_dictionary,
)
from tests.sequence_store.samples import LAYOUT, layouts, make_entry

pytestmark = pytest.mark.unit

BODIES = [encode(make_entry(sequence))[1] for sequence in range(300)]
DICTIONARY = train_dictionary(BODIES[:200], 2048)
PLAIN, TRAINED = Codec(LAYOUT), Codec(LAYOUT, DICTIONARY)


@pytest.mark.parametrize("codec", [PLAIN, TRAINED])
@given(body=st.one_of(st.binary(max_size=2000), st.sampled_from(BODIES)))
def test_what_was_compressed_comes_back(codec: Codec, body: bytes) -> None:
    assert codec.decompress(codec.compress(body)) == body


def test_a_trained_dictionary_makes_entries_smaller() -> None:
    unseen = BODIES[200:]
    assert len(DICTIONARY) <= 2048
    assert sum(map(len, map(TRAINED.compress, unseen))) < 0.8 * sum(map(len, map(PLAIN.compress, unseen)))


def test_too_few_entries_for_a_dictionary_are_told() -> None:
    with pytest.raises(StoreError, match=r"3 entries of .* too few"):
        train_dictionary(BODIES[:3])
    assert DICTIONARY_BYTES < MAX_BODY_BYTES


@given(layouts(), layouts(), st.binary(max_size=9), st.binary(max_size=9))
def test_layout_and_dictionary_are_the_identity(one: Layout, other: Layout, first: bytes, second: bytes) -> None:
    codecs = Codec(one, first), Codec(other, second)
    same = (one, first) == (other, second)
    assert (codecs[0] == codecs[1]) == same
    assert (codecs[0].fingerprint == codecs[1].fingerprint) == same
    assert codecs[0].tag == codecs[0].fingerprint[0]
    assert len(codecs[0].fingerprint) == len(dictionary_fingerprint(first)) == 8


@pytest.mark.parametrize("codec", [PLAIN, TRAINED])
@given(content=st.binary(max_size=200))
def test_bytes_that_are_no_frame_are_refused(codec: Codec, content: bytes) -> None:
    with pytest.raises((ValueError, zstandard.ZstdError)):
        codec.decompress(b"\xff" + content)


def test_a_frame_cut_anywhere_or_followed_by_something_is_refused() -> None:
    frame = TRAINED.compress(BODIES[0])
    for size in range(len(frame)):
        with pytest.raises((ValueError, zstandard.ZstdError)):
            TRAINED.decompress(frame[:size])
    with pytest.raises((ValueError, zstandard.ZstdError)):
        TRAINED.decompress(frame + b"\0")


def test_no_frame_grows_beyond_the_limit() -> None:
    largest = bytes(MAX_BODY_BYTES)
    assert PLAIN.decompress(PLAIN.compress(largest)) == largest
    with pytest.raises(BombError, match="promise"):
        PLAIN.decompress(PLAIN.compress(largest + b"\0"))
    unstated = zstandard.ZstdCompressor().compressobj()
    with pytest.raises(BombError, match="promise"):
        PLAIN.decompress((unstated.compress(bytes(100)) + unstated.flush())[4:])


def test_a_codec_is_safe_to_share_between_threads() -> None:
    failures: list[bytes] = []
    start = threading.Barrier(8)

    def work() -> None:
        start.wait()
        failures.extend(body for body in BODIES if TRAINED.decompress(TRAINED.compress(body)) != body)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_a_dictionary_that_zstd_cannot_read_is_refused_by_name() -> None:
    broken = DICTIONARY[:8] + b"\xff" * 60
    with pytest.raises(StoreError, match="dictionary"):
        Codec(LAYOUT, broken).compress(BODIES[0])
