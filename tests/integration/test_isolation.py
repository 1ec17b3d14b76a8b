"""Steps with `isolation: Process`: what holds in a thread holds in a worker process too, and what only that can do."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from bema.contract.frames import Call, Cancel, End, Invoke, Outcome, Reply
from bema.contract.triggers import Kind
from bema.ports.jetstream import Outgoing
from bema_runtime import process_invokers
from tests.support import skews, waits
from tests.support.runtimes import App

PROCESS = '"isolation": "Process"'


def workers(app: App) -> list[int]:
    """The processes that the newest runtime has started."""
    pid = app.worker.process.pid
    return [int(text) for text in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False


def said(app: App, message: str) -> int:
    return sum(line["message"] == message for line in app.worker.lines)


EVERYTHING = """
from bema import operations
config = {"triggers": [{"event": {"topics": ["a"]}}], "emits": ["b"], %s, "timeoutSeconds": 30}
async def handler(data, ctx):
    s = ctx.state
    before = ctx.deadline
    await ctx.heartbeat()
    assert ctx.deadline >= before
    assert await s.get("g", "stored") == {"n": 1.0}
    item = await s.item("g", "stored")
    await s.set("g", "stored", {"n": 2}, if_revision=item.revision)
    await s.increment("g", "blind", 2)
    await s.update("g", "merged", operations.merge({"s": {"a", "a"}}))
    assert await s.increment_and_get("g", "count", 5) == 5
    assert [i.key for i in await s.list("g")] == ["stored", "blind", "merged", "count"]
    assert await s.groups() == ["g"]
    await ctx.emit("b", {"pid": __import__("os").getpid()}, key="k", headers={"own": "h"})
    ctx.logger.info("ran", extra={"own": 1})
    print("printed")
"""


@pytest.mark.parametrize("isolation", ["Thread", "Process"])
async def test_a_run_asks_reads_and_commits_alike_in_a_thread_and_in_a_process(start_app, isolation: str) -> None:
    app = await start_app({"steps/all_step.py": EVERYTHING % f'"isolation": "{isolation}"'}, wait=False)
    await app.js.publish(Outgoing(f"{app.root}.state.g.stored", b'{"n": 1.0}'))
    await app.emit("a", {"id": "x"})
    [emitted] = await waits.until(lambda: app.events("b"), "the event", timeout=30, explain=app.explain)
    in_runtime = json.loads(emitted.data)["pid"] == app.worker.process.pid
    assert in_runtime == (isolation == "Thread")
    assert emitted.headers["ce-partitionkey"] == "k"
    assert emitted.headers["own"] == "h"
    assert await app.state("g", "stored") == {"n": 2}
    assert await app.state("g", "blind") == 2
    assert await app.state("g", "merged") == {"s": ["a"]}
    assert await app.state("g", "count") == 5
    [marker] = await app.messages(f"{app.root}.end.>")
    assert json.loads(marker.data)["outcome"] == "ok"
    [line] = [line for line in app.worker.lines if line["message"] == "ran"]
    assert (line["app"], line["step"], line["attempt"], line["own"]) == ("shop", "all", 1, 1)
    assert line["run"] == marker.subject.rpartition(".")[2]


COUNTER = """
import time
config = {"triggers": [{"event": {"topics": ["sold"]}}], %s, "concurrency": 8}
def handler(data, ctx):
    stock = ctx.state.get("stock", "apple", 100)
    time.sleep(0.002)
    ctx.state.set("stock", "apple", stock - 1)
"""


async def test_reads_are_guarded_across_two_runtimes_with_plain_handlers(start_app) -> None:
    app = await start_app({"steps/sell_step.py": COUNTER % PROCESS}, workers=2)
    for number in range(40):
        await app.emit("sold", {}, id=f"e{number}")
    await app.wait_state("stock", "apple", 60, timeout=40)
    await app.wait_idle(timeout=30)
    assert await app.dead_letters() == []
    metrics = [worker.metrics() for worker in app.workers]
    assert sum(m['bema_conflicts_total{app="shop",step="sell"}'] for m in metrics) > 0


LARGE = """
config = {"triggers": [{"event": {"topics": ["a"]}}], "emits": ["b"], %s}
async def handler(data, ctx):
    await ctx.state.set("g", "large", data)
    await ctx.emit("b", data)
    assert await ctx.state.get("g", "before") == data
