"""Cron expressions and time zones."""

from __future__ import annotations

import re
import zoneinfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bema.contract import schedules


@pytest.mark.parametrize(
    "schedule",
    [
        pytest.param("* * * * *", id="every minute"),
        pytest.param("0 2 * * *", id="every day"),
        pytest.param("*/15 0-6,22-23 1,15 jan-MAR Mon-fri", id="steps, ranges, lists and names in any case"),
        pytest.param("5/10 * * * *", id="a step from a number on"),
        pytest.param("10-50/10 * * * *", id="a step in a range"),
        pytest.param("00 07 01 01 *", id="leading zeros"),
        pytest.param("59 23 31 12 6", id="the highest numbers"),
        pytest.param("0  2 *\t* *", id="more than one space"),
        *(pytest.param(name, id=name) for name in schedules.NAMES),
    ],
)
def test_a_schedule_is_accepted_as_it_was_written(schedule: str) -> None:
    assert schedules.check(schedule) == schedule
    assert re.fullmatch(schedules.pattern(), schedule)


FIVE = "expected 5 fields (minute hour day-of-month month day-of-week), found"


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        pytest.param("", f"{FIVE} 0 in ''", id="nothing"),
        pytest.param("* * * *", f"{FIVE} 4 in '* * * *'", id="four fields"),
        pytest.param("0 * * * * *", f"{FIVE} 6 in '0 * * * * *'", id="six fields"),
        pytest.param(
            "@reboot",
            "expected one of @hourly, @daily, @midnight, @weekly, @monthly, @yearly, @annually, found '@reboot'",
            id="a name that Kubernetes does not know",
        ),
        pytest.param(
            "@every 1h",
            "expected one of @hourly, @daily, @midnight, @weekly, @monthly, @yearly, @annually, found '@every 1h'",
            id="an interval",
        ),
        pytest.param("60 * * * *", "minute: expected 0 to 59, found '60'", id="minute 60"),
        pytest.param("-1 * * * *", "minute: expected 0 to 59, found '-1'", id="a negative minute"),
        pytest.param("a * * * *", "minute: expected 0 to 59, found 'a'", id="a word for a minute"),
        pytest.param("1,,2 * * * *", "minute: expected 0 to 59, found ''", id="an empty item"),
        pytest.param("* 24 * * *", "hour: expected 0 to 23, found '24'", id="hour 24"),
        pytest.param("* * 0 * *", "day of month: expected 1 to 31, found '0'", id="day 0"),
        pytest.param("* * 32 * *", "day of month: expected 1 to 31, found '32'", id="day 32"),
        pytest.param("* * L * *", "day of month: expected 1 to 31, found 'L'", id="the last day"),
        pytest.param("* * * 13 *", "month: expected 1 to 12, found '13'", id="month 13"),
        pytest.param("* * * mon *", "month: expected 1 to 12, found 'mon'", id="a day for a month"),
        pytest.param("* * * * 7", "day of week: expected 0 to 6, found '7'", id="a second number for Sunday"),
        pytest.param("* * * * jan", "day of week: expected 0 to 6, found 'jan'", id="a month for a day"),
        pytest.param("*/0 * * * *", "minute: expected a step of 1 or more after '/', found '*/0'", id="step 0"),
        pytest.param("*/ * * * *", "minute: expected a step of 1 or more after '/', found '*/'", id="an empty step"),
        pytest.param("5-1 * * * *", "minute: expected a range that goes up, found '5-1'", id="a range that goes down"),
        pytest.param("1-2-3 * * * *", "minute: expected 0 to 59, found '1-2-3'", id="a range of three"),
    ],
)
def test_what_is_no_schedule_is_refused_with_these_words(schedule: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        schedules.check(schedule)
    assert str(caught.value) == message
    assert (re.fullmatch(schedules.pattern(), schedule) is None) == ("goes up" not in message)


items = st.builds(
    "".join,
    st.lists(st.sampled_from(["*", "/", "-", ",", "0", "1", "7", "23", "59", "jan", "SUN", "L"]), max_size=4),
)
fields = st.sampled_from(["*", "1", "1-2"]) | items


@given(st.lists(fields, min_size=4, max_size=6).map(" ".join))
def test_the_pattern_accepts_what_the_check_accepts_and_ranges_that_go_down(schedule: str) -> None:
    try:
        schedules.check(schedule)
        refused = ""
    except ValueError as error:
        refused = str(error)
    matches = re.fullmatch(schedules.pattern(), schedule) is not None
    assert matches == (not refused or "goes up" in refused)


def test_a_name_stands_for_five_fields() -> None:
    assert schedules.five_fields("@daily") == "0 0 * * *"
    assert schedules.five_fields("0 2 * * *") == "0 2 * * *"
    for fields_of_name in schedules.NAMES.values():
        schedules.check(fields_of_name)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, id=name or "nothing")
        for name in ("", "Local", "local", "Mars/Olympus", "/etc/localtime", "../UTC", "Europe/", "Europe")
    ],
)
def test_what_is_no_time_zone_is_refused(name: str) -> None:
    with pytest.raises(ValueError) as caught:
        schedules.check_time_zone(name)
    found = "Local" if name == "local" else name
    assert str(caught.value) == f"expected an IANA time zone such as Europe/Paris, found {found!r}"


def test_every_time_zone_looks_like_one() -> None:
    known = zoneinfo.available_timezones() - {"localtime"}
    assert len(known) > 400
    assert [name for name in known if not re.fullmatch(schedules.TIME_ZONE_PATTERN, name)] == []
