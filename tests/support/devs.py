"""A real `bema dev` for tests: started, followed by its JSON lines, and never left behind."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
import urllib.parse
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.support import waits

SECONDS = float(os.environ.get("BEMA_TEST_SECONDS", "45"))
"""How long anything may take. Machines that run tests are busy."""

MARK = "BEMA_TEST_MARK"


def write(folder: Path, files: dict[str, str]) -> Path:
    """Write files below a folder."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    return folder


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "bema_cli", *arguments]


class Dev:
    """A running `bema dev --json`."""

    def __init__(self, folder: Path, *arguments: str, env: dict[str, str] | None = None) -> None:
        self.folder = folder
        self.mark = uuid.uuid4().hex
        self.lines: list[str] = []
        self._events: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._process = subprocess.Popen(
            command("dev", str(folder), "--json", *arguments),
            env={**os.environ, MARK: self.mark, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reading = threading.Thread(target=self._read, daemon=True)
        self._reading.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.lines.append(line)
            try:
                self._events.put(json.loads(line))
            except ValueError:
                self._events.put({"event": "words", "text": line})
        self._events.put(None)

    @property
    def pid(self) -> int:
        return self._process.pid

    def next(self, name: str, where: Callable[[dict[str, Any]], bool] = lambda event: True) -> dict[str, Any]:
        """The next event of a name, those before it skipped."""
        deadline = time.monotonic() + SECONDS
        while True:
            try:
                event = self._events.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"waited {SECONDS:g} s for event {name!r}") from None
            if event is None:
                raise AssertionError(f"`bema dev` ended before event {name!r}")
            if event["event"] == name and where(event):
                return event

    def until(self, condition: Callable[[], Any], what: str) -> Any:
        """The first true value of a condition."""
        return waits.until_sync(condition, what, timeout=SECONDS)

    def said(self) -> str:
        return "".join(self.lines)

    def heard(self, name: str) -> list[dict[str, Any]]:
        """All events of a name so far."""
        return [event for line in self.lines if line.startswith("{") and (event := json.loads(line))["event"] == name]

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def wait(self) -> int:
        """Its exit code, once it has said everything."""
        try:
            code = self._process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"waited {SECONDS:g} s for `bema dev` to end") from None
        self._reading.join(SECONDS)
        return code

    def stop(self) -> int:
        """Ctrl-C, and its exit code."""
        if self._process.poll() is None:
            self.signal(signal.SIGINT)
        return self.wait()

    def processes(self) -> dict[int, str]:
        """The living processes that descend from it, whoever their parent is now: command by pid."""
        found = {}
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and f"{MARK}={self.mark}".encode() in (entry / "environ").read_bytes():
                    found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        return found

    def clean_up(self) -> None:
        """End whatever a failed test left."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._reading.join(SECONDS)
        if self._process.stdout is not None:
            self._process.stdout.close()


@contextlib.contextmanager
def running(folder: Path, *arguments: str, env: dict[str, str] | None = None) -> Iterator[Dev]:
    """A `bema dev` for the time of the block, stopped by Ctrl-C at its end unless it has ended."""
    dev = Dev(folder, *arguments, env=env)
    try:
        yield dev
        dev.stop()
    except BaseException as error:
        error.add_note(f"`bema dev` said:\n{dev.said()}")
        raise
    finally:
        dev.clean_up()


def ask(url: str) -> tuple[int, Any]:
    """Status and JSON that a URL answers, over a connection of its own. Raises `OSError` or `HTTPException`."""
    place = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(place.netloc, timeout=SECONDS)
    try:
        connection.request("GET", place.path)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read() or b"null")
    finally:
        connection.close()


def get(url: str) -> Any:
    """The JSON that a URL answers with 200."""
    status, answer = ask(url)
    assert status == 200, (status, answer)
    return answer
