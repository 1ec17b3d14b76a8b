"""The event loop of the handlers, in a thread of its own, that goes on whatever their tasks do.

A `SystemExit` or a `KeyboardInterrupt` in a task stops a loop, by asyncio's design: the task's waiters are told once
the loop runs again. Here it does, at once. A handler that waits for such a task gets its exception; a run whose task
nobody waited for has failed all the same; what is no run's ends the process.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import threading
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Any, Protocol

import uvloop

from bema_runtime import texts

log = logging.getLogger(__name__)


class Owner(Protocol):
    """An execution of a handler, to whom the tasks belong that it makes."""

    has_tasks: bool
    """Whether it has made any."""
    left: list[asyncio.Task[Any]]
    """Those that have stopped the loop."""

    @property
    def log_fields(self) -> Mapping[str, object]: ...


_owner: ContextVar[Owner | None] = ContextVar("owner", default=None)


def own(owner: Owner) -> None:
    """Tasks that the current one makes from now on, and those that these make, are the owner's."""
    _owner.set(owner)


async def check_left(owner: Owner) -> None:
    """Raises the exit of a task that nobody has waited for: its run would go on as if nothing had happened. To be asked
    of an owner that has tasks."""
    # One that ended just before its handler is told of in the loop's next round
    await asyncio.sleep(0)
    for task in owner.left:
        # Nothing public tells a result that was asked for from one that was not
        if task._log_traceback and (error := task.exception()) is not None:
            raise error


class HandlerLoop:
    """`lost` is called, on the loop's thread, when an exit cannot be told to any run."""

    def __init__(self, lost: Callable[[], None]) -> None:
        self._lost = lost
        self._closed = False
        self._told: list[BaseException] = []
        """Exits of runs, until the loop that they stop goes on."""
        self._thread = threading.Thread(target=self._run, name="handlers", daemon=True)
        self.loop = uvloop.new_event_loop()
        self.loop.set_task_factory(self._new_task)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._closed = True
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(timeout=5)

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        while not self._closed:
            try:
                self.loop.run_forever()
            except (SystemExit, KeyboardInterrupt) as error:
                # After the callbacks of the task, if it was one
                self.loop.call_soon(self._check_told, error)
            except BaseException:
                log.critical("The loop of the handlers cannot go on; this process ends", exc_info=True)
                self._lost()
            else:
                if not self._closed:
                    log.error("Somebody has stopped the loop of the handlers; it goes on")

    def _new_task(self, loop: asyncio.AbstractEventLoop, coro: Any, **more: Any) -> asyncio.Task[Any]:
        task = asyncio.Task(coro, loop=loop, **more)
        owner = _owner.get()
        if owner is not None:
            owner.has_tasks = True
            task.add_done_callback(functools.partial(self._done, owner))
        return task

    def _done(self, owner: Owner, task: asyncio.Task[Any]) -> None:
        error = task._exception  # to ask for it by `exception()` would be taken for somebody who was told
        if not isinstance(error, SystemExit | KeyboardInterrupt):
            return
        self._told.append(error)
        owner.left.append(task)
        log.error(
            "A task of the handler has left with %s, which stops the loop of the handlers; it goes on",
            _text(error),
            exc_info=error,
            extra=dict(owner.log_fields),
        )

    def _check_told(self, error: BaseException) -> None:
        told, self._told = self._told, []
        if any(one is error for one in told):
            return
        try:
            log.critical(
                "A callback has left the loop of the handlers with %s, and no run can be told; this process ends",
                _text(error),
                exc_info=error,
            )
        finally:
            self._lost()


def _text(error: BaseException) -> str:
    return f"{type(error).__name__}({', '.join(texts.made(repr, each) for each in error.args)})"
