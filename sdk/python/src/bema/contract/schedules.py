"""Cron expressions: five fields or a name such as `@daily`, as Kubernetes understands them. No clock in here."""

from __future__ import annotations

import zoneinfo

NAMES = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}

_MONTH_NAMES = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAY_NAMES = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_MONTHS = {name: n for n, name in enumerate(_MONTH_NAMES, start=1)}
_DAYS = {name: n for n, name in enumerate(_DAY_NAMES)}
_FIELDS: tuple[tuple[str, int, int, dict[str, int]], ...] = (
    ("minute", 0, 59, {}),
    ("hour", 0, 23, {}),
    ("day of month", 1, 31, {}),
    ("month", 1, 12, _MONTHS),
    ("day of week", 0, 6, _DAYS),
)


def check(schedule: str) -> str:
    """Return `schedule` when it is a cron expression; raise `ValueError` that names the field, what was expected and
    what was found. Accepts `*`, numbers, names of months and days, ranges, lists and steps."""
    if schedule in NAMES:
        return schedule
    if schedule.startswith("@"):
        raise ValueError(f"expected one of {', '.join(NAMES)}, found {schedule!r}")
    fields = schedule.split()
    if len(fields) != len(_FIELDS):
        raise ValueError(
            f"expected 5 fields (minute hour day-of-month month day-of-week), found {len(fields)} in {schedule!r}"
        )
    for text, (name, low, high, words) in zip(fields, _FIELDS, strict=True):
        for item in text.split(","):
            _check_item(item, name, low, high, words)
    return schedule


def _check_item(item: str, name: str, low: int, high: int, words: dict[str, int]) -> None:
    base, slash, step = item.partition("/")
    if slash and not (step.isascii() and step.isdigit() and int(step) > 0):
        raise ValueError(f"{name}: expected a step of 1 or more after '/', found {item!r}")
    if base == "*":
        return
    first, dash, last = base.partition("-")
    numbers = [_number(part, words) for part in ((first, last) if dash else (first,))]
    if any(number is None or not low <= number <= high for number in numbers):
        raise ValueError(f"{name}: expected {low} to {high}, found {item!r}")
    start, end = numbers[0], numbers[-1]
    if start is not None and end is not None and start > end:
        raise ValueError(f"{name}: expected a range that goes up, found {item!r}")


def _number(text: str, words: dict[str, int]) -> int | None:
    if text.isascii() and text.isdigit():
        return int(text)
    return words.get(text.lower())


def five_fields(schedule: str) -> str:
    """The five fields of a schedule, also for `@daily` and its like."""
    return NAMES.get(schedule, schedule)


def check_time_zone(name: str) -> str:
    """Return `name` when it is an IANA time zone; raise `ValueError` otherwise. `Local` is none: it would differ from
    machine to machine."""
    if name.lower() == "local":
        raise ValueError("expected an IANA time zone such as Europe/Paris, found 'Local'")
    try:
        zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ValueError(f"expected an IANA time zone such as Europe/Paris, found {name!r}") from error
    return name


def pattern() -> str:
    """A regular expression (RE2) of what `check` accepts, except that it cannot see whether a range goes up."""
    fields = [_field_pattern(low, high, words) for _, low, high, words in _FIELDS]
    five = r"\s+".join(fields)
    return rf"^(?:{'|'.join(NAMES)}|\s*{five}\s*)$"


def _field_pattern(low: int, high: int, words: dict[str, int]) -> str:
    names = f"|(?i:{'|'.join(words)})" if words else ""
    number = f"(?:0*(?:{_numbers_pattern(low, high)}){names})"
    item = rf"(?:\*|{number}(?:-{number})?)(?:/0*[1-9][0-9]*)?"
    return f"{item}(?:,{item})*"


def _numbers_pattern(low: int, high: int) -> str:
    """Numbers from `low`, at most 1, to `high`, at most 99, without leading zeros."""
    if high < 10:
        return f"[{low}-{high}]"
    tens, ones = divmod(high, 10)
    whole = f"[1-{tens - 1}][0-9]|" if tens > 1 else ""
    return f"[{low}-9]|{whole}{tens}[0-{ones}]"


TIME_ZONE_PATTERN = "^[A-Za-z][A-Za-z0-9_+-]*(?:/[A-Za-z0-9_+-]+){0,2}$"
"""What the names of IANA time zones look like."""
