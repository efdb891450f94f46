"""The Avro form of an entry: one record whose schema follows from the layout.

The record holds three records, one a tensor; nesting costs no bytes in Avro. Its Longs come first, so that a stored
value can keep them readable in front of what it compresses: ``head`` and ``body`` are the two parts of one record.
Float groups are Avro ``bytes``, so that a read is one numpy view a group.
"""

from __future__ import annotations

import io
from functools import lru_cache
from operator import index
from typing import Any, Final, NamedTuple

import fastavro
import numpy as np

from contracts.errors import StoreError
from sequence_store.columns import EntryColumns
from sequence_store.entry import Entry
from sequence_store.joined import Ints, Octets
from sequence_store.layout import Layout
from sequence_store.storage import Numbers, numbers

MAX_STRING_BYTES: Final = 64 * 1024
MAX_AT_MS: Final = 2**48 - 1
MAX_SEQUENCE: Final = 2**32 - 2

# What is new in every entry first, what seldom changes last: it compresses to 3 bytes less than the other way round.
STRINGS = ("notification_id", "cycle_id", "mask_key", "model")


class Longs(NamedTuple):
    """The Long tensor of an entry; the fields are those of ``Entry``."""

    sequence: int
    at_ms: int
    action: int
    eligible: int


def schema(layout: Layout) -> dict[str, Any]:
    """Return the Avro schema, as a JSON tree, of entries under ``layout``."""
    return {
        "type": "record",
        "name": "Entry",
        "namespace": "pacer.fls",
        "fields": [{"name": "longs", "type": _record("Longs", "long", Longs._fields)}, *_body_fields(layout)],
    }


def encode(entry: Entry) -> tuple[bytes, bytes]:
    """Return ``entry`` as one schemaless Avro record under the schema of its layout, cut in two: head and body.

    Raises StoreError, naming the field and its value, if the entry breaks a limit or does not fit its layout.
    """
    layout, form = entry.layout, form_of(entry.layout)
    check_groups(entry, form)
    longs = {name: _bounded(name, getattr(entry, name), highest) for name, highest in limits(layout).items()}
    body = {
        "strings": {name: checked_text(name, getattr(entry, name)) for name in STRINGS},
        "floats": {name: kept.to_bytes(entry.floats[name]) for name, (kept, _) in form.floats.items()},
    }
    return _written(_LONGS_SCHEMA, longs), _written(form.body_schema, body)


def decode_head(record: bytes, position: int) -> tuple[Longs, int]:
    """Return the Longs at ``position`` and the position behind them.

    Read here rather than by a library: every read of a ring looks at 16 of them. Raises IndexError where ``record``
    ends too early, and ValueError where a number has more than 64 bits.
    """
    longs = []
    for _ in Longs._fields:
        byte = record[position]
        position += 1
        number, shift = byte & 0x7F, 7
        while byte >= 0x80:
            byte = record[position]
            position += 1
            number |= (byte & 0x7F) << shift
            shift += 7
            if shift > 63 and (number >> 64 or byte >= 0x80):
                raise ValueError("an Avro long of more than 64 bits")
        longs.append((number >> 1) ^ -(number & 1))
    return Longs(*longs), position


def decode_body(body: bytes, longs: Longs, layout: Layout) -> Entry:
    """Return the entry that ``encode`` wrote under ``layout``.

    Raises ValueError if ``body`` is not exactly the rest of such a record, or ``longs`` break a limit.
    """
    if not (0 <= longs.action < len(layout.actions) and 0 <= longs.eligible < 1 << len(layout.actions)):
        raise ValueError(f"action {longs.action}, eligible {longs.eligible:#b}: of {len(layout.actions)} actions")
    if len(body) > MAX_STRING_BYTES:
        _check_texts(body)
    form, stream = form_of(layout), io.BytesIO(body)
    try:
        record: Any = fastavro.schemaless_reader(stream, form.body_schema, None)
    except Exception as error:
        # fastavro has no error of its own for bytes that are no record: EOFError, IndexError, UnicodeDecodeError ...
        raise ValueError(f"no Avro record of this layout: {error!r}") from error
    if stream.tell() != len(body):
        raise ValueError(f"{len(body) - stream.tell()} bytes follow the Avro record")
    floats = {name: kept.from_bytes(record["floats"][name]) for name, (kept, _) in form.floats.items()}
    sequence, at_ms, action, eligible = longs
    return Entry(floats, at_ms, action, eligible, sequence, layout=layout, **record["strings"])


