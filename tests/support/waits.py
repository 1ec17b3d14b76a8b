"""Waiting for conditions, with a deadline, saying what was waited for."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")

FIRST, LAST, LONGER = 0.01, 0.05, 1.2
"""The first pause between two looks and the longest one, in seconds; each is so many times as long as the one before: a
machine that only looks gets nothing done."""


async def until(
    condition: Callable[[], Any], what: str, *, timeout: float = 20.0, explain: Callable[[], str] | None = None
) -> Any:
    """The first true value of `condition`, which may be a coroutine function. Fails with `what`, and what `explain`
    tells, after `timeout` seconds."""
    deadline, pause = time.monotonic() + timeout, FIRST
    while True:
        found = condition()
        if inspect.isawaitable(found):
            found = await found
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(_words(found, what, timeout, explain))
        await asyncio.sleep(pause)
        pause = min(pause * LONGER, LAST)


def until_sync(
    condition: Callable[[], T], what: str, *, timeout: float = 20.0, explain: Callable[[], str] | None = None
) -> T:
    """`until` for code without an event loop."""
    deadline, pause = time.monotonic() + timeout, FIRST
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(_words(found, what, timeout, explain))
        time.sleep(pause)
        pause = min(pause * LONGER, LAST)
    return found


def _words(found: Any, what: str, timeout: float, explain: Callable[[], str] | None) -> str:
    told = f"\n{explain()}" if explain else ""
    return f"waited {timeout:g} s for {what}; last seen: {found!r}{told}"
