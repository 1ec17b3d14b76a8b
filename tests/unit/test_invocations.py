"""Executions of handlers in this process: what they leave behind."""

from __future__ import annotations

import gc
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from bema.contract import bindings
from bema.contract.bindings import Broker, Installation, Owner
from bema.contract.frames import Call, End, Invoke, Outcome, Reply
from bema.contract.steps import Step
from bema.contract.triggers import Kind
from bema_runtime.invokers import PythonInvoker
from tests.support import units, waits

HANDLER = """
import asyncio
async def handler(data, ctx):
    await asyncio.gather(ctx.state.increment("g", "k"), asyncio.create_task(ctx.emit("order.paid", data)))
"""
RUNS = 50


class Listener:
    """What the invoker says, heard in the test."""

    def __init__(self) -> None:
        self.outcomes: list[Outcome] = []

    async def call(self, call: Call) -> Reply:
        return Reply(call.id, error="nobody is asked here")

    def ended(self, ends: Sequence[End]) -> None:
        self.outcomes.extend(end.outcome for end in ends)


async def test_runs_leave_nothing_to_the_garbage_collector(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "steps").mkdir()
    (tmp_path / "steps/pay_step.py").write_text(HANDLER)
    installation = Installation(broker=Broker(urls=["nats://nats"]), folder=str(tmp_path))
    step = Step(name="pay", spec=units.SPEC)  # type: ignore[arg-type]
    invoker, listener = PythonInvoker([bindings.bind(step, Owner(namespace="shop"), installation)]), Listener()
    await invoker.start(listener)

    async def execute(first: int) -> None:
        before = len(listener.outcomes)
        more = {"headers": {}, "trace_id": "t", "span_id": "s", "deadline": time.time() + 30}
        runs = [Invoke(first + n, "pay", Kind.EVENT, f"r{n}", 1, b"1", 0, "a", "e", **more) for n in range(RUNS)]  # type: ignore[arg-type]
        invoker.invoke(runs)
        await waits.until(lambda: len(listener.outcomes) == before + RUNS, "the ends of all runs", timeout=20)

    try:
        await execute(0)
        gc.collect()
        gc.disable()
        await execute(RUNS)
        assert gc.collect() < RUNS, "every run leaves a circle"
        assert set(listener.outcomes) == {Outcome.OK}
    finally:
        gc.enable()
        invoker.close()
