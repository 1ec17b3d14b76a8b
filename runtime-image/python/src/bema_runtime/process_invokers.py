"""Executes the handler of one Step in a worker process, and replaces a worker that is gone."""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass

from bema.contract import errors, frames
from bema.contract.bindings import Binding
from bema.contract.frames import Call, Cancel, End, Failure, Invoke, Outcome, Peer, Reply
from bema.contract.triggers import Kind
from bema_runtime import children
from bema_runtime.children import Child
from bema_runtime.tasks import Tasks

log = logging.getLogger(__name__)

GRACE = 5.0
"""How long an execution may go on after it was cancelled and its deadline has passed, in seconds, before its worker is
killed. Shorter than the engine's, which gives up the whole runtime."""

LONGEST_PAUSE = 10.0
"""Between the end of a worker and the start of the next one, in seconds. A worker that has lived as long is replaced at
once."""


@dataclass(slots=True)
class _Execution:
    invoke: Invoke
    until: float
    """Its deadline by `time.monotonic`: a clock that is set must not end it."""
    cancelled: str | None = None

    @classmethod
    def of(cls, invoke: Invoke) -> _Execution:
        return cls(invoke, _monotonic(invoke.deadline))

    def prolong(self, deadline: float) -> None:
        self.invoke.deadline, self.until = deadline, _monotonic(deadline)


