"""Rows of a view as the online store holds them, and as they are pushed to it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import TypeVar, cast

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from feast import FeatureStore, FeatureView, PushSource
from feast.infra.key_encoding_utils import deserialize_entity_key
from feast.infra.online_stores.helpers import _redis_key_prefix
from feast.infra.online_stores.redis import RedisOnlineStore
from feast.types import PrimitiveFeastType

from feature_repo.online_arrays import StoredView
from feature_repo.online_source import JOIN_KEY, online_source
from feature_repo.tables import EPOCH, EVENT_TIME, NUMBERS

TIMEOUT_SECONDS = 30.0
MEMBERS_AT_ONCE = 5_000
_ARROW_TYPES = {feast: arrow for arrow, feast in NUMBERS.items()}
# A missing whole number stays missing and whole.
_NULLABLE = {pa.int64(): pd.Int64Dtype(), pa.int32(): pd.Int32Dtype(), pa.bool_(): pd.BooleanDtype()}

Item = TypeVar("Item")


def portions(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Yield ``items`` in lists of ``size``, the last one maybe shorter."""
    stream = iter(items)
    while portion := list(islice(stream, size)):
        yield portion


def row_schema(view: FeatureView) -> pa.Schema:
    """Return the columns of a row of ``view``: its key, its time, its features."""
    key = [pa.field(JOIN_KEY, pa.string()), pa.field(EVENT_TIME, pa.timestamp("us", "UTC"))]
    types = {feature.name: _ARROW_TYPES[cast(PrimitiveFeastType, feature.dtype)] for feature in view.features}
    return pa.schema(key + [pa.field(name, arrow) for name, arrow in types.items()])


class OnlineRows:
    """Reads and writes rows of one view of numbers that is pushed to."""

    def __init__(self, store: FeatureStore, view: FeatureView) -> None:
        self._store, self._view, self._schema = store, view, row_schema(view)
        self._source = online_source(store, [StoredView(view, tuple(self._schema.names[2:]))], TIMEOUT_SECONDS)

    @property
    def schema(self) -> pa.Schema:
        """member_id, event_timestamp, features."""
        return self._schema

    def read(self, members: Sequence[str]) -> pa.Table:
        """Return the rows of ``members``, in their order; event_timestamp is null where there is no row."""
        stored = self._source.fetch({JOIN_KEY: members})
        times = pa.array(stored.times_us[:, 0], mask=stored.times_us[:, 0] < 0)
        columns = [
            pa.array(values, mask=np.isnan(values)).cast(column.type, safe=False)
            for values, column in zip(stored.values.T, list(self._schema)[2:], strict=True)
        ]
        keys = [pa.array(members, pa.string()), times.cast(pa.timestamp("us", "UTC"))]
        return pa.Table.from_arrays([*keys, *columns], schema=self._schema)

    def later_than(self, moment: datetime, table: Path) -> pa.Table:
        """Return the rows whose event time is after ``moment``.

        All members are looked through where the online store is Feast's Redis store, else those in ``table``.
        """
        found = [self._schema.empty_table()]
        for members in portions(self._members(table), MEMBERS_AT_ONCE):
            rows = self.read(members)
            times = rows[EVENT_TIME].cast(pa.int64()).fill_null(-1).to_numpy()
            found.append(rows.filter(pa.array(times > (moment - EPOCH) // timedelta(microseconds=1))))
        return pa.concat_tables(found)

    def push(self, rows: pa.Table) -> None:
        """Push rows through Feast, which drops those that are no newer than what is stored."""
        assert isinstance(self._view.stream_source, PushSource)
        if rows.num_rows:
            self._store.push(self._view.stream_source.name, rows.to_pandas(types_mapper=_NULLABLE.get))

    def _members(self, table: Path) -> Iterator[str]:
        online, config = self._store.provider.online_store, self._store.config
        if not isinstance(online, RedisOnlineStore):
            yield from pq.read_table(table, columns=[JOIN_KEY])[JOIN_KEY].unique().to_pylist()
            return
        project = config.project.encode()
        client = online._get_client(config.online_store)
        for key in client.scan_iter(match=_redis_key_prefix([JOIN_KEY]) + b"*" + project, count=1_000):
            entity = deserialize_entity_key(key.removesuffix(project), config.entity_key_serialization_version)
            yield entity.entity_values[0].string_val
