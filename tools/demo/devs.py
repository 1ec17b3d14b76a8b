"""The app in `bema dev`, as a child of ours: started, followed by its JSON lines, killed in part, stopped."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.demo.errors import DemoError

START_SECONDS = 60.0
STOP_SECONDS = 45.0
_LINE = 4 * 1024 * 1024


@dataclass(frozen=True)
class Ready:
    """A worker at work."""

    app: str
    worker: int
    """Its pid."""
    url: str
    nats: str


class Dev:
    """A running `bema dev`."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self._process = process
        self._log = log
        self._changed = asyncio.Event()
        self._ready: list[Ready] = []
        self._exited: set[int] = set()
        self._ended = False

    @property
    def current(self) -> Ready:
        """The worker that was ready last."""
        return self._ready[-1]

    async def wait_ready(self, number: int) -> Ready:
        """The `number`-th worker, from 1, once it is ready."""
        await self._until(lambda: len(self._ready) >= number, f"worker number {number} to be ready")
        return self._ready[number - 1]

    async def kill_worker(self) -> None:
        """SIGKILL the worker; returns when it is dead."""
        worker = self.current.worker
        os.kill(worker, signal.SIGKILL)
        await self._until(lambda: worker in self._exited, f"worker {worker} to be gone")

    async def follow(self) -> None:
        """Read what it says until it ends."""
        assert self._process.stdout is not None
        with self._log.open("wb") as log:
            async for line in self._process.stdout:
                log.write(line)
                log.flush()
                self._hear(line)
        self._ended = True
        self._changed.set()

    def _hear(self, line: bytes) -> None:
        try:
            event: Mapping[str, Any] = json.loads(line)
        except ValueError:
            return
        match event.get("event"):
            case "ready":
                self._ready.append(Ready(event["app"], event["worker"], event["url"], event["nats"]))
            case "worker-exit":
                self._exited.add(event["worker"])
        self._changed.set()

    async def _until(self, holds: Any, what: str) -> None:
        try:
            async with asyncio.timeout(START_SECONDS):
                while not holds():
                    if self._ended:
                        raise DemoError(f"`bema dev` ended while we waited for {what}: {self._last_words()}")
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError as error:
            raise DemoError(f"waited {START_SECONDS:g} s for {what}; see {self._log}") from error

    def _last_words(self) -> str:
        return self._log.read_text("utf-8", "replace")[-2000:].strip() or "it said nothing"

    async def stop(self) -> None:
        """Ask it to end; if it does not, end its whole session, which is ours alone."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(self._process.wait(), STOP_SECONDS)
        except TimeoutError:
            os.killpg(self._process.pid, signal.SIGKILL)
            await self._process.wait()


@asynccontextmanager
async def running(folder: Path, *, log: Path, env: Mapping[str, str]) -> AsyncIterator[Dev]:
    """`bema dev` in `folder` for the time of the block; `env` is added to ours, `log` gets all that it says."""
    log.parent.mkdir(parents=True, exist_ok=True)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bema_cli", "dev", str(folder), "--json"),
        env={**os.environ, **env},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        # Ctrl-C at the terminal is for the demo alone, which then stops this in good order.
        start_new_session=True,
        limit=_LINE,
    )
    dev = Dev(process, log)
    following = asyncio.create_task(dev.follow())
    try:
        await dev.wait_ready(1)
        yield dev
    finally:
        await dev.stop()
        await following
