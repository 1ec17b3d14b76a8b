"""Ticks and Jobs' names."""

from __future__ import annotations

import datetime
import itertools

import pytest

from bema.contract.bindings import BoundCron
from bema.contract.triggers import Overlap
from bema_runtime import crons


def bound(schedule: str, zone: str = "Etc/UTC") -> BoundCron:
    return BoundCron(trigger=0, schedule=schedule, time_zone=zone, overlap=Overlap.SKIP)


def unix(text: str) -> int:
    return int(datetime.datetime.fromisoformat(text).timestamp())


@pytest.mark.parametrize(
    ("cron", "after", "expected"),
    [
        pytest.param(bound("0 2 * * *"), "2026-01-01T00:00:00+00:00", "2026-01-01T02:00:00+00:00", id="in UTC"),
        pytest.param(
            bound("0 2 * * *", "Europe/Paris"), "2026-01-01T00:00:00+00:00", "2026-01-01T01:00:00+00:00", id="in Paris"
        ),
        pytest.param(bound("@hourly"), "2026-01-01T00:30:00+00:00", "2026-01-01T01:00:00+00:00", id="by name"),
        pytest.param(
            bound("*/5 * * * *"), "2026-01-01T00:05:00+00:00", "2026-01-01T00:10:00+00:00", id="strictly after"
        ),
    ],
)
def test_the_next_tick(cron: BoundCron, after: str, expected: str) -> None:
    assert next(crons.ticks(cron, unix(after))) == unix(expected)


def test_ticks_go_on() -> None:
    found = list(itertools.islice(crons.ticks(bound("* * * * *"), 0), 3))
    assert found == [60, 120, 180]


TICK = unix("2026-01-01T02:00:00+00:00")


@pytest.mark.parametrize(
    ("job", "expected"),
    [
        pytest.param(f"report-{TICK // 60}", TICK, id="a Job that the CronJob made"),
        pytest.param(f"report-{TICK // 60 + 1}", None, id="a number that is no tick"),
        pytest.param("report-by-hand", None, id="a Job by hand"),
        pytest.param("report-1", None, id="a Job by hand with a small number"),
        pytest.param("", None, id="no Job at all"),
        pytest.param(f"report-{TICK // 60 + 1440}", None, id="a tick that is still to come"),
    ],
)
def test_the_nominal_time_of_a_job(job: str, expected: int | None) -> None:
    assert crons.nominal_time(bound("0 2 * * *"), "report", job, TICK + 5) == expected
