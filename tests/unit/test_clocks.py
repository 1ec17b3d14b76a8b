"""The broker's clock, as far as it was heard."""

from __future__ import annotations

import time

from bema.ports.clocks import PROMPT, Clock


def test_a_broker_that_was_not_heard_has_the_time_of_here() -> None:
    before = time.time()
    assert before <= Clock().time() <= time.time()


def test_what_was_heard_last_counts() -> None:
    clock = Clock()
    for said, seconds in (("2026-01-01T00:00:00.5Z", 1767225600.5), ("2025-01-01T00:00:00Z", 1735689600.0)):
        heard = time.monotonic()
        clock.hear(said, took=0.001)
        assert 0 <= clock.time() - seconds <= time.monotonic() - heard
    assert clock.now().broker < clock.now().here


def test_an_answer_that_took_long_is_believed_where_no_other_was_heard() -> None:
    clock = Clock()
    clock.hear("2025-01-01T00:00:00Z", took=PROMPT + 1)
    assert clock.time() < 1767225600
    clock.hear("2026-01-01T00:00:00Z", took=PROMPT + 1)
    assert clock.time() < 1767225600
    clock.hear("2026-01-01T00:00:00Z", took=PROMPT)
    assert clock.time() >= 1767225600
