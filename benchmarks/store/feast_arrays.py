"""Array features in Feast's own Redis online store: read, changed and written back as Feast does it.

It is not as safe: Feast reads the time of what is stored and then writes, so of two appends from the same read the
later one wins. Its keys are Feast's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Protocol

import numpy as np
import redis
from feast import Entity, FeatureView, Field, FileSource, RepoConfig, ValueType
from feast.infra.online_stores.redis import RedisOnlineStore, RedisOnlineStoreConfig
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.types import Array, Bytes, Float32, Float64, Int64, String

from benchmarks.store.elements import Frames
from benchmarks.store.peers import TENANT, TTL_MS, Held, HeldRecords, Record
from sequence_store import Entry, Layout
from sequence_store.avro import Longs
from sequence_store.ring import Version

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_STRINGS: Final = ("mask_key", "model", "cycle_id", "notification_id")

Values = Mapping[str, Value]


class ArrayForm(Protocol):
    """Which array features hold a member's entries."""

    @property
    def layout(self) -> Layout:
        """Layout of the entries."""

    @property
    def fields(self) -> list[Field]:
        """The features."""

    def hold(self, member: str, values: Values, now_ms: int, /) -> Held:
        """Return what the features hold; ``values`` is empty where there is none."""

    def append(self, member: str, held: Held, entry: Entry, capacity: int, /) -> Values:
        """Return the features with ``entry``."""


class FrameArray:
    """Our codec: one Array(Bytes) of the same frames as a ring's."""

    def __init__(self, frames: Frames) -> None:
        self.layout = frames.layout
        self.fields = [Field(name="entries", dtype=Array(Bytes))]
        self._frames = frames

    def hold(self, member: str, values: Values, now_ms: int) -> Held:
        """Return the ring of these frames."""
        frames = list(values["entries"].bytes_list_val.val) if values else []
        return self._frames.hold(member, [{b"e": frame} for frame in frames], now_ms, frames)

    def append(self, member: str, held: Held, entry: Entry, capacity: int) -> Values:
        """Return the array with one more frame."""
        assert isinstance(held.version.found, list)
        value = Value()
        value.bytes_list_val.val.extend(
            [*held.version.found[1 - capacity :], *self._frames.seal(member, entry).values()]
        )
        return {"entries": value}


class GroupArrays:
    """Feast's own form: an array feature a group of floats (flattened), one for the numbers, one for each text."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        kinds = {"float32": Array(Float32), "float64": Array(Float64)}
        self.fields = [
            *(Field(name=group.name, dtype=kinds[group.storage]) for group in layout.groups),
            Field(name="longs", dtype=Array(Int64)),
            *(Field(name=name, dtype=Array(String)) for name in _STRINGS),
        ]

    def hold(self, _member: str, values: Values, _now_ms: int) -> HeldRecords:
        """Return the rows of the arrays."""
        if not values or not values["longs"].int64_list_val.val:
            return HeldRecords(Version(0, 0, found={}), [], self._entry)
        longs = np.asarray(values["longs"].int64_list_val.val, np.int64).reshape(-1, len(Longs._fields)).tolist()
        matrices = {
            group.name: np.asarray(_floats(values[group.name], group.storage), group.storage).reshape(len(longs), -1)
            for group in self.layout.groups
        }
        texts = {name: values[name].string_list_val.val for name in _STRINGS}
        records = [
            Record(
                Longs(*row),
                {name: column[i] for name, column in texts.items()},
                {name: matrix[i] for name, matrix in matrices.items()},
            )
            for i, row in enumerate(longs)
        ]
        return HeldRecords(Version(0, records[-1].longs.sequence + 1, found=values), records, self._entry)

    def append(self, _member: str, held: Held, entry: Entry, capacity: int) -> Values:
        """Return the arrays with one more row, and without the oldest where they are full."""
        before: Any = held.version.found
        record = Record.of(entry, {})
        drop = len(held.longs) + 1 > capacity
        new: dict[str, Value] = {}
        for group in self.layout.groups:
            columns = len(group.columns)
            old = _floats(before[group.name], group.storage)[columns * drop :] if before else []
            value = new[group.name] = Value()
            _floats(value, group.storage).extend([*old, *entry.floats[group.name].tolist()])
        value = new["longs"] = Value()
        old = before["longs"].int64_list_val.val[len(Longs._fields) * drop :] if before else []
        value.int64_list_val.val.extend([*old, *record.longs])
        for name in _STRINGS:
            value = new[name] = Value()
            old = before[name].string_list_val.val[drop:] if before else []
            value.string_list_val.val.extend([*old, record.strings[name]])
        return new

    def _entry(self, record: Record) -> Entry:
        return record.entry(record.floats, self.layout)


def _floats(value: Value, storage: str) -> Any:
    return value.double_list_val.val if storage == "float64" else value.float_list_val.val


class _Store(RedisOnlineStore):
    """Feast's store on a given client."""

    def __init__(self, client: redis.Redis) -> None:
        self._given = client

    def _get_client(self, _config: Any) -> redis.Redis:
        return self._given


class FeastArrays:
    """A feature view of arrays."""

    def __init__(self, client: redis.Redis, form: ArrayForm, capacity: int) -> None:
        self.layout = form.layout
        self._form, self._capacity = form, capacity
        self._store = _Store(client)
        self._config = RepoConfig(
            project=TENANT,
            provider="local",
            registry="unused.db",
            online_store=RedisOnlineStoreConfig(key_ttl_seconds=TTL_MS // 1000),
            entity_key_serialization_version=3,
        )
        self._view = FeatureView(
            name="history",
            entities=[Entity(name="member", join_keys=["member_id"], value_type=ValueType.STRING)],
            schema=form.fields,
            source=FileSource(path="unused.parquet", timestamp_field="event_timestamp"),
            ttl=timedelta(milliseconds=TTL_MS),
        )

    def read(self, members: Sequence[str], now_ms: Sequence[int]) -> Sequence[Held]:
        """Return what the features hold."""
        rows = self._store.online_read(self._config, self._view, [_key(member) for member in members])
        return [
            self._form.hold(member, values or {}, now)
            for member, now, (_, values) in zip(members, now_ms, rows, strict=True)
        ]

    def append(self, members: Sequence[str], held: Sequence[Held], entries: Sequence[Entry]) -> None:
        """Write the features anew. Feast drops a row that is not newer than the one stored."""
        rows: list[tuple[EntityKey, dict[str, Value], datetime, datetime | None]] = [
            (_key(member), dict(self._form.append(member, one, entry, self._capacity)), _time(entry.at_ms), None)
            for member, one, entry in zip(members, held, entries, strict=True)
        ]
        self._store.online_write_batch(self._config, self._view, rows, None)

    def written(self, member: str, held: Held, entry: Entry) -> int:
        """Return the bytes of the features' values."""
        values = self._form.append(member, held, entry, self._capacity)
        return sum(value.ByteSize() for value in values.values())


def _key(member: str) -> EntityKey:
    return EntityKey(join_keys=["member_id"], entity_values=[Value(string_val=member)])


def _time(at_ms: int) -> datetime:
    return _EPOCH + timedelta(milliseconds=at_ms)
