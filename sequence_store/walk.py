"""Every member of a tenant, a page at a time, server by server, from where an earlier walk stopped."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Final

from contracts.errors import StoreUnavailable
from sequence_store.keys import Keys
from sequence_store.wire import Wire, checked

PAGE_SCRIPT: Final = Path(__file__).with_name("page.lua").read_bytes()

_SPARE_LISTINGS = 100
"""How often a server's listing is begun anew at most, because servers restart or slots move."""


@dataclass
class Place:
    """How far a walk has come. Plain values, so that it can be kept as JSON.

    Attributes
    ----------
    done
        Buckets all of whose keys were listed.
    server
        Run id of the server whose keys are being listed; empty between two servers.
    cursor
        Where that server's listing goes on.
    buckets
        Those that the server had when its listing began.
    looked_at
        About how many keys were looked at, other tenants' included.
    keys
        About how many there are.
    misplaced
        Keys that look like a ring's, but are not where ``Keys`` has them: of another number of buckets, perhaps.
    """

    done: list[int] = field(default_factory=list)
    server: str = ""
    cursor: str = "0"
    buckets: list[int] = field(default_factory=list)
    looked_at: int = 0
    keys: int = 0
    misplaced: int = 0


def walk(wire: Wire, keys: Keys, place: Place, count: int) -> Iterator[list[str]]:
    """Yield the members that have a ring, a page at a time: of about ``count`` keys each, so some pages are empty.

    ``place`` is behind the page that was yielded last. Keep it once that page is dealt with, and a later walk goes on
    from there. A member whose ring is there from beginning to end comes once or more often: what a server listed that
    then restarted, or whose buckets moved to another, is listed again. Keys of a slot that is on the move from
    beginning to end may be missed.

    Raises
    ------
    StoreError
        A server does not answer, or refuses; or servers or slots keep changing.
    """
    for _ in range(keys.buckets + _SPARE_LISTINGS):
        servers, place.keys = _servers(wire, keys)
        waiting = [bucket for bucket in servers if bucket not in place.done]
        if not waiting:
            return
        if place.server not in servers.values():
            place.server, place.cursor = servers[waiting[0]], "0"
        if place.cursor == "0":
            place.buckets = [bucket for bucket in waiting if servers[bucket] == place.server]
        via = keys.generation(next(bucket for bucket in servers if servers[bucket] == place.server))
        yield from _listing(wire, keys, place, via, count)
    raise StoreUnavailable(
        f"servers or slots keep changing while the rings of tenant {keys.tenant!r} are listed: go on when that is over"
    )


def draw(pages: Iterable[list[str]], number: int, rng: random.Random) -> list[str]:
    """Return ``number`` of the members in ``pages``, or all if they are fewer, each with the same chance."""
    members = chain.from_iterable(pages)
    drawn = list(islice(members, number))
    # Vitter's algorithm R.
    for seen, member_id in enumerate(members, start=number + 1):
        place = rng.randrange(seen)
        if place < number:
            drawn[place] = member_id
    return drawn


def _listing(wire: Wire, keys: Keys, place: Place, via: bytes, count: int) -> Iterator[list[str]]:
    """List one server's keys from ``place`` on, as long as it is the one that has the key ``via``."""
    while True:
        command = ("EVAL", PAGE_SCRIPT, 1, via, place.cursor, keys.rings_pattern, count)
        ((run_id, cursor, page),) = checked(wire.exchange([command], writes=False))
        if run_id.decode() != place.server:
            # It restarted, or the key's slot moved: a cursor means nothing to another server.
            place.server = ""
            return
        place.cursor = cursor.decode()
        place.looked_at += count
        if place.cursor == "0":
            servers, _ = _servers(wire, keys)
            place.done += [bucket for bucket in place.buckets if servers[bucket] == place.server]
            place.server = ""
        yield list(dict.fromkeys(_members(keys, page, place)))
        if not place.server:
            return


def _members(keys: Keys, page: list[bytes], place: Place) -> Iterator[str]:
    for key in page:
        try:
            member_id = keys.member_of(key)
        except UnicodeDecodeError:
            member_id = ""
        if keys.ring(member_id) == key:
            yield member_id
        else:
            place.misplaced += 1


def _servers(wire: Wire, keys: Keys) -> tuple[dict[int, str], int]:
    """Return the run id of each bucket's server, and how many keys those servers have."""
    commands = [("EVAL", PAGE_SCRIPT, 1, keys.generation(bucket)) for bucket in range(keys.buckets)]
    replies = checked(wire.exchange(commands, writes=False))
    sizes = dict(replies)
    return {bucket: run_id.decode() for bucket, (run_id, _) in enumerate(replies)}, sum(sizes.values())
