"""`bema dev` as its users meet it: real processes, a real nats-server, files that change."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from bema_cli import supervisors
from tests.support import devs
from tests.support.devs import get

pytestmark = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds processes by their environment")

HELLO = """
from bema import api
from lib import words
config = {"triggers": [api("GET", "/hello")], "emits": ["greeted"]}
async def handler(request, ctx):
    await ctx.emit("greeted", {"word": words.WORD})
    return {"hello": words.WORD}
"""
COUNT = """
config = {"triggers": [{"event": {"topics": ["greeted"]}}]}
def handler(data, ctx):
    print("printed", data["word"])
    ctx.logger.info("Greeted", extra={"word": data["word"]})
    ctx.state.increment("greetings", data["word"])
"""
SHOW = """
import os
from bema import api
config = {"triggers": [api("GET", "/show/{word}")]}
async def handler(request, ctx):
    count = await ctx.state.get("greetings", request.path_params["word"], 0)
    return {"count": count, "env": os.environ.get("FROM_FILE")}
"""
APP = {
    "lib/words.py": 'WORD = "world"\n',
    "steps/hello_step.py": HELLO,
    "steps/count_step.py": COUNT,
    "steps/show_step.py": SHOW,
    "steps/person.step.yaml": "apiVersion: bema.dev/v1alpha1\nkind: Step\nmetadata: {name: person}\nspec: {}\n",
    ".env": "FROM_FILE=one\n",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return devs.write(tmp_path / "my_shop", APP)


def test_it_runs_everything_and_leaves_nothing(folder: Path, tmp_path: Path) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    with devs.running(folder, env={"TMPDIR": str(temporary)}) as dev:
        ready = dev.next("ready")
        assert (ready["app"], ready["reason"]) == ("my-shop", "start")
        assert [(step["name"], step["topics"]) for step in ready["steps"]] == [
            ("count", ["greeted"]),
            ("hello", []),
            ("person", []),
            ("show", []),
        ]
        assert ready["steps"][1]["endpoints"] == [["GET", f"{ready['url']}/hello"]]
        assert get(f"{ready['url']}/hello") == {"hello": "world"}
        assert dev.next("output")["text"] == "printed world"
        record = dev.next("log", lambda event: event["record"]["message"] == "Greeted")["record"]
        assert (record["step"], record["word"]) == ("count", "world")
        dev.until(
            lambda: get(f"{ready['url']}/show/world") == {"count": 1, "env": "one"}, "the event's effect in the state"
        )
        assert "bema_runs_total" in urllib.request.urlopen(ready["metrics"]).read().decode()
        assert ready["worker"] in dev.processes()
        assert len(dev.processes()) == 3

        second = subprocess.run(devs.command("dev", str(folder)), capture_output=True, text=True, timeout=devs.SECONDS)
        assert second.stderr == (
            f"✗ `bema dev` already runs in {folder} (pid {dev.pid}, {ready['url']}); stop it there with Ctrl-C\n"
        )
        assert (second.stdout, second.returncode) == ("", 1)
        assert get(f"{ready['url']}/hello") == {"hello": "world"}

        assert dev.stop() == 0
        assert (len(dev.heard("stopping")), json.loads(dev.lines[-1])["event"]) == (1, "stopped")
        assert dev.processes() == {}
    assert sorted(path.name for path in (folder / ".bema").iterdir()) == [".gitignore", "dev.lock", "nats.log"]
    assert list(temporary.iterdir()) == []
    assert not list(folder.rglob("__pycache__"))


def test_what_changes_is_taken_over_and_no_request_is_refused(folder: Path) -> None:
    devs.write(folder, {"lib/unused.py": "a = 1\n"})
    with devs.running(folder) as dev:
        ready = dev.next("ready")
        url = ready["url"]
        with _asking(f"{url}/hello") as answers:
            dev.until(lambda: answers, "a first answer")
            devs.write(folder, {"lib/unused.py": "a = 2\n", "lib/words.py": 'WORD = "mars"\n'})
            assert dev.next("reload")["files"] == ["steps/hello_step.py"]
            again = dev.next("ready")
            assert (again["reason"], again["url"]) == ("reload", url)
            assert again["worker"] != ready["worker"]
            dev.until(lambda: {"hello": "mars"} in answers, "an answer of the new worker")
        assert answers[0] == {"hello": "world"}
        assert [answer for answer in answers if "hello" not in answer] == []

        devs.write(folder, {"src/new/place_step.py": SHOW.replace("/show/", "/place/"), ".env": "FROM_FILE=two\n"})
        dev.next("ready", lambda event: "place" in [step["name"] for step in event["steps"]])
        dev.until(lambda: get(f"{url}/place/x")["env"] == "two", "the variable of the changed .env")
        (folder / "src/new/place_step.py").unlink()
        assert dev.next("reload")["files"] == ["src/new/place_step.py"]
        dev.next("ready")
        assert devs.ask(f"{url}/place/x")[0] == 404


@contextlib.contextmanager
def _asking(url: str) -> Iterator[list[dict[str, str]]]:
    """What a URL answers, asked again and again, each time over a new connection; an error is an answer too."""
    answers: list[dict[str, str]] = []
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            try:
                answers.append(get(url))
            except (OSError, ValueError, http.client.HTTPException, AssertionError) as error:
                answers.append({"error": repr(error)})

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        yield answers
    finally:
        over.set()
        asking.join(devs.SECONDS)


def test_a_broken_step_is_shown_while_the_others_go_on(folder: Path) -> None:
    devs.write(folder, {"steps/bad_step.py": "config = {}\ndef handler(:\n"})
    with devs.running(folder) as dev:
        shown = dev.next("problems")["problems"]
        assert [(problem["file"], problem["line"]) for problem in shown] == [("steps/bad_step.py", 2)]
        ready = dev.next("ready")
        assert get(f"{ready['url']}/hello") == {"hello": "world"}

        # A Step that worked goes on as it was; another one's change is taken over all the same.
        devs.write(folder, {"steps/hello_step.py": "1 / 0\n"})
        dev.next("problems", lambda event: len(event["problems"]) == 2)
        assert get(f"{ready['url']}/hello") == {"hello": "world"}
        assert dev.heard("reload") == []
        assert ready["worker"] in dev.processes()
        devs.write(folder, {"steps/show_step.py": SHOW.replace("/show/", "/display/")})
        dev.next("ready")
        assert get(f"{ready['url']}/display/x")["count"] == 0
        assert devs.ask(f"{ready['url']}/hello")[0] == 404

        devs.write(folder, {"steps/hello_step.py": HELLO})
        (folder / "steps/bad_step.py").unlink()
        assert dev.next("problems", lambda event: not event["problems"])
        dev.next("ready", lambda event: "hello" in [step["name"] for step in event["steps"]])
        assert get(f"{ready['url']}/hello") == {"hello": "world"}


def test_a_place_that_another_step_has_taken_is_said_while_the_others_go_on(folder: Path) -> None:
    def rename(before: str, name: str, former: str) -> None:
        (folder / f"steps/{before}_step.py").unlink(missing_ok=True)
        adopts = COUNT.replace("config = {", f'config = {{"adoptFrom": "{former}", ')
        devs.write(folder, {f"steps/{name}_step.py": adopts})

    with devs.running(folder) as dev:
        dev.next("ready")
        rename("count", "tally", "count")
        dev.next("ready", lambda event: "tally" in [step["name"] for step in event["steps"]])
        rename("tally", "sum", "count")
        dev.next("problems", lambda event: "tally has taken over the place of count" in str(event))
        ready = dev.next("ready")
        assert sorted(step["name"] for step in ready["steps"]) == ["hello", "person", "show"]
        assert get(f"{ready['url']}/hello") == {"hello": "world"}
        rename("", "sum", "tally")
        dev.next("ready", lambda event: "sum" in [step["name"] for step in event["steps"]])


def test_a_file_that_ends_the_process_takes_no_other_step_along(folder: Path) -> None:
    devs.write(folder, {"steps/bad_step.py": "import os\nos._exit(3)\n"})
    with devs.running(folder) as dev:
        shown = dev.next("problems")["problems"]
        assert [problem["file"] for problem in shown] == ["steps/bad_step.py"]
        ready = dev.next("ready")
        assert get(f"{ready['url']}/hello") == {"hello": "world"}
        devs.write(folder, {"steps/show_step.py": "raise KeyboardInterrupt\n"})
        shown = dev.next("problems", lambda event: len(event["problems"]) == 2)["problems"]
        assert shown[1]["message"].startswith("KeyboardInterrupt")
        assert get(f"{ready['url']}/hello") == {"hello": "world"}


def test_it_ends_when_nobody_reads_what_it_says_any_more(folder: Path) -> None:
    reading, writing = os.pipe()
    process = subprocess.Popen(
        devs.command("dev", str(folder)), stdin=subprocess.DEVNULL, stdout=writing, stderr=subprocess.DEVNULL
    )
    os.close(writing)
    with open(reading, "rb", buffering=0) as output:
        first = output.read(1)
    assert first
    devs.write(folder, {"steps/hello_step.py": HELLO + "\n"})
    try:
        assert process.wait(devs.SECONDS) == 0
    finally:
        process.kill()


def test_it_waits_for_a_first_step(tmp_path: Path) -> None:
    with devs.running(tmp_path) as dev:
        assert dev.next("idle")["text"].startswith("nothing to run yet; put Steps in files such as steps/")
        devs.write(tmp_path, APP)
        ready = dev.next("ready", lambda event: len(event["steps"]) == 4)
        assert get(f"{ready['url']}/hello") == {"hello": "world"}


def test_a_worker_that_dies_is_restarted_and_ever_more_slowly_when_it_keeps_dying(folder: Path) -> None:
    with devs.running(folder) as dev:
        ready = dev.next("ready")
        os.kill(ready["worker"], signal.SIGKILL)
        # Not refused: it waits for the next worker.
        assert get(f"{ready['url']}/hello") == {"hello": "world"}
        gone = dev.next("worker-exit")
        assert (gone["worker"], gone["ending"], gone["restart_seconds"]) == (ready["worker"], "signal SIGKILL", 0.2)
        again = dev.next("ready")
        assert again["reason"] == "restart"
        assert again["worker"] != ready["worker"]

        dies = 'import os, sys\nWORD = 1\nif "bema_runtime" in sys.modules: os._exit(7)\n'
        devs.write(folder, {"lib/words.py": dies})
        exits = [dev.next("worker-exit") for _ in range(3)]
        assert [(event["ending"], event["restart_seconds"]) for event in exits] == [
            ("exit code 7", 0.2),
            ("exit code 7", 0.4),
            ("exit code 7", 0.8),
        ]
        devs.write(folder, APP)
        assert get(f"{dev.next('ready')['url']}/hello") == {"hello": "world"}


def test_a_broker_that_dies_is_restarted(folder: Path) -> None:
    with devs.running(folder) as dev:
        url = dev.next("ready")["url"]
        (broker,) = (pid for pid, command in dev.processes().items() if "nats-server" in command)
        os.kill(broker, signal.SIGKILL)
        assert dev.next("note", lambda event: "nats-server" in event["text"])["text"] == (
            "nats-server ended (signal SIGKILL), another starts; events and state were in its memory and are lost"
        )
        dev.next("ready")
        assert get(f"{url}/hello") == {"hello": "world"}
        dev.until(lambda: get(f"{url}/show/world")["count"] == 1, "the event's effect in the state")


def test_a_killed_one_leaves_nothing_and_does_not_block_the_next(folder: Path) -> None:
    with devs.running(folder) as dev:
        url = dev.next("ready")["url"]
        assert get(f"{url}/hello") == {"hello": "world"}
        dev.until(lambda: get(f"{url}/show/world")["count"] == 1, "the event's effect in the state")
        dev.signal(signal.SIGKILL)
        assert dev.wait() == -signal.SIGKILL
        dev.until(lambda: not dev.processes(), "its children to end")
        assert (folder / ".bema/dev.json").exists()
    with devs.running(folder) as dev:
        # Without --persist it begins anew.
        assert get(f"{dev.next('ready')['url']}/show/world")["count"] == 0


def test_what_handlers_start_ends_too_and_a_second_ctrl_c_ends_a_handler_that_does_not(folder: Path) -> None:
    stubborn = """
