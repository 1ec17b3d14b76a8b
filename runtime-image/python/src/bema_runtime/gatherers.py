"""Gathers events into batches: until one is full, or has waited for long enough."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence

from bema.contract import frames, names
from bema.contract.triggers import Kind
from bema_runtime.runs import Run, Unit


class Gatherer:
    """The batch of one Step that is being filled. `flush` is called with a full one. Belongs to the engine's thread."""

    def __init__(self, unit: Unit, flush: Callable[[Run], None]) -> None:
        if unit.binding.batch is None:
            raise AssertionError("only a Step with a batch gathers")
        self._unit = unit
        self._size = unit.binding.batch.size
        self._seconds = unit.binding.batch.timeout_seconds
        self._flush = flush
        self._runs: list[Run] = []
        self._timer: asyncio.TimerHandle | None = None

    def add(self, run: Run) -> None:
        self._runs.append(run)
        if len(self._runs) >= self._size:
            self.flush()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._seconds, self.flush)

    def flush(self) -> None:
        """Hand over what is there."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        runs, self._runs = self._runs, []
        if runs:
            self._flush(batch_of(self._unit, runs))


def batch_of(unit: Unit, runs: Sequence[Run]) -> Run:
    """The runs as one that executes them together. Its trace is theirs, or the first one's."""
    first = runs[0]
    return Run(
        unit=unit,
        kind=Kind.EVENT,
        id=_id(runs),
        attempt=max(run.attempt for run in runs),
        trigger=first.trigger,
        trace_id=first.trace_id,
        data=b"",
        depth=max(run.depth for run in runs),
        items=tuple(runs),
    )


def item_of(run: Run) -> frames.Item:
    """What the handlers' side gets of a run in a batch."""
    if run.event is None:
        raise AssertionError("only events are gathered")
    event = run.event
    return frames.Item(run.id, run.attempt, run.data, event.topic, event.id, event.key, event.headers, run.trace_id)


def _id(runs: Sequence[Run]) -> str:
    """What a batch emits has its id, so no two commits may share one. Of those that end one run there is only one. Of
    several runs two processes may each commit a part, and which part each will is not known yet when the handler is
    told the ids of what it emits: so each batch has an id of its own, and is committed once at most."""
    if len(runs) == 1:
        return runs[0].id
    return names.new_id(int(time.time() * 1000), random.getrandbits(80))
