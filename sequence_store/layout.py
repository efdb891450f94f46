"""The FLS layout of a deployment: which float groups an entry has, their columns, and how each is stored."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Literal, get_args

Storage = Literal["float64", "float32", "float16", "uint16", "uint8"]

SCALED: Final = {"uint8": 127, "uint16": 32767}
"""Scaled storage types -> how many steps a value may lie from its centre, up or down."""

MAX_ACTIONS = 63
"""The eligible actions are a bitmask in one Avro long."""

_FLOAT32_MAX: Final = 3.4028234e38
_AVRO_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True)
class FloatGroup:
    """Float columns that belong together and are stored alike.

    ``float64`` and ``float32`` keep every value of their type bit for bit. ``float16`` keeps 11 significant bits;
    what lies beyond +-65504, infinity included, is stored as +-65504. ``uint8`` and ``uint16`` keep the nearest of
    centre + k * step for whole k from -127 to 127, or -32767 to 32767; what lies beyond is stored as the last of
    them. NaN stays NaN everywhere.

    Attributes
    ----------
    name
        An Avro name, such as ``state``.
    columns
        Names of the columns, in the order of the stored values.
    storage
        The type of a stored value.
    scales
        With a scaled storage type: centre and step of every column. A small store wants the most usual value as the
        centre, since it is what compresses best. Else empty.

    Raises
    ------
    ValueError
        The name is no Avro name, a column stands twice, the storage type is unknown, or the scales do not fit it.
    """

    name: str
    columns: tuple[str, ...]
    storage: Storage
    scales: tuple[tuple[float, float], ...] = ()

    def __post_init__(self) -> None:
        if not _AVRO_NAME.fullmatch(self.name):
            raise ValueError(f"float group {self.name!r}: a name is letters, digits and _, not starting with a digit")
        if repeated := _repeated(self.columns):
            raise ValueError(f"float group {self.name!r}: duplicate column {', '.join(repeated)}")
        if self.storage not in get_args(Storage):
            raise ValueError(
                f"float group {self.name!r}: unknown storage {self.storage!r}; known are {', '.join(get_args(Storage))}"
            )
        expected = len(self.columns) if self.storage in SCALED else 0
        if len(self.scales) != expected:
            raise ValueError(f"float group {self.name!r}: {len(self.scales)} scales; {self.storage} needs {expected}")
        # Equal scales have one form, whatever they were written as.
        scales = tuple((_plain(centre), _plain(step)) for centre, step in self.scales)
        object.__setattr__(self, "scales", scales)
        for column, (centre, step) in zip(self.columns, scales, strict=False):
            if not (math.isfinite(centre) and math.isfinite(step) and step > 0.0):
                raise ValueError(
                    f"float group {self.name!r}, column {column!r}: centre {centre} and step {step}; "
                    "both must be finite, the step above 0"
                )
            if abs(centre) + SCALED[self.storage] * step > _FLOAT32_MAX:
                raise ValueError(
                    f"float group {self.name!r}, column {column!r}: centre {centre} and step {step} "
                    "reach beyond float32"
                )

    # Groups key caches on the path of every read: hash the name, not every column.
    def __hash__(self) -> int:
        return hash((self.name, self.storage, len(self.columns)))

    def to_tree(self) -> dict[str, Any]:
        """Return the group as plain JSON values."""
        tree = {"columns": list(self.columns), "name": self.name, "storage": self.storage}
        return tree | ({"scales": [list(scale) for scale in self.scales]} if self.scales else {})

    @classmethod
    def from_tree(cls, tree: Any) -> FloatGroup:
        """Return the group that ``to_tree`` gave. Raises ValueError, KeyError or TypeError if it is none."""
        scales = tuple((centre, step) for centre, step in tree.get("scales", ()))
        return cls(str(tree["name"]), tuple(map(str, tree["columns"])), tree["storage"], scales)


@dataclass(frozen=True)
class Layout:
    """What the stored numbers of an entry mean. Registered in Redis, so that old entries keep their meaning.

    Attributes
    ----------
    groups
        The float groups, in stored order.
    actions
        Names of the actions; an entry's ``action`` is an index into them, its ``eligible`` a bitmask over them.

    Raises
    ------
    ValueError
        A group or an action stands twice, or there are not 1 to 63 actions.
    """

    groups: tuple[FloatGroup, ...]
    actions: tuple[str, ...]

    def __post_init__(self) -> None:
        for kind, names in (("float group", [group.name for group in self.groups]), ("action", self.actions)):
            if repeated := _repeated(names):
                raise ValueError(f"layout: duplicate {kind} {', '.join(repeated)}")
        if not 1 <= len(self.actions) <= MAX_ACTIONS:
            raise ValueError(f"layout: {len(self.actions)} actions; there must be 1 to {MAX_ACTIONS}")

    # Layouts key caches on the path of every read: hash 8 bytes, not every column.
    def __hash__(self) -> int:
        return hash(self.fingerprint)

    @cached_property
    def fingerprint(self) -> bytes:
        """The layout's identity: 8 bytes of BLAKE2b over ``to_json()``."""
        return hashlib.blake2b(self.to_json().encode(), digest_size=8).digest()

    def to_json(self) -> str:
        """Return the canonical JSON of the layout: equal layouts give equal text."""
        tree = {"actions": self.actions, "groups": [group.to_tree() for group in self.groups]}
        return json.dumps(tree, sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | bytes) -> Layout:
        """Return the layout that ``to_json`` wrote as ``text``. Raises ValueError if it is no layout."""
        try:
            tree = json.loads(text)
            return cls(tuple(map(FloatGroup.from_tree, tree["groups"])), tuple(map(str, tree["actions"])))
        except (AttributeError, KeyError, RecursionError, TypeError) as error:
            raise ValueError(f"not a layout: {text[:200]!r}") from error


def _plain(number: float) -> float:
    """Return a number as a float that is not -0.0. Raises ValueError if it is beyond all floats."""
    try:
        return float(number) + 0.0
    except OverflowError as error:
        raise ValueError("a scale beyond all floats") from error


def _repeated(names: Iterable[str]) -> list[str]:
    return sorted(name for name, number in Counter(names).items() if number > 1)
