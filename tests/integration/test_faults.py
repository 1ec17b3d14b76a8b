"""What goes wrong between a runtime and its broker, and what must be true all the same."""

from __future__ import annotations

import asyncio
import datetime
import json
import signal
import time

import pytest

from bema.contract import names
from bema.ports import admin
from bema.ports.jetstream import Outgoing
from tests.support import skews, waits
from tests.support.brokers import NatsServer
from tests.support.proxies import Proxy

RELAY = """
config = {"triggers": [{"event": {"topics": ["a"]}}], "emits": ["b"], "concurrency": 8}
async def handler(data, ctx):
    await ctx.state.increment("runs", "total")
    await ctx.state.set("by", str(data["n"]), ctx.run_id)
    await ctx.emit("b", data)
    ctx.logger.info("ran %s", data["n"])
"""


def ran(app) -> int:  # type: ignore[no-untyped-def]
    return sum(line["message"].startswith("ran ") for worker in app.workers for line in worker.lines)


async def test_an_event_that_comes_twice_takes_effect_once(start_app) -> None:
    app = await start_app({"steps/relay_step.py": RELAY})
    for _ in range(3):
        await app.emit("a", {"n": 1}, id="same")
    await app.emit("a", {"n": 2}, id="other")
    await waits.until(lambda: app.state("by", "2"), "the last event", explain=app.explain)
    await app.wait_idle()
    assert await app.state("runs", "total") == 2
    # Those that came together met in the process's hands; one that comes after the end meets the marker
    await app.emit("a", {"n": 1}, id="same")
    await app.wait_idle()
    assert await app.state("runs", "total") == 2
    assert len(await app.events("b")) == 2


async def test_two_producers_may_use_the_same_id(start_app) -> None:
    app = await start_app({"steps/relay_step.py": RELAY})
    for source in ("/one", "/other", "/one"):
        headers = {"ce-id": "1", "ce-type": "a", "ce-source": source}
        await app.connection.publish(f"{app.root}.evt.live.0.a", b'{"n": 1}', headers)

    async def both() -> bool:
        return await app.state("runs", "total") == 2

    await waits.until(both, "one run for each source", explain=app.explain)
    await app.wait_idle()
    assert await app.state("runs", "total") == 2


FAILING = """
config = {"triggers": [{"event": {"topics": ["a"]}}], "retry": {"maxAttempts": 3, "initialSeconds": 300}}
async def handler(data, ctx):
    ctx.logger.info("begun")
    raise RuntimeError("again")
"""


async def test_an_attempt_whose_ack_was_cut_off_is_not_made_twice(start_app, proxy: Proxy) -> None:
    """Its event comes again, but the next attempt is scheduled already."""
    app = await start_app({"steps/failing_step.py": FAILING}, nats_url=proxy.url)
    proxy.cut_at(b"+ACK", before=True)
    await app.emit("a", {})
    await waits.until(lambda: proxy.cuts == 1, "the cut", explain=app.explain)

    async def settled() -> bool:
        states = await admin.consumer_states(app.js, app.stream)
        return states["failing"].backlog == 0

    await waits.until(settled, "the event, delivered again, to be settled", timeout=25, explain=app.explain)
    assert begun(app) == 1
    assert len(await app.messages(f"{app.root}.timer.>")) == 1


@pytest.mark.parametrize("before", [True, False], ids=["the commit never arrived", "the commit was stored"])
async def test_a_commit_whose_answer_was_cut_off_takes_effect_once(start_app, proxy: Proxy, before: bool) -> None:
    app = await start_app({"steps/relay_step.py": RELAY}, nats_url=proxy.url)
    proxy.cut_at(b"Nats-Batch-Commit", before=before)
    await app.emit("a", {"n": 1})
    await waits.until(lambda: app.state("by", "1"), "the effect", explain=app.explain)
    await waits.until(lambda: proxy.cuts == 1, "the cut")
    await app.wait_idle(timeout=25)
    assert await app.state("runs", "total") == 1
    assert len(await app.events("b")) == 1
    assert len(await app.messages(f"{app.root}.end.>")) == 1
    assert ran(app) == 1, "the run was in hand all the time: nothing had to be executed again"


