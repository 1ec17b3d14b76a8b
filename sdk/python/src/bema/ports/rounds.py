"""Rounds over many dead letters: each is redriven or discarded by itself, at most so many a second.

One that cannot be redriven, or that somebody else was faster with, is a result among others. A broker that does not
answer ends the round: what was not reached is still there.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator
from dataclasses import dataclass
from enum import StrEnum

from bema.contract import errors
from bema.contract.letters import DeadLetter, Summary
from bema.ports import dead_letters
from bema.ports.dead_letters import Place
from bema.ports.jetstream import JetStream

RATE = 100.0
"""Redrives a second, when nobody says another number."""


class Outcome(StrEnum):
    """What became of one dead letter; in a dry run, what would."""

    REDRIVEN = "redriven"
    DISCARDED = "discarded"
    REFUSED = "refused"
    MOVED = "moved"
    """Somebody else redrove, discarded or changed it meanwhile."""


@dataclass(frozen=True, slots=True)
class Result:
    """One dead letter of a round."""

    step: str
    run: str
    outcome: Outcome
    started: str | None = None
    """The run that was started."""
    said: str | None = None
    """Why it was left as it is."""


async def redrive(
    js: JetStream,
    place: Place,
    chosen: AsyncIterable[Summary],
    *,
    rate: float = RATE,
    data: bytes | None = None,
    dry_run: bool = False,
) -> AsyncIterator[Result]:
    """Redrive what was chosen, with `data` in place of each one's own where given. `dry_run` changes nothing."""
    pace = _Pace(rate)
    async for summary in chosen:
        await pace.turn()
        try:
            letter = await _unchanged(js, place, summary)
            if dry_run:
                await dead_letters.redrivable(js, place, letter, data=data)
                run = await dead_letters.next_run(js, place, letter)
            else:
                run = await dead_letters.redrive(js, place, letter, data=data)
        except (errors.DeadLetterError, errors.EffectRefused) as error:
            yield _left(summary, error)
        else:
            yield Result(summary.step, summary.run, Outcome.REDRIVEN, started=run)


async def discard(
    js: JetStream, place: Place, chosen: AsyncIterable[Summary], *, dry_run: bool = False
) -> AsyncIterator[Result]:
    """Discard what was chosen. `dry_run` changes nothing."""
    async for summary in chosen:
        try:
            if not dry_run:
                await dead_letters.discard(js, place, summary)
        except errors.DeadLetterError as error:
            yield _left(summary, error)
        else:
            yield Result(summary.step, summary.run, Outcome.DISCARDED)


async def _unchanged(js: JetStream, place: Place, summary: Summary) -> DeadLetter:
    """The whole letter, if it is the one that was chosen."""
    letter = await dead_letters.find(js, place, summary.run, step=summary.step)
    if letter is None:
        raise errors.DeadLetterMoved(f"expected the dead letter of run {summary.run}, found none any more")
    if letter.sequence != summary.sequence:
        raise errors.DeadLetterMoved(f"the dead letter of run {summary.run} was changed by somebody else meanwhile")
    return letter


def _left(summary: Summary, error: errors.BemaError) -> Result:
    outcome = Outcome.MOVED if isinstance(error, errors.DeadLetterMoved) else Outcome.REFUSED
    return Result(summary.step, summary.run, outcome, said=str(error))


class _Pace:
    """At most `rate` turns a second, the first at once. Time that was lost is not made up for: the rate holds over
    every stretch of a round."""

    def __init__(self, rate: float) -> None:
        self._gap = 1 / rate
        self._next = 0.0

    async def turn(self) -> None:
        loop = asyncio.get_running_loop()
        while (wait := self._next - loop.time()) > 0:  # noqa: ASYNC110 - the clock sets no event
            await asyncio.sleep(wait)
        self._next = loop.time() + self._gap