import subprocess
from bema import api
config = {"triggers": [api("GET", "/stubborn")], "timeoutSeconds": 600}
def handler(request, ctx):
    child = subprocess.Popen(["sleep", "600"])
    print("started", flush=True)
    child.wait()
"""
    devs.write(folder, {"steps/stubborn_step.py": stubborn})
    with devs.running(folder) as dev:
        url = dev.next("ready")["url"]
        with _asking(f"{url}/stubborn"):
            dev.next("output", lambda event: event["text"] == "started")
            dev.signal(signal.SIGINT)
            dev.next("stopping")
            dev.signal(signal.SIGINT)
            asked = time.monotonic()
            assert dev.wait() == 0
            assert time.monotonic() - asked < supervisors.DRAIN_SECONDS, "it waited for the handler"
            assert dev.processes() == {}


def test_persist_keeps_what_there_was(folder: Path) -> None:
    for before in (0, 1):
        with devs.running(folder, "--persist") as dev:
            url = dev.next("ready")["url"]
            assert get(f"{url}/show/world")["count"] == before
            get(f"{url}/hello")
            dev.until(
                lambda url=url, before=before: get(f"{url}/show/world")["count"] == before + 1,
                "the event's effect in the state",
            )
            assert dev.stop() == 0
    assert (folder / ".bema/nats").is_dir()


def test_a_taken_port_is_refused_when_it_was_asked_for(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = devs.command("dev", str(folder), "--port", str(port))
        refused = subprocess.run(command, capture_output=True, text=True, timeout=devs.SECONDS)
    assert refused.stderr == f"✗ expected port {port} to be free on 127.0.0.1, found it taken; use another --port\n"
    assert (refused.stdout, refused.returncode) == ("", 1)


def test_people_see_a_table_and_the_next_free_port(folder: Path) -> None:
    with contextlib.ExitStack() as stack:
        # Where somebody else holds the port, that serves as well.
        with contextlib.suppress(OSError):
            stack.enter_context(socket.create_server(("127.0.0.1", 3000)))
        process = stack.enter_context(
            subprocess.Popen(
                devs.command("dev", str(folder), "--no-reload"),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
        stack.callback(process.kill)
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if line.startswith("metrics "):
                process.send_signal(signal.SIGTERM)
        said = "".join(lines)
        assert process.wait(devs.SECONDS) == 0, said
    port = re.search(r"· port 3000 is taken; using (30[0-9]{2})\n", said)
    assert port, said
    assert "bema dev: my-shop is ready (" in said
    assert re.search(rf"^GET +http://127.0.0.1:{port[1]}/hello +→ hello", said, re.MULTILINE), said
    assert re.search(r"^event +greeted +→ count", said, re.MULTILINE), said
    assert said.endswith("· stopping; Ctrl-C again to stop at once\n✓ stopped\n")
