"""What becomes of a run after its handler has ended: acknowledged, tried again, or a dead letter.

ok       → commit → ack
conflict → invoke again on fresh data; after `limits.conflicts` times the run goes back, same attempt
fails    → attempts left: schedule the next one, ack;  none left: dead letter, ack
           (an ordered run stays in hand instead of being scheduled, and its partition waits)
cannot write → no ack; the event stays in hand, heartbeating, until it can
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from bema.contract import envelopes, frames, retries
from bema.contract.frames import End, Outcome
from bema.ports.connections import Connection
from bema.ports.jetstream import JetStream, Outgoing
from bema_runtime import commits, gatherers, traces
from bema_runtime.commits import Commit, RunOutcome
from bema_runtime.committers import Abandoned, Committed, Committer, Conflicted, Overtaken, Result, Unfit
from bema_runtime.hands import ACK, NAK, Hands
from bema_runtime.lanes import Lanes
from bema_runtime.metrics import Metrics
from bema_runtime.patience import answered
from bema_runtime.runs import Run, Unit
from bema_runtime.tasks import Tasks
from bema_runtime.turns import Turns

log = logging.getLogger(__name__)


class Settler:
    """Settles runs. Those that somebody waits for (api, cron) get their commit's result instead of an ack. `execute`
    executes a run's handler once more, `resume` does so unless the run has ended elsewhere."""

    def __init__(
        self,
        connection: Connection,
        stream: str,
        hands: Hands,
        lanes: Lanes,
        metrics: Metrics,
        *,
        tasks: Tasks,
        execute: Callable[[Run], Coroutine[Any, Any, None]],
        watched: Callable[[], frozenset[str]],
        resume: Callable[[Run], Coroutine[Any, Any, None]],
    ) -> None:
        self._connection = connection
        self._js = JetStream(connection)
        self._hands = hands
        self._lanes = lanes
        self._metrics = metrics
        self._tasks = tasks
        self._execute = execute
        self._resume = resume
        self.committer = Committer(self._js, stream, metrics=metrics, settle=self._committed, watched=watched)

    def begin(self, run: Run, work: Coroutine[Any, Any, None]) -> None:
        """Work on a run in hand. Should it fail, the run is let go: heartbeats would keep its event back for ever."""
        self._tasks.spawn(self._or_let_go(run, work))

    async def _or_let_go(self, run: Run, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception as error:
            log.exception("A run could not be settled; its event will be delivered again", extra=run.log_fields)
            for member in run.members:
                if not self._gave_up(member, error):
                    self._hands.forget(member, None)

    def _gave_up(self, run: Run, error: Exception) -> bool:
        """Whether a run that cannot be settled has come for the last time, and ends here. How often it was delivered
        says nothing else: each drain delivers it once more."""
        limit = run.binding.retry.max_attempts + run.binding.limits.extra_deliveries
        if run.delivery is None or run.delivery.delivered <= limit:
            return False
        text = f"delivered {run.delivery.delivered} times without an end: {type(error).__name__}: {error}"
        try:
            self.give_up(run, "Undeliverable", {"type": "Undeliverable", "message": text})
        except Exception:
            log.exception("Nor can its dead letter be made", extra=run.log_fields)
            return False
        return True

    def _write(self, acks: Sequence[bytes]) -> None:
        if acks:
            self._tasks.spawn(self._hands.write(b"".join(acks)))

    def ended(self, ends: Sequence[tuple[Run, End]]) -> None:
        """Handlers have returned, or failed."""
        acks: list[bytes] = []
        for run, end in ends:
            if run.items and end.items and not self._has_left(run, end, acks):
                continue
            if end.outcome is Outcome.SKIPPED or (end.outcome is Outcome.OK and not end.effects):
                self._done(run, end.outcome, acks)
            elif end.outcome is Outcome.OK:
                self.committer.submit(Commit(run, RunOutcome.OK, end.effects))
            else:
                self._all_failed(run, end)
        self._write(acks)

    def _all_failed(self, run: Run, end: End) -> None:
        if len(run.members) == 1:
            self.begin(run.members[0], self._failed(run.members[0], end))
            return
        for member in run.members:
            self.begin(member, self._apart(member, end))

    async def _apart(self, run: Run, end: End) -> None:
        """A batch that failed as a whole: which item is to blame shows when each is executed by itself. Until then it
        is no attempt of any of them."""
        self._lanes.leave(run)
        failure = end.failure or frames.Failure("Error", "the handler failed")
        seconds = retries.pause(run.binding.retry, run.attempt, failure.retry_after, random.random())
        note_retry(run, failure, seconds)
        await self._schedule(run, seconds=seconds, attempt=run.attempt)

    def _has_left(self, batch: Run, end: End, acks: list[bytes]) -> bool:
        """Let those items of a batch go their own way that did not end as it did; whether there are others."""
        for place, own in end.items.items():
            item = batch.items[place]
            if own.outcome is Outcome.SKIPPED:
                self._done(item, own.outcome, acks)
            else:
                self.begin(item, self._failed(item, End(end.invocation, own.outcome, failure=own.failure)))
        batch.items = [item for place, item in enumerate(batch.items) if place not in end.items]
        if end.effects and not batch.items:
            log.warning("Every item of the batch failed: what it asked for is dropped", extra=batch.log_fields)
        return bool(batch.items)

    def _done(self, run: Run, outcome: str, acks: list[bytes]) -> None:
        for member in run.members:
            acks.append(self._hands.answer(member, ACK))
            self._hands.forget(member, outcome)

    def _committed(self, results: Sequence[tuple[Commit, Result]]) -> None:
        acks: list[bytes] = []
        for commit, result in results:
            run = commit.run
            self._lanes.leave(run)
            if run.waiter is not None:
                if not run.waiter.done():
                    run.waiter.set_result(result)
                continue
            match result:
                case Committed():
                    self._done(run, commit.outcome, acks)
                case Overtaken(runs=runs):
                    self._overtaken(run, runs, acks)
                case Conflicted():
                    self.note_conflict(run, result)
                    self.begin(run, self._again(run))
                case Unfit(reason=reason) if commit.outcome is RunOutcome.OK:
                    self._all_failed(run, _unfit(run, reason))
                case Unfit(reason=reason):
                    log.error("The dead letter cannot be written: %s", reason, extra=run.log_fields)
                    self._hands.forget(run, None)
                case Abandoned():
                    for member in run.members:
                        self._hands.forget(member, None)
        self._write(acks)

    def _overtaken(self, batch: Run, ended: Sequence[Run], acks: list[bytes]) -> None:
        """Some items of a batch have ended elsewhere, and nothing was written: the others are a batch of their own."""
        for item in ended:
            self._done(item, "overtaken", acks)
        rest = gatherers.batch_of(batch.unit, [item for item in batch.items if item not in ended])
        rest.conflicts = batch.conflicts
        self.begin(rest, self._again(rest))

    def note_conflict(self, run: Run, conflict: Conflicted) -> None:
        run.conflicts += 1
        run.unit.metrics.conflicts += 1
        for key in conflict.keys:
            self._lanes.heat(key)
            self._metrics.hot_keys[run.binding.app, key[0]] += 1

    async def _again(self, run: Run) -> None:
        if run.conflicts <= run.binding.limits.conflicts:
            await self._lanes.enter_all(run.reads, run)
            await self._execute(run)
        else:
            # Too many conflicts in a row: step aside for up to a second. Not an attempt
            for member in run.members:
                await self._schedule(member, seconds=random.uniform(0.2, 1), attempt=member.attempt)

    async def _failed(self, run: Run, end: End) -> None:
        """An attempt of an event's run that did not succeed."""
        self._lanes.leave(run)
        failure = end.failure or frames.Failure("Error", "the handler failed")
        entry = entry_of(run, failure)
        if end.outcome is Outcome.INVALID:
            self.give_up(run, "Invalid", entry)
            return
        match next_action(run, failure):
            case retries.Retry(seconds=seconds, attempt=attempt):
                note_retry(run, failure, seconds)
                run.errors.append(entry)
                await self._schedule(run, seconds=seconds, attempt=attempt)
            case retries.GiveUp(reason=reason):
                self.give_up(run, reason, entry)

    async def _schedule(self, run: Run, *, seconds: float, attempt: int) -> None:
        if run.event is None:
            raise AssertionError("only events are scheduled")
        if run.unit.turns is not None:
            await self._wait_in_place(run, run.unit.turns, seconds=seconds, attempt=attempt)
            return
        await self._store(commits.retry(run, run.event, at=self._connection.clock.time() + seconds, attempt=attempt))
        await self._hands.let_go(run, ACK, outcome="retry")

    async def _wait_in_place(self, run: Run, turns: Turns, *, seconds: float, attempt: int) -> None:
        """The next attempt of an ordered run: nothing of its partition may come between. A process that stops gives
        the event back, and whoever gets it counts its attempts from 1."""
        run.attempt, run.conflicts = attempt, 0
        if await turns.pause(run, seconds):
            await self._resume(run)
        else:
            await self._hands.let_go(run, NAK)

    async def _store(self, message: Outgoing) -> None:
        """Store a message, however long it takes: the event stays in hand meanwhile."""
        await answered(lambda: self._js.publish(message))

    def give_up(self, run: Run, reason: str, entry: dict[str, object]) -> None:
        """The run has failed for good: its dead letter and its marker in one batch."""
        self.committer.submit(self.dead(run, reason, entry))

    def dead(self, run: Run, reason: str, entry: dict[str, object]) -> Commit:
        """The commit that ends a run with a dead letter; said and counted here."""
        run.errors.append(entry)
        log.error(
            "Dead letter (%s): %s: %s",
            reason,
            entry["type"],
            entry["message"],
            extra={**run.log_fields, "error": entry.get("traceback", "")},
        )
        run.unit.metrics.dead_letters += 1
        event = run.event or envelopes.Event(
            id=run.id,
            topic="",
            source=envelopes.source(run.binding.app, run.binding.step),
            time=commits.timestamp(run.started),
            data=run.data,
            trace_parent=traces.parent(run.trace_id, run.span_id or traces.new_span()),
        )
        letter = commits.dead_letter(run, event, reason=reason, largest=self.largest(run.unit))
        return Commit(run, RunOutcome.DEAD, extra=[letter])

    def largest(self, unit: Unit) -> int:
        """Bytes of an event's data that a retry and a dead letter can carry beside their headers."""
        more = commits.MAX_CHANGE_BYTES if unit.binding.states else 0
        return min(unit.binding.limits.payload_bytes + more, self._connection.max_payload - commits.MAX_HISTORY_BYTES)


def next_action(run: Run, failure: frames.Failure) -> retries.Retry | retries.GiveUp:
    """What follows a failed attempt of this run."""
    return retries.next_action(
        run.binding.retry,
        run.attempt,
        retryable=failure.retryable,
        retry_after=failure.retry_after,
        chance=random.random(),
    )


def entry_of(run: Run, failure: frames.Failure) -> dict[str, object]:
    """What is remembered of a failed attempt."""
    return {
        "attempt": run.attempt,
        "type": failure.type,
        "message": failure.message,
        "at": commits.timestamp(time.time()),
        **({"details": list(failure.details)} if failure.details else {}),
        **({"traceback": failure.traceback} if failure.traceback else {}),
    }


def note_retry(run: Run, failure: frames.Failure, seconds: float) -> None:
    """Say and count that an attempt failed and another one follows."""
    log.warning(
        "The handler failed: %s: %s; trying again in %.3g s",
        failure.type,
        failure.message,
        seconds,
        extra={**run.log_fields, "error": failure.traceback},
    )
    run.unit.metrics.retries += 1


def _unfit(run: Run, reason: str) -> End:
    return End(run.invocation, Outcome.FAILED, failure=frames.Failure("PayloadInvalid", reason))
