"""The engine: everything between the broker and the handlers, on a thread and an event loop of its own.

    receive → delivered before, or not the first attempt: ask the leader whether the run has an end or a later attempt
            → decode; invoke (the invoker validates); effects are buffered there
            → the settler takes over: commit, ack, the next attempt or a dead letter

User code never runs on this thread: a handler that blocks costs no other run its heartbeat.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import orjson

from bema.contract import errors, frames, names
from bema.contract.bindings import Binding
from bema.contract.effects import Effect
from bema.contract.frames import Call, End, Invoke, Outcome, Reply
from bema.contract.retentions import Level
from bema.contract.triggers import Kind
from bema.ports import admin
from bema.ports.connections import Connection, Message, publish_command
from bema.ports.jetstream import JetStream
from bema.ports.pulls import Pull
from bema_runtime import adoptions, arrivals, commits, gatherers, quotas, traces
from bema_runtime.commits import Commit, RunOutcome
from bema_runtime.committers import Conflicted, Full, Result
from bema_runtime.gatherers import Gatherer
from bema_runtime.hands import ACK, NAK, Hands, nak
from bema_runtime.lanes import Lanes
from bema_runtime.mailboxes import Mailbox
from bema_runtime.metrics import Metrics
from bema_runtime.partitions import Partitions
from bema_runtime.patience import answered
from bema_runtime.quotas import Quotas
from bema_runtime.reads import StateReader
from bema_runtime.runs import NOT_HEARD, Delivery, Run, Unit
from bema_runtime.settlers import Settler
from bema_runtime.suspects import Suspects
from bema_runtime.tasks import Tasks
from bema_runtime.turns import Turns
from bema_runtime.watches import Watches

log = logging.getLogger(__name__)

HEARTBEAT = 3.0
CLOCK = 10
"""Seconds between two questions about the broker's time: its clock may be set, and this machine may have slept."""
GRACE = 10.0
"""How long a handler may go on after it was cancelled, in seconds, before the process gives itself up."""
TAKE_BACK = 1.0
"""How long a process that stops may take to say that none of its executions is to blame for it, in seconds."""


