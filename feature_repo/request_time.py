"""What the time of a decision adds: on-demand views of the local clock, and of how long ago a member's events were."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from types import FunctionType
from typing import Any, cast

from feast import FeatureView, Field, OnDemandFeatureView
from feast.types import Float64

from feature_repo.entities import decision_time

Columns = dict[str, Any]


def clock_view(tenant: str, name: str, profile: FeatureView) -> OnDemandFeatureView:
    """Return the on-demand view ``name`` of what ``clock`` makes of ``profile``, which holds utc_offset_hours."""
    described = {
        "hour_sin": "sine of the local hour as an angle, 24 hours a turn",
        "hour_cos": "cosine of the same angle",
        "weekday_sin": "sine of the local weekday as an angle, 7 days a turn, Monday first",
        "weekday_cos": "cosine of the same angle",
        "is_weekend": "1 on a local Saturday or Sunday, else 0",
    }
    intro = "The member's local time at the decision; missing where the UTC offset is."
    return _view(tenant, name, profile, cast(FunctionType, clock), described, intro)


def recency_view(tenant: str, name: str, live: FeatureView) -> OnDemandFeatureView:
    """Return the on-demand view ``name`` of what ``recency`` makes of ``live``: last_<event>_ms, hours of sends."""
    inputs = [feature.name for feature in live.projection.features]
    events = [feature[len("last_") : -len("_ms")] for feature in inputs if feature.startswith("last_")]
    described = {f"hours_since_{event}": f"hours since the last {event}, at most 168" for event in events}
    if len(inputs) > len(events):
        described["sends_24h"] = "sends in the hour of the decision and the 23 before it"
    intro = f"The age of the last events in {live.name} at the decision; missing where they are."
    return _view(tenant, name, live, cast(FunctionType, recency), described, intro)


def clock(columns: Columns) -> Columns:
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


def recency(columns: Columns) -> Columns:
    """Compute the recency of n decisions from ``decided_at_ms`` and the columns of a view that is pushed to.

    Each ``last_<event>_ms`` (Unix time in ms; 0: never) gives ``hours_since_<event>``, from 0 to 168; missing stays
    missing. The four ``sends_hours_*`` (contracts.send_hours), with ``last_send_ms``, give ``sends_24h``: the sends in
    the hour of the decision and in the 23 before it.
    """
    # As above: nothing from outside itself.
    import numpy as np

    now_ms = np.asarray(columns["decided_at_ms"], dtype=np.float64)
    known = {
        name: np.asarray(column, dtype=np.float64)
        for name, column in columns.items()
        if name.startswith(("last_", "sends_hours_"))  # Feast gives the id, and each column under two names
    }
    made = {}
    for name, last_ms in known.items():
        if name.startswith("last_"):
            hours = (now_ms - last_ms) / 3_600_000.0
            made["hours_since_" + name[len("last_") : -len("_ms")]] = np.clip(hours, 0.0, 168.0).tolist()
    packed = [known[name] for first in range(0, 24, 6) if (name := f"sends_hours_{first}_to_{first + 5}") in known]
    if packed:
        last_hour = np.floor(known["last_send_ms"] / 3_600_000.0)
        hour_of_day = np.arange(24.0)[:, None]
        # The last moment at or before the last send whose hour of the day this is, in hours of Unix time.
        hour = last_hour - (last_hour - hour_of_day) % 24.0
        counts = np.concatenate([np.floor(column / 256.0 ** np.arange(6)[:, None]) % 256.0 for column in packed])
        in_window = hour > np.floor(now_ms / 3_600_000.0) - 24.0
        sends = np.where(in_window, counts, 0.0).sum(axis=0)
        missing = np.isnan(last_hour) | np.isnan(counts).any(axis=0)
        made["sends_24h"] = np.where(missing, np.nan, sends).tolist()
    return made


def _view(
    tenant: str,
    name: str,
    stored: FeatureView,
    function: FunctionType,
    described: Mapping[str, str],
    intro: str,
) -> OnDemandFeatureView:
    return OnDemandFeatureView(
        name=name,
        sources=[decision_time, stored],
        schema=[Field(name=feature, dtype=Float64) for feature in described],
        udf=function,
        udf_string=_TEXTS[function.__name__],
        mode="python",
        # Feast refuses an on-demand feature with a description of its own: it is compared with what comes out, and
        # with what was applied, where it is lost. So the view's description says what each is.
        description=" ".join([intro, *(f"{feature}: {text}." for feature, text in described.items())]),
        tags={"tenant": tenant},
        owner="pacer",
    )


def _by_value(functions: Sequence[FunctionType]) -> dict[str, str]:
    """Return each function's text, and let it be pickled whole, as Feast's decorator does.

    Pickled as a name in this module, it would need this module wherever it is run.
    """
    texts = {function.__name__: inspect.getsource(function) for function in functions}
    for function in functions:
        function.__module__ = "__main__"
    return texts


_TEXTS = _by_value((cast(FunctionType, clock), cast(FunctionType, recency)))
