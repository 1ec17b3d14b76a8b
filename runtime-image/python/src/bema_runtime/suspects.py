"""Runs that may have ended the process which executed them.

An execution of an event that was delivered before is noted in the stream before it begins, and the note is taken back
when it ends, however it does, or when the process stops as it should. So what is left of a note is an execution whose
process has ended without a word. A run with such a note is executed by itself from then on: should its process end
again, that run alone is to blame.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
import secrets
from collections.abc import Sequence
from typing import NamedTuple

from bema.contract import errors, names
from bema.ports.jetstream import DAY, ROLLUP, TTL, JetStream, Outgoing, is_wrong_sequence
from bema_runtime.runs import Run

log = logging.getLogger(__name__)

_KEPT = DAY
"""How long it is noted that an execution has not ended."""
_ALONE = "alone-"
_BESIDE = "beside-"


class _Note(NamedTuple):
    """Executions of a run that have not ended, here or elsewhere."""

    sequence: int
    """Of the message in the stream; 0 for none."""
    executions: list[str]


class Suspects:
    """Belongs to the engine's thread."""

    def __init__(self, js: JetStream, stream: str) -> None:
        self._js = js
        self._stream = stream
        self._process = secrets.token_hex(6)
        self._numbers = itertools.count(1)
        self._turn = asyncio.Lock()
        self._current: Run | None = None
        self._noted: dict[Run, str] = {}
        """What is being executed, and how it is noted."""
        self._ending: set[asyncio.Task[None]] = set()
        self._closed = False

    async def enter(self, run: Run) -> int | None:
        """Note that a run is about to be executed. None where it may be beside others. Else it is its turn now, and
        this is how often it was executed by itself by processes that have ended."""
        if run.delivery is None or run.delivery.delivered == 1:
            return None
        if not await self._note(run, _BESIDE, if_clean=True):
            return None
        await self._turn.acquire()
        self._current = run
        try:
            before = await self._note(run, _ALONE)
        except BaseException:
            self.left(run)
            raise
        return sum(execution.startswith(_ALONE) for execution in before)

    async def note_all(self, runs: Sequence[Run]) -> None:
        """Note that runs are about to be executed once more, together."""
        again = [run for run in runs if run.delivery is not None and run.delivery.delivered > 1]
        await asyncio.gather(*(self._note(run, _BESIDE) for run in again))

    def is_alone(self, run: Run) -> bool:
        """Whether it is a run's turn, so that nothing is to be executed with it."""
        return run is self._current

    def left(self, run: Run) -> None:
        """The run's execution has ended, or does not begin."""
        if run is self._current:
            self._current = None
            self._turn.release()
        execution = self._noted.pop(run, None)
        if execution is not None:
            self._begin_to_take_back(run, execution)

    def _begin_to_take_back(self, run: Run, execution: str) -> None:
        task = asyncio.get_running_loop().create_task(self._take_back(run, execution))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def close(self, seconds: float) -> None:
        """The process stops as it should: none of its executions is to blame for that. Takes so long at most."""
        self._closed = True
        for run in list(self._noted):
            self.left(run)
        if self._ending:
            await asyncio.wait(self._ending, timeout=seconds)
        for task in self._ending:
            task.cancel()

    async def _note(self, run: Run, how: str, *, if_clean: bool = False) -> list[str]:
        """Add an execution to a run's note, with `if_clean` only where there is none; those of other processes that it
        has besides. What the broker refuses to keep, having no room, is not noted: it must not keep a run waiting that
        may make room."""
        execution = f"{how}{self._process}-{next(self._numbers)}"
        while not self._closed:
            try:
                note = await self._read(run)
                others = [one for one in note.executions if self._process not in one]
                if execution in note.executions or (if_clean and others):
                    return others
                # Also one whose answer is lost is taken back
                self._noted[run] = execution
                await self._write(run, note.sequence, [*note.executions, execution])
                if run not in self._noted:
                    self._begin_to_take_back(run, execution)
                return others
            except errors.BrokerRefused as refused:
                if not is_wrong_sequence(refused):
                    log.debug("An execution is not noted: %s", refused, extra=run.log_fields)
                    return others
            except errors.BrokerError:
                await asyncio.sleep(random.uniform(0.05, 0.5))
        return []

    async def _take_back(self, run: Run, execution: str) -> None:
        while True:
            try:
                note = await self._read(run)
                left = [one for one in note.executions if one != execution]
                if left == note.executions:
                    return
                if left:
                    await self._write(run, note.sequence, left)
                else:
                    await self._js.delete(self._stream, note.sequence)
                return
            except errors.BrokerRefused as refused:
                if not is_wrong_sequence(refused):
                    log.debug("The note of an execution is not taken back: %s", refused, extra=run.log_fields)
                    return
            except errors.BrokerError:
                await asyncio.sleep(random.uniform(0.05, 0.5))

    async def _read(self, run: Run) -> _Note:
        stored = await self._js.get_last(self._stream, _subject(run))
        return _Note(stored.sequence, stored.data.decode().split()) if stored is not None else _Note(0, [])

    async def _write(self, run: Run, expected: int, executions: Sequence[str]) -> None:
        body = " ".join(executions).encode()
        await self._js.publish(Outgoing(_subject(run), body, {ROLLUP: "sub", TTL: _KEPT}, expected))


def _subject(run: Run) -> str:
    return names.suspect(run.binding.root, run.step, run.id)
