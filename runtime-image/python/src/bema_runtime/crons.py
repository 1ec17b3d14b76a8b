"""Cron runs: once for a Job of the cluster, and by a ticker where no cluster does the ticking. One run per tick: its
id is made from the Step and the nominal time, and each run that ends leaves a marker."""

from __future__ import annotations

import asyncio
import datetime
import logging
import re
import time
import zoneinfo
from collections.abc import Iterator

from cronsim import CronSim

from bema.contract import frames, names, retries, schedules
from bema.contract.bindings import BoundCron
from bema.contract.frames import End, Outcome
from bema.contract.triggers import Kind, Overlap
from bema_runtime import traces
from bema_runtime.commits import RunOutcome
from bema_runtime.committers import Abandoned, Conflicted, Full, Result, Unfit
from bema_runtime.engines import Engine
from bema_runtime.runs import Run, Unit
from bema_runtime.settlers import entry_of, next_action, note_retry

log = logging.getLogger(__name__)


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


async def run_to_end(engine: Engine, run: Run) -> RunOutcome:
    """All attempts of a cron run, in this process. A run that has ended before is not made again."""
    ended = await engine.outcome_of(run)
    if ended is not None:
        log.info("This tick has run before: %s", ended, extra=run.log_fields)
        return ended
    while True:
        end, result = await engine.execute(run)
        if end.outcome is Outcome.SKIPPED:
            run.unit.metrics.runs[Kind.CRON, "skipped"] += 1
            log.info("The run was skipped: its condition does not hold", extra=run.log_fields)
            return RunOutcome.OK
        failure = _failure(end, result)
        if failure is not None and run.given_up:
            log.warning("The run was stopped: %s", failure.message, extra=run.log_fields)
            return RunOutcome.DEAD
        if failure is None:
            run.unit.metrics.runs[Kind.CRON, "ok"] += 1
            log.info("The run ended", extra=run.log_fields)
            return RunOutcome.OK
        entry = entry_of(run, failure)
        match next_action(run, failure):
            case retries.Retry(seconds=seconds, attempt=attempt):
                note_retry(run, failure, seconds)
                run.errors.append(entry)
                await asyncio.sleep(seconds)
                run.attempt = attempt
            case retries.GiveUp(reason=reason):
                run.unit.metrics.runs[Kind.CRON, RunOutcome.DEAD] += 1
                await engine.give_up(run, reason, entry)
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


class Ticker:
    """Starts the runs of one cron trigger by the clock."""

    def __init__(self, engine: Engine, unit: Unit, cron: BoundCron) -> None:
        self._engine = engine
        self._unit = unit
        self._cron = cron
        self._current: Run | None = None
        self._runs: set[asyncio.Task[RunOutcome]] = set()

    async def run(self) -> None:
        """Tick for ever. A tick missed while nobody was there is made up for, the latest one, within its deadline."""
        now = time.time()
        late = self._cron.starting_deadline_seconds or 0
        missed = list(_until(ticks(self._cron, now - late), now)) if late else []
        if missed:
            self._start(missed[-1])
        for tick in ticks(self._cron, now):
            while (wait := tick - time.time()) > 0:  # noqa: ASYNC110 - the clock sets no event
                await asyncio.sleep(min(wait, 30))
            self._start(tick)

    def _start(self, tick: int) -> None:
        step = self._unit.binding.step
        run = new_run(self._unit, self._cron, names.run_of_tick(step, tick), tick)
        if self._current is not None:
            match self._cron.overlap:
                case Overlap.SKIP:
                    log.warning("The run before is still going; this tick is skipped", extra=run.log_fields)
                    return
                case Overlap.REPLACE:
                    self._engine.cancel(self._current, "replaced by the next tick")
                case Overlap.ALLOW:
                    pass
        self._current = run
        task = asyncio.create_task(run_to_end(self._engine, run), name=f"cron {step}")
        self._runs.add(task)
        task.add_done_callback(lambda done: self._done(run, done))

    def _done(self, run: Run, task: asyncio.Task[RunOutcome]) -> None:
        self._runs.discard(task)
        if self._current is run:
            self._current = None
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("A cron run could not be made", exc_info=error, extra=run.log_fields)


def _until(times: Iterator[int], end: float) -> Iterator[int]:
    for tick in times:
        if tick > end:
            return
        yield tick
