"""The Avro form of an entry: one record whose schema follows from the layout.

The record holds three records, one a tensor; nesting costs no bytes in Avro. Its Longs come first, so that a stored
value can keep them readable in front of what it compresses: ``head`` and ``body`` are the two parts of one record.
Float groups are Avro ``bytes``, so that a read is one numpy view a group.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from functools import lru_cache
from operator import index
from typing import Any, Final, NamedTuple, overload

import fastavro
import numpy as np
from numpy.typing import NDArray

from contracts.errors import StoreError
from sequence_store.columns import EntryColumns
from sequence_store.entry import Entry
from sequence_store.joined import Ints, Joined, Octets
from sequence_store.layout import Layout
from sequence_store.storage import Numbers, numbers

MAX_STRING_BYTES: Final = 64 * 1024
MAX_AT_MS: Final = 2**48 - 1
MAX_SEQUENCE: Final = 2**32 - 2

# What is new in every entry first, what seldom changes last: it compresses to 3 bytes less than the other way round.
_STRINGS = ("notification_id", "cycle_id", "mask_key", "model")

FEW: Final = 8
"""Of fewer than these, one by one is quicker than all at once."""

_MARKS: Final = np.uint64(0x8080808080808080)
"""Of the bytes of a number that another one follows."""
_MOVES: Final = tuple(
    (np.uint64(bits), np.uint64(moved))
    for bits, moved in ((0x007F007F007F007F, 1), (0x00003FFF00003FFF, 2), (0x000000000FFFFFFF, 4))
)


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
    layout, form = entry.layout, _form(entry.layout)
    _check_groups(entry, form)
    longs = {name: _bounded(name, getattr(entry, name), highest) for name, highest in _limits(layout).items()}
    body = {
        "strings": {name: _checked_text(name, getattr(entry, name)) for name in _STRINGS},
        "floats": {name: kept.to_bytes(entry.floats[name]) for name, (kept, _) in form.floats.items()},
    }
    return _written(_LONGS_SCHEMA, longs), _written(form.body_schema, body)


def encode_all(entries: EntryColumns) -> list[tuple[bytes, bytes]]:
    """Return ``encode`` of many entries, a column at a time: in a tenth of the time.

    Raises StoreError if one of them breaks a limit or does not fit its layout; ``encode`` tells which and how.
    """
    layout, form = entries.layout, _form(entries.layout)
    _check_groups(entries, form)
    rows = np.tile(form.sized, (len(entries), 1))
    for name, (kept, place) in form.floats.items():
        rows[:, place : place + kept.size] = kept.to_rows(entries.floats[name])
    numeric, width = rows.tobytes(), rows.shape[1]
    texts = [_written_texts(name, getattr(entries, name)) for name in _STRINGS]
    numbers = (numeric[row * width : (row + 1) * width] for row in range(len(entries)))
    return list(zip(_written_heads(entries, layout), map(b"".join, zip(*texts, numbers, strict=True)), strict=True))


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
    form, stream = _form(layout), io.BytesIO(body)
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


def decode_heads(joined: Joined, at: Ints) -> tuple[Ints, Ints]:
    """Return the Longs at the places ``at`` [N], as [N, 4], and the places behind them [N]; -1 where there are none.

    ``decode_head`` of many, but for numbers of more than 55 bits, which it does not read.
    """
    columns = []
    for _ in Longs._fields:
        number, at = _numbers_at(joined, at)
        columns.append(number)
    return np.stack(columns, axis=1), at


def decode_bodies(bodies: Sequence[bytes], longs: Ints, layout: Layout) -> tuple[EntryColumns, Ints]:
    """Return the entries that ``encode`` wrote under ``layout``, as columns, and which of ``bodies`` they are.

    Parameters
    ----------
    bodies
        N bodies.
    longs
        [N, 4] Longs of the same entries.

    Returns
    -------
    tuple
        Entries [n], and their places among the N. Those that are missing are none, or not such that this reads them:
        ``decode_body`` tells.
    """
    form, joined = _form(layout), Joined.of(bodies)
    at, spans = joined.starts, []
    for _ in _STRINGS:
        size, begin = _numbers_at(joined, at)
        at = np.where((begin >= 0) & (size >= 0) & (size <= MAX_STRING_BYTES), begin + size, -1)
        spans.append((begin, at))
    actions, eligible = longs[:, 2], longs[:, 3]
    sound = (at >= 0) & (at + form.sized.size == joined.ends)
    sound &= (actions >= 0) & (actions < len(layout.actions))
    sound &= (eligible >= 0) & (eligible <= (1 << len(layout.actions)) - 1)
    rows = np.flatnonzero(sound)
    numeric = joined.octets[at[rows, None] + np.arange(form.sized.size)]
    # Lengths of the groups are the same in every record: where they are not, the rest is something else.
    fits = (numeric[:, form.sizes_at] == form.sized[form.sizes_at]).all(axis=1)
    fits &= _are_texts(joined, rows, at[rows], [(begin[rows], end[rows]) for begin, end in spans])
    if not fits.all():
        rows, numeric = rows[fits], numeric[fits]
    texts: dict[str, Any] = {
        name: _Texts(joined.raw, begin[rows], end[rows]) for name, (begin, end) in zip(_STRINGS, spans, strict=True)
    }
    floats = {name: kept.from_rows(numeric[:, at : at + kept.size]) for name, (kept, at) in form.floats.items()}
    sequence, at_ms, action, eligible = longs[rows].T
    return (
        EntryColumns(floats, sequence=sequence, at_ms=at_ms, action=action, eligible=eligible, layout=layout, **texts),
        rows,
    )


def _are_texts(joined: Joined, rows: Ints, ends: Ints, spans: Sequence[tuple[Ints, Ints]]) -> NDArray[np.bool_]:
    """Return which of the bodies ``rows`` [n] have UTF-8 in all ``spans``, which end before ``ends`` [n]."""
    starts = joined.starts[rows]
    # Seldom is anything but ASCII there, not even as a length.
    highest = np.maximum.reduceat(joined.octets, np.stack([starts, ends], axis=1).ravel())[::2]
    are_texts = highest < 0x80
    for row in np.flatnonzero(~are_texts).tolist():
        are_texts[row] = all(_is_text(joined.raw[begin[row] : end[row]]) for begin, end in spans)
    return are_texts


class _Texts(Sequence[str]):
    """Texts of a column, decoded as they are asked for."""

    def __init__(self, joined: bytes, starts: Ints, ends: Ints) -> None:
        self._joined, self._starts, self._ends = joined, starts, ends

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, row: int) -> str: ...
    @overload
    def __getitem__(self, row: slice) -> list[str]: ...
    def __getitem__(self, row: int | slice) -> str | list[str]:
        if isinstance(row, slice):
            return [self[one] for one in range(*row.indices(len(self)))]
        return self._joined[self._starts[row] : self._ends[row]].decode()

    def __iter__(self) -> Iterator[str]:
        for start, end in zip(self._starts.tolist(), self._ends.tolist(), strict=True):
            yield self._joined[start:end].decode()


def _is_text(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True


def _numbers_at(joined: Joined, at: Ints) -> tuple[Ints, Ints]:
    """Return the Avro longs at the places ``at`` [N], and the places behind them; -1 in both where there is none.

    There is none at a place of -1, none that goes on behind ``joined``, and none of more than 8 bytes, or 55 bits.
    """
    octets, bad = joined.octets, (at < 0) | (at >= joined.size)
    at = np.where(bad, 0, at)
    number = octets[at].astype(np.int64)
    if number.max(initial=0) >= 0x80:
        # 8 bytes at a time: those up to the first without a mark, then the 7 bits of each moved together.
        eights: NDArray[np.uint64] = np.ndarray((len(octets) - 7,), "<u8", octets.data, strides=(1,))
        eight = eights[at]
        unmarked = ~eight & _MARKS
        bad |= unmarked == 0
        covered = unmarked ^ (unmarked - np.uint64(1))
        eight = eight & covered & ~_MARKS
        for bits, moved in _MOVES:
            eight = (eight & bits) | (eight & ~bits) >> moved
        number, at = eight.astype(np.int64), at + (np.bitwise_count(covered) >> 3)
    else:
        at = at + 1
    bad |= at > joined.size
    number = (number >> 1) ^ -(number & 1)
    if bad.any():
        return np.where(bad, -1, number), np.where(bad, -1, at)
    return number, at


def _record(name: str, kind: str, names: tuple[str, ...]) -> dict[str, Any]:
    return {"type": "record", "name": name, "fields": [{"name": field, "type": kind} for field in names]}


def _body_fields(layout: Layout) -> list[dict[str, Any]]:
    return [
        {"name": "strings", "type": _record("Strings", "string", _STRINGS)},
        {"name": "floats", "type": _record("Floats", "bytes", tuple(group.name for group in layout.groups))},
    ]


_LONGS_SCHEMA: Any = fastavro.parse_schema(_record("Longs", "long", Longs._fields))


def _check_texts(body: bytes) -> None:
    """Raise ValueError if one of the texts is longer than any that is written: decoded, it may take 4 times as much."""
    stream = io.BytesIO(body)
    for name in _STRINGS:
        try:
            size: Any = fastavro.schemaless_reader(stream, "long", None)
        except Exception as error:
            raise ValueError(f"no Avro record of this layout: {error!r}") from error
        if not 0 <= size <= MAX_STRING_BYTES:
            raise ValueError(f"{name} has {size} bytes; at most {MAX_STRING_BYTES} are kept")
        stream.seek(size, io.SEEK_CUR)


class _Form(NamedTuple):
    """What encoding and decoding under one layout need."""

    body_schema: Any
    floats: dict[str, tuple[Numbers, int]]
    """Name of every group -> how it is kept, and where behind the texts."""
    sized: Octets
    """[W] what stands behind the texts: the numbers, here 0, of each group behind their size."""
    sizes_at: Ints
    """Where those sizes are."""


@lru_cache(maxsize=64)
def _form(layout: Layout) -> _Form:
    schema = fastavro.parse_schema({"type": "record", "name": "Body", "fields": _body_fields(layout)})
    sized, sizes_at, floats = b"", list[int](), {}
    for group in layout.groups:
        kept, size = numbers(group), _written_long(numbers(group).size)
        sizes_at += range(len(sized), len(sized) + len(size))
        floats[group.name] = kept, len(sized) + len(size)
        sized += size + bytes(kept.size)
    return _Form(schema, floats, np.frombuffer(sized, np.uint8), np.asarray(sizes_at, np.int64))


def _limits(layout: Layout) -> dict[str, int]:
    """Return the largest of each of the Longs."""
    actions = len(layout.actions)
    return dict(zip(Longs._fields, (MAX_SEQUENCE, MAX_AT_MS, actions - 1, (1 << actions) - 1), strict=True))


def _check_groups(entries: Entry | EntryColumns, form: _Form) -> None:
    if entries.floats.keys() != form.floats.keys():
        raise StoreError(
            f"entry: float groups {sorted(entries.floats)} are not those of its layout, {sorted(form.floats)}"
        )


def _written_heads(entries: EntryColumns, layout: Layout) -> Iterator[bytes]:
    """Yield the Longs of each entry as Avro. Raises StoreError."""
    columns = []
    for name, highest in _limits(layout).items():
        column = getattr(entries, name)
        if column.dtype.kind not in "iu" or column.min() < 0 or column.max() > highest:
            raise StoreError(f"entry: {name} of one of {len(entries)} entries must be 0 to {highest}")
        columns.append(map(_written_long, column.tolist()))
    return map(b"".join, zip(*columns, strict=True))


def _written_long(number: int) -> bytes:
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
_SMALL_LONGS += [_written_long(number) for number in range(8192)]


def _written_texts(name: str, values: Sequence[str]) -> list[bytes]:
    """Return texts as Avro; many of them may be the same. Raises StoreError."""
    try:
        written = {value: _written_text(name, value) for value in dict.fromkeys(values)}
    except TypeError:
        raise StoreError(f"entry: {name} of one of {len(values)} entries must be text") from None
    return [written[value] for value in values]


def _written_text(name: str, value: str) -> bytes:
    """Return a text as Avro. Raises StoreError."""
    raw = value.encode() if type(value) is str and value.isascii() else _checked_text(name, value).encode()
    if len(raw) > MAX_STRING_BYTES:
        _checked_text(name, value)
    return _written_long(len(raw)) + raw


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
