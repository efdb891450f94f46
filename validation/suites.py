"""The suites: which rules the log and the feature tables of a deployment keep, from its spec and their columns.

Critical rules are those without which training would fail or learn something false; the rest are warnings.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from great_expectations.expectations.expectation import Expectation

from contracts.spec import Reward, Spec
from validation.report import CRITICAL, WARNING
from validation.rules import between, expect, finite, known, present, sound_columns
from validation.tables import (
    DAYS_AFTER_LOG,
    ELIGIBLE_ACTION,
    NUMBER,
    SECONDS_SINCE_PREVIOUS,
    Table,
    increase_column,
)

KNOWN_REWARDS = 0.8
"""Least share of known rewards. A member's last decision has none; more unknown than that thins out training."""
KNOWN_FEATURES = 0.5
"""Least share of known values of a feature; below it the model mostly sees the value that stands for missing."""
DAYS_AHEAD = 7.0
"""How far a feature table may run on after the log's last decision; more looks like a wrong clock or unit."""
REWARD_Z_SCORE = 50.0
"""A reward this many standard deviations off the mean looks like a sentinel or a wrong unit."""


def log_suite(spec: Spec, log: Table) -> list[Expectation]:
    """Return the expectations on the decision log of ``spec``."""
    return [*sound_columns(log), *_log_rules(spec, log)]


def feature_suite(spec: Spec, table: Table) -> list[Expectation]:
    """Return the expectations on one feature table."""
    return [*sound_columns(table), *_feature_rules(spec, table)]


def member_suite(members: Table, *, judge_log: bool) -> list[Expectation]:
    """Return the expectations on the table of members; ``judge_log``: on their decisions too."""
    rules: list[Expectation] = []
    for column in members.wanted:
        if column == "decisions" and judge_log:
            rule = "a member has two decisions or more: the last one has no known rewards"
            minimum, about, table = 2, "decisions", "log/decisions"
        elif column.startswith("features/"):
            rule = "every member of the log has a row in the feature table"
            minimum, about, table = 1, "member_id", column
        else:
            continue
        rules.append(
            expect(
                "expect_column_values_to_be_between",
                rule,
                WARNING,
                column=column,
                min_value=minimum,
                about=[about],
                table=table,
            )
        )
    return rules


def _log_rules(spec: Spec, log: Table) -> Iterator[Expectation]:
    if SECONDS_SINCE_PREVIOUS in log.frame:
        yield expect(
            "expect_column_values_to_be_between",
            "a member's decisions stand in order of time, each later than the one before",
            column=SECONDS_SINCE_PREVIOUS,
            min_value=0.0,
            strict_min=True,
            about=["decided_at"],
        )
    if log.has("action"):
        yield present("action")
        yield expect(
            "expect_column_values_to_be_in_set",
            f"action is one of {', '.join(spec.actions)}",
            column="action",
            value_set=list(spec.actions),
        )
        yield expect(
            "expect_column_distinct_values_to_contain_set",
            "every action of the spec was taken at least once",
            WARNING,
            column="action",
            value_set=list(spec.actions),
        )
    if log.has("eligible"):
        name = "|".join(re.escape(action) for action in spec.actions)
        yield present("eligible")
        yield expect(
            "expect_column_values_to_match_regex",
            f"eligible is never empty and holds only {', '.join(spec.actions)}",
            column="eligible",
            regex=rf"^(?:{name})(?:\|(?:{name}))*$",
        )
        yield expect(
            "expect_column_values_to_match_regex",
            f"{spec.actions[0]} is always eligible",
            column="eligible",
            regex=rf"(?:^|\|){re.escape(spec.actions[0])}(?:$|\|)",
        )
    if ELIGIBLE_ACTION in log.frame:
        yield expect(
            "expect_column_values_to_be_in_set",
            "the action taken was eligible",
            column=ELIGIBLE_ACTION,
            value_set=[True],
            about=["action", "eligible"],
        )
    if log.has("propensity"):
        yield expect(
            "expect_column_values_to_be_between",
            "propensity lies in (0, 1], or is null where unknown",
            column="propensity",
            min_value=0.0,
            strict_min=True,
            max_value=1.0,
        )
    for name, reward in spec.rewards.items():
        if log.has(f"reward_{name}"):
            yield from _reward_rules(f"reward_{name}", reward)
    for column in spec.state.candidate:
        if log.has(column):
            yield from _candidate_rules(spec, log, column)


def _reward_rules(column: str, reward: Reward) -> Iterator[Expectation]:
    yield finite(column)
    yield known(column, KNOWN_REWARDS)
    if reward.kind == "penalty":
        yield between(column, f"{column} is a penalty: never above 0", CRITICAL, maximum=0.0)
        lowest = min(*reward.per_action.values(), 0.0)
        if reward.grows_with is None:
            yield between(column, f"{column} is at least {lowest:g}, the highest cost of an action", minimum=lowest)
    elif reward.kind == "predicted":
        yield between(column, f"{column} is what a probability predicts: in [0, 1]", minimum=0.0, maximum=1.0)
    else:
        yield between(column, f"{column} is the increase of a counter: not negative", minimum=0.0)
        yield expect(
            "expect_column_value_z_scores_to_be_less_than",
            f"{column} stays within {REWARD_Z_SCORE:g} standard deviations of its mean",
            WARNING,
            column=column,
            threshold=REWARD_Z_SCORE,
            double_sided=True,
        )


def _candidate_rules(spec: Spec, log: Table, column: str) -> Iterator[Expectation]:
    if log.wanted[column] == NUMBER:
        yield finite(column)
    elif column in spec.state.categories:
        values = spec.state.categories[column]
        yield expect(
            "expect_column_values_to_be_in_set",
            f"{column} is one of the spec's categories",
            WARNING,
            column=column,
            value_set=list(values),
        )
    yield known(column, KNOWN_FEATURES)


def _feature_rules(spec: Spec, table: Table) -> Iterator[Expectation]:
    if DAYS_AFTER_LOG in table.frame:
        yield expect(
            "expect_column_values_to_be_between",
            f"event_timestamp is at most {DAYS_AHEAD:g} days after the log's last decision",
            WARNING,
            column=DAYS_AFTER_LOG,
            max_value=DAYS_AHEAD,
            about=["event_timestamp"],
        )
    for column in table.wanted:
        if column in table.key or not table.has(column):
            continue
        yield finite(column)
        yield known(column, KNOWN_FEATURES)
        yield expect(
            "expect_column_unique_value_count_to_be_between",
            f"{column} is not constant",
            WARNING,
            column=column,
            min_value=2,
        )
        if column in spec.counter_features and increase_column(column) in table.frame:
            yield expect(
                "expect_column_values_to_be_between",
                f"{column} is a counter: it never decreases within a member",
                column=increase_column(column),
                min_value=0.0,
                about=[column],
            )
