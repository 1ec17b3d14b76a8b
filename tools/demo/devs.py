"""The app in `bema dev`, as a child of ours: started, followed by its JSON lines, killed in part, stopped."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bema_cli import processes
from bema_cli.processes import Child
from tools.cluster import paths
from tools.demo.errors import DemoError

START_SECONDS = 60.0
STOP_SECONDS = 45.0


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

    def __init__(self, child: Child, log: Path) -> None:
        self._child = child
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
        rest = b""
        with self._log.open("wb") as log:
            while chunk := await self._child.stdout.read(65536):
                log.write(chunk)
                log.flush()
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
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

    async def _until(self, holds: Callable[[], bool], what: str) -> None:
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


@asynccontextmanager
async def running(folder: Path, *, log: Path, env: Mapping[str, str]) -> AsyncIterator[Dev]:
    """`bema dev` in `folder` for the time of the block; `env` is added to ours, `log` gets all that it says."""
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "bema_cli", "dev", str(folder), "--json"]
    child = await processes.start(
        command, env={**os.environ, **env}, cwd=paths.REPOSITORY, at_parents_death=signal.SIGTERM
    )
    dev = Dev(child, log)
    following = asyncio.create_task(dev.follow())
    try:
        await dev.wait_ready(1)
        yield dev
    finally:
        await child.stop(seconds=STOP_SECONDS)
        await following
