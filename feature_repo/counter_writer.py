"""The owner of a view's counters: states of members in Redis, committed by compare-and-set, and pushed through Feast.

Feast writes a feature and cannot add to it, so someone has to own a member's counters. Here it is whoever wins a
compare-and-set on the member's state, portion by portion and with no lease: any number of writers may run, none has to
be told which members are its own, and one that dies leaves nothing locked. What each does is

1. read the states and the online rows of the members; a row newer than what the state pushed is the state's new base
   (a table was loaded since), and speaks for all events up to its time;
2. add the events to the states and commit them, each by compare-and-set; who lost begins again at 1;
3. keep the rows for the offline store and push them, each with a later event time than the one before;
4. read the states again, and push those that moved on meanwhile: Feast's check of times is no compare-and-set.

Whoever calls gives the events again after a crash, as consumers of a queue do: what was counted is a duplicate then,
and every member named is pushed again. The key of a state is ``feast-ingest:<project>:<view>:<member_id>``.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import redis
from feast import FeatureStore, FeatureView
from feast.infra.online_stores.redis import RedisOnlineStore

from contracts.errors import StoreError
from contracts.settings import Settings, find_redis_url
from feature_repo.event_rules import EventRules, Row
from feature_repo.member_events import KEEP_US, NEVER_US, Event, MemberEvents
from feature_repo.online_rows import TIMEOUT_SECONDS, OnlineRows
from feature_repo.online_source import JOIN_KEY
from feature_repo.online_store import connect
from feature_repo.pushed_rows import keep_rows
from feature_repo.store import feast_errors
from feature_repo.tables import EVENT_TIME

ATTEMPTS = 100
"""How often what others changed meanwhile is read anew before a portion is given up."""
_IDLE_MS = (KEEP_US + 86_400_000_000) // 1000
"""A state that no event reached for so long expires: the row that it pushed is the base of the next."""

_COMMIT = """
if (redis.call('HGET', KEYS[1], 'version') or '0') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'version', ARGV[2], 'state', ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return 1
"""


class CounterWriter:
    """Owns the counters of one view, together with every other writer of it."""

    def __init__(self, store: FeatureStore, view: FeatureView, settings: Settings) -> None:
        self.view, self.rules = view, EventRules.of(view)
        self._settings = settings
        self._features = tuple(feature.name for feature in view.features)
        self._rows = OnlineRows(store, view)
        online = store.provider.online_store
        with feast_errors(f"connecting to the states of {view.name!r}"):
            self._redis: Any = (
                connect(online, store.config.online_store, TIMEOUT_SECONDS)
                if isinstance(online, RedisOnlineStore)
                else redis.Redis.from_url(find_redis_url(settings), socket_timeout=TIMEOUT_SECONDS)
            )
        self._prefix = f"feast-ingest:{store.project}:{view.name}:"

    def take(self, events: Mapping[str, Sequence[Event]]) -> Counter[str]:
        """Count events by member, push the members' rows, and return what became of the events."""
        with feast_errors(f"counting events of {len(events)} members into {self.view.name!r}"):
            verdicts: Counter[str] = Counter()
            pushed: dict[str, tuple[int, MemberEvents]] = {}
            waiting = list(events)
            for _ in range(ATTEMPTS):
                states = self._states(waiting)  # before the rows: a row newer than what its state pushed is another's
                proposed = {}
                for member, at_us, row in self._online(waiting):
                    version, state = states[member]
                    after, found = self._based(state, at_us, row).with_events(events[member], self.rules)
                    proposed[member] = (version, after, found, after != state)
                won = self._commit({member: proposed[member] for member in waiting if proposed[member][3]})
                for member, (version, after, found, changed) in proposed.items():
                    if not changed or member in won:
                        pushed[member] = (version + changed, after)
                        verdicts.update(found)
                waiting = [member for member in waiting if member not in pushed]
                if not waiting:
                    break
            else:
                raise StoreError(f"{len(waiting)} members' states changed {ATTEMPTS} times meanwhile; try again")
            self._push_until_settled(pushed)
            return verdicts

    def members(self) -> Iterator[str]:
        """Find the members that have a state."""
        prefix = self._prefix.encode()
        pattern = re.sub(rb"([\\*?\[\]])", rb"\\\1", prefix) + b"*"
        with feast_errors(f"looking for states of {self.view.name!r}"):
            for key in self._redis.scan_iter(match=pattern, count=1_000):
                yield key[len(prefix) :].decode()

    def _based(self, state: MemberEvents | None, at_us: int, row: Row) -> MemberEvents:
        if state is None:
            nothing = {name: 0 if name in self.rules.rules else None for name in self._features}
            return MemberEvents.begin(at_us, row if at_us > NEVER_US else nothing)
        return state.rebased(at_us, row) if at_us > state.pushed_us else state

    def _online(self, members: Sequence[str]) -> Iterator[tuple[str, int, Row]]:
        rows = self._rows.read(members)
        times = rows[EVENT_TIME].cast(pa.int64()).fill_null(NEVER_US).to_pylist()
        for at_us, row in zip(times, rows.drop_columns(EVENT_TIME).to_pylist(), strict=True):
            yield row.pop(JOIN_KEY), at_us, row

    def _states(self, members: Sequence[str]) -> dict[str, tuple[int, MemberEvents | None]]:
        with self._redis.pipeline(transaction=False) as pipe:
            for member in members:
                pipe.hmget(self._prefix + member, "version", "state")
            replies = pipe.execute()
        return {
            member: (int(version or 0), MemberEvents.load(blob, self._features) if blob else None)
            for member, (version, blob) in zip(members, replies, strict=True)
        }

    def _commit(self, proposed: Mapping[str, tuple[int, MemberEvents, Any, bool]]) -> set[str]:
        """Commit each state if its version is still the one read; return the members for which it was."""
        with self._redis.pipeline(transaction=False) as pipe:
            for member, (version, state, _, _) in proposed.items():
                pipe.eval(_COMMIT, 1, self._prefix + member, version, version + 1, state.dump(), _IDLE_MS)
            replies = pipe.execute()
        return {member for member, won in zip(proposed, replies, strict=True) if won}

    def _push_until_settled(self, pushed: dict[str, tuple[int, MemberEvents]]) -> None:
        for _ in range(ATTEMPTS):
            self._push({member: state for member, (_, state) in pushed.items()})
            now = self._states(list(pushed))
            pushed = {
                member: (version, state)
                for member, (version, state) in now.items()
                if state is not None and version != pushed[member][0]
            }
            if not pushed:
                return
        raise StoreError(f"{len(pushed)} members' states changed {ATTEMPTS} times while they were pushed; try again")

    def _push(self, states: Mapping[str, MemberEvents]) -> None:
        # A member whom nothing is known of, and whose events were all refused, has no row.
        states = {member: state for member, state in states.items() if state.pushed_us > NEVER_US}
        rows = [state.row(self.rules) for state in states.values()]
        columns: dict[str, list[Any]] = {name: [row[name] for row in rows] for name in self._features}
        keys = {JOIN_KEY: list(states), EVENT_TIME: [state.pushed_us for state in states.values()]}
        table = pa.table({**keys, **columns}, schema=self._rows.schema)
        keep_rows(self.view, table, self._settings)
        self._rows.push(table)