class ProcessInvoker:
    """`frames.Invoker` for one Step, whose handler runs in a worker process. Belongs to the engine's loop.

    A worker that is gone is replaced. What it was executing by itself has then failed. Of several executions any may be
    to blame: they are executed again, one at a time, while the others wait; but at once when it was killed for an
    execution that would not stop, as they had no part in it."""

    def __init__(self, binding: Binding) -> None:
        self._binding = binding
        self._running: dict[int, _Execution] = {}
        self._suspects: list[int] = []
        """Executions one of which has ended a worker, in the order in which they are executed again."""
        self._tasks = Tasks()
        self._child: Child | None = None
        self._killed = False
        self._closed = False
        self._pauses = _pauses()
        self._peer: Peer
        self.problem: str | None = None

    async def start(self, peer: Peer) -> None:
        """Raises `StepInvalid`."""
        self._peer = peer
        await self._launch()

    def invoke(self, invocations: Sequence[Invoke]) -> None:
        """Those that come while there is no worker wait for the next one."""
        self._running.update((invoke.id, _Execution.of(invoke)) for invoke in invocations)
        if self._child is not None and not self._suspects:
            self._child.send(invocations)

    def cancel(self, cancel: Cancel) -> None:
        execution = self._running.get(cancel.invocation)
        if execution is None or execution.cancelled is not None:
            return
        execution.cancelled = cancel.reason
        if self._child is None or self._waits(cancel.invocation):
            self._end([_cancelled(self._running[cancel.invocation])])
            return
        self._child.send([cancel])
        seconds = max(0.0, execution.until - time.monotonic()) + GRACE
        asyncio.get_running_loop().call_later(seconds, self._overstayed, cancel.invocation)

    def close(self) -> None:
        self._closed = True
        if self._child is not None:
            self._child.kill()

    async def _launch(self) -> None:
        child = Child(self._binding, self._received)
        await child.start()
        await self._prolong()
        if self._closed:
            child.kill()
            return
        log.debug("The worker of %s is process %d", self._binding.step, child.pid)
        self._child, self._killed, self.problem = child, False, None
        self._send_next(child)
        self._tasks.spawn(self._outlive(child, time.monotonic()))

    async def _outlive(self, child: Child, began: float) -> None:
        await child.wait()
        if self._closed:
            return
        self._child = None
        self.problem = f"the worker of {self._binding.step} {child.fate}"
        log.error("The worker %s; starting another one", child.fate, extra=self._fields)
        self._mourn(child)
        self._tasks.spawn(self._hold())
        if time.monotonic() - began >= LONGEST_PAUSE:
            self._pauses = _pauses()
        while True:
            await asyncio.sleep(next(self._pauses))
            try:
                await self._launch()
                return
            except (errors.Invalid, OSError) as error:
                self.problem = f"no worker of {self._binding.step}: {error}"
                log.error("A worker cannot be started: %s; trying again", error, extra=self._fields)

    async def _hold(self) -> None:
        """What waits for a worker does not run out of time meanwhile, unless there is none for long. A request does:
        somebody waits for it."""
        pause = min(self._binding.timeout_seconds.values()) / 4
        until = time.monotonic() + children.READY_SECONDS
        while self._suspects or (self._child is None and time.monotonic() < until):
            await self._prolong()
            await asyncio.sleep(pause)

    async def _prolong(self) -> None:
        waiting = [
            number
            for number, execution in self._running.items()
            if execution.invoke.kind is not Kind.API and (self._child is None or self._waits(number))
        ]
        await asyncio.gather(*(self._asked(Call(0, number, frames.HEARTBEAT, {})) for number in waiting))

    def _mourn(self, child: Child) -> None:
        """End what the worker was executing, but for what the next one is to execute again."""
        ends = []
        executing = [number for number in self._running if not self._waits(number)]
        if not self._killed and len(executing) > 1:
            self._suspects = random.sample(executing, len(executing))
        for number in executing:
            execution = self._running[number]
            if execution.cancelled is not None:
                ends.append(_cancelled(execution))
            elif not self._killed and len(executing) == 1:
                text = f"expected a worker that executes the handler to its end, found one that {child.fate}"
                ends.append(End(execution.invoke.id, Outcome.FAILED, failure=Failure("WorkerDied", text)))
        self._end(ends)

    def _end(self, ends: Sequence[End]) -> None:
        suspect = self._suspects[:1]
        for end in ends:
            self._running.pop(end.invocation, None)
        self._suspects = [number for number in self._suspects if number in self._running]
        if suspect and suspect != self._suspects[:1] and self._child is not None:
            self._send_next(self._child)
        if ends:
            self._peer.ended(ends)

    def _waits(self, invocation: int) -> bool:
        """Whether a suspect is to be executed before it."""
        return bool(self._suspects) and invocation != self._suspects[0]

    def _send_next(self, child: Child) -> None:
        """What may be executed now: one suspect, or everything."""
        chosen = self._suspects[:1] or list(self._running)
        child.send([self._running[number].invoke for number in chosen])

    def _received(self, child: Child, burst: Sequence[Call | End]) -> None:
        ends = []
        for frame in burst:
            match frame:
                case Call():
                    self._tasks.spawn(self._answer(child, frame))
                case End():
                    ends.append(frame)
        self._end(ends)

    async def _answer(self, child: Child, call: Call) -> None:
        try:
            child.send([await self._asked(call)])
        except Exception as error:
            log.exception("The worker's question, %s, cannot be answered", call.method, extra=self._fields)
            child.send([Reply(call.id, error=f"{type(error).__name__}: {error}")])

    async def _asked(self, call: Call) -> Reply:
        reply = await self._peer.call(call)
        execution = self._running.get(call.invocation)
        if execution is not None and call.method == frames.HEARTBEAT and reply.error is None:
            execution.prolong(reply.result)
        return reply

    def _overstayed(self, invocation: int) -> None:
        execution = self._running.get(invocation)
        if execution is None or self._child is None or self._closed:
            return
        invoke = execution.invoke
        log.error(
            "The handler goes on %g s after it was cancelled; its worker is killed",
            GRACE,
            extra={**self._fields, "run": invoke.run, "attempt": invoke.attempt, "trace": invoke.trace_id},
        )
        self._killed = True
        self._child.kill()

    @property
    def _fields(self) -> dict[str, object]:
        return {"app": self._binding.app, "step": self._binding.step}


def _monotonic(deadline: float) -> float:
    """A Unix time that was worked out just now, by the clock that nobody sets."""
    return time.monotonic() + deadline - time.time()


def _cancelled(execution: _Execution) -> End:
    reason = execution.cancelled or "cancelled"
    return End(execution.invoke.id, Outcome.CANCELLED, failure=Failure("Timeout", reason))


def _pauses() -> itertools.chain[float]:
    """Seconds before each next start: none, then twice as long each time."""
    growing = itertools.takewhile(lambda pause: pause < LONGEST_PAUSE, (0.1 * 2**power for power in itertools.count()))
    return itertools.chain([0.0], growing, itertools.repeat(LONGEST_PAUSE))
