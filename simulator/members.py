"""Members: the profile that anyone may read, and the traits that only the dynamics know."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from simulator.arrays import BoolArray, FloatArray, IntArray
from simulator.candidates import TYPES
from simulator.clock import is_weekend, local_hour

PROFILE = ("tenure_days", "connections_log", "utc_offset_hours", "has_mobile", "push_opt_in", "email_opt_in")
"""Columns of the feature table ``member_profile``."""

_OFFSETS = np.array([-8.0, -6.0, -5.0, -3.0, 0.0, 1.0, 2.0, 5.5, 8.0, 9.0])
_OFFSET_SHARES = np.array([0.10, 0.06, 0.14, 0.08, 0.12, 0.18, 0.08, 0.14, 0.06, 0.04])
_RHYTHM_SHARPNESS = 2.5
_MEAN_INTEREST = np.array([0.5, 0.0, -0.5, 1.0, -0.8])
"""Mean log-odds of the interest in each of TYPES."""


@dataclass(frozen=True)
class Profile:
    """What is known of each member; every field has shape (N,)."""

    tenure_days: FloatArray
    connections: FloatArray
    utc_offset_hours: FloatArray
    has_mobile: BoolArray
    push_opt_in: BoolArray
    email_opt_in: BoolArray

    def features(self, week: int) -> FloatArray:
        """Return the PROFILE columns as of the start of ``week``, shape (N, 6).

        Profiles are snapshots taken once a week: tenure and connections grow between them.
        """
        columns = {
            "tenure_days": self.tenure_days + 7.0 * week,
            "connections_log": np.log1p(self.connections * 1.01**week),
            "utc_offset_hours": self.utc_offset_hours,
            "has_mobile": self.has_mobile,
            "push_opt_in": self.push_opt_in,
            "email_opt_in": self.email_opt_in,
        }
        return np.column_stack([columns[name].astype(np.float64) for name in PROFILE])


@dataclass(frozen=True)
class Traits:
    """What no feature shows of each member; every field has shape (N,) unless it says otherwise."""

    utc_offset_hours: FloatArray
    visits_per_day: FloatArray
    """Organic visits on a working day, when rested."""
    weekend_factor: FloatArray
    """Weekend visits as a multiple of working-day visits."""
    morning_hour: FloatArray
    evening_hour: FloatArray
    evening_share: FloatArray
    """Share of the day's activity that gathers around the evening peak rather than the morning one."""
    interests: FloatArray
    """(N, len(TYPES)), in (0, 1)."""
    sensitivity: FloatArray
    """How fast sends tire the member; 1 is the median."""
    recovery_hours: FloatArray
    """Time in which fatigue falls to 1/e."""

    def rhythm(self, at_s: IntArray) -> FloatArray:
        """Return activity at a moment relative to the member's daily mean, shape (N,), above 0.

        Two von Mises bumps over the local day; its mean over 24 hours is 1.
        """
        hour = local_hour(at_s, self.utc_offset_hours)
        return (1.0 - self.evening_share) * _bump(hour - self.morning_hour) + self.evening_share * _bump(
            hour - self.evening_hour
        )

    def visit_rate_per_hour(self, at_s: IntArray) -> FloatArray:
        """Return the organic visits an hour of a rested member at a moment, shape (N,)."""
        weekend = np.where(is_weekend(at_s, self.utc_offset_hours), self.weekend_factor, 1.0)
        return self.visits_per_day / 24.0 * self.rhythm(at_s) * weekend


def _bump(hours_from_peak: FloatArray) -> FloatArray:
    peak = np.exp(_RHYTHM_SHARPNESS * np.cos(hours_from_peak * (2.0 * np.pi / 24.0)))
    return np.asarray(peak / np.i0(_RHYTHM_SHARPNESS), dtype=np.float64)


def draw_members(members: int, rng: np.random.Generator) -> tuple[Profile, Traits]:
    """Draw a population: N profiles and the traits behind them."""
    connections = np.floor(rng.lognormal(5.0, 1.0, members))
    has_mobile = rng.random(members) < 0.85
    profile = Profile(
        tenure_days=np.floor(rng.gamma(2.0, 400.0, members)),
        connections=connections,
        utc_offset_hours=rng.choice(_OFFSETS, size=members, p=_OFFSET_SHARES),
        has_mobile=has_mobile,
        push_opt_in=has_mobile & (rng.random(members) < 0.85),
        email_opt_in=rng.random(members) < 0.5,
    )
    # Better connected members visit more: the one trait that a profile hints at.
    habit = 0.25 * (np.log1p(connections) - 5.0) + rng.normal(0.0, 0.5, members)
    traits = Traits(
        utc_offset_hours=profile.utc_offset_hours,
        visits_per_day=1.6 * np.exp(habit),
        weekend_factor=rng.lognormal(-0.2, 0.4, members),
        morning_hour=rng.normal(8.5, 1.5, members),
        evening_hour=rng.normal(19.5, 2.0, members),
        evening_share=rng.beta(2.0, 2.0, members),
        interests=1.0 / (1.0 + np.exp(-rng.normal(_MEAN_INTEREST, 1.2, (members, len(TYPES))))),
        sensitivity=rng.lognormal(0.0, 0.3, members),
        recovery_hours=rng.lognormal(np.log(24.0), 0.3, members),
    )
    return profile, traits