"""


async def test_payloads_of_the_largest_size_go_through_and_come_back_as_they_were(start_app) -> None:
    app = await start_app({"steps/large_step.py": LARGE % PROCESS})
    body = json.dumps('"é\n' * 170_000)[: 768 * 1024 - 4]
    body = json.dumps(json.loads(body[: body.rindex('\\"')] + '"')).encode()
    assert 760 * 1024 < len(body) <= 768 * 1024
    await app.js.publish(Outgoing(f"{app.root}.state.g.before", body))
    await app.emit("a", body)
    [emitted] = await waits.until(lambda: app.events("b"), "the event", timeout=30, explain=app.explain)
    assert json.loads(emitted.data) == json.loads(body)
    assert await app.state("g", "large") == json.loads(body)


API = """
from bema import HttpError, Response
config = {"triggers": [{"api": {"method": "POST", "path": "/p/{id}"}}], %s}
def handler(request, ctx):
    match request.path_params["id"]:
        case "bytes":
            return Response(bytes(range(256)), headers={"x-own": "1"})
        case "refused":
            raise HttpError(418, "short", headers={"x-why": "stout"})
        case "gone":
            import os
            os._exit(3)
    ctx.state.set("posted", request.path_params["id"], request.body)
    return 201, {"body": request.body, "query": request.query_params}
"""


async def test_an_api_answers_from_its_process(start_app) -> None:
    app = await start_app({"steps/api_step.py": API % PROCESS})
    assert app.request("POST", "/p/x?q=1", {"a": 1})[:2] == (201, {"body": {"a": 1}, "query": {"q": "1"}})
    assert await app.state("posted", "x") == {"a": 1}
    status, _, headers = app.request("POST", "/p/refused", {})
    assert (status, headers["x-why"]) == (418, "stout")
    status, _, headers = app.request("POST", "/p/bytes", {})
    assert (status, headers["x-own"], headers["content-length"]) == (200, "1", "256")
    assert app.request("POST", "/p/gone", {})[0] == 500
    assert app.request("POST", "/p/after", {})[0] == 201, "what comes meanwhile waits for the next worker"
    assert app.request("POST", "/p/x", b"{broken")[0] == 400


DYING = """
import asyncio, ctypes, os
config = {"triggers": [{"event": {"topics": ["a"]}}], "emits": ["b"], %s,
          "retry": {"maxAttempts": 2, "initialSeconds": 0.05}}
async def handler(data, ctx):
    await ctx.emit("b", {"attempt": ctx.attempt})
    await ctx.state.increment("runs", "total")
    ctx.logger.info("begun")
    if ctx.attempt == 1 and data == "wait":
        await asyncio.sleep(60)
    if ctx.attempt == 1 and data == "exit":
        os._exit(7)
    if data == "crash":
        ctypes.string_at(0)
