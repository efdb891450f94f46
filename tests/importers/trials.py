"""HeartSteps folders for tests: the real one, and a made-up trial of two persons and four days."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from contracts.settings import load_settings

FIRST_DAY = date(2015, 7, 20)
HOURS = (13, 17, 19, 22, 25)
"""Slots of a made-up day, in hours UTC from the start of its date."""


def real_trial() -> Path:
    """Return the folder of the real files, or skip the test and say how to bring them."""
    folder = load_settings().heartsteps
    if not (folder / "suggestions.csv").is_file():
        pytest.skip(f"no HeartSteps files in {folder}: set PACER_HEARTSTEPS to the folder with suggestions.csv")
    return folder


def suggestion_rows() -> list[dict[str, Any]]:
    sent = (None, "walk", None, "stand", "walk", None, "stand")
    rows = []
    for user in (1, 2):
        for index in range(20):
            day, slot = divmod(index, 5)
            start = datetime(FIRST_DAY.year, FIRST_DAY.month, FIRST_DAY.day, tzinfo=UTC) + timedelta(days=day)
            scheduled = start + timedelta(hours=HOURS[slot])
            kind = sent[(index + user) % len(sent)]
            rows.append(
                {
                    "user": user,
                    "decision.index.nogap": index,
                    "study.day.nogap": day,
                    "sugg.select.utime": f"{scheduled:%Y-%m-%d %H:%M:%S}",
                    "sugg.select.slot": slot + 1,
                    "sugg.decision.utime": f"{scheduled + timedelta(seconds=90):%Y-%m-%d %H:%M:%S}",
                    "avail": "FALSE" if index % 6 == 5 else "TRUE",
                    "send": "TRUE" if kind and index % 6 != 5 else "FALSE",
                    "kind": kind if index % 6 != 5 else None,
                    "jbsteps30pre": 0.5 + 10 * index,
                    "jbsteps30": 0.5 * math.e ** (index % 4),
                }
            )
    return rows


def daily_rows() -> list[dict[str, Any]]:
    return [
        {
            "user.index": user,
            "study.date": (FIRST_DAY + timedelta(days=day)).isoformat(),
            "study.day.nogap": day,
            "weekday": "TRUE",
            "travel": "FALSE",
            "weather.condition": ("Clear", "Light Rain", "unknown", "Overcast")[day],
            "temperature": -1024.0 if day == 2 else 10.0 + day,
            "hectic": 1 + day,
            "stressful": 2,
            "typical": None,
            "energetic": 5,
            "jbsteps.direct": 1000 * day,
            "jbsteps.agg": None if day == 1 else 2000 * day,
            "gfsteps": 500,
            "app.sessions": None if day == 2 else 3 + day,
            "app.secs": 60,
        }
        for user in (1, 2)
        for day in range(4)
    ]


def member_rows() -> list[dict[str, Any]]:
    return [
        {
            "user.index": user,
            "first.notif.utime": f"{FIRST_DAY} 13:01:30",
            "age": 30 + user,
            "gender": ("female", "male")[user - 1],
            "fitapp": "yes",
            "fittracker": "no",
            "phonecomfort": 5,
            "consc": 20,
            "selfeff.intake": 14,
            "sit.time.intake": 600.0 * user,
            "vigact.metmins.intake": 0,
            "modact.metmins.intake": None,
            "walk.metmins.intake": 99.5,
            "ipaq.hepa.intake": 2,
        }
        for user in (1, 2)
    ]


def write_trial(
    folder: Path,
    suggestions: list[dict[str, Any]] | None = None,
    daily: list[dict[str, Any]] | None = None,
    members: list[dict[str, Any]] | None = None,
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in (
        ("suggestions", suggestions or suggestion_rows()),
        ("daily", daily or daily_rows()),
        ("members", members or member_rows()),
    ):
        pl.DataFrame(rows, infer_schema_length=None).write_csv(folder / f"{name}.csv", null_value="NA")
    return folder