PUT_OFF = """
config = {"triggers": [{"event": {"topics": ["do"]}}], "emits": ["later"]}
async def handler(data, ctx):
    await ctx.timers.cancel("quiet")
    await ctx.emit("later", 1, id="quiet", delay=data)
    await ctx.state.increment("done", "count")
"""


async def test_a_timer_is_put_off_also_by_a_commit_that_is_sent_again(start_app, proxy: Proxy) -> None:
    """The leader is asked what became of the first one, and tells that the timer's id is in use: by what is put off."""
    app = await start_app({"steps/put_off_step.py": PUT_OFF}, nats_url=proxy.url)
    await app.emit("do", 3600)
    await app.wait_state("done", "count", 1)
    proxy.cut_at(b"Nats-Batch-Commit", before=True)
    await app.emit("do", 7200)
    await app.wait_state("done", "count", 2, timeout=30)
    assert proxy.cuts == 1
    stored = await app.js.get_last(app.stream, names.timer(app.root, "quiet"))
    due = datetime.datetime.fromisoformat(stored.headers["Nats-Schedule"].removeprefix("@at ")).timestamp()
    assert 7140 < due - time.time() < 7260


async def test_every_commit_cut_off_now_and_then_still_adds_up(start_app, proxy: Proxy) -> None:
    app = await start_app({"steps/relay_step.py": RELAY}, nats_url=proxy.url)
    for round in range(4):
        proxy.cut_at(b"Nats-Batch-Commit", before=bool(round % 2))
        for number in range(25):
            await app.emit("a", {"n": round * 25 + number})
        await waits.until(lambda n=round: proxy.cuts == n + 1, f"cut {round + 1}", explain=app.explain)
    await app.wait_state("runs", "total", 100, timeout=40)
    await app.wait_idle(timeout=25)
    assert len(await app.events("b")) == 100
    assert await app.state("runs", "total") == 100


async def test_a_killed_worker_loses_and_doubles_nothing(start_app) -> None:
    app = await start_app({"steps/relay_step.py": RELAY}, workers=2)
    for number in range(200):
        await app.emit("a", {"n": number})
    await waits.until(lambda: app.state("runs", "total"), "the first commits", explain=app.explain)
    app.workers[0].stop(signal.SIGKILL)
    await app.wait_state("runs", "total", 200, timeout=40)
    await app.wait_idle(timeout=30)
    assert len(await app.events("b")) == 200


SLOW = """
import asyncio
config = {"triggers": [{"event": {"topics": ["a"]}}], "concurrency": 4, "timeoutSeconds": %s,
          "retry": {"maxAttempts": 2, "initialSeconds": 0.05}}
async def handler(data, ctx):
    ctx.logger.info("begun")
    if ctx.attempt == 1:
        await asyncio.sleep(%s)
    await ctx.state.set("slow", str(data["n"]), ctx.attempt)
"""


def begun(app) -> int:  # type: ignore[no-untyped-def]
    return sum(line["message"] == "begun" for worker in app.workers for line in worker.lines)


async def test_sigterm_lets_runs_end_and_takes_no_more(start_app) -> None:
    app = await start_app({"steps/slow_step.py": SLOW % (30, 1)})
    for number in range(8):
        await app.emit("a", {"n": number})
    await waits.until(lambda: begun(app) == 4, "four begun runs", explain=app.explain)
    app.worker.stop(signal.SIGTERM)
    assert await app.worker.wait_exit() == 0
    assert [await app.state("slow", str(n)) for n in range(8)] == [1, 1, 1, 1, None, None, None, None]
    await app.spawn().wait_ready()
    await app.wait_state("slow", "7", 1, timeout=5)
    assert begun(app) == 8