"""


async def test_a_worker_that_is_killed_fails_its_run_which_is_tried_again_and_takes_effect_once(start_app) -> None:
    app = await start_app({"steps/die_step.py": DYING % PROCESS})
    [worker] = workers(app)
    await app.emit("a", "wait")
    await waits.until(lambda: said(app, "begun") == 1, "the run", timeout=20, explain=app.explain)
    os.kill(worker, signal.SIGKILL)
    [emitted] = await waits.until(lambda: app.events("b"), "the event", timeout=30, explain=app.explain)
    assert json.loads(emitted.data) == {"attempt": 2}
    await app.wait_idle()
    assert await app.state("runs", "total") == 1
    [failed] = [line["message"] for line in app.worker.lines if line["message"].startswith("The handler failed")]
    expected = "WorkerDied: expected a worker that executes the handler to its end, found one that was ended by SIGKILL"
    assert expected in failed
    assert app.worker.process.poll() is None
    assert len(workers(app)) == 1
    assert workers(app) != [worker]


async def test_a_handler_that_leaves_its_process_is_a_failed_attempt_that_says_so(start_app) -> None:
    app = await start_app({"steps/die_step.py": DYING % PROCESS})
    await app.emit("a", "exit")
    await waits.until(lambda: app.events("b"), "the second attempt", timeout=30, explain=app.explain)
    assert "found one that ended with exit code 7" in app.worker.output
    await app.emit("a", "crash")
    [letter] = await waits.until(app.dead_letters, "the dead letter", timeout=30, explain=app.explain)
    history = json.loads(letter.headers["Bema-Errors"])
    assert [(entry["attempt"], entry["type"]) for entry in history] == [(1, "WorkerDied"), (2, "WorkerDied")]
    assert history[0]["message"].endswith("found one that was ended by SIGSEGV")
    await app.emit("a", "well")
    await app.wait_state("runs", "total", 2, timeout=30)


STUCK = """
import os, time
config = {"triggers": [{"event": {"topics": ["a"]}}], %s, "timeoutSeconds": 1, "concurrency": 4,
          "retry": {"maxAttempts": 1}}
%s handler(data, ctx):
    ctx.logger.info("begun " + data)
    if data == "stuck":
        while True:
            pass
    if data == "patient":
        while not os.path.exists("%s"):
            ctx.heartbeat()
            time.sleep(0.1)
        ctx.state.set("patient", "attempt", ctx.attempt)
"""
OTHER = """
config = {"triggers": [{"event": {"topics": ["other"]}}]}
async def handler(data, ctx):
    await ctx.state.increment("other", "total")
"""


@pytest.mark.parametrize("how", ["async def", "def"])
async def test_a_handler_that_cannot_be_stopped_costs_its_own_process_and_nobody_else(start_app, how: str) -> None:
    app = await start_app({"steps/stuck_step.py": STUCK % (PROCESS, how, "nowhere"), "steps/other_step.py": OTHER})
    [worker] = workers(app)
    await app.emit("a", "stuck")
    await waits.until(lambda: said(app, "begun stuck") == 1, "the stuck run", timeout=20, explain=app.explain)
    await app.emit("other", {})
    await app.wait_state("other", "total", 1, timeout=4)
    [letter] = await waits.until(app.dead_letters, "the dead letter", timeout=30, explain=app.explain)
    assert json.loads(letter.headers["Bema-Errors"])[0]["message"] == "timeout after 1 s"
    await waits.until(lambda: workers(app) not in ([], [worker]), "another worker", timeout=30, explain=app.explain)
    assert "gives itself up" not in app.worker.output
    assert app.worker.process.poll() is None
    assert not is_alive(worker)
    await app.emit("a", "well")
    await waits.until(lambda: said(app, "begun well") == 1, "the next run", timeout=20, explain=app.explain)
    await app.wait_idle()


async def test_a_run_beside_one_that_cannot_be_stopped_loses_no_attempt(start_app, tmp_path: Path) -> None:
    app = await start_app({"steps/stuck_step.py": STUCK % (PROCESS, "def", tmp_path / "go")})
    await app.emit("a", "patient")
    await app.emit("a", "stuck")
    await waits.until(lambda: said(app, "begun patient") == 2, "it begun again", timeout=40, explain=app.explain)
    (tmp_path / "go").touch()
    await app.wait_state("patient", "attempt", 1, timeout=20)
    assert [letter.data for letter in await app.dead_letters()] == [b'"stuck"']
    await app.wait_idle()


async def test_readiness_says_that_there_is_no_worker(start_app) -> None:
    source = DYING % PROCESS
    app = await start_app({"steps/die_step.py": source})
    [worker] = workers(app)
    (app.folder / "steps/die_step.py").write_text("raise RuntimeError('half-way')\n" + source)
    os.kill(worker, signal.SIGKILL)
    status, text = await waits.until(
        lambda: (found := app.worker.readiness())[0] == 503 and "half-way" in found[1] and found,
        "a readiness that says it",
        timeout=30,
        explain=app.explain,
    )
    assert status == 503
    assert "no worker of die" in text
    (app.folder / "steps/die_step.py").write_text(source)
    await app.worker.wait_ready()
    await app.emit("a", "well")
    await app.wait_state("runs", "total", 1, timeout=30)


async def test_a_handler_that_cannot_be_loaded_ends_the_runtime_as_in_a_thread(start_app) -> None:
    app = await start_app({"steps/die_step.py": DYING % PROCESS, "steps/sell_step.py": COUNTER % PROCESS}, workers=0)
    (app.folder / "steps/die_step.py").write_text("import nowhere\n")
    app.spawn()
    assert await app.worker.wait_exit(30) == 1
    assert "nowhere" in app.worker.output
    (app.folder / "steps/die_step.py").write_text("import os\nos._exit(4)\n")
    app.spawn()
    assert await app.worker.wait_exit(30) == 1
    assert "die: expected a worker that loads its handler, found one that ended with exit code 4" in app.worker.output


SLOW = """
import time
config = {"triggers": [{"event": {"topics": ["a"]}}], %s}
def handler(data, ctx):
    ctx.logger.info("begun")
    time.sleep(data)
    ctx.state.increment("slow", "total")
