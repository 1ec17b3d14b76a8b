"""What users and foreign producers do that no example does: the worker goes on, and nothing is lost or doubled."""

from __future__ import annotations

import asyncio
import datetime
import json
import os
import signal
import socket
from typing import Any

from bema.contract import names
from bema.ports import admin
from bema.ports.jetstream import Outgoing
from tests.support import waits
from tests.support.brokers import NatsServer

ODD = """
from bema import RetryAfter
config = {"triggers": [{"event": {"topics": ["a"]}}], "concurrency": 1, "retry": {"maxAttempts": 1}}
class Odd(Exception):
    def __str__(self):
        raise RuntimeError("no text")
class Leaving(Exception):
    def __str__(self):
        raise SystemExit(2)
class Busy(RetryAfter):
    def __init__(self, who):
        self.who = who
def handler(data, ctx):
    match data:
        case "str":
            raise Odd()
        case "leaving":
            raise Leaving()
        case "subclass":
            raise Busy("them")
        case "surrogate":
            raise ValueError("\\ud800")
        case "stop":
            next(iter([]))
        case "exit":
            raise SystemExit(3)
        case "long":
            raise ValueError("ä" * 5000)
    ctx.state.set("seen", "last", data)
"""


KINDS = {
    "str": "Odd",
    "leaving": "Leaving",
    "subclass": "TimeInvalid",
    "surrogate": "ValueError",
    "stop": "RuntimeError",
    "exit": "SystemExit",
    "long": "ValueError",
}


async def test_whatever_a_handler_raises_becomes_a_dead_letter(start_app) -> None:
    app = await start_app({"steps/odd_step.py": ODD})
    for case in KINDS:
        await app.emit("a", case, id=case)
        await app.emit("a", f"after {case}")
        await app.wait_state("seen", "last", f"after {case}")
    letters = await app.wait_dead(len(KINDS))
    assert {case: [entry["type"] for entry in entries] for case, entries in letters.items()} == {
        case: [kind] for case, kind in KINDS.items()
    }
    await app.wait_idle()


LATER = """
from bema import RetryAfter
config = {"triggers": [{"event": {"topics": ["a"]}}], "concurrency": 1, "retry": {"maxAttempts": 2}}
async def handler(data, ctx):
    if data == "later":
        raise RetryAfter(float("inf"))
    await ctx.state.set("seen", "last", data)
"""


async def test_a_retry_after_for_ever_holds_no_place(start_app) -> None:
    app = await start_app({"steps/later_step.py": LATER})
    await app.emit("a", "later")
    await app.emit("a", "fine")
    await app.wait_state("seen", "last", "fine")
    [timer] = await waits.until(lambda: app.messages(f"{app.root}.timer.>"), "the schedule", explain=app.explain)
    due = datetime.datetime.fromisoformat(timer.headers["Nats-Schedule"].removeprefix("@at "))
    assert due - datetime.datetime.now(datetime.UTC) > datetime.timedelta(days=365)


REFUSED = """
from bema import operations
config = {"triggers": [{"event": {"topics": ["a"]}}], "emits": ["b"], "retry": {"maxAttempts": 1}}
async def handler(data, ctx):
    match data:
        case "number for a key":
            await ctx.emit("b", {}, key=5)
        case "key that is no Unicode":
            await ctx.emit("b", {}, key="\\ud800")
        case "huge header":
            await ctx.emit("b", {}, headers={"x": "a" * 70_000})
        case "huge key":
            await ctx.emit("b", {}, key="k" * 70_000)
        case "number for a state key":
            await ctx.state.set("g", 5, 1)
        case "overflow":
            await ctx.state.increment("g", "n", 2**63)
            await ctx.state.increment("g", "n", 2**63)
            await ctx.state.increment("g", "n", 2**63)
        case "no JSON":
            await ctx.state.increment("g", "foreign")
        case "large":
            await ctx.state.update("g", "large", operations.append("x" * 500_000), operations.append("x" * 700_000))
        case _:
            await ctx.state.set("fine", data, 1)
"""
CASES = {
    "number for a key": "NameInvalid",
    "key that is no Unicode": "NameInvalid",
    "huge header": "PayloadTooLarge",
    "huge key": "PayloadTooLarge",
    "number for a state key": "NameInvalid",
    "overflow": "PayloadInvalid",
    "no JSON": "PayloadInvalid",
    "large": "PayloadInvalid",
}