async def test_what_does_not_end_within_the_drain_is_given_back(start_app) -> None:
    app = await start_app({"steps/slow_step.py": SLOW % (60, 30)}, drain_seconds=0.3, workers=2)
    await app.emit("a", {"n": 1})
    await waits.until(lambda: begun(app) == 1, "a begun run", explain=app.explain)
    [holder] = [worker for worker in app.workers if any(line["message"] == "begun" for line in worker.lines)]
    holder.stop(signal.SIGTERM)
    assert await holder.wait_exit(5) == 0
    assert await app.state("slow", "1") is None
    # The broker alone would notice after ten seconds without a heartbeat
    await waits.until(lambda: begun(app) == 2, "the run begun again at once", timeout=5, explain=app.explain)


FIRST_FAILS = """
config = {"triggers": [{"event": {"topics": ["a"]}}], "retry": {"maxAttempts": 9, "initialSeconds": 0.5}}
async def handler(data, ctx):
    ctx.logger.info("begun")
    if ctx.attempt == 1:
        raise RuntimeError("not yet")
    await ctx.state.increment("done", "n")
"""


async def test_an_event_whose_ack_was_lost_is_not_begun_again(start_app, proxy: Proxy) -> None:
    app = await start_app({"steps/first_step.py": FIRST_FAILS}, nats_url=proxy.url)
    proxy.cut_at(b"+ACK", before=True)
    await app.emit("a", {})
    await app.wait_state("done", "n", 1)
    await waits.until(lambda: proxy.cuts == 1, "the cut")
    await app.wait_idle(timeout=30)
    assert begun(app) == 2, "the failed attempt and the next one: the event came again, and its end was known"
    assert await app.state("done", "n") == 1


async def test_an_attempt_past_its_timeout_is_cancelled_and_retried(start_app) -> None:
    app = await start_app({"steps/slow_step.py": SLOW % (0.5, 30)})
    await app.emit("a", {"n": 1})
    await app.wait_state("slow", "1", 2)
    assert begun(app) == 2


STUCK = """
import time
config = {"triggers": [{"event": {"topics": ["a"]}}], "timeoutSeconds": 0.5, "retry": {"maxAttempts": 1}}
async def handler(data, ctx):
    ctx.logger.info("begun")
    if (await ctx.state.get("stuck", "off")) is None:
        time.sleep(60)
    await ctx.state.set("stuck", "done", 1)
"""


async def test_a_handler_that_blocks_and_cannot_be_cancelled_ends_its_process(start_app) -> None:
    app = await start_app({"steps/stuck_step.py": STUCK})
    await app.emit("a", {})
    await waits.until(lambda: begun(app) == 1, "a begun run", explain=app.explain)
    assert await app.worker.wait_exit(20) == 70
    assert "gives itself up" in app.worker.output
    states = await waits.until(lambda: _consumer(app), "the consumer")
    assert states.unacked == 1


PATIENT = """
import asyncio, pathlib
config = {"triggers": [{"event": {"topics": ["long"]}}], "timeoutSeconds": 60, "retry": {"maxAttempts": 1}}
async def handler(gate, ctx):
    ctx.logger.info("begun")
    while not pathlib.Path(gate).exists():
        await asyncio.sleep(0.02)
    await ctx.state.set("patient", "done", 1)
"""
SHORT = """
import asyncio
config = {"triggers": [{"event": {"topics": ["short"]}}], "timeoutSeconds": 1, "retry": {"maxAttempts": 1}}
async def handler(data, ctx):
    await asyncio.sleep(600)
"""


async def test_a_clock_that_is_set_ends_no_attempt(start_app, tmp_path) -> None:
    app = await start_app({"steps/patient_step.py": PATIENT, "steps/short_step.py": SHORT}, workers=0)
    gate, jump = tmp_path / "gate", tmp_path / "jump"
    worker = app.spawn(env={skews.JUMP: str(jump)}, module="tests.support.skews")
    await worker.wait_ready()
    await app.emit("long", str(gate))
    await waits.until(lambda: begun(app) == 1, "a begun run", explain=app.explain)
    jump.write_text("3600")
    await app.emit("short", 1)
    await waits.until(app.dead_letters, "the end of an attempt whose time is over", explain=app.explain)
    gate.touch()
    await app.wait_state("patient", "done", 1)
    [letter] = await app.dead_letters()
    assert names.dead_letter_of(app.root, letter.subject)[0] == "short"
    seconds = worker.metrics()['bema_attempt_seconds_sum{app="shop",step="patient"}']
    assert seconds < 60, "how long it took is no matter of the clock either"