def _record(name: str, kind: str, names: tuple[str, ...]) -> dict[str, Any]:
    return {"type": "record", "name": name, "fields": [{"name": field, "type": kind} for field in names]}


def _body_fields(layout: Layout) -> list[dict[str, Any]]:
    return [
        {"name": "strings", "type": _record("Strings", "string", STRINGS)},
        {"name": "floats", "type": _record("Floats", "bytes", tuple(group.name for group in layout.groups))},
    ]


_LONGS_SCHEMA: Any = fastavro.parse_schema(_record("Longs", "long", Longs._fields))


def _check_texts(body: bytes) -> None:
    """Raise ValueError if one of the texts is longer than any that is written: decoded, it may take 4 times as much."""
    stream = io.BytesIO(body)
    for name in STRINGS:
        try:
            size: Any = fastavro.schemaless_reader(stream, "long", None)
        except Exception as error:
            raise ValueError(f"no Avro record of this layout: {error!r}") from error
        if not 0 <= size <= MAX_STRING_BYTES:
            raise ValueError(f"{name} has {size} bytes; at most {MAX_STRING_BYTES} are kept")
        stream.seek(size, io.SEEK_CUR)


def written_long(number: int) -> bytes:
    """Return one number, not negative, as Avro."""
    if number < len(_SMALL_LONGS):
        return _SMALL_LONGS[number]
    zigzag, written = number << 1, bytearray()
    while zigzag > 0x7F:
        written.append(zigzag & 0x7F | 0x80)
        zigzag >>= 7
    written.append(zigzag)
    return bytes(written)


_SMALL_LONGS: list[bytes] = []
_SMALL_LONGS += [written_long(number) for number in range(8192)]


class Form(NamedTuple):
    """What encoding and decoding under one layout need."""

    body_schema: Any
    floats: dict[str, tuple[Numbers, int]]
    """Name of every group -> how it is kept, and where behind the texts."""
    sized: Octets
    """[W] what stands behind the texts: the numbers, here 0, of each group behind their size."""
    sizes_at: Ints
    """Where those sizes are."""


@lru_cache(maxsize=64)
def form_of(layout: Layout) -> Form:
    """Return what encoding and decoding under ``layout`` need."""
    schema = fastavro.parse_schema({"type": "record", "name": "Body", "fields": _body_fields(layout)})
    sized, sizes_at, floats = b"", list[int](), {}
    for group in layout.groups:
        kept, size = numbers(group), written_long(numbers(group).size)
        sizes_at += range(len(sized), len(sized) + len(size))
        floats[group.name] = kept, len(sized) + len(size)
        sized += size + bytes(kept.size)
    return Form(schema, floats, np.frombuffer(sized, np.uint8), np.asarray(sizes_at, np.int64))


def limits(layout: Layout) -> dict[str, int]:
    """Return the largest of each of the Longs."""
    actions = len(layout.actions)
    return dict(zip(Longs._fields, (MAX_SEQUENCE, MAX_AT_MS, actions - 1, (1 << actions) - 1), strict=True))


def check_groups(entries: Entry | EntryColumns, form: Form) -> None:
    """Raise StoreError if the float groups are not those of the layout."""
    if entries.floats.keys() != form.floats.keys():
        raise StoreError(
            f"entry: float groups {sorted(entries.floats)} are not those of its layout, {sorted(form.floats)}"
        )


def _written(parsed_schema: Any, record: Any) -> bytes:
    stream = io.BytesIO()
    fastavro.schemaless_writer(stream, parsed_schema, record)
    return stream.getvalue()


def _bounded(name: str, value: int, highest: int) -> int:
    try:
        number = index(value)
    except TypeError:
        raise StoreError(f"entry: {name} = {value!r}: must be an integer") from None
    if not 0 <= number <= highest:
        raise StoreError(f"entry: {name} = {number}: must lie between 0 and {highest}")
    return number


def checked_text(name: str, value: str) -> str:
    """Return ``value``. Raises StoreError if it is no text that can be kept."""
    if not isinstance(value, str):
        raise StoreError(f"entry: {name} = {value!r}: must be text")
    # A character is at least one byte: a huge text is refused before it is encoded.
    try:
        size = len(value) if len(value) > MAX_STRING_BYTES else len(value.encode())
    except UnicodeEncodeError as error:
        raise StoreError(f"entry: {name} = {value[:40]!r}: not encodable as UTF-8: {error.reason}") from None
    if size > MAX_STRING_BYTES:
        raise StoreError(f"entry: {name} starting {value[:20]!r} has {size} bytes; at most {MAX_STRING_BYTES} are kept")
    return value