async def test_an_effect_that_cannot_be_written_fails_its_own_run_alone(start_app) -> None:
    app = await start_app({"steps/bad_step.py": REFUSED})
    await app.js.publish(Outgoing(names.state(app.root, "g", "foreign"), b"not json"))
    for number, case in enumerate(CASES, start=1):
        around = [f"before {case}", f"after {case}"]
        await asyncio.gather(*(app.emit("a", data, id=data) for data in (around[0], case, around[1])))
        for key in around:
            await app.wait_state("fine", key, 1)
        await app.wait_dead(number)
    letters = await app.wait_dead(len(CASES))
    assert {case: entry["type"] for case, [entry] in letters.items()} == CASES
    await app.wait_idle()


GROWING = """
from bema import operations
config = {"triggers": [{"event": {"topics": ["a"]}}], "retry": {"maxAttempts": 1}}
async def handler(data, ctx):
    if data == "grow":
        await ctx.state.update("log", "all", operations.append("x" * 400_000))
    else:
        await ctx.state.set("fine", data, 1)
"""


async def test_a_value_that_grew_too_large_stops_nobody_else(start_app) -> None:
    app = await start_app({"steps/grow_step.py": GROWING})
    for _ in range(3):
        await app.emit("a", "grow")
    await app.emit("a", "x")
    await app.wait_state("fine", "x", 1)
    await waits.until(app.dead_letters, "the dead letters", explain=app.explain)
    await app.wait_idle()


PICKY = """
config = {"triggers": [{"event": {"topics": ["a"]}}], "concurrency": 2,
          "retry": {"maxAttempts": 2, "initialSeconds": 0.05}}
async def handler(data, ctx):
    if isinstance(data, str):
        raise ValueError("no")
    await ctx.state.set("fine", "n", data)
"""


async def test_a_foreign_event_as_large_as_the_server_takes_stops_nobody(start_app) -> None:
    app = await start_app({"steps/picky_step.py": PICKY})
    await app.connection.publish(names.event(app.root, "a"), json.dumps("x" * (1024 * 1024 - 2)).encode())
    await app.emit("a", 1)
    await app.wait_state("fine", "n", 1)
    await waits.until(app.dead_letters, "the dead letter", explain=app.explain)
    await app.wait_idle()


async def test_a_foreign_event_with_as_many_headers_as_the_server_takes_stops_nobody(start_app) -> None:
    app = await start_app({"steps/picky_step.py": PICKY})
    headers = {"X-Grüße": "Schöne", "X-Large": "a" * 65_300}
    await app.js.publish(Outgoing(names.event(app.root, "a"), b'"x"', headers))
    await app.emit("a", 1)
    await app.wait_state("fine", "n", 1)
    await waits.until(app.dead_letters, "the dead letter", explain=app.explain)
    await app.wait_idle()


async def test_a_consumer_made_again_is_bound_without_an_event(start_app) -> None:
    app = await start_app({"steps/picky_step.py": PICKY})
    consumer = app.bindings[0].consumer
    await admin.delete_consumer(app.js, app.stream, consumer.durable)
    await waits.until(lambda: app.worker.readiness()[0] == 503, "unreadiness", explain=app.explain)
    await admin.ensure_consumer(app.js, app.stream, consumer)
    await waits.until(lambda: app.worker.readiness()[0] == 200, "readiness", explain=app.explain)
    await app.emit("a", 7)
    await app.wait_state("fine", "n", 7)


BLOCKED = """
import asyncio, time
config = {"triggers": [{"event": {"topics": ["a"]}}], "timeoutSeconds": 1,
          "retry": {"maxAttempts": 3, "initialSeconds": 0.05}}
async def handler(data, ctx):
    if data == "block" and ctx.attempt == 1:
        await asyncio.sleep(0.2)
        time.sleep(4)
    await ctx.state.set("done", data, ctx.attempt)
"""


