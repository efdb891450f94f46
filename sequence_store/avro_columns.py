"""The Avro form of many entries at once: what ``avro`` does for one, a column at a time.

Written here rather than by a library, since one by one it is most of what reads and appends cost. What is out of the
ordinary is left to ``avro``: both give the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final, overload

import numpy as np
from numpy.typing import NDArray

from contracts.errors import StoreError
from sequence_store.avro import (
    MAX_STRING_BYTES,
    STRINGS,
    Longs,
    check_groups,
    checked_text,
    form_of,
    limits,
    written_long,
)
from sequence_store.columns import EntryColumns
from sequence_store.joined import Ints, Joined
from sequence_store.layout import Layout

FEW: Final = 8
"""Of fewer than these, one by one is quicker than all at once."""

_MARKS: Final = np.uint64(0x8080808080808080)
"""Of the bytes of a number that another one follows."""
_MOVES: Final = tuple(
    (np.uint64(bits), np.uint64(moved))
    for bits, moved in ((0x007F007F007F007F, 1), (0x00003FFF00003FFF, 2), (0x000000000FFFFFFF, 4))
)


def encode_all(entries: EntryColumns) -> list[tuple[bytes, bytes]]:
    """Return ``encode`` of many entries, a column at a time: in a tenth of the time.

    Raises StoreError if one of them breaks a limit or does not fit its layout; ``encode`` tells which and how.
    """
    layout, form = entries.layout, form_of(entries.layout)
    check_groups(entries, form)
    rows = np.tile(form.sized, (len(entries), 1))
    for name, (kept, place) in form.floats.items():
        rows[:, place : place + kept.size] = kept.to_rows(entries.floats[name])
    numeric, width = rows.tobytes(), rows.shape[1]
    texts = [_written_texts(name, getattr(entries, name)) for name in STRINGS]
    numbers = (numeric[row * width : (row + 1) * width] for row in range(len(entries)))
    return list(zip(_written_heads(entries, layout), map(b"".join, zip(*texts, numbers, strict=True)), strict=True))


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
    form, joined = form_of(layout), Joined.of(bodies)
    at, spans = joined.starts, []
    for _ in STRINGS:
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
        name: _Texts(joined.raw, begin[rows], end[rows]) for name, (begin, end) in zip(STRINGS, spans, strict=True)
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


def _written_heads(entries: EntryColumns, layout: Layout) -> Iterator[bytes]:
    """Yield the Longs of each entry as Avro. Raises StoreError."""
    columns = []
    for name, highest in limits(layout).items():
        column = getattr(entries, name)
        if column.dtype.kind not in "iu" or column.min() < 0 or column.max() > highest:
            raise StoreError(f"entry: {name} of one of {len(entries)} entries must be 0 to {highest}")
        columns.append(map(written_long, column.tolist()))
    return map(b"".join, zip(*columns, strict=True))


def _written_texts(name: str, values: Sequence[str]) -> list[bytes]:
    """Return texts as Avro; many of them may be the same. Raises StoreError."""
    try:
        written = {value: _written_text(name, value) for value in dict.fromkeys(values)}
    except TypeError:
        raise StoreError(f"entry: {name} of one of {len(values)} entries must be text") from None
    return [written[value] for value in values]


def _written_text(name: str, value: str) -> bytes:
    """Return a text as Avro. Raises StoreError."""
    raw = value.encode() if type(value) is str and value.isascii() else checked_text(name, value).encode()
    if len(raw) > MAX_STRING_BYTES:
        checked_text(name, value)
    return written_long(len(raw)) + raw
