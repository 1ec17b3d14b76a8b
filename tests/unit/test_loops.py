"""The loop of the handlers: an exit that no run can be told ends the process, whatever it says of itself."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from bema_runtime import loops
from bema_runtime.loops import HandlerLoop


class Silent:
    """Has no text."""

    def __repr__(self) -> str:
        raise KeyboardInterrupt("no text")


@pytest.fixture
def lost() -> threading.Event:
    return threading.Event()


@pytest.fixture
def handlers(lost: threading.Event) -> Iterator[HandlerLoop]:
    loop = HandlerLoop(lost.set)
    loop.start()
    yield loop
    loop.close()


def exits(reason: object) -> Callable[[], None]:
    return lambda: sys.exit(reason)  # type: ignore[arg-type]


def test_an_exit_whose_reason_has_no_text_is_told(
    handlers: HandlerLoop, lost: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    handlers.loop.call_soon_threadsafe(exits(Silent()))
    assert lost.wait(10)
    [record] = [record for record in caplog.records if record.levelno == logging.CRITICAL]
    assert "with SystemExit((its text cannot be made)), and no run can be told" in record.getMessage()


def test_an_exit_ends_the_process_also_where_it_cannot_be_logged(
    handlers: HandlerLoop, lost: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(record: logging.LogRecord) -> bool:
        raise KeyboardInterrupt("no log")

    monkeypatch.setattr(loops.log, "filters", [refuse])
    handlers.loop.call_soon_threadsafe(exits(2))
    assert lost.wait(10)


@dataclass
class Execution:
    has_tasks: bool = False
    left: list[asyncio.Task[Any]] = field(default_factory=list)
    log_fields: dict[str, object] = field(default_factory=dict)


def test_the_exit_of_a_task_that_ends_with_its_handler_is_not_overlooked(
    handlers: HandlerLoop, lost: threading.Event
) -> None:
    kept = []

    async def library(woken: asyncio.Future[None]) -> None:
        # The handler goes on before anybody is told how this has ended
        woken.set_result(None)
        sys.exit(2)

    async def handler() -> None:
        execution = Execution()
        loops.own(execution)
        woken = asyncio.get_running_loop().create_future()
        kept.append(asyncio.create_task(library(woken)))
        await woken
        assert execution.has_tasks
        assert execution.left == []
        # As its invoker does: what leaves a task ends the process
        with pytest.raises(SystemExit):
            await loops.check_left(execution)

    asyncio.run_coroutine_threadsafe(handler(), handlers.loop).result(10)
    assert not lost.is_set()
