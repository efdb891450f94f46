"""The examples and numbers of docs/formats.md are true."""

from __future__ import annotations

import io
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import fastavro
import numpy as np
import pytest

from sequence_store import FloatGroup, Layout, avro, frame, layout, packed, registry
from sequence_store.codec import MAX_BODY_BYTES, Codec, dictionary_fingerprint
from sequence_store.frame import Fault, Owner, Sealed
from sequence_store.keys import DEFAULT_BUCKETS, Keys
from sequence_store.sealing import MAX_LOG_ROW_BYTES
from sequence_store.storage import numbers
from tests.sequence_store.forging import PLAIN
from tests.sequence_store.samples import make_entry

pytestmark = pytest.mark.unit

PAGE = (Path(__file__).parents[2] / "docs" / "formats.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+ ?\w*)\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
PROSE = " ".join(PAGE.split())
KEYS = Keys("demo")
MEMBER = "member-1"
OWNER = Owner("demo", MEMBER, 0)


def blocks(kind: str) -> list[str]:
    return [text for name, text in BLOCKS if name == kind]


def tables() -> Iterator[list[list[str]]]:
    """Yield the rows of each table of the page, without its head."""
    for table in re.findall(r"(?:^\|.*\n)+", PAGE, re.MULTILINE):
        rows = [re.split(r"(?<!\\)\|", line.strip().strip("|")) for line in table.splitlines()]
        yield [[cell.strip() for cell in row] for row in rows]


def rows_under(*head: str) -> list[list[list[str]]]:
    return [rows[2:] for rows in tables() if tuple(rows[0]) == head]


LAYOUT = Layout.from_json(blocks("json layout")[0].replace("\n", ""))
RING = bytes.fromhex(blocks("hex ring")[0])
HEX_TABLES = [
    [(bytes.fromhex(cell.strip("`")), meaning) for cell, meaning in rows] for rows in rows_under("hex", "field")
]
(DICTIONARY,) = (text.encode() for text in re.findall(r"the dictionary `([^`]+)`", PROSE))
CODEC = Codec(LAYOUT, DICTIONARY)


def held() -> tuple[Sealed, ...]:
    found = packed.parse(RING, OWNER, {CODEC.tag: (CODEC,)}, 16)
    assert found.faults == ()
    return found.frames


def records() -> list[Any]:
    """Return the entries as the page has them, with the bytes that their characters stand for."""
    found = [json.loads(text) for text in blocks("json entry")]
    for record in found:
        record["floats"] = {name: text.encode("latin-1") for name, text in record["floats"].items()}
    return found


def test_the_layout_and_its_schema_are_those_of_the_code() -> None:
    assert LAYOUT.to_json() == blocks("json layout")[0].replace("\n", "")
    assert json.loads(blocks("json schema")[0]) == avro.schema(LAYOUT)


def test_the_ring_holds_the_entries() -> None:
    assert [sealed.entry().sequence for sealed in held()] == [0, 1]
    for sealed, record in zip(held(), records(), strict=True):
        entry = sealed.entry()
        assert record["longs"] == sealed.longs._asdict()
        assert record["strings"] == {name: getattr(entry, name) for name in record["strings"]}
        values = {group.name: numbers(group).from_bytes(record["floats"][group.name]) for group in LAYOUT.groups}
        for name, array in entry.floats.items():
            np.testing.assert_array_equal(array, values[name])
    state = [sealed.entry().floats["state"] for sealed in held()]
    np.testing.assert_array_equal(state, [[5, 1], [3, np.nan]])
    assert "visits_7d is 3 + 2 * 1 = 5, badge_count 0 + 1 * 1 = 1" in PROSE


def test_the_program_reads_the_ring_without_this_package() -> None:
    (program,) = blocks("python")
    assert "sequence_store" not in program
    names: dict[str, Any] = {}
    exec(program, names)  # noqa: S102 - what the page tells people to run
    (schema,) = blocks("json schema")
    found = list(names["entries"](RING, "demo", MEMBER, CODEC.fingerprint, schema, DICTIONARY))
    assert found == records()[::-1]


def test_the_program_reads_every_form_of_payload_and_rings_that_went_around() -> None:
    names: dict[str, Any] = {}
    exec(blocks("python")[0], names)  # noqa: S102
    codecs = {PLAIN.tag: (PLAIN,)}
    value, forms = b"", set()
    for sequence, length in enumerate((0, 0, 30, 0, 50, 300, 0, 40_000)):
        texts: dict[str, Any] = {"cycle_id": "a" * length, "notification_id": "b" * length}
        entry = make_entry(sequence, layout=PLAIN.layout, **texts)
        found = packed.parse(value, OWNER, codecs, 4)
        assert isinstance(found.version.found, packed.Found)
        forms.add(OWNER.seal(entry, PLAIN)[0] & 0x0F)
        value = packed.append(found.version, found.version.found, OWNER.seal(entry, PLAIN), OWNER, 4).apply(value)
        schema = json.dumps(avro.schema(PLAIN.layout))
        read = list(names["entries"](value, "demo", MEMBER, PLAIN.fingerprint, schema))
        assert [record["longs"]["sequence"] for record in read] == list(range(sequence, max(-1, sequence - 4), -1))
        assert read[0]["strings"]["cycle_id"] == entry.cycle_id
    assert forms == {frame.STORED, frame.SHORT_BLOCK, frame.BLOCK, frame.WHOLE}


def test_the_bytes_of_the_frame_are_the_fields_named() -> None:
    table, _ = HEX_TABLES
    (first, _) = held()
    assert b"".join(part for part, _ in table) == first.frame
    assert f"{len(first.frame)} bytes, under the layout above" in PROSE
    parts = [part for part, _ in table]
    assert parts[0] == bytes((frame.FORMAT + frame.SHORT_BLOCK,))
    assert parts[1] == CODEC.fingerprint[:1]
    assert parts[2] == frame.cycle_hash(first.entry().cycle_id)
    longs = avro.decode_head(b"".join(parts[3:7]), 0)[0]
    assert longs == first.longs
    assert parts[7] == bytes((len(first.body()),))
    assert f"expands to {len(first.body())} bytes" in PROSE
    owner = b"demo\0" + MEMBER.encode() + b"\x000"
    assert parts[9] == zlib.crc32(owner + CODEC.fingerprint + first.frame[:-4]).to_bytes(4, "little")


def test_the_bytes_of_the_rings_header_are_the_fields_named() -> None:
    _, table = HEX_TABLES
    parts = [part for part, _ in table]
    assert b"".join(parts) == RING[: packed.HEADER_BYTES]
    assert [len(part) for part in parts] == [1, 4, 2, 4, 4, 4, 4, 2, 4]
    header = packed.Header.unpack(RING, OWNER)
    assert header is not None
    assert tuple(int.from_bytes(part, "big") for part in parts[1:8]) == header
    assert parts[8] == zlib.crc32(b"demo\0" + MEMBER.encode() + RING[:25]).to_bytes(4, "little")
    buffer = RING[packed.HEADER_BYTES :]
    around = buffer[header.pointer :] + buffer[: header.pointer]
    assert header.checksum == zlib.crc32(b"demo\0" + MEMBER.encode() + around)
    first, second = (len(sealed.frame) for sealed in held())
    assert f"{len(RING)} bytes; the buffer has room" in PROSE
    assert f"the {header.pointer}th of the buffer, is the length of the second frame: {second}." in PROSE
    assert f"the length of the first: {first}." in PROSE


def test_the_record_is_plain_avro() -> None:
    schema = fastavro.parse_schema(json.loads(blocks("json schema")[0]))
    for sealed, record in zip(held(), records(), strict=True):
        head = b"".join(part for part, _ in HEX_TABLES[0][3:7]) if sealed.sequence == 0 else sealed.frame[4:]
        stream = io.BytesIO(head[: avro.decode_head(head, 0)[1]] + sealed.body())
        assert fastavro.schemaless_reader(stream, schema, None) == record


@pytest.mark.parametrize(("module", "place"), [(frame, 0), (packed, 1)])
def test_frame_and_ring_have_the_fields_that_the_code_says(module: ModuleType, place: int) -> None:
    rows = (module.__doc__ or "").split("| bytes | field |\n| --- | --- |\n")[1].split("\n\n")[0].splitlines()
    sizes = [row.strip("|").split("|")[0].strip() for row in rows]
    assert sizes == [size for size, _ in rows_under("bytes", "field")[place]]


def test_the_numbers_are_those_of_the_code() -> None:
    (limits,) = rows_under("field", "meaning", "limit")
    assert [int(re.sub(r"\D", "", limit)) for _, _, limit in limits] == [
        avro.MAX_SEQUENCE,
        avro.MAX_AT_MS,
        layout.MAX_ACTIONS - 1,
        2**layout.MAX_ACTIONS - 1,
        avro.MAX_STRING_BYTES,
        MAX_BODY_BYTES,
    ]
    (storages,) = rows_under("storage", "bytes", "a number is")
    for names, sizes, _ in storages:
        for name, size in zip(names.split(", "), sizes.split(", "), strict=True):
            assert np.dtype(name.strip("`")).itemsize == int(size)
    assert all(f"k from -{furthest}" in PROSE or f"or -{furthest}" in PROSE for furthest in layout.SCALED.values())
    assert f"a header of {packed.HEADER_BYTES} bytes" in PROSE
    assert f"the ring's first {packed.HEADER_BYTES} bytes" in PROSE
    assert f"modulo {DEFAULT_BUCKETS}" in PROSE
    assert MAX_LOG_ROW_BYTES == 2**20
    assert {fault.value for fault in (Fault.FOREIGN_CODEC, Fault.FOREIGN_VERSION)} <= set(re.findall(r"`(\w+)`", PROSE))
    codes = np.array([0, 1, 2, 3, 4, 255], np.uint8)
    centred = numbers(FloatGroup("g", tuple("abcdef"), "uint8", ((0.0, 1.0),) * 6)).from_bytes(codes.tobytes())
    np.testing.assert_array_equal(centred[:5], [(code >> 1) ^ -(code & 1) for code in range(5)])
    assert np.isnan(centred[5])


def test_the_keys_are_those_of_the_code() -> None:
    assert f"`{KEYS.ring(MEMBER).decode()}`" in PROSE
    assert KEYS.bucket(MEMBER) == zlib.crc32(MEMBER.encode()) % DEFAULT_BUCKETS
    (rows,) = rows_under("key", "type", "holds")
    named = {name for row in rows for name in re.findall(r"`([^`]+)`", row[0])}
    bucket = KEYS.bucket(MEMBER)
    keys = (KEYS.ring(MEMBER), KEYS.generation(bucket), KEYS.outbox(bucket), KEYS.codecs, KEYS.lock, KEYS.notes)
    assert named == {
        key.decode().replace(str(bucket), "bucket").replace("demo", "tenant").replace(MEMBER, "member") for key in keys
    }


def test_the_registry_is_that_of_the_code() -> None:
    fields, example = rows_under("field", "holds")
    commands = (registry.register_command(KEYS, CODEC), registry.use_command(KEYS, DICTIONARY))
    written = {name: value for command in commands for name, value in zip(command[2::2], command[3::2], strict=True)}
    names = [name if isinstance(name, str) else name.decode() for name in written]
    assert {row[0].strip("`") for row in fields} == {re.sub(":.*", ":<fingerprint>", name) for name in names}
    assert {row[0].strip("`") for row in example} == {
        name for name in names if name.partition(":")[0] not in {"epoch", "since", "unused"}
    }
    codec, current = (row[1].strip("`") for row in example[2:])
    assert codec == f"{LAYOUT.fingerprint.hex()}:{dictionary_fingerprint(DICTIONARY).hex()}"
    assert current == dictionary_fingerprint(DICTIONARY).hex()
    assert f"`{dictionary_fingerprint(b'').hex()}`, BLAKE2b-8 of nothing" in PROSE