async def test_runs_that_time_out_before_they_begin_are_tried_again(start_app) -> None:
    app = await start_app({"steps/blocked_step.py": BLOCKED})
    await app.emit("a", "block")
    await waits.until(lambda: _in_hand(app, 1), "the blocking run")
    await asyncio.sleep(0.4)
    await app.emit("a", "behind")
    await app.wait_state("done", "behind", 2, timeout=9)
    await app.wait_idle(timeout=15)
    assert app.worker.process.poll() is None


async def _in_hand(app: Any, count: int) -> bool:
    return all(state.unacked == count for state in (await admin.consumer_states(app.js, app.stream)).values())


SLOW_REPORT = """
import asyncio
config = {"triggers": [{"cron": {"schedule": "* * * * *"}}]}
async def handler(data, ctx):
    ctx.logger.info("begun")
    await asyncio.sleep(20)
"""


async def test_a_job_that_is_told_to_stop_has_not_succeeded(start_app) -> None:
    app = await start_app({"steps/report_step.py": SLOW_REPORT}, workers=0, drain_seconds=0.2)
    worker = app.spawn(once=True)
    await waits.until(lambda: "begun" in worker.output, "the run", explain=app.explain)
    worker.stop(signal.SIGTERM)
    assert await worker.wait_exit() != 0


ANSWERS = """
from bema import Response
config = {"triggers": [{"api": {"method": "POST", "path": "/{what}"}}], "timeoutSeconds": 1, "concurrency": 1}
async def handler(request, ctx):
    await ctx.state.increment("calls", request.path_params["what"])
    match request.path_params["what"]:
        case "split":
            return Response("x", headers={"x-a": "1\\r\\nset-cookie: stolen=1"})
        case "unicode":
            return Response("x", headers={"x-a": "☃"})
        case "length":
            return Response("hello", headers={"content-length": "2"})
        case "empty":
            return 204, {"a": 1}
        case "nan":
            return {"a": float("nan")}
"""


async def test_a_header_that_http_cannot_carry_is_an_error_and_commits_nothing(start_app) -> None:
    app = await start_app({"steps/answers_step.py": ANSWERS})
    for what in ("split", "unicode", "length"):
        status, _, headers = app.request("POST", f"/{what}")
        assert (what, status, headers["content-type"]) == (what, 500, "application/problem+json")
        assert "set-cookie" not in headers
        assert await app.state("calls", what) is None


async def test_an_answer_that_has_no_body_is_whole(start_app) -> None:
    app = await start_app({"steps/answers_step.py": ANSWERS})
    assert app.request("POST", "/empty")[:2] == (204, "")
    assert app.request("POST", "/other")[:2] == (204, "")
    assert "Exception" not in app.worker.output


async def test_a_body_that_never_comes_holds_no_place(start_app) -> None:
    app = await start_app({"steps/answers_step.py": ANSWERS})
    with socket.create_connection(("127.0.0.1", app.http_port)) as client:
        client.sendall(b"POST /slow HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n")
        await waits.until(lambda: app.request("POST", "/other")[0] == 503, "the only place taken")
        await waits.until(lambda: app.request("POST", "/other")[0] == 204, "a free place", timeout=5)


CONTENDED = """
import asyncio
config = {"triggers": [{"api": {"method": "POST", "path": "/{who}/{seconds}"}}], "timeoutSeconds": 3}
async def handler(request, ctx):
    who = request.path_params["who"]
    n = await ctx.state.get("hot", "n", 0)
    ctx.logger.info("begun by %s", who)
    await asyncio.sleep(float(request.path_params["seconds"]))
    await ctx.state.set("hot", who, 1)
    await ctx.state.set("hot", "n", n + 1)
"""