async def _consumer(app):  # type: ignore[no-untyped-def]
    return (await admin.consumer_states(app.js, app.stream))["stuck"]


async def test_a_handler_that_blocks_for_longer_than_the_ack_wait_runs_once(start_app) -> None:
    blocking = STUCK.replace("0.5", "60").replace("time.sleep(60)", "time.sleep(11)")
    app = await start_app({"steps/stuck_step.py": blocking})
    await app.emit("a", {})
    await app.wait_state("stuck", "done", 1, timeout=20)
    await app.wait_idle()
    assert begun(app) == 1, "heartbeats come from a thread of their own"


async def test_nats_away_at_the_start_and_in_the_middle(start_app, nats: NatsServer) -> None:
    app = await start_app({"steps/relay_step.py": RELAY, "steps/get_step.py": GET})
    for number in range(20):
        await app.emit("a", {"n": number})
    await app.wait_state("runs", "total", 20)
    nats.stop()
    late = app.spawn(only=["relay"])
    await waits.until(lambda: "no connection to NATS" in app.workers[0].readiness()[1], "unreadiness, said why")
    await waits.until(lambda: late.readiness()[0] == 503, "the late worker's answer")
    asked = asyncio.create_task(asyncio.to_thread(app.request, "POST", "/bump"))
    nats.start()
    status, body, _ = await asked
    assert status == 200, body
    for number in range(20, 40):
        await waits.until(lambda n=number: _emitted(app, n), "an accepted event")
    await app.wait_state("runs", "total", 40, timeout=20)
    await late.wait_ready()
    await app.wait_idle(timeout=30)
    assert len(await app.events("b")) == 40


GET = """
config = {"triggers": [{"api": {"method": "POST", "path": "/bump"}}]}
async def handler(request, ctx):
    return {"n": await ctx.state.increment_and_get("bumps", "n")}
"""


async def _emitted(app, number: int) -> bool:  # type: ignore[no-untyped-def]
    from bema.contract import errors

    try:
        await app.emit("a", {"n": number}, id=f"late{number}")
    except errors.BrokerError:
        return False
    return True


async def test_a_poison_event_cannot_loop(start_app) -> None:
    app = await start_app({"steps/relay_step.py": RELAY})
    await app.emit("a", b"\xff\xfe not json")
    [letter] = await waits.until(app.dead_letters, "the dead letter", explain=app.explain)
    assert letter.headers["Bema-Reason"] == "Invalid"
    assert json.loads(letter.headers["Bema-Errors"])[0]["attempt"] == 1
    await app.wait_idle()


async def test_a_retry_that_comes_before_its_timer_is_gone_is_made(start_app) -> None:
    """The broker stores what a timer sends, and removes the timer a moment later."""
    app = await start_app({"steps/add_step.py": ADD_ONCE})
    timer = {"Nats-Schedule": "@at 2100-01-01T00:00:00Z", "Nats-Schedule-Target": names.retry(app.root, "add", "r1")}
    await app.js.publish(Outgoing(names.retry_timer(app.root, "add", "r1"), b"1", timer))
    headers = {"Bema-Run": "r1", "Bema-Attempt": "2", "ce-id": "e1", "ce-type": "add"}
    await app.js.publish(Outgoing(names.retry(app.root, "add", "r1"), b"1", headers))
    await app.wait_state("sum", "n", 1)


ADD_ONCE = """
config = {"triggers": [{"event": {"topics": ["add"]}}]}
async def handler(data, ctx):
    assert ctx.attempt == 2
    await ctx.state.increment("sum", "n", data)
"""
