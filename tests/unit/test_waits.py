"""Waiting, as tests do: what a failure tells is of the last look, not of the first."""

from __future__ import annotations

import itertools

import pytest

from tests.support import waits


def test_a_wait_that_fails_tells_what_was_there_at_last() -> None:
    numbers = itertools.count(1)
    seen: list[int] = []

    def look() -> bool:
        seen.append(next(numbers))
        return False

    with pytest.raises(AssertionError) as caught:
        waits.until_sync(look, "Ready", timeout=0.05, explain=lambda: f"found {seen[-1]}")
    assert len(seen) > 1
    assert str(caught.value) == f"waited 0.05 s for Ready; last seen: False\nfound {seen[-1]}"


async def test_a_wait_in_a_loop_tells_the_same() -> None:
    with pytest.raises(AssertionError, match=r"^waited 0 s for Ready; last seen: None\nnothing$"):
        await waits.until(lambda: None, "Ready", timeout=0, explain=lambda: "nothing")
