"""Cron runs: once for a Job of the cluster, and by a ticker where no cluster does the ticking. One run per tick: its
id is made from the Step and the nominal time, and each run that ends leaves a marker.

On a cluster a Job sees to it that its run comes to an end, whatever becomes of its pod. A ticker notes in the stream
which ticks have begun, and the next one goes on with those that have no end.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import logging
import re
import time
import zoneinfo
from collections.abc import Iterator
from typing import NamedTuple

from cronsim import CronSim

from bema.contract import errors, frames, names, retries, schedules
from bema.contract.bindings import BoundCron
from bema.contract.frames import End, Outcome
from bema.contract.triggers import Kind, Overlap
from bema.ports.jetstream import DAY, ROLLUP, TTL, JetStream, Outgoing
from bema_runtime import traces
from bema_runtime.commits import RunOutcome
from bema_runtime.committers import Abandoned, Conflicted, Full, Result, Unfit
from bema_runtime.engines import Engine
from bema_runtime.patience import answered
from bema_runtime.runs import Run, Unit
from bema_runtime.settlers import entry_of, next_action, note_retry

log = logging.getLogger(__name__)

_BEGUN = DAY
"""How long a process may go on with what another one has begun: for less time than the marker of a run is kept."""


def ticks(cron: BoundCron, after: float) -> Iterator[int]:
    """The nominal times after a Unix time, in whole seconds, for ever."""
    zone = zoneinfo.ZoneInfo(cron.time_zone)
    start = datetime.datetime.fromtimestamp(after, zone)
    return (int(tick.timestamp()) for tick in CronSim(schedules.five_fields(cron.schedule), start))


def nominal_time(cron: BoundCron, step: str, job: str, now: float) -> int | None:
    """The tick that a Job was made for, from its name (`<CronJob>-<Unix minutes>`), or None for a Job that somebody
    made by hand."""
    match = re.fullmatch(re.escape(names.workload(step)) + r"-([0-9]{8,10})", job)
    if match is None:
        return None
    nominal = int(match[1]) * 60
    is_tick = next(ticks(cron, nominal - 1), None) == nominal
    return nominal if is_tick and nominal <= now + 60 else None


def new_run(unit: Unit, cron: BoundCron, run_id: str, scheduled_at: float) -> Run:
    return Run(
        unit=unit,
        kind=Kind.CRON,
        id=run_id,
        attempt=1,
        trigger=cron.trigger,
        trace_id=traces.trace_of(None),
        data=b"null",
        scheduled_at=scheduled_at,
    )


def run_of_job(unit: Unit, cron: BoundCron, job: str, now: float) -> Run:
    """The run of a Job; without a Job's name, a run by hand as of now."""
    step = unit.binding.step
    nominal = nominal_time(cron, step, job, now)
    if nominal is not None:
        return new_run(unit, cron, names.run_of_tick(step, nominal), nominal)
    return new_run(unit, cron, names.run_of_job(step, job or f"{now:.6f}"), now)


async def run_to_end(engine: Engine, run: Run, over: asyncio.Event | None = None) -> RunOutcome | None:
    """All attempts of a cron run, in this process; None when the process stops before its end. A run that has ended
    before is not made again. One that nobody wants any more is `given_up`, and `over` is set, should it be waiting for
    its next attempt."""
    ended = await engine.outcome_of(run)
    if ended is not None:
        log.info("This tick has run before: %s", ended, extra=run.log_fields)
        return ended
    failure = frames.Failure("Cancelled", "it had not begun")
    while True:
        if engine.stopping:
            return None
        if run.given_up:
            return _stopped(run, failure)
        end, result = await engine.execute(run)
        if end.outcome is Outcome.SKIPPED:
            run.unit.metrics.runs[Kind.CRON, "skipped"] += 1
            log.info("The run was skipped: its condition does not hold", extra=run.log_fields)
            return RunOutcome.OK
        found = _failure(end, result)
        if found is None:
            run.unit.metrics.runs[Kind.CRON, "ok"] += 1
            log.info("The run ended", extra=run.log_fields)
            return RunOutcome.OK
        failure = found
        if isinstance(result, Abandoned) or (engine.stopping and end.outcome is Outcome.CANCELLED):
            return None
        if run.given_up:
            return _stopped(run, failure)
        entry = entry_of(run, failure)
        match next_action(run, failure):
            case retries.Retry(seconds=seconds, attempt=attempt):
                note_retry(run, failure, seconds)
                run.errors.append(entry)
                await _pause(over or asyncio.Event(), seconds)
                run.attempt = attempt
            case retries.GiveUp(reason=reason):
                if isinstance(await engine.give_up(run, reason, entry), Abandoned):
                    return None
                run.unit.metrics.runs[Kind.CRON, RunOutcome.DEAD] += 1
                return RunOutcome.DEAD


