"""The simulator's deployment: a member's profile, activity and last events, and what the time of a decision adds."""

from datetime import timedelta

from feast import FeatureService

from contracts.send_hours import COLUMNS as SEND_HOURS
from feature_repo.request_time import clock_view, recency_view
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
    description="What the member did and was sent over windows of a day and a week: a row a decision, as known then.",
    # Past the longest window (7 days) the counts are wrong; twice that, nothing is left of what they said.
    ttl=timedelta(days=14),
    features={
        "visits_24h": "Visits in the last 24 hours",
        "visits_7d": "Visits in the last 7 days",
        "clicks_24h": "Clicks in the last 24 hours",
        "clicks_7d": "Clicks in the last 7 days",
        "ctr_7d": "Clicks a send over the last 7 days, in [0, 1]",
        "sends_7d": "Pushes and badges sent in the last 7 days",
        "pushes_24h": "Pushes sent in the last 24 hours",
        "pushes_7d": "Pushes sent in the last 7 days",
        "badges_24h": "Badges sent in the last 24 hours",
        "badges_7d": "Badges sent in the last 7 days",
        **{f"sends_24h_{kind}": f"Pushes and badges of type {kind} sent in the last 24 hours" for kind in _TYPES},
        **{f"sends_7d_{kind}": f"Pushes and badges of type {kind} sent in the last 7 days" for kind in _TYPES},
        **{f"pushes_7d_{kind}": f"Pushes of type {kind} sent in the last 7 days" for kind in _PUSH_TYPES},
        **{f"clicks_24h_{kind}": f"Clicks on type {kind} in the last 24 hours" for kind in _TYPES},
        **{f"clicks_7d_{kind}": f"Clicks on type {kind} in the last 7 days" for kind in _TYPES},
        **{f"visits_7d_{part}": f"Visits in the last 7 days, {hours} local time" for part, hours in _DAYPARTS.items()},
    },
)

member_live = table_view(
    TENANT,
    "member_live",
    description="What a visit, a click or a send changes at once: counters and times that hold until the next event.",
    # As those of member_activity: two weeks without a row say that nobody follows this member's events.
    ttl=timedelta(days=14),
    features={
        "visits_total": "Visits ever; a counter, never decreases",
        "clicks_total": "Clicks on notifications ever; a counter, never decreases",
        "badge_count": "Badges unread now; a visit clears them",
        "last_visit_ms": "When the last visit was, Unix time in ms; 0: never",
        "last_click_ms": "When the last click was, Unix time in ms; 0: never",
        "last_send_ms": "When the last push or badge was sent, Unix time in ms; 0: never",
        "last_push_ms": "When the last push was sent, Unix time in ms; 0: never",
        "last_badge_ms": "When the last badge was sent, Unix time in ms; 0: never",
        **{
            name: f"Sends in UTC hours {name[12:].replace('_', ' ')} of the 24 that end with the last send's: a byte "
            "an hour, the earliest lowest"
            for name in SEND_HOURS
        },
    },
    events={
        "visits_total": "count visit",
        "clicks_total": "count click",
        "badge_count": "count badge since visit",
        "last_visit_ms": "last visit",
        "last_click_ms": "last click",
        "last_send_ms": "last push badge",
        "last_push_ms": "last push",
        "last_badge_ms": "last badge",
        **dict.fromkeys(SEND_HOURS, "hours push badge"),
    },
)

decision_clock = clock_view(TENANT, "decision_clock", member_profile[["utc_offset_hours"]])

member_recency = recency_view(
    TENANT,
    "member_recency",
    member_live[["last_visit_ms", "last_click_ms", "last_send_ms", "last_push_ms", "last_badge_ms", *SEND_HOURS]],
)

notification_state_v1 = FeatureService(
    name="notification_state_v1",
    # Of member_live the model sees what means the same at any time; the rest reaches it through member_recency.
    features=[
        member_profile,
        member_activity,
        member_live[["visits_total", "clicks_total", "badge_count"]],
        member_recency,
        decision_clock,
    ],
    description="State of the notification model, version 1; its column order is the model's.",
    tags={"tenant": TENANT},
    owner="pacer",
)
