"""Feature tables of HeartSteps V1: what was known of a person at a moment, and nothing that came later."""

from __future__ import annotations

import polars as pl

from importers.heartsteps_tables import HeartSteps

OUTCOME_MINUTES = 30
"""Steps after a decision are counted for this long; only then is the sum known."""
NO_STEPS = 0.5
"""The files' value for no steps and for not measured, which can't be told apart."""

_NO_TEMPERATURE = -1000.0
# A send longer ago than a week counts as a week ago, so that one long journey does not set the feature's scale.
_LONGEST_HOURS = 168.0
_CLEAR = ("Clear",)
_CLOUDY = ("Partly Cloudy", "Mostly Cloudy", "Scattered Clouds", "Overcast", "Haze")
_WET = ("Rain", "Light Rain", "Snow", "Light Snow", "Fog", "Thunderstorm", "Ice Pellets", "Light Freezing Fog")


def profile_table(trial: HeartSteps) -> pl.DataFrame:
    """Return ``heartsteps_profile``: the answers at intake, one row a person, known from the first decision on.

    Activity is in log(1 + MET minutes a week), as the questionnaire counts it. Sitting for more than 24 hours a day
    counts as not answered.
    """
    sitting_hours = pl.col("sit.time.intake") / 60.0
    return trial.members.select(
        "member_id",
        pl.col("known_at").alias("event_timestamp"),
        pl.col("age"),
        (pl.col("gender") == "female").cast(pl.Int64).alias("is_female"),
        pl.col("fitapp").cast(pl.Int64).alias("uses_fitness_app"),
        pl.col("fittracker").cast(pl.Int64).alias("uses_fitness_tracker"),
        pl.col("phonecomfort").alias("phone_comfort"),
        pl.col("consc").alias("conscientiousness"),
        pl.col("selfeff.intake").alias("self_efficacy"),
        pl.when(sitting_hours <= 24.0).then(sitting_hours).alias("sitting_hours"),
        pl.col("vigact.metmins.intake").log1p().alias("vigorous_activity_log"),
        pl.col("modact.metmins.intake").log1p().alias("moderate_activity_log"),
        pl.col("walk.metmins.intake").log1p().alias("walking_activity_log"),
        pl.col("ipaq.hepa.intake").alias("activity_level"),
    )


def day_table(trial: HeartSteps) -> pl.DataFrame:
    """Return ``heartsteps_day``: the figures of a finished day, one row a person and day, known when it is over."""
    weather = pl.col("weather.condition")
    known_weather = weather.is_in([*_CLEAR, *_CLOUDY, *_WET])

    def is_weather(names: tuple[str, ...]) -> pl.Expr:
        return pl.when(known_weather).then(weather.is_in(names).cast(pl.Int64))

    temperature = pl.col("temperature")
    return trial.days.select(
        "member_id",
        pl.col("known_at").alias("event_timestamp"),
        pl.coalesce("jbsteps.agg", "jbsteps.direct").log1p().alias("day_steps_log"),
        pl.col("gfsteps").log1p().alias("day_phone_steps_log"),
        pl.col("app.sessions").log1p().alias("day_app_sessions_log"),
        pl.col("app.secs").log1p().alias("day_app_seconds_log"),
        pl.col("hectic").alias("day_hectic"),
        pl.col("stressful").alias("day_stressful"),
        pl.col("typical").alias("day_typical"),
        pl.col("energetic").alias("day_energetic"),
        pl.when(temperature > _NO_TEMPERATURE).then(temperature).alias("day_temperature_celsius"),
        is_weather(_CLEAR).alias("day_was_clear"),
        is_weather(_CLOUDY).alias("day_was_cloudy"),
        is_weather(_WET).alias("day_was_wet"),
        pl.col("weekday").cast(pl.Int64).alias("day_was_weekday"),
        pl.col("travel").cast(pl.Int64).alias("day_was_travel"),
    )


LIVE = ("app_sessions_total", "last_send_ms")
"""Columns of ``heartsteps_live``: what changes with an event, and not with the clock."""