async def test_a_request_past_its_time_is_not_begun_again(start_app) -> None:
    """One waits for its turn after a conflict, behind one that is slow, when its time is over."""
    app = await start_app({"steps/slow_step.py": CONTENDED})

    def ask(who: str, seconds: float) -> asyncio.Task[tuple[int, Any, dict[str, str]]]:
        return asyncio.create_task(asyncio.to_thread(app.request, "POST", f"/{who}/{seconds}"))

    async def begun(who: str, times: int = 1) -> None:
        await waits.until(lambda: app.worker.output.count(f"begun by {who}") == times, f"{who} begun", timeout=3)

    # Its conflict comes 2.3 s after its begin, its end 3 s after it; whoever is slow must hold the turn in between
    late = ask("late", 2.3)
    await begun("late")
    first = ask("first", 0.5)
    await begun("first")
    await app.js.publish(Outgoing(names.state(app.root, "hot", "n"), b"5"))
    assert (await first)[0] == 204
    slow = ask("slow", 2.6)
    await begun("slow")
    assert (await late)[0] == 504
    assert (await slow)[0] == 204
    assert (await ask("last", 0))[0] == 204, "whoever waited has had its turn"
    assert app.worker.output.count("begun by late") == 1
    assert await app.state("hot", "late") is None


WRAPPED = """
import functools
config = {"triggers": [{"event": {"topics": ["a"]}}], "retry": {"maxAttempts": 1}}
def logged(function):
    @functools.wraps(function)
    def wrapper(*arguments):
        return function(*arguments)
    return wrapper
@logged
async def handler(data, ctx):
    await ctx.state.set("seen", "last", data)
"""


async def test_a_wrapped_async_handler_is_awaited(start_app) -> None:
    app = await start_app({"steps/wrapped_step.py": WRAPPED})
    await app.emit("a", 1)
    await app.wait_state("seen", "last", 1)


LAZY = """
config = {"triggers": [{"event": {"topics": ["a"]}}], "retry": {"maxAttempts": 1}}
async def inner(data, ctx):
    await ctx.state.set("seen", "last", data)
handler = lambda data, ctx: inner(data, ctx)
"""


async def test_a_handler_that_gives_back_work_undone_has_failed(start_app) -> None:
    app = await start_app({"steps/lazy_step.py": LAZY})
    await app.emit("a", 1)
    [letter] = await waits.until(app.dead_letters, "the dead letter", explain=app.explain)
    assert "coroutine" in json.loads(letter.headers["Bema-Errors"])[0]["message"]


UNFINISHED = """
import asyncio
config = {"triggers": [{"api": {"method": "POST", "path": "/{who}/{seconds}"}}]}
left = []
async def handler(request, ctx):
    who = request.path_params["who"]
    ctx.logger.info("begun by %s", who)
    if who == "leaves":
        left.append(asyncio.create_task(ctx.state.get("hot", "n")))
        await asyncio.sleep(0.05)
        return
    n = await ctx.state.get("hot", "n", 0)
    await asyncio.sleep(float(request.path_params["seconds"]))
    await ctx.state.set("hot", "n", n + 1)
"""


async def test_a_read_that_nobody_waits_for_blocks_no_lane(start_app) -> None:
    app = await start_app({"steps/hot_step.py": UNFINISHED})

    def ask(who: str, seconds: float) -> asyncio.Task[tuple[int, Any, dict[str, str]]]:
        return asyncio.create_task(asyncio.to_thread(app.request, "POST", f"/{who}/{seconds}"))

    async def begun(who: str) -> None:
        await waits.until(lambda: f"begun by {who}" in app.worker.output, f"{who} begun", timeout=3)

    first = ask("first", 0.2)
    await begun("first")
    await app.js.publish(Outgoing(names.state(app.root, "hot", "n"), b"5"))
    assert (await first)[0] == 204
    slow = ask("slow", 0.4)
    await begun("slow")
    assert (await ask("leaves", 0))[0] == 204, "it ends while its read waits for the slow one's turn"
    assert (await slow)[0] == 204
    clock = asyncio.get_running_loop().time
    began = clock()
    assert (await ask("last", 0))[0] == 204
    assert clock() - began < 0.5, "a turn that nobody gives back costs the patience of everybody after"
    assert await app.state("hot", "n") == 8


STATUS = """
config = {"triggers": [{"event": {"topics": ["a"]}}], "emits": ["b"]}
async def handler(data, ctx):
    await ctx.emit("b", data, headers={"Status": "503", "Description": "mine"})
"""