"""


async def test_sigterm_waits_for_the_workers_runs_and_leaves_no_process(start_app) -> None:
    app = await start_app({"steps/slow_step.py": SLOW % PROCESS}, drain_seconds=20)
    [worker] = workers(app)
    await app.emit("a", 1.5)
    await waits.until(lambda: said(app, "begun") == 1, "the run", timeout=20, explain=app.explain)
    os.kill(worker, signal.SIGTERM)  # as Ctrl-C reaches a whole group of processes
    app.worker.stop(signal.SIGTERM)
    assert await app.worker.wait_exit(30) == 0
    assert await app.state("slow", "total") == 1
    await waits.until(lambda: not is_alive(worker), "the end of the worker", timeout=5)


@pytest.mark.parametrize(
    "source", [SLOW, SLOW.replace("def handler", "async def handler")], ids=["def", "blocked loop"]
)
async def test_a_worker_does_not_outlive_a_runtime_that_is_killed(start_app, source: str) -> None:
    app = await start_app({"steps/slow_step.py": source % PROCESS})
    [worker] = workers(app)
    await app.emit("a", 60)
    await waits.until(lambda: said(app, "begun") == 1, "the run", timeout=20, explain=app.explain)
    app.worker.stop(signal.SIGKILL)
    await waits.until(lambda: not is_alive(worker), "the end of the worker", timeout=10)


SHELL = """
import subprocess
config = {"triggers": [{"event": {"topics": ["a"]}}], %s}
def handler(data, ctx):
    listed = subprocess.run(["ls", "-l", "/proc/self/fd"], close_fds=False, capture_output=True, check=True, text=True)
    ctx.state.set("shell", "open", listed.stdout)
"""


async def test_what_a_handler_starts_does_not_get_the_workers_socket(start_app) -> None:
    """Whoever held it could speak for the worker, and keep the runtime from seeing its end."""
    app = await start_app({"steps/shell_step.py": SHELL % PROCESS})
    [worker] = workers(app)
    assert any(link.readlink().name.startswith("socket:") for link in Path(f"/proc/{worker}/fd").iterdir())
    await app.emit("a", 1)
    found = await waits.until(lambda: app.state("shell", "open"), "what is open", timeout=20, explain=app.explain)
    assert "/dev/null" in found
    assert "socket:" not in found


async def test_a_file_of_the_app_does_not_stand_in_for_a_module_of_the_worker(
    start_app, monkeypatch, tmp_path: Path
) -> None:
    app = await start_app({"steps/slow_step.py": SLOW % PROCESS}, workers=0)
    (tmp_path / "uvloop.py").write_text("raise ImportError('not this one')")
    monkeypatch.chdir(tmp_path)
    before = asyncio.all_tasks()
    invoker = process_invokers.ProcessInvoker(app.binding("slow"))
    try:
        await invoker.start(Listener())
    finally:
        invoker.close()
        await waits.until(lambda: asyncio.all_tasks() <= before, "the end of all that it began")


CRON = """
config = {"triggers": [{"cron": {"schedule": "0 2 * * *"}}], %s}
async def handler(data, ctx):
    await ctx.state.set("cron", "at", ctx.scheduled_at)
