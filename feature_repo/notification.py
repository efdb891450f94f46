"""The simulator's deployment: a member's profile and activity, and the local time of the decision."""

from datetime import timedelta

from feast import FeatureService, Field, RequestSource
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float64, Int64

from feature_repo.tables import table_view

TENANT = "notification"
_TYPES = ("social", "job", "news", "message", "digest")
# A digest never goes as a push.
_PUSH_TYPES = _TYPES[:-1]
_DAYPARTS = {"night": "0:00-6:00", "morning": "6:00-12:00", "afternoon": "12:00-18:00", "evening": "18:00-24:00"}

member_profile = table_view(
    TENANT,
    "member_profile",
    description="Who the member is: a snapshot a week.",
    # A profile changes so slowly that an old one is better than none.
    ttl=timedelta(days=365),
    features={
        "tenure_days": "Days since the member joined",
        "connections_log": "log(1 + number of connections)",
        "utc_offset_hours": "Local time minus UTC, in hours",
        "has_mobile": "1 if the app is installed on a phone, else 0",
        "push_opt_in": "1 if pushes are allowed, else 0",
        "email_opt_in": "1 if e-mail is allowed, else 0",
    },
)

member_activity = table_view(
    TENANT,
    "member_activity",
    description="What the member did and was sent: a row a decision, as known just before it.",
    # Past the longest window (7 days) the counts are wrong; twice that, nothing is left of what they said.
    ttl=timedelta(days=14),
    features={
        "visits_total": "Visits ever; a counter, never decreases",
        "clicks_total": "Clicks on notifications ever; a counter, never decreases",
        "visits_24h": "Visits in the last 24 hours",
        "visits_7d": "Visits in the last 7 days",
        "clicks_24h": "Clicks in the last 24 hours",
        "clicks_7d": "Clicks in the last 7 days",
        "ctr_7d": "Clicks a send over the last 7 days, in [0, 1]",
        "sends_24h": "Pushes and badges sent in the last 24 hours",
        "sends_7d": "Pushes and badges sent in the last 7 days",
        "pushes_24h": "Pushes sent in the last 24 hours",
        "pushes_7d": "Pushes sent in the last 7 days",
        "badges_24h": "Badges sent in the last 24 hours",
        "badges_7d": "Badges sent in the last 7 days",
        "badge_count": "Badges unread now; a visit clears them",
        "hours_since_visit": "Hours since the last visit, at most 168",
        "hours_since_click": "Hours since the last click, at most 168",
        "hours_since_send": "Hours since the last send, at most 168",
        "hours_since_push": "Hours since the last push, at most 168",
        "hours_since_badge": "Hours since the last badge, at most 168",
        **{f"sends_24h_{kind}": f"Pushes and badges of type {kind} sent in the last 24 hours" for kind in _TYPES},
        **{f"sends_7d_{kind}": f"Pushes and badges of type {kind} sent in the last 7 days" for kind in _TYPES},
        **{f"pushes_7d_{kind}": f"Pushes of type {kind} sent in the last 7 days" for kind in _PUSH_TYPES},
        **{f"clicks_24h_{kind}": f"Clicks on type {kind} in the last 24 hours" for kind in _TYPES},
        **{f"clicks_7d_{kind}": f"Clicks on type {kind} in the last 7 days" for kind in _TYPES},
        **{f"visits_7d_{part}": f"Visits in the last 7 days, {hours} local time" for part, hours in _DAYPARTS.items()},
    },
)

decision_time = RequestSource(
    name="decision_time",
    schema=[Field(name="decided_at_ms", dtype=Int64, description="When the decision is made, Unix time in ms")],
    description="Known only when a decision is asked for.",
    tags={"tenant": TENANT},
    owner="pacer",
)


@on_demand_feature_view(  # type: ignore[untyped-decorator]
    sources=[decision_time, member_profile[["utc_offset_hours"]]],
    # Feast keeps no description of a feature made on demand: the view's says what each is.
    schema=[
        Field(name="hour_sin", dtype=Float64),
        Field(name="hour_cos", dtype=Float64),
        Field(name="weekday_sin", dtype=Float64),
        Field(name="weekday_cos", dtype=Float64),
        Field(name="is_weekend", dtype=Float64),
    ],
    mode="python",
    description=(
        "The member's local time at the decision; missing where the UTC offset is. hour_sin, hour_cos: the local hour "
        "as an angle, 24 hours a turn. weekday_sin, weekday_cos: the local weekday as an angle, 7 days a turn, Monday "
        "first. is_weekend: 1 on a local Saturday or Sunday, else 0."
    ),
    tags={"tenant": TENANT},
    owner="pacer",
)
def decision_clock(columns: dict[str, list[float]]) -> dict[str, list[float]]:
    """Compute the local time of n decisions: columns of n in, columns of n out, online as offline."""
    # Feast stores the text of this function and runs that: it may use nothing from outside itself.
    import numpy as np

    offset = np.asarray(columns["utc_offset_hours"], dtype=np.float64)
    hours = np.asarray(columns["decided_at_ms"], dtype=np.float64) / 3_600_000.0 + offset
    # Unix time began on a Thursday: day 3 of a week that starts on Monday.
    weekday = np.floor(hours / 24.0 + 3.0) % 7.0
    hour_angle = 2.0 * np.pi * (hours % 24.0) / 24.0
    weekday_angle = 2.0 * np.pi * weekday / 7.0
    return {
        "hour_sin": np.sin(hour_angle).tolist(),
        "hour_cos": np.cos(hour_angle).tolist(),
        "weekday_sin": np.sin(weekday_angle).tolist(),
        "weekday_cos": np.cos(weekday_angle).tolist(),
        "is_weekend": np.where(np.isnan(hours), np.nan, weekday >= 5.0).tolist(),
    }


notification_state_v1 = FeatureService(
    name="notification_state_v1",
    features=[member_profile, member_activity, decision_clock],
    description="State of the notification model, version 1; its column order is the model's.",
    tags={"tenant": TENANT},
    owner="pacer",
)
