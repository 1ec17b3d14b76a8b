"""Waiting until a Step that takes over another's place has it: before, nobody knows in whose name an event is."""

from __future__ import annotations

import asyncio
import contextlib
import logging

from bema.contract import errors
from bema.contract.adoptions import Adoption
from bema.contract.bindings import Binding
from bema.ports import adoptions
from bema.ports.jetstream import JetStream

log = logging.getLogger(__name__)

PAUSE = 0.25


async def done(js: JetStream, binding: Binding) -> Adoption:
    """What the Step has taken over, once the operator, or `bema dev`, has seen to it."""
    is_told = False
    while True:
        with contextlib.suppress(errors.BrokerError):
            found = await adoptions.read(js, binding.stream.name, binding.step)
            if found is not None and found.is_done:
                return found
        if not is_told:
            log.info("The Step %s has yet to take over the place of %s; waiting", binding.step, binding.adopts)
            is_told = True
        await asyncio.sleep(PAUSE)
