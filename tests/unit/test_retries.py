"""Retries: when the next attempt comes, and when there is none. The delays themselves are golden vectors."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bema.contract import retries
from bema.contract.retries import Backoff, GiveUp, Retry, RetryPolicy

policies = st.builds(
    RetryPolicy,
    max_attempts=st.integers(1, 100),
    backoff=st.sampled_from(Backoff),
    initial_seconds=st.floats(0, 1_000),
    max_seconds=st.floats(1_000, 86_400),
    jitter=st.floats(0, 1),
)
chances = st.floats(0, 1, exclude_max=True)


@given(policies, st.integers(1, 1_000), chances)
def test_a_delay_is_finite_and_within_the_jitter_of_the_longest(
    policy: RetryPolicy, attempt: int, chance: float
) -> None:
    delay = retries.delay(policy, attempt, chance)
    assert math.isfinite(delay)
    assert 0 <= delay <= policy.max_seconds * (1 + policy.jitter)


@given(policies, st.integers(1, 1_000))
def test_delays_do_not_shrink_from_attempt_to_attempt(policy: RetryPolicy, attempt: int) -> None:
    assert retries.delay(policy, attempt, 0.5) <= retries.delay(policy, attempt + 1, 0.5)


@given(policies, chances)
def test_a_policy_allows_exactly_its_attempts(policy: RetryPolicy, chance: float) -> None:
    attempt, action = 0, None
    while not isinstance(action, GiveUp):
        attempt += 1
        action = retries.next_action(policy, attempt, retryable=True, retry_after=None, chance=chance)
        assert isinstance(action, GiveUp) or action.attempt == attempt + 1
    assert attempt == policy.max_attempts


POLICY = RetryPolicy(max_attempts=3, jitter=0)


@pytest.mark.parametrize(
    ("attempt", "retryable", "retry_after", "action"),
    [
        pytest.param(1, True, None, Retry(seconds=1, attempt=2), id="by the policy"),
        pytest.param(2, True, None, Retry(seconds=2, attempt=3), id="by the policy, again"),
        pytest.param(1, True, 0, Retry(seconds=0, attempt=2), id="at once, as the handler wants"),
        pytest.param(3, True, None, GiveUp("AttemptsExhausted"), id="no attempt is left"),
        pytest.param(4, True, None, GiveUp("AttemptsExhausted"), id="more attempts than the policy now allows"),
        pytest.param(1, False, 5, GiveUp("NonRetryable"), id="retrying cannot help"),
        pytest.param(3, False, None, GiveUp("NonRetryable"), id="the error's own reason comes first"),
    ],
)
def test_what_follows_a_failed_attempt(
    attempt: int, retryable: bool, retry_after: float | None, action: Retry | GiveUp
) -> None:
    found = retries.next_action(POLICY, attempt, retryable=retryable, retry_after=retry_after, chance=0.5)
    assert found == action
