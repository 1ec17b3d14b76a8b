"""Lengths of time as people write them: `90s`, `15m`, `24h`, `30d`, `4w`."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
"""Seconds by unit."""

LONGEST = 10 * 365 * 86_400
"""Seconds."""

PATTERN = r"^[1-9][0-9]{0,8}[smhdw]$"
"""A regular expression (RE2) of a length of time; how long it may be is another question."""

MESSAGE = "expected a time of at most 3650d such as 90s, 15m, 24h, 30d or 4w"


def parse(text: str) -> float:
    """Seconds of a length of time. Raises `ValueError` that says what was expected."""
    if re.fullmatch(PATTERN, text) and int(text[:-1]) * UNITS[text[-1]] <= LONGEST:
        return float(int(text[:-1]) * UNITS[text[-1]])
    raise ValueError(f"{MESSAGE}, found {text!r}")


def _check(value: Any) -> Any:
    if not isinstance(value, str):
        raise ValueError(f"{MESSAGE}, found {value!r}")
    parse(value)
    return value


Duration = Annotated[str, BeforeValidator(_check), Field(json_schema_extra={"maxLength": 10, "pattern": PATTERN})]
"""A length of time kept as it was written."""
