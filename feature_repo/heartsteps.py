"""HeartSteps V1: a person's answers at intake, the last finished day, the activity so far, and the last events.

There is no clock among its features: the files hold no time zones, and a decision's ``slot`` says the time of day.
"""

from datetime import timedelta

from feast import FeatureService

from feature_repo.request_time import recency_view
from feature_repo.tables import table_view

TENANT = "heartsteps"

heartsteps_profile = table_view(
    TENANT,
    "heartsteps_profile",
    description="Answers at intake, known from the first decision on.",
    # Asked once: it holds for the whole trial.
    ttl=timedelta(days=365),
    features={
        "age": "Years",
        "is_female": "1 if so, else 0",
        "uses_fitness_app": "1 if so, else 0",
        "uses_fitness_tracker": "1 if so, else 0",
        "phone_comfort": "Comfort with the phone, as answered",
        "conscientiousness": "Score of the questionnaire",
        "self_efficacy": "Score of the questionnaire",
        "sitting_hours": "Hours of sitting a day; missing where answered with more than 24",
        "vigorous_activity_log": "log(1 + MET minutes a week) of vigorous activity",
        "moderate_activity_log": "log(1 + MET minutes a week) of moderate activity",
        "walking_activity_log": "log(1 + MET minutes a week) of walking",
        "activity_level": "Category of physical activity (IPAQ), 1 low to 3 high",
    },
)

heartsteps_day = table_view(
    TENANT,
    "heartsteps_day",
    description="Figures of a finished local day, known when that day is over everywhere in the US.",
    # The day before, or the one before a gap of two: after that it says nothing of how things stand.
    ttl=timedelta(days=3),
    features={
        "day_steps_log": "log(1 + steps), tracker",
        "day_phone_steps_log": "log(1 + steps), phone",
        "day_app_sessions_log": "log(1 + times the app was opened)",
        "day_app_seconds_log": "log(1 + seconds in the app)",
        "day_hectic": "How hectic the day was, as answered",
        "day_stressful": "How stressful the day was, as answered",
        "day_typical": "How typical the day was, as answered",
        "day_energetic": "How energetic the person felt, as answered",
        "day_temperature_celsius": "Temperature",
        "day_was_clear": "1 if the sky was clear, else 0",
        "day_was_cloudy": "1 if it was cloudy, else 0",
        "day_was_wet": "1 if there was rain, snow or fog, else 0",
        "day_was_weekday": "1 from Monday to Friday, else 0",
        "day_was_travel": "1 if the person travelled, else 0",
    },
)

heartsteps_activity = table_view(
    TENANT,
    "heartsteps_activity",
    description="What the person did and was sent: a row a decision point, as known just before it.",
    # Past the longest window (3 days) the counts are wrong; a week on, nothing is left of what they said.
    ttl=timedelta(days=7),
    features={
        "steps_pre30_log": "log(steps / 0.5) in the 30 minutes before; 0: none or not measured",
        "log_steps_total": "Sum of log(steps / 0.5) over the 30 minutes after each past decision; a counter",
        "sends_24h": "Suggestions sent in the last 24 hours",
        "sends_3d": "Suggestions sent in the last 3 days",
        "walks_3d": "Walking suggestions sent in the last 3 days",
        "available_share_3d": "Share of the decision points of the last 3 days at which the person was available",
        "steps_last_log": "log(steps / 0.5) in the 30 minutes after the last decision whose 30 minutes are over",
        "steps_mean_log": "Mean of the same over all past decisions",
        "steps_after_send_mean_log": "Mean of the same over past decisions that sent a suggestion",
        "study_day": "Day of the trial, from 0, days of travel left out",
    },
)

heartsteps_live = table_view(
    TENANT,
    "heartsteps_live",
    description="What a session or a suggestion changes at once: it holds until the next one.",
    ttl=timedelta(days=7),
    features={
        "app_sessions_total": "Times the app was opened, in the tables on finished days of the trial; a counter",
        "last_send_ms": "When the last suggestion was sent, Unix time in ms; missing before the first",
    },
    events={"app_sessions_total": "count session", "last_send_ms": "last stand walk"},
)

heartsteps_recency = recency_view(TENANT, "heartsteps_recency", heartsteps_live[["last_send_ms"]])

heartsteps_state_v1 = FeatureService(
    name="heartsteps_state_v1",
    features=[
        heartsteps_profile,
        heartsteps_day,
        heartsteps_activity,
        heartsteps_live[["app_sessions_total"]],
        heartsteps_recency,
    ],
    description="State of the HeartSteps model, version 1; its column order is the model's.",
    tags={"tenant": TENANT},
    owner="pacer",
)
