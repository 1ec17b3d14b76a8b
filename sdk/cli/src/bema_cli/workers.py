"""The worker of `bema dev`: one runtime process that executes all Steps of the app."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bema_cli import processes
from bema_cli.processes import Child

MAX_LINE = 1024 * 1024
"""A longer line of output is handed on in pieces."""

_MODULE = "bema_runtime"


@dataclass(frozen=True, slots=True)
class Order:
    """What a worker is to run."""

    bindings: Sequence[Path]
    env: Mapping[str, str]
    folder: Path
    descriptors: Sequence[int]
    """Listening sockets that it inherits."""
    health_port: int
    drain_seconds: float


class Worker:
    """A running worker."""

    def __init__(self, child: Child, order: Order, hear: Callable[[str], None]) -> None:
        self.child = child
        self._order = order
        self._hear = hear
        self._reading = asyncio.create_task(self._read(), name="worker output")

    async def wait(self) -> int:
        """Its exit code, once all its output was heard."""
        code = await self.child.wait()
        with contextlib.suppress(asyncio.TimeoutError):
            # A process that it left behind may hold the pipe open.
            await asyncio.wait_for(asyncio.shield(self._reading), 0.5)
        return code

    async def stop(self) -> None:
        """Let it drain, then end it."""
        await self.child.stop(seconds=self._order.drain_seconds + 2)
        await self.wait()
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)

    async def wait_ready(self) -> None:
        """Return once it says that it is ready; never when it does not."""
        while True:
            if await _is_ready(self._order.health_port):
                return
            await asyncio.sleep(0.02)

    async def _read(self) -> None:
        rest = b""
        while chunk := await self.child.stdout.read(65536):
            *lines, rest = (rest + chunk).split(b"\n")
            if len(rest) > MAX_LINE:
                lines, rest = [*lines, rest], b""
            for line in lines:
                self._hear(line.decode("utf-8", "replace"))
        if rest:
            self._hear(rest.decode("utf-8", "replace"))


async def start(order: Order, hear: Callable[[str], None]) -> Worker:
    """Start a worker; `hear` gets each line of its output."""
    command = [sys.executable, "-P", "-m", _MODULE]
    for file in order.bindings:
        command += ["--binding", str(file)]
    # A bytecode file is stale only when size or second differ: an edit may have neither.
    env = {**order.env, "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    child = await processes.start(command, env=env, cwd=order.folder, descriptors=order.descriptors)
    return Worker(child, order, hear)


async def _is_ready(port: int) -> bool:
    """Ask the health server. While no worker listens, the question waits in the socket's backlog."""
    try:
        async with asyncio.timeout(1):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                return b" 200 " in await reader.readline()
            finally:
                writer.close()
    except (TimeoutError, OSError):
        return False
