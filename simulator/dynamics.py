"""Dynamics: how members respond to what is sent, and how it tires them.

A send earns something now and costs patience later. Fatigue grows with every send, more with a push than with a badge
and most with what does not appeal, and fades over a day or two; it lowers clicks and visits alike. So the rewards of a
log pull in different directions, as they do in life.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from simulator.arrays import FloatArray, IntArray
from simulator.candidates import ACTIONS, BADGE, PUSH
from simulator.clock import HOUR_S
from simulator.members import Traits

FATIGUE_PER_ACTION = dict(zip(ACTIONS, (0.0, 0.06, 0.24), strict=True))
"""Fatigue that one send of appeal 0.5 adds to a member of sensitivity 1."""

_GROWTH = np.array(list(FATIGUE_PER_ACTION.values()))
_VISIT_FATIGUE = 0.7
_PUSH_CLICK = 0.65
_PUSH_REMINDER = 0.50
_BADGE_CLICK = 0.25
_BADGE_PULL = 0.35
_BADGE_HOURS = 12.0


@dataclass(frozen=True)
class Responses:
    """What to expect until the next decision; every field has shape (N,)."""

    organic_visits: FloatArray
    """Mean of the Poisson count of visits that no push of this cycle caused."""
    reminder_visits: FloatArray
    """Mean of the Poisson count of visits that a push caused without a click on it."""
    push_click: FloatArray
    """Probability of a click on the push; the click is a visit."""
    badge_click: FloatArray
    """Probability of a click on the badge, if the member visits."""


@dataclass(frozen=True)
class Events:
    """What happened between two decisions: member indices and times in seconds since START, pairwise."""

    visit_members: IntArray
    visit_times_s: IntArray
    click_members: IntArray
    click_times_s: IntArray


class Dynamics:
    """The hidden state of all members: fatigue, and the pull of badges that they have not yet seen."""

    def __init__(self, traits: Traits, rng: np.random.Generator) -> None:
        self._traits = traits
        self._rng = rng
        self._fatigue: FloatArray = np.zeros(len(traits.sensitivity))
        self._pull: FloatArray = np.zeros(len(traits.sensitivity))

    @property
    def fatigue(self) -> FloatArray:
        """The members' fatigue now, shape (N,): hidden from policies, open to experiments and tests."""
        return self._fatigue.copy()

    def expect(self, actions: IntArray, appeal: FloatArray, start_s: IntArray, end_s: IntArray) -> Responses:
        """Return the rates of response to ``actions`` between ``start_s`` and ``end_s``; changes nothing.

        Parameters
        ----------
        actions
            (N,), indices into ACTIONS.
        appeal
            (N,), true appeal of the candidate acted on, in [0, 1].
        start_s, end_s
            (N,), this decision and the next, in seconds since START.
        """
        patience = np.exp(-self._fatigue)
        pull = self._pull + np.where(actions == BADGE, _BADGE_PULL * appeal, 0.0)
        hours = (end_s - start_s) / HOUR_S
        organic = self._traits.visit_rate_per_hour((start_s + end_s) // 2) * hours
        attention = 1.0 - np.exp(-self._traits.rhythm(start_s))
        pushed = np.where(actions == PUSH, appeal * attention * patience, 0.0)
        return Responses(
            organic_visits=organic * patience**_VISIT_FATIGUE * (1.0 + pull),
            reminder_visits=_PUSH_REMINDER * pushed,
            push_click=_PUSH_CLICK * pushed,
            badge_click=np.where(actions == BADGE, _BADGE_CLICK * appeal * patience, 0.0),
        )

    def advance(self, actions: IntArray, appeal: FloatArray, start_s: IntArray, end_s: IntArray) -> Events:
        """Let the time between two decisions pass (parameters as for ``expect``) and return what happened.

        Every event lies strictly between ``start_s`` and ``end_s`` of its member.
        """
        expected = self.expect(actions, appeal, start_s, end_s)
        rng, members = self._rng, np.arange(len(actions))
        organic = np.repeat(members, rng.poisson(expected.organic_visits))
        reminded = np.repeat(members, rng.poisson(expected.reminder_visits))
        push_clicked = members[rng.random(len(members)) < expected.push_click]
        badge_seen = rng.random(len(members)) < expected.badge_click

        def moments(of: IntArray, skew: float) -> IntArray:
            room = end_s[of] - start_s[of] - 1
            return start_s[of] + 1 + np.floor(rng.random(len(of)) ** skew * room).astype(np.int64)

        # A push is answered soon or never: its effects crowd towards the send.
        organic_s, reminded_s, push_clicked_s = (
            moments(organic, 1.0),
            moments(reminded, 3.0),
            moments(push_clicked, 3.0),
        )
        first_visit_s = end_s.copy()
        np.minimum.at(first_visit_s, organic, organic_s)
        badge_clicked = members[badge_seen & (first_visit_s < end_s)]
        visits = np.concatenate([organic, reminded, push_clicked])

        hours = (end_s - start_s) / HOUR_S
        tiring = _GROWTH[actions] * 2.0 * (1.0 - appeal) * self._traits.sensitivity
        self._fatigue = (self._fatigue + tiring) * np.exp(-hours / self._traits.recovery_hours)
        pull = (self._pull + np.where(actions == BADGE, _BADGE_PULL * appeal, 0.0)) * np.exp(-hours / _BADGE_HOURS)
        pull[visits] = 0.0
        self._pull = pull
        return Events(
            visit_members=visits,
            visit_times_s=np.concatenate([organic_s, reminded_s, push_clicked_s]),
            click_members=np.concatenate([push_clicked, badge_clicked]),
            click_times_s=np.concatenate([push_clicked_s, first_visit_s[badge_clicked]]),
        )
