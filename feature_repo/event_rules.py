"""How events make the features of a pushed view: rules in the features' tags, and the fold that applies them.

A feature's tag ``events`` holds one of

    count KIND ...               how many events of these kinds there were
    count KIND ... since OTHER   how many since the last event of kind OTHER
    last KIND ...                when the last of them was, Unix time in ms
    hours KIND ...               one of the four columns of contracts.send_hours; it needs a feature ``last KIND ...``

The fold takes a row and the set of the events after it. Neither their order nor how often one came matters.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from feast import FeatureView

from contracts.errors import SpecError
from contracts.send_hours import COLUMNS, HOURS, pack_hours, unpack_hours
from feature_repo.tables import EVENTS

HOUR_US = 3_600_000_000
Number = int | float | None
Row = Mapping[str, Number]
"""A view's features of one member; None where missing."""


@dataclass(frozen=True)
class _Rule:
    verb: str
    kinds: frozenset[str]
    since: str | None = None


@dataclass(frozen=True)
class EventRules:
    """The rules of one view's features."""

    rules: Mapping[str, _Rule]

    @classmethod
    def of(cls, view: FeatureView) -> EventRules:
        """Read the rules in the tags of ``view``'s features.

        Raises SpecError where a tag holds no rule, or an hours rule has no ``last`` of the same kinds beside it.
        """
        rules = {
            feature.name: _parse(view.name, feature.name, feature.tags[EVENTS])
            for feature in view.features
            if EVENTS in feature.tags
        }
        for name, rule in rules.items():
            if rule.verb == "hours" and (
                name not in COLUMNS
                or _Rule("last", rule.kinds) not in rules.values()
                or any(rules.get(column) != rule for column in COLUMNS)
            ):
                raise SpecError(
                    f"feature view {view.name!r}: {name}: a rule of hours belongs to {', '.join(COLUMNS)}, all of them "
                    f"with the same kinds, and to a feature with the rule 'last {' '.join(sorted(rule.kinds))}'"
                )
        return cls(rules)

    @property
    def kinds(self) -> frozenset[str]:
        """Kinds of events that change the view."""
        named = [rule.kinds | ({rule.since} if rule.since else frozenset()) for rule in self.rules.values()]
        return frozenset().union(*named)

    def fold(self, base: Row, events: Iterable[tuple[int, str]]) -> dict[str, Number]:
        """Return ``base`` as the events after it change it.

        Parameters
        ----------
        base
            The view's features at some moment; those without a rule stay as they are.
        events
            Time (Unix time in µs) and kind of each event after that moment, in any order, each once.
        """
        times: dict[str, list[int]] = {}
        for at_us, kind in events:
            times.setdefault(kind, []).append(at_us)
        row = dict(base)
        for name, rule in self.rules.items():
            if rule.verb == "count":
                row[name] = _count(rule, base[name], times)
            elif rule.verb == "last" and (found := _of(rule.kinds, times)):
                row[name] = max(max(found) // 1000, int(base[name] or 0))
        hours = next((rule for rule in self.rules.values() if rule.verb == "hours"), None)
        if hours is not None and (found := _of(hours.kinds, times)):
            last = next(name for name, rule in self.rules.items() if rule == _Rule("last", hours.kinds))
            row |= dict(zip(COLUMNS, _hours(base, int(base[last] or 0), found), strict=True))
        return row


def _count(rule: _Rule, before: Number, times: Mapping[str, Sequence[int]]) -> Number:
    found = _of(rule.kinds, times)
    if rule.since and (cleared := times.get(rule.since)):
        return sum(at_us > max(cleared) for at_us in found)
    return before if not found else (before or 0) + len(found)


def _hours(base: Row, last_ms: int, found: Sequence[int]) -> list[int]:
    """Return COLUMNS after sends at ``found``, in µs; ``base`` holds those of the day that ends with ``last_ms``."""
    before = unpack_hours(np.array([[int(base[name] or 0) for name in COLUMNS]]))[0]
    base_hour = last_ms * 1000 // HOUR_US
    counts: dict[int, int] = {base_hour - (base_hour - hour) % HOURS: int(before[hour]) for hour in range(HOURS)}
    for at_us in found:
        counts[at_us // HOUR_US] = counts.get(at_us // HOUR_US, 0) + 1
    last_hour = max(base_hour, max(found) // HOUR_US)
    after = np.zeros((1, HOURS), dtype=np.int64)
    for hour, count in counts.items():
        if hour > last_hour - HOURS:
            after[0, hour % HOURS] += count
    packed: list[int] = pack_hours(after)[0].tolist()
    return packed


def _of(kinds: frozenset[str], times: Mapping[str, Sequence[int]]) -> list[int]:
    return [at_us for kind in kinds for at_us in times.get(kind, ())]


def _parse(view: str, feature: str, text: str) -> _Rule:
    verb, *kinds = text.split() or [""]
    since = None
    if verb == "count" and len(kinds) > 2 and kinds[-2] == "since":
        *kinds, _, since = kinds
    if verb not in {"count", "last", "hours"} or not kinds or "since" in kinds:
        raise SpecError(
            f"feature view {view!r}: {feature}: tag {EVENTS}: {text!r} is no rule; write 'count KIND ...', "
            "'count KIND ... since KIND', 'last KIND ...' or 'hours KIND ...'"
        )
    return _Rule(verb, frozenset(kinds), since)
