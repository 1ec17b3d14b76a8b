"""Waiting for a condition, with a deadline that says what it waited for."""

import time
from collections.abc import Callable
from typing import TypeVar

from tools.cluster import errors

Found = TypeVar("Found")


def until(probe: Callable[[], Found | None], *, what: str, seconds: float, every: float = 0.05) -> Found:
    """Call `probe` every `every` seconds until it returns something true, and return that.

    Raises `errors.TimedOut` after `seconds`, naming `what` and the last answer.
    """
    deadline = time.monotonic() + seconds
    while True:
        found = probe()
        if found:
            return found
        if time.monotonic() >= deadline:
            raise errors.TimedOut(f"waited {seconds:g} s for {what}; the last answer was {found!r}")
        time.sleep(every)
