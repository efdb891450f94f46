"""The Avro form of an entry: one record whose schema follows from the layout.

Float groups are Avro ``bytes`` of little-endian numbers in their storage type, so that a read is one numpy view a
group. The record holds three records, one a tensor; nesting costs no bytes in Avro.
"""

from __future__ import annotations

import io
from functools import lru_cache
from operator import index
from typing import Any, Final, get_args

import fastavro
import numpy as np

from contracts.errors import StoreError
from sequence_store.entry import Entry, FloatArray
from sequence_store.layout import FloatGroup, Layout, Storage

MAX_STRING_BYTES: Final = 64 * 1024
MAX_AT_MS: Final = 2**48 - 1
MAX_SEQUENCE: Final = 2**32 - 1

_LONGS = ("at_ms", "action", "eligible", "sequence")
_STRINGS = ("mask_key", "cycle_id", "notification_id", "model")
_FLOAT16_MAX = 65504.0
_DTYPES: dict[Storage, np.dtype[np.floating[Any]]] = {
    storage: np.dtype(storage).newbyteorder("<") for storage in get_args(Storage)
}


def schema(layout: Layout) -> dict[str, Any]:
    """Return the Avro schema, as a JSON tree, of entries under ``layout``."""

    def record(name: str, kind: str, names: tuple[str, ...]) -> dict[str, Any]:
        return {"type": "record", "name": name, "fields": [{"name": field, "type": kind} for field in names]}

    return {
        "type": "record",
        "name": "Entry",
        "namespace": "pacer.fls",
        "fields": [
            {"name": "floats", "type": record("Floats", "bytes", tuple(group.name for group in layout.groups))},
            {"name": "longs", "type": record("Longs", "long", _LONGS)},
            {"name": "strings", "type": record("Strings", "string", _STRINGS)},
        ],
    }


def encode(entry: Entry) -> bytes:
    """Return ``entry`` as one schemaless Avro record under the schema of its layout.

    Raises StoreError, naming the field and its value, if the entry breaks a limit or does not fit its layout.
    """
    layout = entry.layout
    if entry.floats.keys() != {group.name for group in layout.groups}:
        raise StoreError(
            f"entry: float groups {sorted(entry.floats)} are not those of its layout, "
            f"{sorted(group.name for group in layout.groups)}"
        )
    record = {
        "floats": {group.name: _to_bytes(entry.floats[group.name], group) for group in layout.groups},
        "longs": {
            "at_ms": _bounded("at_ms", entry.at_ms, MAX_AT_MS),
            "action": _bounded("action", entry.action, len(layout.actions) - 1),
            "eligible": _bounded("eligible", entry.eligible, (1 << len(layout.actions)) - 1),
            "sequence": _bounded("sequence", entry.sequence, MAX_SEQUENCE),
        },
        "strings": {name: _checked_text(name, getattr(entry, name)) for name in _STRINGS},
    }
    stream = io.BytesIO()
    fastavro.schemaless_writer(stream, _parsed_schema(layout), record)
    return stream.getvalue()


def decode(payload: bytes, layout: Layout) -> Entry:
    """Return the entry that ``encode`` wrote under ``layout``.

    Raises ValueError if ``payload`` is not exactly one such record.
    """
    stream = io.BytesIO(payload)
    try:
        record: Any = fastavro.schemaless_reader(stream, _parsed_schema(layout), None)
    except Exception as error:
        # fastavro has no error of its own for bytes that are no record: EOFError, IndexError, UnicodeDecodeError ...
        raise ValueError(f"no Avro record of this layout: {error!r}") from error
    if stream.tell() != len(payload):
        raise ValueError(f"{len(payload) - stream.tell()} bytes follow the Avro record")
    floats = {group.name: _from_bytes(record["floats"][group.name], group) for group in layout.groups}
    return Entry(floats=floats, layout=layout, **record["longs"], **record["strings"])


@lru_cache(maxsize=64)
def _parsed_schema(layout: Layout) -> Any:
    return fastavro.parse_schema(schema(layout))


def _to_bytes(values: FloatArray, group: FloatGroup) -> bytes:
    array = np.asarray(values)
    if array.shape != (len(group.columns),):
        raise StoreError(
            f"entry: float group {group.name!r} has shape {array.shape}, its layout has ({len(group.columns)},)"
        )
    if not np.issubdtype(array.dtype, np.floating):
        raise StoreError(f"entry: float group {group.name!r} is {array.dtype}; give floats")
    if group.storage == "float16":
        array = np.clip(array, -_FLOAT16_MAX, _FLOAT16_MAX)
    with np.errstate(over="ignore"):
        return array.astype(_DTYPES[group.storage]).tobytes()


def _from_bytes(raw: bytes, group: FloatGroup) -> FloatArray:
    dtype = _DTYPES[group.storage]
    if len(raw) != len(group.columns) * dtype.itemsize:
        raise ValueError(f"float group {group.name!r} has {len(raw)} bytes for {len(group.columns)} {group.storage}")
    return np.frombuffer(raw, dtype)


def _bounded(name: str, value: int, highest: int) -> int:
    try:
        number = index(value)
    except TypeError:
        raise StoreError(f"entry: {name} = {value!r}: must be an integer") from None
    if not 0 <= number <= highest:
        raise StoreError(f"entry: {name} = {number}: must lie between 0 and {highest}")
    return number


def _checked_text(name: str, value: str) -> str:
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
