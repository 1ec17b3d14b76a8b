"""Events that end the process which executes them: they come to an end themselves, and take nobody along."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bema.contract import names
from bema.contract.bindings import PARTITIONS
from bema.contract.steps import Isolation
from bema.ports import subscriptions
from bema.ports.jetstream import Outgoing
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


async def _deliver_again_soon(app: App) -> None:
    """What a process that is gone had in hand comes to the next one after a second."""
    [binding] = app.bindings
    quick = {"ack_wait_seconds": 1.0}
    update: dict[str, object] = {}
    if binding.consumer is not None:
        update["consumer"] = binding.consumer.model_copy(update=quick)
    if binding.ordered is not None:
        partitions = [consumer.model_copy(update=quick) for consumer in binding.ordered.consumers]
        update["ordered"] = binding.ordered.model_copy(update={"consumers": partitions})
    app.bindings = [binding.model_copy(update=update)]
    await subscriptions.ensure(app.js, app.bindings[0])


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
    await _deliver_again_soon(app)
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


LONG = """
import asyncio
from pathlib import Path
config = {"triggers": [{"event": {"topics": ["e"]%(how)s}}], "concurrency": 8, "retry": {"maxAttempts": 1}}
async def handler(found, ctx):
    print("BEGIN", flush=True)
    while not Path(%(calm)r).exists():
        await asyncio.sleep(0.02)
    await ctx.state.append("done", "all", found)
"""
DRAINS = 4


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        pytest.param("", [1, 2], id="one by one"),
        pytest.param(', "ordering": {}', [1, 2], id="in order"),
        pytest.param(', "batch": {"size": 1}', [[1], [2]], id="in batches"),
    ],
)
async def test_no_number_of_drains_makes_a_run_a_suspect(start_app, tmp_path: Path, how: str, expected: list) -> None:
    calm = tmp_path / "calm"
    app = await start_app({"steps/long_step.py": LONG % {"how": how, "calm": str(calm)}}, workers=0, drain_seconds=0.1)
    [binding] = app.bindings
    app.bindings = [binding.model_copy(update={"limits": binding.limits.model_copy(update={"extra_deliveries": 0})})]
    keys = [f"k{number}" for number in range(20)]
    other = next(key for key in keys if names.partition(key, PARTITIONS) != names.partition(keys[0], PARTITIONS))
    await app.emit("e", 1, key=keys[0])
    await app.emit("e", 2, key=other)
    for drain in range(1, DRAINS + 1):
        app.spawn()
        what = f"both runs beside each other, before drain {drain}"
        await waits.until(lambda: app.worker.output.count("BEGIN") == 2, what, explain=app.explain)
        app.worker.stop()
        assert await app.worker.wait_exit() == 0
    assert await app.messages(f"{app.root}.meta.suspect.>") == []
    calm.touch()
    app.spawn()

    async def done() -> bool:
        return sorted(await app.state("done", "all") or []) == expected

    await waits.until(done, "the end of both runs", explain=app.explain)
    assert await app.dead_letters() == []


BUSY = """
import asyncio, os
from pathlib import Path
config = {"triggers": [{"event": {"topics": ["e"]%(how)s}}], "retry": {"maxAttempts": 1}}
calm = Path(%(calm)r)
async def handler(data, ctx):
    if not calm.exists():
        os._exit(3)
    found = await ctx.state.get("g", "hot", 0)
    print("READ", flush=True)
    turn = int(calm.read_text())
    while int(calm.read_text() or turn) == turn:
        await asyncio.sleep(0.01)
    await ctx.state.set("g", "hot", found)
    await ctx.state.set("g", "done", True)
"""


@pytest.mark.parametrize("how", ["", ', "ordering": {}'], ids=["in any order", "in order"])
async def test_a_suspect_that_meets_conflicts_ends_no_process_by_that(start_app, tmp_path: Path, how: str) -> None:
    """However often it is executed again, in its place or not, it is one execution by itself that has not ended."""
    calm = tmp_path / "calm"
    app = await start_app({"steps/busy_step.py": BUSY % {"how": how, "calm": str(calm)}}, workers=0)
    await _deliver_again_soon(app)
    app.spawn()
    await app.emit("e", 1, key="k")
    for _ in range(2):
        assert await app.worker.wait_exit(30) == 3
        app.spawn()
    calm.write_text("0")
    conflicts = 2 * (app.bindings[0].limits.conflicts + 1)
    for turn in range(1, conflicts + 2):
        what = f"execution {turn}, after a conflict in each before"
        await waits.until(lambda turn=turn: app.worker.output.count("READ") == turn, what, explain=app.explain)
        if turn <= conflicts:
            await app.js.publish(Outgoing(names.state(app.root, "g", "hot"), b"1"))
        calm.write_text(str(turn))
    await app.wait_state("g", "done", True)
    assert await app.dead_letters() == []

    async def taken_back() -> bool:
        [note] = await app.messages(f"{app.root}.meta.suspect.>")
        return [one.partition(b"-")[0] for one in note.data.split()] == [b"beside"]

    await waits.until(taken_back, "a note of the second process alone", explain=app.explain)
