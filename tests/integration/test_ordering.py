"""Ordered triggers: events of one key one after the other, over workers that come and go, and through failures."""

from __future__ import annotations

import asyncio
import collections
import json
import os
import random
import signal
from pathlib import Path
from typing import Any

import pytest

from bema.contract import bindings, names
from bema.ports import dead_letters
from bema.ports.dead_letters import Place
from bench import ordering
from tests.support import keyed, waits
from tests.support.keyed import Sender

SEED = int(os.environ.get("BEMA_ORDER_SEED", "11"))
EVENTS = int(os.environ.get("BEMA_ORDER_EVENTS", "5000"))

NOTED = """
import asyncio, json, time
config = {{"triggers": [{{"event": {{"topics": ["work"], "ordering": {{}}}}}}], "concurrency": {concurrency},
          "retry": {{"maxAttempts": 3, "backoff": "Fixed", "initialSeconds": {pause}, "maxSeconds": 60, "jitter": 0}}}}
def note(what, data, ctx):
    with open({file!r}, "a") as out:
        out.write(json.dumps([what, data["key"], data["n"], ctx.attempt, time.time()]) + "\\n")
async def handler(data, ctx):
    note("begin", data, ctx)
    await asyncio.sleep(data.get("takes", 0))
    if ctx.attempt <= data.get("fails", 0):
        raise RuntimeError("not yet")
    note("end", data, ctx)
    await ctx.state.append("seen", data["key"], data["n"])
"""


def noted(folder: Path, *, concurrency: int = 16, pause: float = 0.2) -> tuple[dict[str, str], Path]:
    """A Step that writes down when it begins and ends, and where."""
    file = folder / "notes"
    file.touch()
    return {"steps/work_step.py": NOTED.format(file=str(file), concurrency=concurrency, pause=pause)}, file


def notes(file: Path, what: str = "begin") -> list[tuple[str, int, int, float]]:
    """Key, number, attempt and time of each note."""
    found = [json.loads(line) for line in file.read_text().splitlines()]
    return [(key, n, attempt, at) for kind, key, n, attempt, at in found if kind == what]


def keys_of(*partitions: int) -> list[str]:
    """A key for each of the partitions."""
    keys = (f"k{number}" for number in range(1000))
    first = {names.partition(key, bindings.PARTITIONS): key for key in reversed(list(keys))}
    return [first[partition] for partition in partitions]


async def emit(app: Any, key: str, n: int, **more: object) -> None:
    await app.emit("work", {"key": key, "n": n, **more}, id=f"{key}.{n}", key=key)


@pytest.mark.parametrize("workers", [pytest.param(1, id="one worker"), pytest.param(3, id="three workers")])
async def test_events_of_a_key_are_committed_once_and_in_their_order(start_app, workers: int) -> None:
    app = await start_app({"steps/work_step.py": keyed.STEP}, workers=workers)
    shares = await keyed.wait_shared(app, "work", workers=app.workers)
    assert shares == ([8] if workers == 1 else [3, 3, 2])
    sender = Sender(app, keys=40, chance=random.Random(SEED))
    await sender.send(1200)
    await keyed.wait_done(app, timeout=90)
    await keyed.verify(app, sender.sent)
    handled = collections.Counter([(await app.state("last", key))["pid"] for key in sender.sent])
    assert handled.keys() == {worker.process.pid for worker in app.workers}, "everybody had a part"
    assert await app.dead_letters() == []


async def test_the_order_stays_while_members_join_and_leave_in_every_way(tmp_path: Path) -> None:
    await ordering.run(tmp_path, events=EVENTS, keys=100, workers=2, memory=False, seed=SEED, pause=2.5)


@pytest.mark.parametrize(
    "how", [pytest.param(signal.SIGTERM, id="drains"), pytest.param(signal.SIGKILL, id="is killed")]
)
async def test_the_others_take_over_from_a_member_that(start_app, how: signal.Signals) -> None:
    app = await start_app({"steps/work_step.py": keyed.STEP}, workers=2)
    await keyed.wait_shared(app, "work", workers=app.workers)
    sender = Sender(app, keys=40)
    await sender.send(400)
    app.worker.stop(how)
    await sender.send(400)
    await keyed.wait_shared(app, "work", workers=app.workers[:1])
    await keyed.wait_done(app, timeout=60)
    await keyed.verify(app, sender.sent)


async def test_a_member_that_was_stopped_and_goes_on_changes_nothing_that_others_did_meanwhile(
    start_app, tmp_path: Path
) -> None:
    files, file = noted(tmp_path)
    app = await start_app(files, workers=2)
    await keyed.wait_shared(app, "work", workers=app.workers)
    keys = keys_of(*range(bindings.PARTITIONS))
    for key in keys:
        await emit(app, key, 0, takes=1.5)
    await waits.until(lambda: len(notes(file)) == len(keys), "a run in each partition", explain=app.explain)
    stopped = app.worker
    stopped.stop(signal.SIGSTOP)
    for n in range(1, 20):
        for key in keys:
            await emit(app, key, n)
    await keyed.wait_done(app, timeout=60)
    wanted = collections.Counter(dict.fromkeys(keys, 20))
    await keyed.verify(app, wanted)
    again = len(notes(file))
    assert again > 20 * len(keys), "what was in its hands was executed by the other"
    stopped.stop(signal.SIGCONT)
    await keyed.wait_shared(app, "work", workers=app.workers)
    await waits.until(lambda: stopped.metrics()['bema_runs_in_flight{app="shop",step="work"}'] == 0, "its runs' end")
    for key in keys:
        await emit(app, key, 20)
    await keyed.wait_done(app, timeout=30)
    await keyed.verify(app, collections.Counter(dict.fromkeys(keys, 21)))