async def test_a_users_header_named_status_is_no_answer_of_the_server(start_app) -> None:
    app = await start_app({"steps/status_step.py": STATUS})
    await app.emit("a", 1)
    await app.wait_idle()
    [event] = await app.events("b")
    assert (event.data, event.headers["Status"]) == (b"1", "503")


async def test_a_broker_that_does_not_answer_keeps_nobody_from_leaving(start_app, nats: NatsServer) -> None:
    app = await start_app({"steps/picky_step.py": PICKY}, drain_seconds=1)
    os.kill(nats.pid, signal.SIGSTOP)
    try:
        app.worker.stop(signal.SIGTERM)
        await app.worker.wait_exit(9)
    finally:
        os.kill(nats.pid, signal.SIGCONT)


OFTEN = """
config = {"triggers": [{"event": {"topics": ["a"]}}], "retry": {"maxAttempts": 3, "initialSeconds": 0, "jitter": 0}}
async def handler(data, ctx):
    if ctx.attempt < 3:
        raise RuntimeError("again")
    await ctx.state.increment("done", "n")
"""


async def test_a_thousand_retries_at_once_are_each_made(start_app) -> None:
    app = await start_app({"steps/often_step.py": OFTEN}, workers=2)
    for number in range(500):
        await app.emit("a", number)
    await app.wait_state("done", "n", 500, timeout=40)
    await app.wait_idle()
    assert await app.dead_letters() == []


COUNT = """
config = {"triggers": [{"event": {"topics": ["a"]}}]}
async def handler(data, ctx):
    await ctx.state.increment("count", "n")
"""


async def test_a_consumer_made_again_from_the_beginning_doubles_nothing(start_app) -> None:
    app = await start_app({"steps/count_step.py": COUNT})
    for number in range(30):
        await app.emit("a", number)
    await app.wait_state("count", "n", 30)
    consumer = app.bindings[0].consumer
    await admin.delete_consumer(app.js, app.stream, consumer.durable)
    await admin.ensure_consumer(app.js, app.stream, consumer)
    await app.emit("a", "new")
    await app.wait_state("count", "n", 31)
    await app.wait_idle()
    assert await app.state("count", "n") == 31


async def test_a_stream_made_again_is_used_again(start_app) -> None:
    app = await start_app({"steps/count_step.py": COUNT})
    await app.emit("a", 1)
    await app.wait_state("count", "n", 1)
    binding = app.bindings[0]
    await admin.delete_stream(app.js, binding.stream)
    await waits.until(lambda: app.worker.readiness()[0] == 503, "unreadiness", explain=app.explain)
    await admin.ensure_stream(app.js, binding.stream)
    await admin.ensure_consumer(app.js, app.stream, binding.consumer)
    await app.emit("a", 1)
    await app.wait_state("count", "n", 1)
    await waits.until(lambda: app.worker.readiness()[0] == 200, "readiness", explain=app.explain)


ORDERS = """
config = {"triggers": [{"api": {"method": "POST", "path": "/orders/{id}"}}]}
async def handler(request, ctx):
    await ctx.state.set("orders", request.path_params["id"], 1)
    await ctx.state.increment("count", "n")
    return 201, {}
"""


async def test_what_was_answered_before_a_stop_is_there_and_nothing_else_was_cut_off(start_app) -> None:
    app = await start_app({"steps/orders_step.py": ORDERS}, drain_seconds=5)
    answers: dict[str, int] = {}

    async def ask(client: int) -> None:
        for number in range(10_000):
            name = f"{client}-{number}"
            try:
                answers[name] = (await asyncio.to_thread(app.request, "POST", f"/orders/{name}"))[0]
            except OSError:
                return

    asking = [asyncio.create_task(ask(client)) for client in range(6)]
    await waits.until(lambda: len(answers) > 30, "the first answers")
    app.worker.stop(signal.SIGTERM)
    await asyncio.gather(*asking)
    assert await app.worker.wait_exit() == 0
    assert set(answers.values()) <= {201, 503}
    answered = {name for name, status in answers.items() if status == 201}
    stored = {names.state_of(app.root, m.subject)[1] for m in await app.messages(f"{app.root}.state.orders.>")}
    assert answered == stored, "whatever took effect was answered, and the other way round"
    assert await app.state("count", "n") == len(stored)
