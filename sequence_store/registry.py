"""The layouts and dictionaries that a tenant's entries were written under, registered in Redis.

All stand in one hash, ``{tenant}:codecs``:

| field | holds |
| --- | --- |
| ``epoch`` | a random word, new with every change of the hash |
| ``layout:<fingerprint>`` | a layout's JSON |
| ``dictionary:<fingerprint>`` | a zstd dictionary |
| ``codec:<fingerprint>`` | fingerprints of its layout and its dictionary, with a ``:`` in between |
| ``current`` | fingerprint of the dictionary that is to be written with; absent or empty for none |
| ``since:<fingerprint>`` | when a dictionary was made the current one, and superseded the one before: ms since 1970 |
| ``unused:<fingerprint>`` | when a layout was found out of use: ms since 1970; empty once it is registered again |

A reader asks for the epoch with every batch, so it learns of a new codec, a new dictionary and of a registry that is
gone without another round trip. A layout that is marked as unused is to writers as if it were not registered, so they
register it again before they append (see ``retirement``); readers need not care. Fingerprints are in hex.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from sequence_store.codec import Codec, dictionary_fingerprint
from sequence_store.keys import Keys
from sequence_store.layout import Layout
from sequence_store.wire import Command

RETIRE_SCRIPT: Final = Path(__file__).with_name("retire.lua").read_bytes()

_EPOCH: Final = b"epoch"
_CURRENT: Final = b"current"


@dataclass(frozen=True)
class Registered:
    """The registry as it was read once.

    Attributes
    ----------
    epoch
        None: there is no registry.
    codecs
        Tag -> the codecs with that tag that this code understands.
    dictionaries
        Fingerprint -> dictionary.
    current
        The dictionary to write with; empty for none.
    since
        Fingerprint of a dictionary -> when it was last made the current one, milliseconds since 1970.
    pairs
        Fingerprint of every codec, understood or not -> fingerprints of its layout and its dictionary.
    layouts
        Fingerprint of every layout, understood or not, and of those that codecs name.
    unused
        Fingerprint of a layout that was found to be out of use, and not registered since -> when, milliseconds since
        1970.
    """

    epoch: bytes | None = None
    codecs: Mapping[int, tuple[Codec, ...]] = field(default_factory=dict)
    dictionaries: Mapping[bytes, bytes] = field(default_factory=dict)
    current: bytes = b""
    since: Mapping[bytes, int] = field(default_factory=dict)
    pairs: Mapping[bytes, tuple[bytes, bytes]] = field(default_factory=dict)
    layouts: frozenset[bytes] = frozenset()
    unused: Mapping[bytes, int] = field(default_factory=dict)

    def writing(self, layout: Layout) -> Codec:
        """Return the codec to write entries of ``layout`` with."""
        wanted = Codec(layout, self.current)
        # The one that is registered has its zstd contexts already.
        return next((codec for codec in self.codecs.get(wanted.tag, ()) if codec == wanted), wanted)

    @cached_property
    def foreign(self) -> frozenset[str]:
        """Fingerprints, in hex, of the codecs that this code does not understand."""
        known = {codec.fingerprint.hex() for codecs in self.codecs.values() for codec in codecs}
        return frozenset(name.decode("ascii", "replace") for name in self.pairs) - known

    def has(self, codec: Codec) -> bool:
        """Tell whether ``codec`` is registered, and its layout is not found to be out of use."""
        return codec in self.codecs.get(codec.tag, ()) and codec.layout.fingerprint.hex().encode() not in self.unused


def epoch_command(keys: Keys) -> Command:
    """Return the command that reads the epoch."""
    return ("HGET", keys.codecs, _EPOCH)


def load_command(keys: Keys) -> Command:
    """Return the command that reads the whole registry."""
    return ("HGETALL", keys.codecs)


def parse(reply: Any) -> Registered:
    """Return what the reply to ``load_command`` says, leaving out what this code does not understand."""
    fields: Mapping[bytes, bytes] = (
        reply if isinstance(reply, Mapping) else dict(zip(reply[::2], reply[1::2], strict=True))
    )
    names: set[bytes] = set()
    layouts: dict[bytes, Layout] = {}
    dictionaries: dict[bytes, bytes] = {b"": b""}
    for name, value in fields.items():
        kind, _, fingerprint = name.partition(b":")
        if kind == b"layout":
            names.add(fingerprint)
            try:
                layouts[fingerprint] = Layout.from_json(value)
            except ValueError:
                continue  # of a later release
        elif kind == b"dictionary" and dictionary_fingerprint(value).hex().encode() == fingerprint:
            dictionaries[fingerprint] = value
    codecs: dict[int, tuple[Codec, ...]] = {}
    times: dict[bytes, dict[bytes, int]] = {b"since": {}, b"unused": {}}
    pairs: dict[bytes, tuple[bytes, bytes]] = {}
    for name, value in fields.items():
        kind, _, fingerprint = name.partition(b":")
        if kind in times and value.isdigit() and len(value) < 20:
            times[kind][fingerprint] = int(value)
        elif kind == b"codec":
            layout, _, dictionary = value.partition(b":")
            names.add(layout)
            pairs[fingerprint] = layout, dictionary
            if layout in layouts and dictionary in dictionaries:
                codec = Codec(layouts[layout], dictionaries[dictionary])
                if codec.fingerprint.hex().encode() == fingerprint:
                    codecs[codec.tag] = (*codecs.get(codec.tag, ()), codec)
    return Registered(
        epoch=fields.get(_EPOCH),
        codecs=codecs,
        dictionaries=dictionaries,
        current=dictionaries.get(fields.get(_CURRENT, b""), b""),
        since=times[b"since"],
        pairs=pairs,
        layouts=frozenset(names),
        unused=times[b"unused"],
    )


def register_command(keys: Keys, codec: Codec) -> Command:
    """Return the command that registers ``codec`` with its layout, which is in use again, and its dictionary."""
    layout, dictionary = codec.layout.fingerprint.hex(), name_of(codec.dictionary)
    fields: list[str | bytes] = [f"layout:{layout}", codec.layout.to_json(), f"unused:{layout}", b""]
    if codec.dictionary:
        fields += [f"dictionary:{dictionary}", codec.dictionary]
    fields += [f"codec:{codec.fingerprint.hex()}", f"{layout}:{dictionary}"]
    return ("HSET", keys.codecs, *fields, _EPOCH, _new_epoch())


def use_command(keys: Keys, dictionary: bytes, at_ms: int | None = None) -> Command:
    """Return the command that registers ``dictionary`` and has every writer use it from its next read on.

    An empty one stands for none. ``at_ms`` is the present time, milliseconds since 1970: None for this machine's.
    """
    name = name_of(dictionary)
    since = round(time.time() * 1000) if at_ms is None else at_ms
    registered = (f"dictionary:{name}", dictionary) if dictionary else ()
    return ("HSET", keys.codecs, *registered, _CURRENT, name, f"since:{name}", since, _EPOCH, _new_epoch())


def retire_command(
    keys: Keys,
    registered: Registered,
    *,
    dictionaries: Collection[bytes] = (),
    layouts: Collection[bytes] = (),
    unused: Collection[bytes] = (),
    at_ms: int = 0,
) -> Command:
    """Return the command that forgets dictionaries and layouts, and marks others; all are given by fingerprint.

    It is answered by 1; by 0, and nothing is changed, if the registry is no longer as it was read.

    Parameters
    ----------
    dictionaries, layouts
        Those to forget, with their codecs.
    unused, at_ms
        Layouts that are found to be out of use, and when, milliseconds since 1970.
    """
    gone = [
        b"codec:" + codec
        for codec, (layout, dictionary) in registered.pairs.items()
        if layout in layouts or dictionary in dictionaries
    ]
    gone += [kind + name for name in sorted(dictionaries) for kind in (b"dictionary:", b"since:")]
    gone += [kind + name for name in sorted(layouts) for kind in (b"layout:", b"unused:")]
    fields = {**dict.fromkeys(gone, b""), **{b"unused:" + name: b"%d" % at_ms for name in sorted(unused)}}
    changes = (part for field in fields.items() for part in field)
    return ("EVAL", RETIRE_SCRIPT, 1, keys.codecs, registered.epoch or b"", _new_epoch(), *changes)


def name_of(dictionary: bytes) -> str:
    """Return the fingerprint of ``dictionary`` in hex; empty for none."""
    return dictionary_fingerprint(dictionary).hex() if dictionary else ""


def _new_epoch() -> str:
    return secrets.token_hex(8)