async def test_a_failing_key_holds_its_partition_for_its_retries_and_no_other(start_app, tmp_path: Path) -> None:
    files, file = noted(tmp_path, concurrency=1, pause=1)
    app = await start_app(files)
    await keyed.wait_shared(app, "work", workers=app.workers)
    failing, other = keys_of(3, 5)
    await emit(app, failing, 0, fails=9)
    await waits.until(lambda: notes(file), "the first attempt", explain=app.explain)
    for n in range(1, 4):
        await emit(app, failing, n, fails=1 if n == 2 else 0)
    for n in range(3):
        await emit(app, other, n)
    await keyed.wait_done(app, timeout=60)

    begun = [(n, attempt) for key, n, attempt, _ in notes(file) if key == failing]
    assert begun == [(0, 1), (0, 2), (0, 3), (1, 1), (2, 1), (2, 2), (3, 1)]
    assert await app.state("seen", failing) == [1, 2, 3]
    assert await app.state("seen", other) == [0, 1, 2]
    [letter] = await app.dead_letters()
    assert [error["attempt"] for error in json.loads(letter.headers["Bema-Errors"])] == [1, 2, 3]
    assert await app.messages(f"{app.root}.retry.>") == [], "nothing was scheduled"
    others = [at for key, _, _, at in notes(file, "end") if key == other]
    third = next(at for key, n, attempt, at in notes(file) if (key, n, attempt) == (failing, 0, 3))
    assert max(others) < third, "another partition went on meanwhile, though only one run executes at once"


async def test_a_dead_letter_of_an_ordered_step_is_redriven(start_app, tmp_path: Path) -> None:
    files, _ = noted(tmp_path, pause=0.05)
    app = await start_app(files)
    [key] = keys_of(4)
    await emit(app, key, 0, fails=9)
    await waits.until(app.dead_letters, "the dead letter", explain=app.explain)
    place = Place(app.stream, app.root)
    [summary] = (await dead_letters.page(app.js, place)).items
    letter = await dead_letters.find(app.js, place, summary.run)
    assert letter is not None
    await dead_letters.redrive(app.js, place, letter, data=json.dumps({"key": key, "n": 7}).encode())
    await app.wait_state("seen", key, [7])


async def test_events_without_a_key_are_in_order_among_themselves(start_app, tmp_path: Path) -> None:
    files, _ = noted(tmp_path)
    app = await start_app(files, workers=2)
    for n in range(100):
        await app.emit("work", {"key": "none", "n": n, "fails": n % 20 == 3})
    await keyed.wait_done(app, timeout=60)
    assert await app.state("seen", "none") == list(range(100))


CONTENDING = """
import asyncio
config = {"triggers": [{"event": {"topics": ["work"], "ordering": {}}}]}
async def handler(data, ctx):
    total = await ctx.state.get("totals", "all", 0)
    await asyncio.sleep(0.002)
    await ctx.state.set("totals", "all", total + 1)
    await ctx.state.append("seen", data["key"], data["n"])
    assert ctx.attempt == 1, "a conflict is no attempt"
"""


async def test_conflicts_between_partitions_are_resolved_in_place(start_app) -> None:
    app = await start_app({"steps/work_step.py": CONTENDING}, workers=2)
    await keyed.wait_shared(app, "work", workers=app.workers)
    sender = Sender(app, keys=32)
    await sender.send(320)
    await keyed.wait_done(app, timeout=90)
    await keyed.verify(app, sender.sent)
    assert await app.state("totals", "all") == 320
    assert sum(w.metrics()['bema_conflicts_total{app="shop",step="work"}'] for w in app.workers) > 0
    assert await app.messages(f"{app.root}.retry.>") == [], "nothing was scheduled"
    assert await app.dead_letters() == []


async def test_as_many_partitions_execute_at_once_as_the_step_says(start_app, tmp_path: Path) -> None:
    files, file = noted(tmp_path, concurrency=2)
    app = await start_app(files)
    await keyed.wait_shared(app, "work", workers=app.workers)
    keys = keys_of(*range(bindings.PARTITIONS))
    for n in range(2):
        for key in keys:
            await emit(app, key, n, takes=0.05)
    await keyed.wait_done(app, timeout=60)
    await keyed.verify(app, collections.Counter(dict.fromkeys(keys, 2)))
    lines = [json.loads(line)[0] for line in file.read_text().splitlines()]
    at_once = [lines[: n + 1].count("begin") - lines[: n + 1].count("end") for n in range(len(lines))]
    assert max(at_once) == 2


async def test_a_process_that_stops_gives_back_at_once_what_waits_for_its_next_attempt(
    start_app, tmp_path: Path
) -> None:
    files, file = noted(tmp_path, pause=60)
    app = await start_app(files, drain_seconds=30)
    [key] = keys_of(2)
    await emit(app, key, 0, fails=1)
    await emit(app, key, 1)
    await waits.until(lambda: notes(file), "the first attempt", explain=app.explain)
    await waits.until(lambda: "trying again" in app.worker.output, "the back-off", explain=app.explain)
    began = asyncio.get_running_loop().time()
    app.worker.stop()
    assert await app.worker.wait_exit() == 0
    assert asyncio.get_running_loop().time() - began < 10, "it did not wait out the drain"
    # The next holder counts from 1: the event fails once more, and only that
    app.spawn()
    await waits.until(lambda: len(notes(file)) == 2, "the first attempt of the next holder", explain=app.explain)
    assert [note[:3] for note in notes(file)] == [(key, 0, 1), (key, 0, 1)]
