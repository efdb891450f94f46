"""Layouts that keep every entry as an element of its own: a stream and a list."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

import numpy as np
import redis

from benchmarks.store.peers import TENANT, TTL_MS, Held, HeldRecords, Record, check, must_be_appended
from benchmarks.store.records import of_plain, plain
from sequence_store import Entry, Layout, Ring
from sequence_store.avro import Longs
from sequence_store.codec import Codec
from sequence_store.frame import Owner
from sequence_store.keys import Keys
from sequence_store.ring import Version
from sequence_store.storage import numbers as kept_as
from sequence_store.wire import Wire

Element = Mapping[bytes, bytes]
"""Fields of an element. A list has room for one."""

_FIELD: Final = b"e"


class ElementCodec(Protocol):
    """How an entry becomes an element, and back."""

    @property
    def layout(self) -> Layout:
        """Layout of the entries."""

    def seal(self, member: str, entry: Entry, /) -> Element:
        """Return the element of ``entry``."""

    def hold(self, member: str, elements: Sequence[Element], now_ms: int, found: object, /) -> Held:
        """Return what ``elements``, oldest first, say."""


class Frames:
    """Our codec: the frames of a ring, byte for byte, with all that a ring checks of them."""

    def __init__(self, codec: Codec) -> None:
        self.layout = codec.layout
        self._codec = codec
        self._codecs = {codec.tag: (codec,)}

    def seal(self, member: str, entry: Entry) -> Element:
        """Return the frame."""
        return {_FIELD: Owner(TENANT, member, 0).seal(entry, self._codec)}

    def hold(self, member: str, elements: Sequence[Element], now_ms: int, found: object) -> Ring:
        """Return the ring of these frames."""
        owner = Owner(TENANT, member, 0)
        frames = [owner.unseal(element[_FIELD], self._codecs) for element in elements]
        count = frames[-1].longs.sequence + 1 if frames else 0
        return Ring(member, Version(0, count, found=found), frames, (), now_ms - TTL_MS)


class JsonTexts:
    """JSON: what is usually pushed on a list. The sequence number stands last, so that the end tells elements apart."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout

    def seal(self, _member: str, entry: Entry) -> Element:
        """Return the text."""
        record = Record.of(entry, plain(entry.floats, self.layout))
        sequence, *others = record.longs
        tree = {**record.strings, **record.floats, "longs": others, "sequence": sequence}
        return {_FIELD: json.dumps(tree, separators=(",", ":")).encode()}

    def hold(self, _member: str, elements: Sequence[Element], _now_ms: int, found: object) -> HeldRecords:
        """Return the parsed texts."""
        records = []
        for element in elements:
            tree = json.loads(element[_FIELD])
            floats = {group.name: tree.pop(group.name) for group in self.layout.groups}
            records.append(Record(Longs(tree.pop("sequence"), *tree.pop("longs")), tree, floats))
        count = records[-1].longs.sequence + 1 if records else 0
        return HeldRecords(Version(0, count, found=found), records, lambda record: of_plain(record, self.layout))