def split_live(activity: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return the tables ``heartsteps_activity`` and ``heartsteps_live`` of what ``activity_table`` made."""
    return activity.drop(*LIVE, "hours_since_send"), activity.select("member_id", "event_timestamp", *LIVE)


def activity_table(trial: HeartSteps) -> pl.DataFrame:
    """Return what a person did and was sent: one row a decision point, as known just before the decision.

    Two features are counters, never decreasing: ``log_steps_total``, the sum of log(steps / 0.5) over the 30 minutes
    after each past decision, and ``app_sessions_total``, the app sessions of finished days of the trial (days
    that it left out for travel don't count; a day without a figure counts as none). ``last_send_ms`` is Unix time in
    ms, null before the first suggestion; ``hours_since_send`` follows from it.
    """
    sent = (pl.col("action") != "none").cast(pl.Int64)
    points = trial.points.filter(pl.col("decided_at").is_not_null()).sort("decided_at", "decision.index.nogap")
    points = points.with_columns(
        sent.fill_null(0).alias("sent"),
        (pl.col("action") == "walk").cast(pl.Int64).fill_null(0).alias("walked"),
        _log_steps("jbsteps30").alias("outcome"),
    )
    last_send = pl.when(pl.col("sent") == 1).then("decided_at").forward_fill().shift(1).over("member_id")
    points = points.with_columns(
        _past("sent", "24h").alias("sends_24h"),
        _past("sent", "3d").alias("sends_3d"),
        _past("walked", "3d").alias("walks_3d"),
        last_send.dt.epoch("ms").alias("last_send_ms"),
        ((pl.col("decided_at") - last_send).dt.total_seconds() / 3600.0).alias("hours_since_send"),
        pl.col("avail")
        .cast(pl.Float64)
        .rolling_mean_by("decided_at", "3d", closed="none")
        .over("member_id")
        .alias("available_share_3d"),
    )
    points = _as_of(_as_of(points, _outcomes(points)), _app_sessions(trial.days))
    total = pl.col("outcome_sum").fill_null(0.0)
    return points.select(
        "member_id",
        pl.col("decided_at").alias("event_timestamp"),
        _log_steps("jbsteps30pre").alias("steps_pre30_log"),
        total.alias("log_steps_total"),
        pl.col("app_sessions_total").fill_null(0.0),
        "sends_24h",
        "sends_3d",
        "walks_3d",
        "last_send_ms",
        pl.col("hours_since_send").clip(upper_bound=_LONGEST_HOURS),
        "available_share_3d",
        pl.col("outcome_last").alias("steps_last_log"),
        (pl.col("outcome_sum") / pl.col("outcome_count")).alias("steps_mean_log"),
        pl.when(pl.col("sent_count") > 0)
        .then(pl.col("sent_sum") / pl.col("sent_count"))
        .alias("steps_after_send_mean_log"),
        pl.col("study.day.nogap").alias("study_day"),
    )


def _log_steps(name: str) -> pl.Expr:
    return (pl.col(name).clip(lower_bound=NO_STEPS) / NO_STEPS).log()


def _past(name: str, window: str) -> pl.Expr:
    # Open at both ends: a decision does not know its own action.
    return pl.col(name).rolling_sum_by("decided_at", window, closed="none").over("member_id").fill_null(0)


def _outcomes(points: pl.DataFrame) -> pl.DataFrame:
    """Return the running sums over a person's decisions, each known when its 30 minutes are over."""
    outcome, sent = pl.col("outcome"), pl.col("sent")
    return points.filter(outcome.is_not_null()).select(
        "member_id",
        (pl.col("decided_at") + pl.duration(minutes=OUTCOME_MINUTES)).alias("known_at"),
        outcome.alias("outcome_last"),
        outcome.cum_sum().over("member_id").alias("outcome_sum"),
        outcome.cum_count().over("member_id").alias("outcome_count"),
        (outcome * sent).cum_sum().over("member_id").alias("sent_sum"),
        sent.cum_sum().over("member_id").alias("sent_count"),
    )


def _app_sessions(days: pl.DataFrame) -> pl.DataFrame:
    counted = days.filter(pl.col("study.day.nogap").is_not_null()).sort("known_at")
    total = pl.col("app.sessions").fill_null(0.0).cum_sum().over("member_id")
    return counted.select("member_id", "known_at", total.alias("app_sessions_total"))


def _as_of(points: pl.DataFrame, events: pl.DataFrame) -> pl.DataFrame:
    """Add to each decision the person's last event that was known at it."""
    return points.join_asof(
        events, left_on="decided_at", right_on="known_at", by="member_id", strategy="backward", check_sortedness=False
    ).drop("known_at", strict=False)