async def _pause(over: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(over.wait(), seconds)


def _stopped(run: Run, failure: frames.Failure) -> RunOutcome:
    log.warning("The run was stopped: %s", failure.message, extra=run.log_fields)
    return RunOutcome.DEAD


def _failure(end: End, result: Result | None) -> frames.Failure | None:
    if end.outcome is not Outcome.OK:
        return end.failure or frames.Failure("Error", "the handler failed")
    match result:
        case Conflicted():
            return frames.Failure("Conflict", "what the run read was changed by others, again and again")
        case Unfit(reason=reason):
            return frames.Failure("PayloadInvalid", reason)
        case Full(reason=reason):
            return frames.Failure("AppStorageFull", reason)
        case Abandoned():
            return frames.Failure("Abandoned", "the process stops")
    return None


class Beginnings:
    """The ticks of one cron trigger whose runs have begun and have no end, in the stream. A run that is executed once
    too often is refused by its marker: so nothing here has to be exact."""

    def __init__(self, js: JetStream, unit: Unit, cron: BoundCron) -> None:
        self._js = js
        self._binding = unit.binding
        self._trigger = cron.trigger

    async def read(self) -> list[int]:
        """The earliest first. Waits for a broker that is away."""
        binding = self._binding
        wanted = names.begun_filter(binding.root, binding.step, self._trigger)
        found = await answered(lambda: self._js.get_all(binding.stream.name, wanted))
        return sorted(names.begun_of(stored.subject) for stored in found)

    async def add(self, tick: int) -> None:
        """Waits for a broker that is away. What it has no room for is not noted: the run comes first."""
        note = Outgoing(self._subject(tick), b"", {ROLLUP: "sub", TTL: _BEGUN})

        async def publish() -> None:
            try:
                await self._js.publish(note)
            except errors.BrokerRefused as refused:
                log.debug("It is not noted that tick %d has begun: %s", tick, refused)

        await answered(publish)

    async def remove(self, tick: int) -> None:
        """Waits for a broker that is away."""
        await answered(lambda: self._js.purge(self._binding.stream.name, self._subject(tick), below=None))

    def _subject(self, tick: int) -> str:
        return names.begun(self._binding.root, self._binding.step, self._trigger, tick)


class _Going(NamedTuple):
    """A run under way."""

    run: Run
    over: asyncio.Event


class Ticker:
    """Starts the runs of one cron trigger by the clock."""

    def __init__(self, engine: Engine, unit: Unit, cron: BoundCron) -> None:
        self._engine = engine
        self._unit = unit
        self._cron = cron
        self._begun = Beginnings(engine.js, unit, cron)
        self._current: _Going | None = None
        self._runs: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Tick for ever. What a process before this one has begun and not brought to its end goes on. A tick missed
        while nobody was there is made up for, the latest one, within its deadline."""
        begun = await self._begun.read()
        for tick in begun:
            self.start(tick)
        now = time.time()
        late = self._cron.starting_deadline_seconds or 0
        missed = list(_until(ticks(self._cron, now - late), now)) if late else []
        if missed and missed[-1] not in begun:
            self.start(missed[-1])
        for tick in ticks(self._cron, now):
            while (wait := tick - time.time()) > 0:  # noqa: ASYNC110 - the clock sets no event
                await asyncio.sleep(min(wait, 30))
            self.start(tick)

    def start(self, tick: int) -> None:
        """Begin a tick's run, unless the one before keeps it from that."""
        step = self._unit.binding.step
        run = new_run(self._unit, self._cron, names.run_of_tick(step, tick), tick)
        if self._current is not None:
            match self._cron.overlap:
                case Overlap.SKIP:
                    log.warning("The run before is still going; this tick is skipped", extra=run.log_fields)
                    return
                case Overlap.REPLACE:
                    self._engine.cancel(self._current.run, "replaced by the next tick")
                    self._current.over.set()
                case Overlap.ALLOW:
                    pass
        self._current = going = _Going(run, asyncio.Event())
        task = asyncio.create_task(self._bring_to_end(going, tick), name=f"cron {step}")
        self._runs.add(task)
        task.add_done_callback(lambda done: self._done(going, done))

    async def _bring_to_end(self, going: _Going, tick: int) -> None:
        await self._begun.add(tick)
        if await run_to_end(self._engine, going.run, going.over) is not None:
            await self._begun.remove(tick)

    def _done(self, going: _Going, task: asyncio.Task[None]) -> None:
        self._runs.discard(task)
        if self._current is going:
            self._current = None
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("A cron run could not be made", exc_info=error, extra=going.run.log_fields)


def _until(times: Iterator[int], end: float) -> Iterator[int]:
    for tick in times:
        if tick > end:
            return
        yield tick
