"""How often and when a failed run is tried again. Pure: chance and time are parameters."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any

from pydantic import Field, model_validator

from bema.contract.models import Model

LONGEST = 366 * 86_400.0
"""Longest delay that a handler may ask for, in seconds: a time beyond all calendars could not be written down."""


MaxAttempts = Annotated[int, Field(ge=1, le=100)]
"""Executions of the handler in all, the first among them."""

InitialDelay = Annotated[float, Field(ge=0, le=86_400)]
"""Seconds before the second attempt."""

MaxDelay = Annotated[float, Field(gt=0, le=86_400)]
"""Seconds at most."""

Jitter = Annotated[float, Field(ge=0, le=1)]
"""Part of a delay that chance may add or take away."""


class Backoff(StrEnum):
    FIXED = "Fixed"
    LINEAR = "Linear"
    EXPONENTIAL = "Exponential"


class RetryPolicy(Model):
    """How often and when a failed run is tried again."""

    max_attempts: MaxAttempts = 3
    """Executions of the handler in all, the first among them."""
    backoff: Backoff = Backoff.EXPONENTIAL
    """How the delay grows: Fixed, Linear or Exponential (doubling)."""
    initial_seconds: InitialDelay = 1
    """Delay before the second attempt, in seconds."""
    max_seconds: MaxDelay = 300
    """Longest delay, in seconds."""
    jitter: Jitter = 0.2
    """Part of the delay that chance may add or take away, 0 to 1."""

    @model_validator(mode="after")
    def _bounds(self) -> RetryPolicy:
        _check_bounds(self.initial_seconds, self.max_seconds)
        return self


class RetryFields(Model):
    """How often and when a failed run is tried again, as far as somebody says it."""

    max_attempts: MaxAttempts | None = None
    """Executions of the handler in all, the first among them. Default: the App's, else 3."""
    backoff: Backoff | None = None
    """How the delay grows: Fixed, Linear or Exponential (doubling). Default: the App's, else Exponential."""
    initial_seconds: InitialDelay | None = None
    """Delay before the second attempt, in seconds. Default: the App's, else 1; never more than a maxSeconds here."""
    max_seconds: MaxDelay | None = None
    """Longest delay, in seconds. Default: the App's, else 300; never less than an initialSeconds here."""
    jitter: Jitter | None = None
    """Part of the delay that chance may add or take away, 0 to 1. Default: the App's, else 0.2."""

    @model_validator(mode="after")
    def _bounds(self) -> RetryFields:
        if self.initial_seconds is not None and self.max_seconds is not None:
            _check_bounds(self.initial_seconds, self.max_seconds)
        return self

    def over(self, below: RetryFields) -> RetryFields:
        """These fields, and those of `below` that are not said here. A bound from below gives way to what is said
        here, so that the two never contradict each other."""
        found = {**_said(below), **_said(self)}
        if found.get("initial_seconds", 0.0) > found.get("max_seconds", math.inf):
            bends, holds = ("max_seconds", "initial_seconds")
            if self.max_seconds is not None:
                bends, holds = holds, bends
            found[bends] = found[holds]
        return RetryFields(**found)

    @property
    def policy(self) -> RetryPolicy:
        """With the default for whatever is not said."""
        return RetryPolicy(**_said(self.over(_DEFAULTS)))


def _said(fields: RetryFields) -> dict[str, Any]:
    return fields.model_dump(exclude_none=True)


def _check_bounds(initial: float, longest: float) -> None:
    if initial > longest:
        raise ValueError(f"expected initialSeconds ≤ maxSeconds, found {initial:g} > {longest:g}")


_DEFAULTS = RetryFields(**RetryPolicy().model_dump())


@dataclass(frozen=True, slots=True)
class Retry:
    """Run the handler again after `seconds`, as attempt number `attempt`."""

    seconds: float
    attempt: int


@dataclass(frozen=True, slots=True)
class GiveUp:
    """The run has failed for good."""

    reason: str


def delay(policy: RetryPolicy, attempt: int, chance: float) -> float:
    """Seconds to wait after failed attempt number `attempt` (from 1). `chance` is in [0, 1)."""
    match policy.backoff:
        case Backoff.FIXED:
            base = policy.initial_seconds
        case Backoff.LINEAR:
            base = policy.initial_seconds * attempt
        case Backoff.EXPONENTIAL:
            base = policy.initial_seconds * 2.0 ** min(attempt - 1, 60)
    capped = min(base, policy.max_seconds)
    return float(min(capped * (1 + policy.jitter * (2 * chance - 1)), policy.max_seconds))


def pause(policy: RetryPolicy, attempt: int, retry_after: float | None, chance: float) -> float:
    """`delay`, unless the attempt itself has said after how many seconds it is to be tried again."""
    return delay(policy, attempt, chance) if retry_after is None else min(max(0.0, retry_after), LONGEST)


def next_action(
    policy: RetryPolicy, attempt: int, *, retryable: bool, retry_after: float | None, chance: float
) -> Retry | GiveUp:
    """What follows failed attempt number `attempt`."""
    if not retryable:
        return GiveUp("NonRetryable")
    if attempt >= policy.max_attempts:
        return GiveUp("AttemptsExhausted")
    return Retry(seconds=pause(policy, attempt, retry_after, chance), attempt=attempt + 1)
