"""`bema` as somebody types it: a process with a kubeconfig of its own, and nothing of the user's around it."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support import waits

SECONDS = 60.0
"""How long a command may take. Machines that run tests are busy."""

_KEPT = ("PATH", "LANG", "LC_ALL", "VIRTUAL_ENV", "PYTHONPATH")


@dataclass(frozen=True)
class Done:
    """A command that has ended."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        return json.loads(self.out)


@dataclass
class Session:
    """A command that goes on."""

    process: subprocess.Popen[str]
    out: list[str] = field(default_factory=list)
    """Lines, as they come."""
    err: list[str] = field(default_factory=list)
    _reading: list[threading.Thread] = field(default_factory=list)

    def listen(self) -> None:
        for stream, lines in ((self.process.stdout, self.out), (self.process.stderr, self.err)):
            thread = threading.Thread(target=self._read, args=(stream, lines), daemon=True)
            thread.start()
            self._reading.append(thread)

    @staticmethod
    def _read(stream: Any, lines: list[str]) -> None:
        for line in stream:
            lines.append(line.rstrip("\n"))

    def told(self) -> str:
        return "\n".join([*self.out, "── standard error:", *self.err])

    def json(self) -> list[Any]:
        """What it has written so far, an object a line."""
        return [json.loads(line) for line in list(self.out)]

    def wait(self, condition: Callable[[], Any], what: str, seconds: float = SECONDS) -> Any:
        """Until a condition holds while the command goes on."""

        def holds() -> Any:
            found = condition()
            if not found and self.process.poll() is not None:
                raise AssertionError(f"the command ended ({self.process.returncode}) before {what}:\n{self.told()}")
            return found

        try:
            return waits.until_sync(holds, what, timeout=seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.told()}") from error

    def interrupt(self) -> Done:
        """Ctrl-C."""
        self.process.send_signal(signal.SIGINT)
        code = self.process.wait(SECONDS)
        for thread in self._reading:
            thread.join(SECONDS)
        return Done(code, "\n".join(self.out), "\n".join(self.err))


class Terminal:
    """Somebody with a kubeconfig, in an empty home."""

    def __init__(self, home: Path, kubeconfig: Path | None) -> None:
        self.home = home
        self.kubeconfig = kubeconfig

    def _command(self, arguments: tuple[str, ...]) -> list[str]:
        more = [] if self.kubeconfig is None else ["--kubeconfig", str(self.kubeconfig)]
        return [sys.executable, "-m", "bema_cli", *arguments, *more]

    def _environment(self) -> dict[str, str]:
        kept = {key: os.environ[key] for key in _KEPT if key in os.environ}
        return {**kept, "HOME": str(self.home), "TERM": "xterm", "PYTHONUNBUFFERED": "1"}

    def run(self, *arguments: str) -> Done:
        """Run a command to its end."""
        done = subprocess.run(
            self._command(arguments),
            env=self._environment(),
            cwd=self.home,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    @contextlib.contextmanager
    def started(self, *arguments: str) -> Iterator[Session]:
        """Run a command that goes on; it is killed at the end if it still runs."""
        process = subprocess.Popen(
            self._command(arguments),
            env=self._environment(),
            cwd=self.home,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            bufsize=1,
            # Ctrl-C also where the one who runs the tests ignores it
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        session = Session(process)
        session.listen()
        try:
            yield session
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            process.wait()
            for stream in (process.stdout, process.stderr):
                if stream is not None:
                    stream.close()

    @contextlib.contextmanager
    def on_screen(self, *arguments: str) -> Iterator[tuple[Session, Callable[[], str]]]:
        """`started` on a terminal of 100 columns, and what was drawn on it so far."""
        ours, theirs = pty.openpty()
        process = subprocess.Popen(
            self._command(arguments),
            env={**self._environment(), "COLUMNS": "100", "LINES": "30"},
            cwd=self.home,
            stdin=theirs,
            stdout=theirs,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        os.close(theirs)
        pieces: list[bytes] = []

        def read() -> None:
            # A terminal whose other end is closed says so by an error.
            with contextlib.suppress(OSError):
                while piece := os.read(ours, 65_536):
                    pieces.append(piece)

        reading = threading.Thread(target=read, daemon=True)
        reading.start()
        try:
            yield Session(process), lambda: b"".join(pieces).decode("utf-8", "replace")
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            process.wait()
            reading.join(SECONDS)
            os.close(ours)
            if process.stderr is not None:
                process.stderr.close()
