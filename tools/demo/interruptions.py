"""Strikes against a running app, and what they found in hand.

A kill between two runs proves nothing. So each strike counts: events that were delivered and are not acknowledged (the
broker says so), and requests that were on their way.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from tools.demo.brokers import Broker
from tools.demo.drivers import Driver


@dataclass(frozen=True, slots=True)
class Interruption:
    """What one strike did."""

    text: str
    """For people: `killed the worker (pid 4711) with SIGKILL: 3 events in hand, 1 request without an answer`."""
    runs: int


async def kill(what: str, hit: Callable[[], Awaitable[None]], *, driver: Driver, broker: Broker) -> Interruption:
    """Hit a process that has everything in hand, and count when it is dead: what it has not ended then is interrupted.
    `hit` returns when it is dead, and before another takes its place."""
    requests = driver.open_requests()
    await hit()
    events = await broker.in_hand()
    lost = await driver.lost_among(requests)
    found = f"{events} events in hand, {lost} requests without an answer"
    return Interruption(f"{what}: {events + lost} runs interrupted ({found})", events + lost)


async def delete(
    what: str, hit: Callable[[], Awaitable[None]], *, broker: Broker, step: str | None, requests: int
) -> Interruption:
    """Hit a process that may have the time to end some of what it has in hand, and count before: it is the most that
    can be interrupted. `step` is whose events count, None for all; `requests` is how many are on their way to it."""
    events = await broker.in_hand(step)
    await hit()
    return Interruption(f"{what}, with {events} events and {requests} requests in hand", events + requests)
