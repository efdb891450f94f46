"""The FLS layout of a deployment: which float groups an entry has, their columns, and how each is stored."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

Storage = Literal["float32", "float16", "float64"]

MAX_ACTIONS = 63
"""The eligible actions are a bitmask in one Avro long."""

_AVRO_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True)
class FloatGroup:
    """Float columns that belong together and are stored alike.

    ``float64`` and ``float32`` keep every value of their type bit for bit. ``float16`` keeps 11 significant bits;
    what lies beyond +-65504, infinity included, is stored as +-65504. NaN stays NaN.

    Attributes
    ----------
    name
        An Avro name, such as ``state``.
    columns
        Names of the columns, in the order of the stored values.
    storage
        The type of a stored value.

    Raises
    ------
    ValueError
        The name is no Avro name, a column stands twice, or the storage type is unknown.
    """

    name: str
    columns: tuple[str, ...]
    storage: Storage

    def __post_init__(self) -> None:
        if not _AVRO_NAME.fullmatch(self.name):
            raise ValueError(f"float group {self.name!r}: a name is letters, digits and _, not starting with a digit")
        if repeated := _repeated(self.columns):
            raise ValueError(f"float group {self.name!r}: duplicate column {', '.join(repeated)}")
        if self.storage not in get_args(Storage):
            raise ValueError(
                f"float group {self.name!r}: unknown storage {self.storage!r}; known are {', '.join(get_args(Storage))}"
            )


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
        tree = {
            "actions": self.actions,
            "groups": [
                {"columns": group.columns, "name": group.name, "storage": group.storage} for group in self.groups
            ],
        }
        return json.dumps(tree, sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | bytes) -> Layout:
        """Return the layout that ``to_json`` wrote as ``text``. Raises ValueError if it is no layout."""
        try:
            tree = json.loads(text)
            groups = tuple(
                FloatGroup(str(group["name"]), tuple(map(str, group["columns"])), group["storage"])
                for group in tree["groups"]
            )
            return cls(groups, tuple(map(str, tree["actions"])))
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a layout: {text[:200]!r}") from error


def _repeated(names: Iterable[str]) -> list[str]:
    return sorted(name for name, number in Counter(names).items() if number > 1)
