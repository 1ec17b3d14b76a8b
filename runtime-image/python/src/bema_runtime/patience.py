"""Asking a broker that may be away, until it answers."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from bema.contract import errors

T = TypeVar("T")

log = logging.getLogger(__name__)

PAUSE = (0.05, 0.5)
"""The shortest and the longest time between two tries, in seconds: many who ask do not ask at one time."""


async def answered(ask: Callable[[], Awaitable[T]], *, despite: type[errors.BrokerError] = errors.BrokerError) -> T:
    """What was asked for, however often that takes. Raises errors of the broker that are not such as `despite`."""
    while True:
        try:
            return await ask()
        except despite as error:
            log.debug("No answer yet: %s", error)
            await asyncio.sleep(random.uniform(*PAUSE))
