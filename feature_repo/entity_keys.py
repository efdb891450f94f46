"""The Redis keys of a feature view's entities, as Feast's Redis store makes them, many at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from struct import Struct
from typing import Any

import numpy as np
from feast import FeatureView, RepoConfig
from feast.infra.key_encoding_utils import serialize_entity_key_prefix
from feast.infra.online_stores.helpers import _redis_key
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.type_map import python_values_to_proto_values
from feast.value_type import ValueType

_VERSION = 3
_STRING = Struct("<II")
_INTEGERS = {ValueType.INT32: Struct("<IIi"), ValueType.INT64: Struct("<IIq")}


class EntityKeys:
    """Makes the keys of entities with these join keys: text and integers directly, other types through Feast."""

    def __init__(self, config: RepoConfig, types: Mapping[str, ValueType]) -> None:
        self._project, self._version = config.project, config.entity_key_serialization_version
        self._types = {name: types[name] for name in sorted(types)}  # Feast's order of composite keys
        self._head = serialize_entity_key_prefix(list(self._types), _VERSION)
        self._tail = self._project.encode()

    @classmethod
    def of(cls, config: RepoConfig, view: FeatureView) -> EntityKeys:
        """Return the maker of the keys of ``view``."""
        return cls(config, {field.name: field.dtype.to_value_type() for field in view.entity_columns})

    @property
    def join_keys(self) -> tuple[str, ...]:
        """Names of the columns that make a key, in the order of the key."""
        return tuple(self._types)

    def make(self, columns: Mapping[str, Sequence[Any]]) -> list[bytes]:
        """Return the key of each row of ``columns``, which hold the values of every join key.

        Raises what Feast raises where a value does not fit its type, or is of one that keys can't have.
        """
        parts = [_encode(_plain(columns[name]), value_type) for name, value_type in self._types.items()]
        if self._version != _VERSION or not parts or any(part is None for part in parts):
            return self._made_by_feast(columns)
        head, tail = self._head, self._tail
        if len(parts) == 1:
            return [head + value + tail for value in parts[0] or ()]
        return [b"".join((head, *values, tail)) for values in zip(*filter(None, parts), strict=True)]

    def _made_by_feast(self, columns: Mapping[str, Sequence[Any]]) -> list[bytes]:
        names = list(self._types)
        values = [
            python_values_to_proto_values(list(columns[name]), value_type) for name, value_type in self._types.items()
        ]
        entities = (EntityKey(join_keys=names, entity_values=row) for row in zip(*values, strict=True))
        return [_redis_key(self._project, entity, self._version) for entity in entities]


def _plain(values: Any) -> Sequence[Any]:
    plain: Sequence[Any] = values.tolist() if isinstance(values, np.ndarray) else values
    return plain


def _encode(values: Sequence[Any], value_type: ValueType) -> list[bytes] | None:
    """Return type, length and payload of each value, as Feast serialises them; None where only Feast can."""
    kinds = set(map(type, values))
    if value_type is ValueType.STRING and kinds <= {str}:
        pack = _STRING.pack
        return [pack(ValueType.STRING.value, len(text)) + text for text in (value.encode() for value in values)]
    if value_type in _INTEGERS and kinds <= {int}:
        integer = _INTEGERS[value_type]
        size = integer.size - _STRING.size
        return [integer.pack(value_type.value, size, value) for value in values]
    return None