class Fields:
    """A stream's own form: a field for every text, number and group of floats."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout

    def seal(self, _member: str, entry: Entry) -> Element:
        """Return the fields."""
        groups = {
            group.name.encode(): kept_as(group).to_bytes(entry.floats[group.name]) for group in self.layout.groups
        }
        record = Record.of(entry, {})
        longs = {name.encode(): b"%d" % value for name, value in record.longs._asdict().items()}
        return longs | {name.encode(): text.encode() for name, text in record.strings.items()} | groups

    def hold(self, _member: str, elements: Sequence[Element], _now_ms: int, found: object) -> HeldRecords:
        """Return the fields as records."""
        groups = [group.name for group in self.layout.groups]
        records = []
        for element in elements:
            texts = {name.decode(): value for name, value in element.items()}
            longs = Longs(*(int(texts.pop(name)) for name in Longs._fields))
            floats = {name: texts.pop(name) for name in groups}
            records.append(Record(longs, {name: text.decode() for name, text in texts.items()}, floats))
        count = records[-1].longs.sequence + 1 if records else 0
        return HeldRecords(Version(0, count, found=found), records, self._entry)

    def _entry(self, record: Record) -> Entry:
        floats = {group.name: np.frombuffer(record.floats[group.name], "<f4") for group in self.layout.groups}
        return record.entry(floats, self.layout)


class Stream:
    """XADD with an exact MAXLEN. The id is the sequence number + 1.

    As safe: Redis refuses an id that is not above the last one, so of two appends from the same read one wins.
    """

    def __init__(self, client: redis.Redis, codec: ElementCodec, capacity: int) -> None:
        self.layout = codec.layout
        self._codec, self._capacity = codec, capacity
        self._wire, self._keys = Wire(client), Keys(TENANT)

    def read(self, members: Sequence[str], now_ms: Sequence[int]) -> Sequence[Held]:
        """Return what the streams hold."""
        replies = self._wire.exchange(
            [("XRANGE", self._keys.ring(member), "-", "+") for member in members], writes=False
        )
        held = []
        for member, now, reply in zip(members, now_ms, check(replies), strict=True):
            elements = [dict(zip(fields[::2], fields[1::2], strict=True)) for _, fields in reply]
            held.append(self._codec.hold(member, elements, now, None))
        return held

    def append(self, members: Sequence[str], _held: Sequence[Held], entries: Sequence[Entry]) -> None:
        """Append; a stream has no time to live in the command that adds to it."""
        commands: list[tuple[Any, ...]] = []
        for member, entry in zip(members, entries, strict=True):
            fields = [part for pair in self._codec.seal(member, entry).items() for part in pair]
            key = self._keys.ring(member)
            commands.append(("XADD", key, "MAXLEN", "=", self._capacity, f"{entry.sequence + 1}-0", *fields))
            commands.append(("PEXPIRE", key, TTL_MS))
        check(self._wire.exchange(commands, writes=True))

    def written(self, member: str, _held: Held, entry: Entry) -> int:
        """Return the bytes of the fields' values."""
        return sum(map(len, self._codec.seal(member, entry).values()))


_PUSH: Final = b"""\
local newest = redis.call('LINDEX', KEYS[1], -1) or ''
if string.sub(newest, -#ARGV[1]) ~= ARGV[1] then return 0 end
redis.call('RPUSH', KEYS[1], ARGV[2])
redis.call('LTRIM', KEYS[1], -tonumber(ARGV[3]), -1)
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return 1
"""
_PUSH_SHA: Final = hashlib.sha1(_PUSH, usedforsecurity=False).hexdigest()
_END_BYTES: Final = 8


class List:
    """RPUSH and LTRIM in one script.

    As safe: the script compares the end of the newest element (of a frame: its checksum) with that read.
    """

    def __init__(self, client: redis.Redis, codec: ElementCodec, capacity: int) -> None:
        self.layout = codec.layout
        self._codec, self._capacity = codec, capacity
        self._wire, self._keys = Wire(client), Keys(TENANT)
        check(self._wire.exchange([("SCRIPT", "LOAD", _PUSH)], writes=False))

    def read(self, members: Sequence[str], now_ms: Sequence[int]) -> Sequence[Held]:
        """Return what the lists hold."""
        replies = self._wire.exchange([("LRANGE", self._keys.ring(member), 0, -1) for member in members], writes=False)
        return [
            self._codec.hold(member, [{_FIELD: element} for element in reply], now, reply[-1] if reply else b"")
            for member, now, reply in zip(members, now_ms, check(replies), strict=True)
        ]

    def append(self, members: Sequence[str], held: Sequence[Held], entries: Sequence[Entry]) -> None:
        """Append."""
        commands = []
        for member, one, entry in zip(members, held, entries, strict=True):
            assert isinstance(one.version.found, bytes)
            (element,) = self._codec.seal(member, entry).values()
            end = one.version.found[-_END_BYTES:]
            commands.append(("EVALSHA", _PUSH_SHA, 1, self._keys.ring(member), end, element, self._capacity, TTL_MS))
        must_be_appended([reply == 1 for reply in check(self._wire.exchange(commands, writes=True))])

    def written(self, member: str, _held: Held, entry: Entry) -> int:
        """Return the bytes of the element."""
        return sum(map(len, self._codec.seal(member, entry).values()))
