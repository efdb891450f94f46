"""Candidates: how many there are, which are eligible, and what their features tell."""

import numpy as np
import pytest

from simulator.candidates import (
    BADGE,
    MAX_CANDIDATES,
    NONE,
    PUSH,
    TYPES,
    draw_candidates,
    most_relevant,
    notification_ids,
)
from simulator.clock import DAY_S, HOUR_S, local_hour

pytestmark = pytest.mark.unit

N = 5_000
RNG_SEED = 11


def drawn() -> tuple[dict[str, np.ndarray], tuple]:  # type: ignore[type-arg]
    rng = np.random.default_rng(RNG_SEED)
    world = {
        "interests": rng.uniform(0.02, 0.98, (N, len(TYPES))),
        "can_push": rng.random(N) < 0.5,
        "at_s": rng.integers(0, DAY_S, N),
        "utc_offset_hours": rng.choice([-8.0, 0.0, 5.5], N),
    }
    return world, draw_candidates(**world, rng=rng)


def test_every_member_has_one_to_five_candidates_and_the_top_one_is_present() -> None:
    _, (candidates, _) = drawn()
    assert set(np.unique(candidates.count)) == set(range(1, MAX_CANDIDATES + 1))
    top = most_relevant(candidates, np.zeros((N, 0), dtype=np.float32))
    assert candidates.present[np.arange(N), top].all()
    best = np.where(candidates.present, candidates.relevance, 0).max(axis=1)
    np.testing.assert_array_equal(candidates.relevance[np.arange(N), top], best)


def test_eligibility_follows_opt_in_quiet_hours_and_type() -> None:
    world, (candidates, _) = drawn()
    assert candidates.eligible[:, :, [NONE, BADGE]].all()
    hour = local_hour(world["at_s"], world["utc_offset_hours"])
    allowed = (world["can_push"] & (hour >= 7) & (hour < 22))[:, None] & (candidates.type != TYPES.index("digest"))
    np.testing.assert_array_equal(candidates.eligible[:, :, PUSH], allowed)


def test_relevance_is_a_noisy_view_of_true_appeal() -> None:
    _, (candidates, appeal) = drawn()
    assert ((appeal > 0) & (appeal < 1)).all()
    assert ((candidates.relevance > 0) & (candidates.relevance < 1)).all()
    fresh = candidates.age_hours < 2
    seen = np.corrcoef(candidates.relevance[fresh], appeal[fresh])[0, 1]
    assert 0.6 < seen < 0.95
    old = candidates.age_hours > 24
    assert appeal[old].mean() < 0.8 * appeal[fresh].mean()


def test_notification_ids_are_unique_over_cycles_members_and_slots() -> None:
    ids = [
        one
        for cycle in (0, 1, 100_000)
        for slot in range(MAX_CANDIDATES)
        for one in notification_ids(cycle, np.full(12, slot))
    ]
    assert len(set(ids)) == len(ids)


def test_hours_of_a_cycle_cover_the_day() -> None:
    world, _ = drawn()
    hours = np.floor(local_hour(world["at_s"], world["utc_offset_hours"]))
    assert len(np.unique(hours)) == DAY_S // HOUR_S
