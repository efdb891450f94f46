"""Members: a rhythm that is one, and traits that stay hidden."""

from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.clock import DAY_S, HOUR_S, is_weekend, local_hour
from simulator.features import FEATURES
from simulator.members import PROFILE, Traits, draw_members
from simulator.observation import Observation

pytestmark = pytest.mark.unit


@settings(deadline=None)
@given(seed=st.integers(0, 2**32 - 1), day=st.integers(-7, 365))
def test_the_rhythm_averages_to_one_over_any_day(seed: int, day: int) -> None:
    _, traits = draw_members(20, np.random.default_rng(seed))
    moments = [np.full(20, day * DAY_S + second) for second in range(0, DAY_S, 900)]
    rhythm = np.array([traits.rhythm(moment) for moment in moments])
    np.testing.assert_allclose(rhythm.mean(axis=0), 1.0, rtol=1e-9)
    assert (rhythm > 0).all()


@settings(deadline=None)
@given(at_s=st.integers(-(10**6), 10**8), offset=st.sampled_from([-8.0, 0.0, 5.5, 9.0]))
def test_local_hours_are_hours_of_a_day(at_s: int, offset: float) -> None:
    hour = local_hour(np.array([at_s]), np.array([offset]))[0]
    assert 0.0 <= hour < 24.0
    assert hour == pytest.approx(local_hour(np.array([at_s + DAY_S]), np.array([offset]))[0], abs=1e-6)


def test_the_weekend_follows_the_member_not_greenwich() -> None:
    friday_23h = np.full(3, 4 * DAY_S + 23 * HOUR_S)
    np.testing.assert_array_equal(is_weekend(friday_23h, np.array([-8.0, 0.0, 9.0])), [False, False, True])


def test_members_differ_in_when_they_are_active() -> None:
    _, traits = draw_members(500, np.random.default_rng(0))
    by_hour = np.array([traits.rhythm(np.full(500, hour * HOUR_S)) for hour in range(24)])
    assert len(np.unique(by_hour.argmax(axis=0))) > 8


def test_a_profile_has_its_columns_and_grows_with_the_weeks() -> None:
    profile, _ = draw_members(50, np.random.default_rng(0))
    first, later = profile.features(0), profile.features(3)
    assert first.shape == (50, len(PROFILE))
    grown = [PROFILE.index("tenure_days"), PROFILE.index("connections_log")]
    assert (later[:, grown] >= first[:, grown]).all()
    assert (later[:, grown[0]] - first[:, grown[0]] == 21).all()
    fixed = [column for column in range(len(PROFILE)) if column not in grown]
    np.testing.assert_array_equal(first[:, fixed], later[:, fixed])
    assert not (profile.push_opt_in & ~profile.has_mobile).any()


def test_hidden_traits_are_no_feature_and_no_part_of_an_observation() -> None:
    hidden = {field.name for field in fields(Traits)} - {"utc_offset_hours"} | {"fatigue", "pull", "quality", "appeal"}
    visible = {*FEATURES, *Observation.__annotations__}
    assert not hidden & visible
    assert not [name for name in visible if any(secret in name for secret in ("fatigue", "interest", "appeal"))]
