"""Layouts that rewrite the whole history of a member at every append: Avro and JSON."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import fastavro
import numpy as np
import redis
import zstandard

from benchmarks.store.peers import TENANT, TTL_MS, Held, HeldRecords, Record, check, must_be_appended
from sequence_store import Entry, FloatArray, Layout, avro
from sequence_store.avro import Longs
from sequence_store.codec import LEVEL
from sequence_store.keys import Keys
from sequence_store.layout import SCALED
from sequence_store.ring import Version
from sequence_store.storage import numbers as kept_as
from sequence_store.wire import Wire


class RecordCodec(Protocol):
    """How all entries of a member become one value, and back."""

    @property
    def layout(self) -> Layout:
        """Layout of the entries."""

    def record(self, entry: Entry) -> Record:
        """Take an entry apart."""

    def entry(self, record: Record) -> Entry:
        """Put an entry together."""

    def dump(self, records: Sequence[Record]) -> bytes:
        """Return the value."""

    def load(self, value: bytes) -> list[Record]:
        """Return the records in ``value``."""


class AvroArray:
    """zstd(Avro array of entries): all entries are compressed together, with a dictionary."""

    def __init__(self, layout: Layout, dictionary: bytes) -> None:
        self.layout = layout
        schema: Any = {"type": "array", "items": avro.schema(layout)}
        self._schema = fastavro.parse_schema(schema)
        self._zstd = Zstd(dictionary)

    def record(self, entry: Entry) -> Record:
        """Keep a group as the bytes of its storage type."""
        return Record.of(
            entry, {group.name: kept_as(group).to_bytes(entry.floats[group.name]) for group in self.layout.groups}
        )

    def entry(self, record: Record) -> Entry:
        """Return the entry."""
        floats = {group.name: kept_as(group).from_bytes(record.floats[group.name]) for group in self.layout.groups}
        return record.entry(floats, self.layout)

    def dump(self, records: Sequence[Record]) -> bytes:
        """Return the value."""
        stream = io.BytesIO()
        trees = [
            {"longs": record.longs._asdict(), "strings": record.strings, "floats": record.floats} for record in records
        ]
        fastavro.schemaless_writer(stream, self._schema, trees)
        return self._zstd.compress(stream.getvalue())

    def load(self, value: bytes) -> list[Record]:
        """Return the records."""
        trees: Any = fastavro.schemaless_reader(io.BytesIO(self._zstd.decompress(value)), self._schema, None)
        return [Record(Longs(**tree["longs"]), tree["strings"], tree["floats"]) for tree in trees]


class JsonArray:
    """JSON text of all entries; with our codec zstd of it with the dictionary, and scaled values as their codes."""

    def __init__(self, layout: Layout, dictionary: bytes | None) -> None:
        self.layout = layout
        self._zstd = None if dictionary is None else Zstd(dictionary)

    def record(self, entry: Entry) -> Record:
        """Keep a group as a list of numbers."""
        return Record.of(entry, plain(entry.floats, self.layout))

    def entry(self, record: Record) -> Entry:
        """Return the entry."""
        return of_plain(record, self.layout)

    def dump(self, records: Sequence[Record]) -> bytes:
        """Return the value."""
        trees = [[*record.longs, record.strings, record.floats] for record in records]
        text = json.dumps(trees, separators=(",", ":")).encode()
        return text if self._zstd is None else self._zstd.compress(text)

    def load(self, value: bytes) -> list[Record]:
        """Return the records."""
        trees = json.loads(value if self._zstd is None else self._zstd.decompress(value))
        return [Record(Longs(*longs), strings, floats) for *longs, strings, floats in trees]


class Zstd:
    """zstd with a dictionary at the level of the rings, fit for values of any size, without its magic bytes."""

    def __init__(self, dictionary: bytes) -> None:
        parameters = zstandard.ZstdCompressionParameters.from_level(
            LEVEL,
            dict_size=len(dictionary),
            format=zstandard.FORMAT_ZSTD1_MAGICLESS,
            write_content_size=True,
            write_dict_id=False,
        )
        trained = zstandard.ZstdCompressionDict(dictionary)
        trained.precompute_compress(compression_params=parameters)
        self._compressor = zstandard.ZstdCompressor(dict_data=trained, compression_params=parameters)
        self._decompressor = zstandard.ZstdDecompressor(dict_data=trained, format=zstandard.FORMAT_ZSTD1_MAGICLESS)

    def compress(self, data: bytes) -> bytes:
        """Return ``data`` compressed."""
        return self._compressor.compress(data)

    def decompress(self, data: bytes) -> bytes:
        """Return what was compressed."""
        return self._decompressor.decompress(data)


def plain(floats: Mapping[str, FloatArray], layout: Layout) -> dict[str, list[float]]:
    """Return groups as JSON has them: whole codes of scaled values, else the shortest decimals that tell them apart."""
    lists = {}
    for group in layout.groups:
        kept = np.frombuffer(kept_as(group).to_bytes(floats[group.name]), np.dtype(group.storage).newbyteorder("<"))
        lists[group.name] = kept.tolist() if group.storage in SCALED else [float(text) for text in kept.astype(str)]
    return lists


def of_plain(record: Record, layout: Layout) -> Entry:
    """Return the entry of a record whose floats ``plain`` made."""
    floats = {}
    for group in layout.groups:
        kept = np.asarray(record.floats[group.name], np.dtype(group.storage).newbyteorder("<"))
        floats[group.name] = kept_as(group).from_bytes(kept.tobytes())
    return record.entry(floats, layout)


class WholeRecord:
    """One value a member, read and replaced.

    With ``watched`` under WATCH, MULTI and EXEC, in two round trips for the whole batch: as safe, though one member
    that changed refuses all of them. Else a plain SET, which loses one of two appends from the same read.
    """

    def __init__(self, client: redis.Redis, codec: RecordCodec, capacity: int, *, watched: bool) -> None:
        self.layout = codec.layout
        self._codec, self._capacity, self._watched = codec, capacity, watched
        self._wire, self._keys = Wire(client), Keys(TENANT)

    def read(self, members: Sequence[str], _now_ms: Sequence[int]) -> Sequence[HeldRecords]:
        """Return what the values hold."""
        keys = [self._keys.ring(member) for member in members]
        watch = [("WATCH", *keys)] if self._watched else []
        *_, values = check(self._wire.exchange([*watch, ("MGET", *keys)], writes=False))
        held = []
        for value in values:
            records = [] if value is None else self._codec.load(value)
            count = records[-1].longs.sequence + 1 if records else 0
            held.append(HeldRecords(Version(0, count), records, self._codec.entry))
        return held

    def append(self, members: Sequence[str], held: Sequence[Held], entries: Sequence[Entry]) -> None:
        """Write the values anew."""
        sets: list[tuple[Any, ...]] = [
            ("SET", self._keys.ring(member), self._value(one, entry), "PX", TTL_MS)
            for member, one, entry in zip(members, held, entries, strict=True)
        ]
        if not self._watched:
            check(self._wire.exchange(sets, writes=True))
            return
        *_, done = check(self._wire.exchange([("MULTI",), *sets, ("EXEC",)], writes=True))
        must_be_appended([done is not None] * len(sets))

    def written(self, _member: str, held: Held, entry: Entry) -> int:
        """Return the bytes of the value."""
        return len(self._value(held, entry))

    def _value(self, held: Held, entry: Entry) -> bytes:
        assert isinstance(held, HeldRecords)
        return self._codec.dump([*held.records[-self._capacity + 1 :], self._codec.record(entry)])
