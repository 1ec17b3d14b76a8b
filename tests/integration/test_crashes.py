"""Events that end the process which executes them: they come to an end themselves, and take nobody along."""

from __future__ import annotations

import json

import pytest

from bema.contract.steps import Isolation
from bema.ports import subscriptions
from tests.support import waits
from tests.support.runtimes import App

EVENTS = 8
GUILTY = 5
BATCH = ', "batch": {"size": 20, "timeoutSeconds": 0.3}'
STEP = """
import asyncio, os
config = {"triggers": [{"event": {"topics": ["e"]%(batch)s}}],
          "retry": {"maxAttempts": %(attempts)d, "initialSeconds": 0.05, "maxSeconds": 0.05}}
async def handler(found, ctx):
    for number in found if isinstance(found, list) else [found]:
        await asyncio.sleep(0.05)
        if number == %(guilty)d:
            os._exit(3)
        await ctx.state.append("done", "all", number)
"""


async def _emit_all(app: App) -> None:
    for number in range(EVENTS):
        await app.emit("e", number)


async def _only_one_is_dead(app: App, *, timeout: float) -> str:
    """Until all others are done; the reason of its dead letter."""

    async def ended() -> bool:
        letters, done = await app.dead_letters(), await app.state("done", "all") or []
        return len(letters) + len(done) == EVENTS

    await waits.until(ended, "the end of every run", timeout=timeout, explain=app.explain)
    assert sorted(await app.state("done", "all")) == [number for number in range(EVENTS) if number != GUILTY]
    [letter] = await app.dead_letters()
    assert letter.data == b"%d" % GUILTY
    assert json.loads(letter.headers["Bema-Errors"])[-1]["type"]
    return letter.headers["Bema-Reason"]


@pytest.mark.parametrize("batch", ["", BATCH], ids=["one by one", "in batches"])
@pytest.mark.parametrize("attempts", [1, 2])
async def test_an_event_that_ends_its_runtime_again_and_again_is_undeliverable_alone(
    start_app, batch: str, attempts: int
) -> None:
    app = await start_app(
        {"steps/crash_step.py": STEP % {"batch": batch, "attempts": attempts, "guilty": GUILTY}}, workers=0
    )
    [binding] = app.bindings
    assert binding.consumer is not None
    quick = binding.consumer.model_copy(update={"ack_wait_seconds": 1.0})
    app.bindings = [binding.model_copy(update={"consumer": quick})]
    await subscriptions.ensure(app.js, app.bindings[0])
    app.spawn()
    await _emit_all(app)
    for _ in range(2 + attempts):
        assert await app.worker.wait_exit(30) == 3
        app.spawn()
    assert await _only_one_is_dead(app, timeout=30) == "Undeliverable"
    assert app.worker.process.poll() is None


@pytest.mark.parametrize("batch", ["", BATCH], ids=["one by one", "in batches"])
@pytest.mark.parametrize("attempts", [1, 2])
async def test_an_event_that_ends_its_worker_costs_the_others_no_attempt(start_app, batch: str, attempts: int) -> None:
    app = await start_app(
        {"steps/crash_step.py": STEP % {"batch": batch, "attempts": attempts, "guilty": GUILTY}},
        isolation=Isolation.PROCESS,
    )
    await _emit_all(app)
    assert await _only_one_is_dead(app, timeout=40) == "AttemptsExhausted"


REFUSING = """
from bema import NonRetryable
config = {"triggers": [{"event": {"topics": ["e"]%(batch)s}}], "retry": {"maxAttempts": 1, "initialSeconds": 0.05}}
async def handler(numbers, ctx):
    for number in numbers:
        if number == %(guilty)d:
            raise NonRetryable("not this one")
        await ctx.state.append("done", "all", number)
"""


async def test_a_batch_that_fails_as_a_whole_is_no_attempt_of_its_items(start_app) -> None:
    app = await start_app({"steps/refuse_step.py": REFUSING % {"batch": BATCH, "guilty": GUILTY}})
    await _emit_all(app)
    assert await _only_one_is_dead(app, timeout=20) == "NonRetryable"
