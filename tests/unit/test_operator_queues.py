"""The queue: once in line, once at work, and back after a failure. No test sleeps: time is a number."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

import pytest

from bema.clusters.errors import KubeError
from bema_operator import queues
from bema_operator.facts import Key

A, B, C = (Key("shop", name) for name in "abc")


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def workers(work: Callable[[Key], Awaitable[float | None]], clock: Clock, count: int = 2) -> queues.Workers:
    return queues.Workers(queues.Queue(), work, count=count, clock=clock)


def test_a_key_is_once_in_line_and_the_oldest_comes_first() -> None:
    queue = queues.Queue()
    for key in (B, A, B, A):
        queue.add(key, 0)
    assert [queue.take(0), queue.take(0), queue.take(0)] == [B, A, None]


def test_a_key_that_is_added_while_at_work_comes_back_once() -> None:
    queue = queues.Queue()
    queue.add(A, 0)
    assert queue.take(0) == A
    queue.add(A, 1)
    queue.add(A, 1)
    assert queue.take(1) is None
    queue.done(A, 2)
    assert queue.take(2) == A
    queue.done(A, 2)
    assert queue.take(2) is None


def test_failures_wait_longer_and_longer_and_success_forgets_them() -> None:
    queue = queues.Queue()
    waits = []
    now = 0.0
    for _ in range(10):
        queue.add(A, now)
        assert queue.take(now) == A
        waits.append(queue.failed(A, now))
    assert waits == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300]
    queue.add(A, now)
    queue.take(now)
    queue.done(A, now)
    queue.add(A, now)
    queue.take(now)
    assert queue.failed(A, now) == 1


def test_a_failed_key_comes_back_when_it_is_due() -> None:
    queue = queues.Queue()
    queue.add(A, 0)
    queue.take(0)
    queue.failed(A, 0)
    assert queue.next_due() == 1
    assert [queue.take(0.9), queue.take(1)] == [None, A]


def test_news_bring_a_failed_key_back_at_once() -> None:
    queue = queues.Queue()
    queue.add(A, 0)
    queue.take(0)
    queue.add(A, 0)
    queue.failed(A, 0)
    assert queue.take(0) == A
    queue.done(A, 0)
    assert queue.take(2) is None


def test_the_earliest_of_several_times_counts() -> None:
    queue = queues.Queue()
    for due in (9, 5, 7):
        queue.add_later(A, due)
    assert [queue.take(4), queue.take(5)] == [None, A]
    queue.done(A, 5)
    assert queue.take(99) is None


def test_what_is_forgotten_does_not_come_back() -> None:
    queue = queues.Queue()
    queue.add_later(A, 5)
    queue.forget(A)
    assert (queue.next_due(), queue.take(9)) == (None, None)


def test_age_is_of_the_head_or_of_the_longest_work() -> None:
    queue = queues.Queue()
    assert queue.age(10) == 0
    queue.add(A, 10)
    queue.add(B, 12)
    assert queue.age(13) == 3
    queue.take(13)
    assert queue.age(20) == 8
    queue.take(20)
    assert queue.age(20) == 7


async def test_run_until_idle_works_off_what_is_due_and_leaves_the_rest() -> None:
    clock, seen = Clock(), []

    async def work(key: Key) -> float | None:
        seen.append(key)
        if seen == [A]:
            runner.add(B)
        return 5.0 if key == B else None

    runner = workers(work, clock)
    runner.add(A)
    await runner.run_until_idle()
    assert seen == [A, B]
    clock.now += 5
    await runner.run_until_idle()
    assert seen == [A, B, B]


async def test_a_failure_is_told_with_the_step_and_without_a_traceback_if_it_was_expected(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def work(key: Key) -> float | None:
        raise KubeError("nobody answers") if key == A else ValueError("a defect")

    runner = workers(work, Clock())
    runner.add(A)
    runner.add(B)
    await runner.run_until_idle()
    expected, defect = caplog.records
    assert expected.getMessage() == "Could not reconcile (nobody answers); trying again in 1 s"
    assert (expected.levelno, expected.exc_info, expected.__dict__["step"]) == (logging.WARNING, None, "a")
    assert defect.levelno == logging.ERROR
    assert defect.exc_info is not None


async def test_keys_are_worked_on_at_the_same_time_but_no_key_twice_and_not_too_many() -> None:
    started: asyncio.Queue[Key] = asyncio.Queue()
    go_on = asyncio.Event()

    async def work(key: Key) -> None:
        started.put_nowait(key)
        await go_on.wait()

    runner = workers(work, Clock(), count=2)
    running = asyncio.create_task(runner.run())
    for key in (A, B, A, C):
        runner.add(key)
    first = {await started.get(), await started.get()}
    runner.add(A)
    await asyncio.sleep(0)
    assert first == {A, B}
    assert started.empty()
    go_on.set()
    rest = [await started.get(), await started.get()]
    assert rest == [C, A]
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


@pytest.mark.parametrize(
    ("overdue", "expected"),
    [(queues.LONGEST_OVERDUE - 1, [C, A]), (queues.LONGEST_OVERDUE, [A, C])],
    ids=["news come first", "not when a second look has waited for long"],
)
def test_second_looks_give_way_to_news_for_a_while(overdue: float, expected: list[Key]) -> None:
    now = 5 + overdue
    queue = queues.Queue()
    queue.add_later(A, 5)
    queue.add(B, now)
    assert queue.take(now) == B
    queue.add(C, now)
    assert [queue.take(now), queue.take(now)] == expected