class Engine:
    """Receives, invokes, commits and settles. All methods belong to the engine's thread, but for those of `Peer`."""

    def __init__(
        self,
        connection: Connection,
        units: Sequence[Unit],
        invoker: frames.Invoker,
        metrics: Metrics,
        *,
        on_stuck: Callable[[], None] | None = None,
        on_replaced: Callable[[], None] | None = None,
    ) -> None:
        self._connection = connection
        self.js = JetStream(connection)
        self._units = {unit.binding.step: unit for unit in units}
        self._invoker = invoker
        self._metrics = metrics
        self._on_stuck = on_stuck
        self._on_replaced = on_replaced
        self._loop = asyncio.get_running_loop()
        self._stream = units[0].binding.stream.name
        self._lanes = Lanes()
        self._hands = Hands(connection, self._lanes)
        self._tasks = Tasks()
        self._watches = Watches(self.js, self._stream, units[0].binding.root, changed=self._hold_all)
        self._settler = Settler(
            connection,
            self._stream,
            self._hands,
            self._lanes,
            metrics,
            tasks=self._tasks,
            execute=self._execute,
            watched=lambda: self._watches.groups,
            resume=self._resume,
        )
        self._committer = self._settler.committer
        self._reader = StateReader(self.js, self._stream, self._lanes)
        self._numbers = itertools.count(1)
        self._running: dict[int, Run] = {}
        self._pulls: dict[str, Pull] = {}
        self._gatherers: list[Gatherer] = []
        self._quotas = Quotas(self.js, self._stream, changed=lambda _: self._hold_all())
        metrics.storage[units[0].binding.app] = lambda: self._quotas.now
        self._partitions: dict[str, Partitions] = {}
        self._stream_created = ""
        self._looking: str | None = None
        """Why the stream cannot be used, while it is looked at; empty while nothing is known."""
        self._draining = False
        self._suspects = Suspects(self.js, self._stream)
        self._ends: Mailbox[End] = Mailbox(self._loop, self._ended)
        self.ready = False

    # What the handlers' side may call, from its own thread

    def ended(self, ends: Sequence[End]) -> None:
        self._ends.put_all(list(ends))

    async def call(self, call: Call) -> Reply:
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._answer(call), self._loop))

    # Life

    async def start(self) -> None:
        """Bind to the stream and begin to pull. Waits, unready, for what the operator or `bema dev` has yet to make."""
        self._connection.on_reconnect(lambda: self._tasks.spawn(self._look_again()))
        await self._watches.start()
        await self._look_at_stream()
        for unit in self._units.values():
            if unit.binding.adopts is not None:
                unit.adoption = await adoptions.done(self.js, unit.binding)
        await self._quotas.start()
        self._committer.start()
        self._tasks.spawn(self._watch())
        for unit in self._units.values():
            consumer = unit.binding.consumer
            if consumer is None or unit.binding.suspended:
                continue
            pull = Pull(
                self._connection,
                stream=self._stream,
                durable=consumer.durable,
                capacity=unit.binding.in_hand,
                deliver=lambda burst, unit=unit: self._delivered(unit, burst),  # type: ignore[misc]
            )
            unit.release = pull.done
            if unit.binding.batch is not None:
                gatherer = Gatherer(unit, self._invoke)
                unit.gather = gatherer.add
                self._gatherers.append(gatherer)
            self._pulls[unit.binding.step] = pull
            self._hold(unit)
            await pull.start()
            if (ordered := unit.binding.ordered) is not None:
                partitions = Partitions(self._connection, unit, ordered, tasks=self._tasks, deliver=self._delivered)
                self._partitions[unit.binding.step] = partitions
                self._hold(unit)
                await partitions.start()
        self.ready = True

    def _hold_all(self) -> None:
        for unit in self._units.values():
            self._hold(unit)

    def _hold(self, unit: Unit) -> None:
        """Let a Step take events, or wait, as the level says."""
        step, waits = unit.binding.step, _waits(unit, self._quotas.now.level, self._watches.groups)
        if step in self._pulls:
            self._pulls[step].hold(waits)
        if step in self._partitions:
            self._partitions[step].hold(waits)

    def _note_told(self, unit: Unit, effects: Sequence[Effect]) -> None:
        """What a Step writes is not known before it does; from then on it waits like one that emits."""
        found = quotas.told(effects, self._watches.groups)
        if not found <= unit.told:
            unit.told |= found
            self._hold(unit)

    async def _look_again(self) -> None:
        await self._look_at_stream()
        await self._quotas.read()

    async def _look_at_stream(self) -> None:
        """Until the stream is the one that it was, and it is known what is watched. Nothing is written before."""
        told = self._looking = ""
        while True:
            losses = self._connection.losses
            try:
                admin.check_server(self.js)
                self._recognise(await admin.stream_created(self.js, self._stream))
                await self._watches.read()
                self._connection.know(losses)
                self._looking = None
                return
            except errors.BrokerError as error:
                self._looking = str(error)
                if told != self._looking:
                    log.warning("The app's stream %s cannot be used yet: %s; waiting", self._stream, error)
                    told = self._looking
                await asyncio.sleep(0.25)

    def _recognise(self, created: str) -> None:
        """What this process has in hand, and read, is of the stream that it saw first. An ack says no more than a
        sequence and a revision is one: in another stream they would be about other messages."""
        if self._stream_created and created != self._stream_created:
            log.critical(
                "The app's stream %s was made anew: expected the one of %s, found one of %s; what the former held is "
                "lost. This process ends, to begin anew",
                self._stream,
                self._stream_created,
                created,
            )
            if self._on_replaced is not None:
                self._on_replaced()
        self._stream_created = created

    @property
    def problems(self) -> list[str]:
        """Why this process is not ready, if it is not."""
        found = [] if self.ready else ["starting"]
        if self._draining:
            found.append("draining")
        if not self._connection.is_connected:
            found.append("no connection to NATS")
        if self._looking:
            found.append(f"stream {self._stream}: {self._looking}")
        if self._connection.problem:
            found.append(self._connection.problem)
        found.extend(f"{step}: {pull.problem}" for step, pull in self._pulls.items() if pull.problem)
        found.extend(f"{step}: {text}" for step, part in self._partitions.items() for text in part.problems)
        return found

    @property
    def notes(self) -> list[str]:
        """What is worth knowing of a process that is ready."""
        quota = self._quotas.now
        return [] if quota.level is Level.NORMAL else [f"app storage {quota.level}: {quota}"]

    @property
    def idle(self) -> bool:
        """Whether nothing runs, waits for its commit, or is in hand. A cron run that waits for its next attempt does
        not count: whoever ticks next goes on with it."""
        return not self._hands and not self._running and not any(unit.in_flight for unit in self._units.values())

    @property
    def stopping(self) -> bool:
        return self._draining

    async def stop_pulling(self, seconds: float) -> None:
        """Take no more events; what arrives all the same is given back. At most `seconds`: a broker that does not
        answer would keep this process for longer than it has."""
        self._draining = True
        for gatherer in self._gatherers:
            gatherer.flush()
        stops = [pull.stop() for pull in self._pulls.values()]
        stops += [partitions.stop() for partitions in self._partitions.values()]
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.gather(*stops), max(1.0, seconds))

    async def drain(self, seconds: float) -> None:
        """Let what runs end within `seconds`, give back the rest. With the broker away, what cannot be committed is
        given up at once: its event will be delivered again."""
        deadline = self._loop.time() + seconds
        while not self.idle and self._loop.time() < deadline:
            if not self._connection.is_connected:
                self._committer.abandon()
            await asyncio.sleep(0.02)
        for number in list(self._running):
            self._invoker.cancel(frames.Cancel(number, "the process stops"))
        await self._suspects.close(TAKE_BACK if self._connection.is_connected else 0)
        left = await self._hands.give_back()
        await self._committer.close()
        if left:
            log.warning("Gave back %d events whose runs had not ended within %g s", left, seconds)

    async def close(self) -> None:
        await self._tasks.close()

    async def _watch(self) -> None:
        """Every second: attempts past their deadline are cancelled; every third: what is in hand is kept in hand;
        every tenth: what time it is for the broker."""
        for tick in itertools.count():
            await asyncio.sleep(1)
            self._cancel_overdue(time.monotonic())
            if self._looking is None and any(pull.problem for pull in self._pulls.values()):
                # Perhaps the consumer went with its stream
                self._tasks.spawn(self._look_again())
            if tick % CLOCK == 0:
                self._tasks.spawn(admin.hear_clock(self.js, self._stream))
            if tick % int(HEARTBEAT) == 0:
                await self._hands.keep()

    def _cancel_overdue(self, now: float) -> None:
        for number, run in list(self._running.items()):
            if now > run.deadline and not run.cancelled:
                run.cancelled = True
                self._invoker.cancel(frames.Cancel(number, f"timeout after {run.timeout:g} s"))
            elif now > run.deadline + GRACE and self._on_stuck is not None:
                log.critical(
                    "The handler goes on %g s after its timeout; this process gives itself up",
                    GRACE,
                    extra=run.log_fields,
                )
                self._on_stuck()

    # Receiving

    def _delivered(self, unit: Unit, burst: list[Message]) -> None:
        ready: list[Invoke] = []
        largest = self._settler.largest(unit)
        for message in burst:
            delivery = Delivery.of(message.subject, message.reply)
            if self._draining:
                self._tasks.spawn(self._hands.write(publish_command(message.reply, NAK)))
                continue
            try:
                run = arrivals.run_of(unit, message, delivery, self._stream_created)
            except Exception:
                log.exception("A message on %s cannot be read; it will be delivered again", message.subject)
                unit.release(1)
                continue
            if not self._hands.take(run):
                continue
            if unit.turns is not None:
                self._settler.begin(run, self._in_turn(run, unit.turns))
            elif self._is_simple(run, largest):
                if unit.gather is not None:
                    unit.gather(run)
                else:
                    ready.append(self._invocation(run))
            else:
                self._settler.begin(run, self._resume(run))
        if ready:
            self._invoker.invoke(ready)

    def _is_simple(self, run: Run, largest: int) -> bool:
        """Whether nobody can have heard of it before, and nothing speaks against it."""
        first = run.delivery is not None and run.delivery.delivered == 1 and not run.retried
        # One in another Step's name may have been in the hands of that one
        return (
            first
            and run.step == run.binding.step
            and run.trigger != NOT_HEARD
            and not run.depth
            and len(run.data) <= largest
        )

    async def _in_turn(self, run: Run, turns: Turns) -> None:
        """An ordered run, once the Step has a place for it."""
        if not await turns.enter(run):
            await self._hands.let_go(run, NAK)
        elif self._is_simple(run, self._settler.largest(run.unit)):
            self._invoke(run)
        else:
            await self._resume(run)

    async def _resume(self, run: Run) -> None:
        """A run that may have ended, or may have a later attempt: the leader knows."""
        if await self._has_moved_on(run):
            log.info("The run has an end or a later attempt already", extra=run.log_fields)
            await self._hands.let_go(run, ACK)
            return
        if len(run.data) > (largest := self._settler.largest(run.unit)):
            text = f"expected at most {largest} bytes of data, found {len(run.data)}; send a reference instead"
            self._settler.give_up(run, "PayloadTooLarge", {"type": "PayloadTooLarge", "message": text})
            return
        if run.trigger == NOT_HEARD:
            await self._not_heard(run)
            return
        if run.depth > run.binding.limits.depth:
            text = (
                f"expected at most {run.binding.limits.depth} changes to watched groups that cause each other, found "
                f"one more: does a Step write to a group that it watches, itself or through others?"
            )
            self._settler.give_up(run, "StateLoop", {"type": "StateLoop", "message": text})
            return
        if not await self._may_execute(run):
            return
        if run.unit.gather is None:
            self._invoke(run)
        elif run.retried or run.attempt > 1 or self._suspects.is_alone(run):
            # Also where others come in batches: what failed before must not take others along for ever
            self._invoke(gatherers.batch_of(run.unit, [run]))
        else:
            run.unit.gather(run)

    async def _execute(self, run: Run) -> None:
        """Once more, a run or a batch."""
        if len(run.members) > 1:
            await self._suspects.note_all(run.members)
        elif not await self._may_execute(run.members[0]):
            return
        self._invoke(run)

    async def _may_execute(self, run: Run) -> bool:
        """Wait until it may. What ends every process that executes it comes to an end itself."""
        times = await self._suspects.enter(run)
        if times is None or (times < run.binding.retry.max_attempts and not self._draining):
            return True
        self._suspects.left(run)
        if self._draining:
            await self._hands.let_go(run, NAK)
        else:
            text = f"expected a handler that comes to an end, found {times} executions whose process ended"
            self._settler.give_up(run, "Undeliverable", {"type": "Undeliverable", "message": text})
        return False

    async def _not_heard(self, run: Run) -> None:
        """The Step may be on its way to a version that hears this, and others of its pods there already."""
        delivered = run.delivery.delivered if run.delivery else 0
        if delivered < run.binding.limits.unheard_deliveries:
            await self._hands.let_go(run, nak(min(2.0 ** (delivered - 1), 30.0)))
            return
        what = f"topic {run.event.topic}" if run.kind is Kind.EVENT and run.event else "this change of the state"
        text = f"expected a Step with a trigger for {what}, found none: it was edited since this was sent"
        self._settler.give_up(run, "NotHeard", {"type": "NotHeard", "message": text})

    async def _has_moved_on(self, run: Run) -> bool:
        root, step = run.binding.root, run.step
        subjects = (
            commits.marker_subject(run),
            names.retry_timer(root, step, run.id),
            names.retry(root, step, run.id),
        )
        own = run.delivery.sequence if run.delivery else 0
        marker, *attempts = await answered(
            lambda: asyncio.gather(*(self.js.get_last(self._stream, subject) for subject in subjects))
        )
        # An older timer is the one that has sent this very message, and is about to be removed
        return marker is not None or any(stored is not None and stored.sequence > own for stored in attempts)

    # Invoking

    def _invocation(self, run: Run) -> Invoke:
        number = next(self._numbers)
        now = time.monotonic()
        run.invocation, run.invoked, run.deadline, run.cancelled = number, now, now + run.timeout, False
        run.span_id = traces.new_span()
        run.reads = {}
        self._running[number] = run
        event = run.event
        return Invoke(
            id=number,
            step=run.unit.binding.step,
            kind=run.kind,
            run=run.id,
            attempt=run.attempt,
            data=run.data,
            trigger=run.trigger,
            topic=event.topic if event else None,
            event_id=event.id if event else None,
            headers=_headers_of(run),
            trace_id=run.trace_id,
            span_id=run.span_id,
            deadline=time.time() + run.timeout,
            scheduled_at=run.scheduled_at,
            request=run.request,
            revision=run.delivery.sequence - 1 if run.kind is Kind.STATE and run.delivery and not run.retried else 0,
            items=[gatherers.item_of(item) for item in run.items] if run.items else (),
        )

    def _invoke(self, run: Run) -> None:
        self._invoker.invoke([self._invocation(run)])

    def _ended(self, ends: list[End]) -> None:
        now = time.monotonic()
        of_events: list[tuple[Run, End]] = []
        for end in ends:
            run = self._running.pop(end.invocation, None)
            if run is None:
                continue
            run.unit.metrics.seconds.observe(now - run.invoked)
            for member in run.members:
                self._suspects.left(member)
            if run.waiter is not None:
                if not run.waiter.done():
                    run.waiter.set_result(end)
            elif self._draining and end.outcome is Outcome.CANCELLED:
                self._lanes.leave(run)
            else:
                self._note_told(run.unit, end.effects)
                of_events.append((run, end))
        self._settler.ended(of_events)

    # Runs that somebody waits for: api and cron

    async def execute(self, run: Run) -> tuple[End, Result | None]:
        """Run a handler and commit what it asks for, again after conflicts. The last execution's end, and what became
        of its commit: None when there was nothing to commit."""
        run.unit.in_flight += 1
        try:
            while True:
                end = await self._wait_for(run, lambda: self._invoke(run))
                # A tick leaves its marker also when it asked for nothing: it must not run again
                if end.outcome is not Outcome.OK or not (end.effects or run.kind is Kind.CRON):
                    return end, None
                effects = end.effects
                full = self._quotas.refusal(effects, self._watches.groups)
                if full is not None:
                    return end, Full(str(full))
                result = await self._commit(Commit(run, RunOutcome.OK, effects))
                if not isinstance(result, Conflicted):
                    return end, result
                self._settler.note_conflict(run, result)
                if run.conflicts <= run.binding.limits.conflicts:
                    await self._lanes.enter_all(run.reads, run)
                if run.conflicts > run.binding.limits.conflicts or run.given_up:
                    return end, result
        finally:
            self._lanes.leave(run)
            run.unit.in_flight -= 1

    async def _wait_for(self, run: Run, begin: Callable[[], None]) -> End:
        run.waiter = self._loop.create_future()
        try:
            begin()
            end: End = await run.waiter
            return end
        finally:
            run.waiter = None

    async def give_up(self, run: Run, reason: str, entry: dict[str, object]) -> Result:
        """End a run that somebody waits for with a dead letter."""
        run.unit.in_flight += 1
        try:
            return await self._commit(self._settler.dead(run, reason, entry))
        finally:
            run.unit.in_flight -= 1

    async def _commit(self, commit: Commit) -> Result:
        """Commit for somebody who waits."""
        waiter: asyncio.Future[Any] = self._loop.create_future()
        commit.run.waiter = waiter
        self._committer.submit(commit)
        try:
            result: Result = await waiter
            return result
        finally:
            commit.run.waiter = None

    async def outcome_of(self, run: Run) -> RunOutcome | None:
        """How the run ended before, here or elsewhere; None when it has not. Waits for a broker that is away."""
        stored = await answered(
            lambda: self.js.get_last(self._stream, commits.marker_subject(run)), despite=errors.BrokerUnavailable
        )
        return RunOutcome(orjson.loads(stored.data)["outcome"]) if stored else None

    def cancel(self, run: Run, reason: str) -> None:
        """Nobody wants the run's result any more: stop its handler, and do not start it again."""
        run.given_up = True
        self._invoker.cancel(frames.Cancel(run.invocation, reason))

    # Questions of handlers

    async def _answer(self, call: Call) -> Reply:
        run = self._running.get(call.invocation)
        if run is None:
            return Reply(call.id, error="the run has ended")
        if call.method == frames.HEARTBEAT:
            run.prolong()
            return Reply(call.id, result=time.time() + run.timeout)
        try:
            return await self._reader.answer(run, call)
        finally:
            # A read that the handler did not wait for may have got a turn that nobody would ever give back
            if call.invocation not in self._running:
                self._lanes.leave(run)


def _waits(unit: Unit, level: Level, watched: frozenset[str]) -> bool:
    """Whether a Step takes no events for now. With the storage full, what is left of it is for retries and dead
    letters; a Step that adds no events goes on, since what it settles can be removed."""
    return level is Level.FULL and (bool(unit.binding.emits) or not unit.told.isdisjoint(watched))


def _headers_of(run: Run) -> Mapping[str, str]:
    if run.event is not None:
        return run.event.headers
    return dict(run.request.headers) if run.request is not None else {}


def units_of(bindings: Sequence[Binding], metrics: Metrics) -> list[Unit]:
    return [Unit.of(binding, metrics.of(binding.app, binding.step)) for binding in bindings]