"""


async def test_a_job_of_a_cron_step_runs_in_a_process_and_ends(start_app) -> None:
    app = await start_app({"steps/nightly_step.py": CRON % PROCESS}, workers=0)
    app.spawn(once=True)
    assert await app.worker.wait_exit(30) == 0, app.explain()
    assert await app.state("cron", "at") is not None


SLEEPY = """
import pathlib, time
slow = pathlib.Path("%s")
if slow.exists():
    time.sleep(3)
config = {"triggers": [{"event": {"topics": ["a"]}}], %s, "timeoutSeconds": 1, "retry": {"maxAttempts": 1}}
def handler(data, ctx):
    slow.with_name(f"begun-{data}").touch()
    time.sleep(data)
    ctx.state.set("sleepy", "attempt", ctx.attempt)
"""


async def test_a_clock_that_is_set_back_keeps_no_worker_that_goes_on(start_app, tmp_path: Path) -> None:
    app = await start_app({"steps/sleepy_step.py": SLEEPY % (tmp_path / "slow", PROCESS)}, workers=0)
    jump = tmp_path / "jump"
    worker = app.spawn(env={skews.JUMP: str(jump)}, module="tests.support.skews")
    await worker.wait_ready()
    await app.emit("a", 600)
    await waits.until((tmp_path / "begun-600").exists, "a begun handler", explain=app.explain)
    jump.write_text("-3600")
    await waits.until(app.dead_letters, "the end of its attempt", timeout=30, explain=app.explain)
    assert worker.process.poll() is None, "the runtime gave itself up"
    await app.emit("a", 0)
    await app.wait_state("sleepy", "attempt", 1)


async def test_events_that_wait_for_a_worker_do_not_run_out_of_time(start_app, tmp_path: Path) -> None:
    app = await start_app({"steps/sleepy_step.py": SLEEPY % (tmp_path / "slow", PROCESS)})
    (tmp_path / "slow").touch()
    os.kill(workers(app)[0], signal.SIGKILL)
    await waits.until(lambda: "starting another one" in app.worker.output, "the end of the worker", timeout=20)
    await app.emit("a", 0.1)
    await app.wait_state("sleepy", "attempt", 1, timeout=30)


class Listener:
    """What an invoker says, heard in the test."""

    def __init__(self) -> None:
        self.ends: list[End] = []

    async def call(self, call: Call) -> Reply:
        return Reply(call.id, error="nobody is asked here")

    def ended(self, ends: Sequence[End]) -> None:
        self.ends.extend(ends)


async def test_a_cancelled_handler_has_the_rest_of_its_time(start_app, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(process_invokers, "GRACE", 0.1)
    app = await start_app({"steps/sleepy_step.py": SLEEPY % (tmp_path / "slow", PROCESS)}, workers=0)
    before = asyncio.all_tasks()
    invoker, listener = process_invokers.ProcessInvoker(app.binding("sleepy")), Listener()
    await invoker.start(listener)
    try:
        given = {"step": "sleepy", "kind": Kind.EVENT, "run": "r", "attempt": 1, "trigger": 0, "topic": "a"}
        more = {"event_id": "e", "headers": {}, "trace_id": "t", "span_id": "s"}
        invoker.invoke([Invoke(id=1, data=b"1", deadline=time.time() + 10, **given, **more)])
        invoker.invoke([Invoke(id=2, data=b"60", deadline=time.time() + 5, **given, **more)])
        await waits.until(lambda: len(list(tmp_path.glob("begun-*"))) == 2, "two begun handlers", timeout=20)
        invoker.cancel(Cancel(1, "replaced"))
        invoker.cancel(Cancel(2, "replaced"))
        await waits.until(lambda: len(listener.ends) == 1, "the first end", timeout=20)
        assert (listener.ends[0].invocation, invoker.problem) == (1, None)
        await waits.until(lambda: len(listener.ends) == 2, "the second end", timeout=20)
        assert [end.outcome for end in listener.ends] == [Outcome.CANCELLED, Outcome.CANCELLED]
        assert invoker.problem == "the worker of sleepy was ended by SIGKILL"
        await waits.until(lambda: invoker.problem is None, "another worker", timeout=30)
    finally:
        invoker.close()
        await waits.until(lambda: asyncio.all_tasks() <= before, "the end of all that it began", timeout=20)


WRONG = """
from bema import operations
config = {"triggers": [{"event": {"topics": ["a"]}}], "emits": ["b"], "retry": {"maxAttempts": 1}, "isolation": "%s"}
async def handler(case, ctx):
    match case:
        case "path":
            await ctx.state.update("g", "k", operations.set(["a", 1.5], 1))
        case "bool":
            await ctx.state.update("g", "k", operations.set(["a", True], 1))
        case "handmade":
            await ctx.state.update("g", "k", operations.Operation(operations.Operator.SET, ("a", 1.5), 1))
        case "prefix":
            await ctx.state.list("g", prefix=5)
        case "cursor":
            await ctx.state.list("g", cursor=5)
        case "question":
            await ctx._state._ask("state.get", group="g")
        case "unknown":
            await ctx._state._ask("state.burn", group="g")
    await ctx.state.set("g", case, 1)
