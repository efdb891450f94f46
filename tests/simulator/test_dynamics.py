"""Dynamics: rates that are rates, and fatigue that grows, fades and bites."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.spec import Spec
from simulator.candidates import ACTIONS, BADGE, NONE, PUSH
from simulator.clock import HOUR_S
from simulator.dynamics import Dynamics
from simulator.env import NotificationEnv
from simulator.members import draw_members
from simulator.policy import ConstantPolicy, Policy, ThresholdPolicy
from simulator.rollout import Step, rollout

pytestmark = pytest.mark.unit

MEMBERS = 40


def drawn(seed: int, members: int = MEMBERS) -> Dynamics:
    people, responses = np.random.default_rng(seed).spawn(2)
    return Dynamics(draw_members(members, people)[1], responses)


@settings(deadline=None)
@given(seed=st.integers(0, 2**32 - 1), cycles=st.integers(1, 30), gap_s=st.integers(600, 24 * HOUR_S))
def test_rates_are_never_negative_and_every_event_lies_between_two_decisions(
    seed: int, cycles: int, gap_s: int
) -> None:
    dynamics, rng = drawn(seed), np.random.default_rng(seed)
    for cycle in range(cycles):
        start_s, end_s = np.full(MEMBERS, cycle * gap_s), np.full(MEMBERS, (cycle + 1) * gap_s)
        actions, appeal = rng.integers(0, len(ACTIONS), MEMBERS), rng.random(MEMBERS)
        expected = dynamics.expect(actions, appeal, start_s, end_s)
        for rate in (expected.organic_visits, expected.reminder_visits):
            assert (np.isfinite(rate) & (rate >= 0)).all()
        for probability in (expected.push_click, expected.badge_click):
            assert ((probability >= 0) & (probability <= 1)).all()
        events = dynamics.advance(actions, appeal, start_s, end_s)
        for times_s in (events.visit_times_s, events.click_times_s):
            assert ((times_s > cycle * gap_s) & (times_s < (cycle + 1) * gap_s)).all()
        assert len(np.unique(events.click_members)) == len(events.click_members)
        assert np.isin(events.click_members, events.visit_members).all()
        assert (actions[events.click_members] != NONE).all()
        assert (dynamics.fatigue >= 0).all()


def after(action: int, appeal: float = 0.5, sends: int = 1) -> Dynamics:
    dynamics = drawn(0)
    for cycle in range(sends):
        times = np.full(MEMBERS, cycle * 3 * HOUR_S)
        dynamics.advance(np.full(MEMBERS, action), np.full(MEMBERS, appeal), times, times + 3 * HOUR_S)
    return dynamics


def test_fatigue_grows_with_sends_and_a_push_tires_more_than_a_badge() -> None:
    assert (after(NONE).fatigue == 0).all()
    assert (after(BADGE).fatigue > 0).all()
    assert (after(PUSH).fatigue > after(BADGE).fatigue).all()
    assert (after(PUSH, sends=4).fatigue > after(PUSH).fatigue).all()
    assert (after(PUSH, appeal=0.1).fatigue > after(PUSH, appeal=0.9).fatigue).all()


def test_fatigue_fades_when_left_alone() -> None:
    dynamics = after(PUSH)
    tired = dynamics.fatigue
    times = np.full(MEMBERS, 3 * HOUR_S)
    dynamics.advance(np.full(MEMBERS, NONE), np.zeros(MEMBERS), times, times + 24 * HOUR_S)
    assert (dynamics.fatigue < tired).all()


def test_a_tired_member_clicks_and_visits_less() -> None:
    start_s = np.full(MEMBERS, 40 * HOUR_S)
    ask = (np.full(MEMBERS, PUSH), np.full(MEMBERS, 0.5), start_s, start_s + 3 * HOUR_S)
    rested, tired = after(NONE, sends=12).expect(*ask), after(PUSH, sends=12).expect(*ask)
    assert (tired.push_click < rested.push_click).all()
    assert (tired.organic_visits < rested.organic_visits).all()


def test_an_appealing_send_earns_more_and_a_push_more_than_a_badge() -> None:
    start_s = np.full(MEMBERS, 40 * HOUR_S)

    def expect(action: int, appeal: float) -> float:
        sent = np.full(MEMBERS, action), np.full(MEMBERS, appeal)
        expected = drawn(0).expect(*sent, start_s, start_s + 3 * HOUR_S)
        visits = expected.organic_visits + expected.reminder_visits + expected.push_click
        return float(visits.mean())

    assert expect(PUSH, 0.9) > expect(PUSH, 0.3) > expect(NONE, 0.0)
    assert expect(PUSH, 0.9) > expect(BADGE, 0.9) > expect(NONE, 0.0)


def test_a_badge_keeps_drawing_visits_until_it_is_seen_or_stale() -> None:
    members = 4_000
    dynamics = drawn(0, members)
    times = np.zeros(members, dtype=np.int64)
    events = dynamics.advance(np.full(members, BADGE), np.ones(members), times, times + 3 * HOUR_S)
    untouched = ~np.isin(np.arange(members), events.visit_members)
    ask = np.full(members, NONE), np.zeros(members), times + 3 * HOUR_S, times + 6 * HOUR_S
    # Appeal 1 does not tire, so the pull of the badge is all that differs from a fresh population.
    drawn_by_badge = dynamics.expect(*ask).organic_visits / drawn(0, members).expect(*ask).organic_visits
    assert (drawn_by_badge[untouched] > 1.1).all()
    np.testing.assert_allclose(drawn_by_badge[~untouched], 1.0)


def played(spec: Spec, policy: Policy) -> list[Step]:
    return list(rollout(NotificationEnv(spec, members=400, days=14), policy, seed=7))


def test_pushing_always_costs_visits_and_clicks_that_a_threshold_policy_keeps(spec: Spec) -> None:
    always, threshold = played(spec, ConstantPolicy(PUSH)), played(spec, ThresholdPolicy())
    never = played(spec, ConstantPolicy(NONE))
    week = 7 * 8

    def total(steps: list[Step], reward: str) -> float:
        return float(sum(step.rewards[reward].sum() for step in steps))

    def click_rate(steps: list[Step]) -> float:
        clicks = sum(step.rewards["click"][step.actions == PUSH].sum() for step in steps)
        return float(clicks / sum((step.actions == PUSH).sum() for step in steps))

    assert total(threshold, "visit") > total(never, "visit") > total(always, "visit")
    assert total(threshold[week:], "visit") > 1.1 * total(always[week:], "visit")
    assert click_rate(threshold[week:]) > 1.5 * click_rate(always[week:])
    assert total(always, "volume") < total(threshold, "volume") < total(never, "volume") == 0.0
    assert total(never, "click") == 0.0 < total(threshold, "click") < total(always, "click")
