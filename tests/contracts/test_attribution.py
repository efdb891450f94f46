"""Reward attribution: differences between consecutive rows, and the penalty rule."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.attribution import attribute, penalties
from contracts.errors import LogError, SpecError
from tests.contracts.logs import START, as_frame, served_rows, shop_spec

pytestmark = pytest.mark.unit

SPEC = shop_spec()


def attributed(rows: list[dict[str, Any]]) -> pl.DataFrame:
    return as_frame(attribute(pl.DataFrame(rows, infer_schema_length=None).to_arrow(), SPEC))


def one_member(
    sequence: list[int], visits: list[float | None], hours: list[float] | None = None
) -> list[dict[str, Any]]:
    template = served_rows()[0]
    moments = hours or [float(index) for index in range(len(sequence))]
    return [
        template | {"sequence": number, "counter_visits_total": total, "decided_at": START + timedelta(hours=moment)}
        for number, total, moment in zip(sequence, visits, moments, strict=True)
    ]


class TestCounters:
    def test_rewards_are_differences_to_the_next_decision(self) -> None:
        frame = attributed(served_rows())
        assert frame["reward_click"].to_list() == [1.0, 0.0, 1.0, None] * 2  # happened or not, however often
        assert frame["reward_visit"].to_list() == [2.0, 3.0, 0.0, None] * 2
        assert frame["successor_missing"].to_list() == [False, False, False, True] * 2
        assert frame["counter_reset"].sum() == 0
        assert frame.schema["reward_visit"] == pl.Float64

    def test_rows_keep_their_order(self) -> None:
        rows = [served_rows()[index] for index in (5, 0, 7, 2, 3, 6, 1, 4)]
        frame = attributed(rows)
        assert frame["sequence"].to_list() == [row["sequence"] for row in rows]
        assert frame["reward_visit"].to_list() == [3.0, 2.0, None, 0.0, None, 0.0, 3.0, 2.0]

    def test_nothing_is_known_across_a_gap(self) -> None:
        frame = attributed(one_member([0, 1, 3, 4], [0.0, 1.0, 5.0, 6.0]))
        assert frame["reward_visit"].to_list() == [1.0, None, 1.0, None]
        assert frame["successor_missing"].to_list() == [False, True, False, True]

    def test_a_counter_that_falls_gives_null_never_a_negative_reward(self) -> None:
        frame = attributed(one_member([0, 1, 2, 3], [7.0, 9.0, 0.0, 1.0]))
        assert frame["reward_visit"].to_list() == [2.0, None, 1.0, None]
        assert frame["counter_reset"].to_list() == [False, True, False, False]

    def test_a_missing_counter_leaves_both_its_sides_unknown(self) -> None:
        frame = attributed(one_member([0, 1, 2, 3], [1.0, None, 4.0, 6.0]))
        assert frame["reward_visit"].to_list() == [None, None, 2.0, None]
        assert frame["counter_reset"].sum() == 0

    def test_sequence_goes_before_the_clock(self) -> None:
        # Two workers whose clocks differ by a second: number 1 is stamped before number 0.
        frame = attributed(one_member([0, 1, 2], [0.0, 4.0, 5.0], hours=[1.0, 1.0 - 1 / 3600, 2.0]))
        assert frame["reward_visit"].to_list() == [4.0, 1.0, None]

    def test_a_ring_that_was_emptied_opens_a_new_run(self) -> None:
        # After the restart the numbers 5 and 6 come again; the 6 of the first run has no successor in it.
        frame = attributed(one_member([5, 6, 0, 5, 6, 7], [1.0, 2.0, 10.0, 20.0, 30.0, 50.0]))
        assert frame["reward_visit"].to_list() == [1.0, None, None, 10.0, 20.0, None]

    def test_given_rewards_stay(self) -> None:
        rows = [row | {"reward_visit": 9.0} for row in served_rows()]
        assert attributed(rows)["reward_visit"].to_list() == [9.0] * 8

    def test_what_is_missing_is_named(self) -> None:
        rows = [{key: value for key, value in row.items() if key != "counter_visits_total"} for row in served_rows()]
        with pytest.raises(LogError, match="counter_visits_total or reward_visit; did you mean"):
            attributed(rows)
        with pytest.raises(LogError, match="column sequence"):
            attributed([{"member_id": "a", "decided_at": START, "action": "none"}])

    @settings(max_examples=50, deadline=None)
    @given(
        gains=st.dictionaries(st.text(min_size=1), st.lists(st.integers(0, 1000), min_size=1, max_size=8), min_size=1),
        order=st.randoms(use_true_random=False),
    )
    def test_rewards_of_a_member_add_up_to_what_the_counter_gained(
        self, gains: dict[str, list[int]], order: Any
    ) -> None:
        rows = []
        for member, steps in gains.items():
            totals = [float(total) for total in np.cumsum([5, *steps])]
            rows += [row | {"member_id": member} for row in one_member(list(range(len(totals))), [*totals])]
        order.shuffle(rows)
        frame = attributed(rows)
        sums = dict(frame.group_by("member_id").agg(pl.col("reward_visit").sum()).iter_rows())
        assert sums == {member: float(sum(steps)) for member, steps in gains.items()}
        assert frame["reward_visit"].null_count() == frame["successor_missing"].sum() == len(gains)


class TestPenalties:
    def test_per_action_grows_with_the_feature(self) -> None:
        actions = np.array([0, 1, 2, 2, 2])
        sends = np.array([3.0, 0.0, 0.0, 3.0, -2.0])
        assert penalties(SPEC, "volume", actions, sends).tolist() == pytest.approx([0.0, -0.3, -1.0, -4.0, -1.0])

    def test_not_a_number_stands_for_the_missing_value(self) -> None:
        spec = shop_spec(extra="")
        assert penalties(spec, "volume", np.array([2]), np.array([np.nan])).tolist() == [-1.0]

    def test_a_penalty_that_does_not_grow_needs_no_values(self) -> None:
        reward = type(SPEC.rewards["volume"])("penalty", per_action={"push": -2.0})
        spec = type(SPEC)(**{**SPEC.__dict__, "rewards": {**SPEC.rewards, "volume": reward}})
        assert penalties(spec, "volume", np.array([0, 1, 2])).tolist() == [0.0, 0.0, -2.0]

    def test_column_and_function_agree(self) -> None:
        frame = attributed(served_rows())
        indices = np.array([SPEC.actions.index(action) for action in frame["action"]])
        expected = penalties(SPEC, "volume", indices, frame["sends_24h"].to_numpy())
        assert frame["reward_volume"].to_list() == expected.tolist()

    def test_missing_growth_is_an_error_and_no_guess(self) -> None:
        with pytest.raises(SpecError, match=r"rewards\.volume\.grows_with: the values of 'sends_24h' are needed"):
            penalties(SPEC, "volume", np.array([1]))
        with pytest.raises(SpecError, match=r"rewards\.volum: no such penalty.*did you mean 'volume'"):
            penalties(SPEC, "volum", np.array([1]))
        with pytest.raises(SpecError, match=r"rewards\.click: no such penalty"):
            penalties(SPEC, "click", np.array([1]))

    @given(
        st.lists(st.tuples(st.integers(0, 2), st.floats(-1e6, 1e6)), min_size=1),
        st.floats(0, 1e6),
    )
    def test_more_sends_never_make_it_milder(self, taken: list[tuple[int, float]], more: float) -> None:
        actions = np.array([action for action, _ in taken])
        sends = np.array([value for _, value in taken])
        assert (penalties(SPEC, "volume", actions, sends + more) <= penalties(SPEC, "volume", actions, sends)).all()


def test_the_table_has_plain_types() -> None:
    schema = attribute(pl.DataFrame(served_rows()).to_arrow(), SPEC).schema
    assert schema.field("member_id").type == pa.string()
    assert schema.field("eligible").type == pa.list_(pa.field("item", pa.string()))
