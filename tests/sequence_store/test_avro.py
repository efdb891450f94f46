"""The Avro record of an entry: any Avro reader can read it, and nothing else is taken for it."""

from __future__ import annotations

import io
import json
from typing import Any

import avro.io
import avro.schema
import fastavro
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sequence_store import Entry, Layout
from sequence_store.avro import MAX_SEQUENCE, Longs, decode_body, decode_head, encode, schema
from sequence_store.storage import numbers
from tests.sequence_store.samples import LAYOUT, entries, make_entry

pytestmark = pytest.mark.unit


def with_apache_avro(record: bytes, schema_json: str) -> Any:
    """Return what Apache's own reader finds in ``record``, all of which it must take."""
    stream = io.BytesIO(record)
    found = avro.io.DatumReader(avro.schema.parse(schema_json)).read(avro.io.BinaryDecoder(stream))
    assert stream.read() == b""
    return found


def with_fastavro(record: bytes, schema_json: str) -> Any:
    stream = io.BytesIO(record)
    found = fastavro.schemaless_reader(stream, fastavro.parse_schema(json.loads(schema_json)), None)
    assert stream.read() == b""
    return found


@pytest.mark.parametrize("read", [with_apache_avro, with_fastavro])
@given(entry=entries())
def test_head_and_body_are_one_plain_avro_record_under_the_public_schema(read: Any, entry: Entry) -> None:
    record = read(b"".join(encode(entry)), json.dumps(schema(entry.layout)))
    assert record["longs"] == {name: getattr(entry, name) for name in ("sequence", "at_ms", "action", "eligible")}
    assert record["strings"] == {
        name: getattr(entry, name) for name in ("mask_key", "model", "cycle_id", "notification_id")
    }
    assert record["floats"].keys() == entry.floats.keys()
    for group in entry.layout.groups:
        values = numbers(group).from_bytes(record["floats"][group.name])
        assert (values.dtype, values.tobytes()) == (
            entry.floats[group.name].dtype,
            entry.floats[group.name].tobytes(),
        )


@given(entries(), st.binary(max_size=5))
def test_any_entry_is_read_as_it_was_written(entry: Entry, before: bytes) -> None:
    head, body = encode(entry)
    longs, end = decode_head(before + head + body, len(before))
    assert longs == (entry.sequence, entry.at_ms, entry.action, entry.eligible)
    assert end == len(before) + len(head)
    assert decode_body(body, longs, entry.layout) == entry


def test_the_longs_are_alike_under_every_layout() -> None:
    first = schema(LAYOUT)["fields"][0]
    assert first == schema(Layout((), ("none",)))["fields"][0]
    assert first["name"] == "longs"


def test_floats_of_another_byte_order_or_width_are_stored_alike() -> None:
    floats = make_entry().floats
    swapped = {name: array.astype(array.dtype.newbyteorder(">")) for name, array in floats.items()}
    assert encode(make_entry(floats=swapped)) == encode(make_entry())
    assert encode(make_entry(floats={name: array.astype("float64") for name, array in floats.items()})) == (
        encode(make_entry())
    )


@pytest.mark.parametrize("layout", [LAYOUT, Layout((), ("none",))])
def test_a_record_cut_anywhere_is_refused(layout: Layout) -> None:
    head, body = encode(make_entry(layout=layout))
    longs, _ = decode_head(head, 0)
    for size in range(len(head)):
        with pytest.raises(IndexError):
            decode_head(head[:size], 0)
    for size in range(len(body)):
        with pytest.raises(ValueError, match=r"Avro record|bytes,"):
            decode_body(body[:size], longs, layout)
    with pytest.raises(ValueError, match="1 bytes follow"):
        decode_body(body + b"\0", longs, layout)


@example(b"\xff" * 9 + b"\x7f" + bytes(3))
@given(st.binary(max_size=60))
def test_bytes_that_are_no_head_are_refused_or_read_as_longs(content: bytes) -> None:
    try:
        longs, end = decode_head(content, 0)
    except (IndexError, ValueError):
        return
    assert 4 <= end <= len(content)
    record = with_fastavro(content[:end], json.dumps(schema(LAYOUT)["fields"][0]["type"]))
    assert record == longs._asdict()


def test_a_number_that_never_ends_is_refused() -> None:
    with pytest.raises(ValueError, match="64 bits"):
        decode_head(b"\xff" * 1000, 0)


@pytest.mark.parametrize(
    "changes", [{"action": 3}, {"action": -1}, {"eligible": 8}, {"eligible": -1}, {"action": 2**40}]
)
def test_longs_that_the_layout_does_not_have_are_refused(changes: dict[str, int]) -> None:
    _, body = encode(make_entry())
    with pytest.raises(ValueError, match="of 3 actions"):
        decode_body(body, Longs(0, 0, 0, 0)._replace(**changes), LAYOUT)


def test_the_largest_of_everything_fits() -> None:
    layout = Layout((), tuple(map(str, range(63))))
    entry = make_entry(layout=layout, sequence=MAX_SEQUENCE, at_ms=2**48 - 1, action=62, eligible=2**63 - 1)
    head, body = encode(entry)
    assert len(head) <= 23
    assert decode_body(body, decode_head(head, 0)[0], layout) == entry