"""
REFUSED = {
    "path": ("PayloadInvalid", "path: expected texts and whole numbers, found 1.5 in ['a', 1.5]"),
    "bool": ("PayloadInvalid", "path: expected texts and whole numbers, found True in ['a', True]"),
    "handmade": ("PayloadInvalid", "path: expected texts and whole numbers, found 1.5 in ('a', 1.5)"),
    "prefix": ("PayloadInvalid", "prefix: expected a text, found 5"),
    "cursor": ("PayloadInvalid", "cursor: expected one that a list has returned, found 5"),
    "question": ("BrokerUnavailable", "state.get: KeyError: 'key'"),
    "unknown": ("BrokerUnavailable", "state.burn: WireInvalid: unknown method 'state.burn'"),
}


@pytest.mark.parametrize("isolation", ["Thread", "Process"])
async def test_a_wrong_argument_fails_its_own_run_with_the_same_words(start_app, isolation: str) -> None:
    app = await start_app({"steps/wrong_step.py": WRONG % isolation})
    await app.emit("a", "stored")
    await app.wait_state("g", "stored", 1)
    for case in [*REFUSED, "fine"]:
        await app.emit("a", case, id=case)
    await app.wait_state("g", "fine", 1)
    letters = await app.wait_dead(len(REFUSED))
    assert {case: (entry["type"], entry["message"]) for case, [entry] in letters.items()} == REFUSED
    assert not any("The worker" in line["message"] for line in app.worker.lines)


READER = """
config = {"triggers": [{"event": {"topics": ["a"]}}], %s}
async def handler(data, ctx):
    await ctx.state.get("g", "k")
"""


class Refuser(Listener):
    """A runtime that answers with what no line can carry."""

    async def call(self, call: Call) -> Reply:
        return Reply(call.id, result=[object()])


async def test_an_answer_that_cannot_be_sent_is_one_that_says_so(start_app) -> None:
    app = await start_app({"steps/reader_step.py": READER % PROCESS}, workers=0)
    before = asyncio.all_tasks()
    invoker, listener = process_invokers.ProcessInvoker(app.binding("reader")), Refuser()
    await invoker.start(listener)
    try:
        more = {"headers": {}, "trace_id": "t", "span_id": "s", "deadline": time.time() + 30}
        invoker.invoke([Invoke(1, "reader", Kind.EVENT, "r", 1, b"1", 0, "a", "e", **more)])
        await waits.until(lambda: listener.ends, "the end", timeout=20)
        [end] = listener.ends
        assert end.failure is not None
        assert end.failure.message.startswith("state.get: PayloadInvalid: expected values that JSON can hold")
    finally:
        invoker.close()
        await waits.until(lambda: asyncio.all_tasks() <= before, "the end of all that it began", timeout=20)
