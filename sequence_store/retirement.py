"""Layouts and dictionaries are forgotten once no entry needs them, and no writer can be about to use them.

The evidence is a whole pass over the rings (``maintenance.repush``, ``sweep``) that saw no entry under the one to go. A
pass proves nothing of entries that are written after it has gone by, so it counts only if nobody wrote under the one
to go any more when it began. No writer is thought to take longer than a time of grace from the read of a ring, and with
it of the registry, to the append that rests on it; clocks may differ by as much.

**A dictionary** has a successor: whoever reads after that became the current one does not write under the older one. So
the pass must have begun ``grace_ms`` or more after that. An entry that it recoded itself was seen, and is confirmed to
be gone by the next pass: a server of a cluster that fails over, and loses the last writes, brings back no entry that
nobody can read.

**A layout** has none. Several are written side by side while models are rolled out, tested or taken back, and a writer
that was silent for weeks may append the next minute. So there are two steps:

1. A layout under which a whole pass saw no entry is *marked* as unused. Its entries, if there were any, stay readable.
   To writers, a marked layout is not registered (``Registered.has``), and registering it strikes the mark out.
2. A marked layout is *forgotten* after a whole pass that began ``grace_ms`` or more after the mark and saw no entry
   either, if the registry is still as it was read: with the mark, and without a registration in between.

Let an append under a layout rest on the registry as it was read, or as the writer registered the layout, at time r; and
let the layout be marked at m and forgotten at f, after a pass begun at p, so that m + grace <= p < f.

- r < m: the append came before r + grace < p. The pass saw the entry, or it had gone by then.
- m < r < f: the writer saw the mark, so it registered the layout before it appended. Done before f, that struck out
  the mark, and nothing was forgotten at f; after f, it made good what was forgotten.
- f < r: the writer saw that its layout is not registered, and registered it before it appended.

A mark made after the registration begins all this anew. So every entry can be read by whoever reads the registry after
the ring. A pass that recodes is such a writer, too.

Where the assumption fails (a writer stood still for longer than the time of grace, or the registry could not be read
for as long; a failover lost a registration), nothing is misread, and nothing lost: such an entry is counted as
``foreign_codec``, keeps its place, and can be read from the writer's next append on, which registers the codec anew.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from contracts.errors import StoreError
from sequence_store import registry
from sequence_store.keys import Keys
from sequence_store.maintenance import last_seen
from sequence_store.plan import Seen
from sequence_store.registry import Registered
from sequence_store.wire import Wire, checked

GRACE_MS: Final = 3_600_000
"""The time of grace, unless another one is given."""
_ATTEMPTS = 5


@dataclass(frozen=True)
class Retirement:
    """What became of the dictionaries that are not current, and of the layouts without entries; fingerprints in hex.

    Attributes
    ----------
    forgotten
        Dictionaries that no entry uses.
    in_use
        Those that the last whole pass saw in use.
    waiting
        Those that may still be in use, for all that the last whole pass can tell.
    reason
        Why they wait; empty if none does.
    layouts_forgotten
        Layouts that no entry uses.
    layouts_unused
        Those under which the last whole pass saw no entry, so that they are marked, but have not been for long enough.
    """

    forgotten: tuple[str, ...] = ()
    in_use: tuple[str, ...] = ()
    waiting: tuple[str, ...] = ()
    reason: str = ""
    layouts_forgotten: tuple[str, ...] = ()
    layouts_unused: tuple[str, ...] = ()


def retire(wire: Wire, keys: Keys, *, grace_ms: int = GRACE_MS, now_ms: int | None = None) -> Retirement:
    """Forget the dictionaries that are superseded and out of use, and the layouts that were found to be so before.

    Parameters
    ----------
    grace_ms
        How long a writer may take from a read to the append that rests on it.
    now_ms
        Present time, milliseconds since 1970; None: this machine's.

    Raises
    ------
    StoreError
        The registry keeps changing, or Redis does not answer or refuses.
    """
    now_ms = round(time.time() * 1000) if now_ms is None else now_ms
    seen = last_seen(wire, keys)
    for _ in range(_ATTEMPTS):
        (reply,) = checked(wire.exchange([registry.load_command(keys)], writes=False))
        registered = registry.parse(reply)
        done, dictionaries = _retire_dictionaries(registered, seen, grace_ms, now_ms)
        unused, layouts = _retire_layouts(registered, seen, grace_ms)
        done = replace(done, layouts_forgotten=_names(layouts), layouts_unused=_names(unused - layouts))
        marked = unused.difference(layouts, registered.unused)
        if not (dictionaries or layouts or marked):
            return done
        change = registry.retire_command(
            keys, registered, dictionaries=dictionaries, layouts=layouts, unused=marked, at_ms=now_ms
        )
        (is_done,) = checked(wire.exchange([change], writes=True))
        if is_done:
            return done
    raise StoreError(f"the registry of tenant {keys.tenant!r} keeps changing: retire again when that is over")


def _retire_dictionaries(
    registered: Registered, seen: Seen | None, grace_ms: int, now_ms: int
) -> tuple[Retirement, set[bytes]]:
    """Return what becomes of the dictionaries that are not current, and those to forget."""
    current = registry.name_of(registered.current).encode()
    superseded = {name for name in registered.dictionaries if name not in {b"", current}}
    if not superseded:
        return Retirement(), set()
    since_ms = registered.since.get(current)
    if since_ms is None:
        reason = "it is not known since when the current one is so"
        return Retirement(waiting=_names(superseded), reason=reason), set()
    if seen is None or seen.started_ms < since_ms + grace_ms:
        reason = (
            f"no whole pass over the rings was begun more than {grace_ms / 60_000:,.0f} minutes after the "
            f"current one took over, {max(0, now_ms - since_ms) / 60_000:,.0f} minutes ago: run repush"
        )
        return Retirement(waiting=_names(superseded), reason=reason), set()
    in_use = {dictionary for _, dictionary in _codecs(registered, seen)}
    unused = set() if seen.is_opaque else superseded - in_use
    return Retirement(forgotten=_names(unused), in_use=_names(superseded - unused)), unused


def _retire_layouts(registered: Registered, seen: Seen | None, grace_ms: int) -> tuple[set[bytes], set[bytes]]:
    """Return the layouts under which the last whole pass saw no entry, and those of them to forget."""
    if seen is None or seen.is_opaque:
        return set(), set()
    unused = set(registered.layouts).difference(layout for layout, _ in _codecs(registered, seen))
    return unused, {name for name in unused if seen.started_ms >= registered.unused.get(name, math.inf) + grace_ms}


def _codecs(registered: Registered, seen: Seen) -> list[tuple[bytes, bytes]]:
    """Return the fingerprints of layout and dictionary of the codecs that a pass saw, as far as they are known."""
    return [registered.pairs[name] for name in map(str.encode, seen.codecs) if name in registered.pairs]


def _names(fingerprints: Iterable[bytes]) -> tuple[str, ...]:
    return tuple(sorted(name.decode("ascii", "replace") for name in fingerprints))
