"""A worker process as its runtime sees it: started, greeted, spoken to, and gone."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import sys
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Callable, Sequence
from typing import Any

from bema.contract import errors, wires
from bema.contract.bindings import Binding
from bema.contract.frames import Call, Chunk, End
from bema.contract.steps import Language
from bema.contract.wires import Hello, Refusal, ToWorker, Welcome
from bema_runtime.lines import Line

log = logging.getLogger(__name__)

READY_SECONDS = 120.0
"""Longest time from a worker's start until its handlers are loaded: what they import may be large."""

LAST_WORDS = 1.0
"""How long to listen to a worker that is gone, in seconds."""

# -P: a file of the app's must not stand in for a module of ours
_COMMANDS = {Language.PYTHON: [sys.executable, "-P", "-m", "bema_runtime.workers"]}


class Child:
    """One worker process. Its standard output and error are those of the runtime: log lines need no detour."""

    def __init__(self, binding: Binding, received: Callable[[Child, Sequence[Call | End]], None]) -> None:
        self._binding = binding
        self._received = received
        self._line = Line(self._read, self._lost)
        self._process: Process
        self._greeting: asyncio.Future[Welcome | Refusal] = asyncio.get_running_loop().create_future()
        self._unheard: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._ended: asyncio.Task[int]

    async def start(self) -> None:
        """Return when its handlers are loaded. Raises `StepInvalid` when they cannot be, and leaves nothing behind."""
        ours, theirs = socket.socketpair()
        with theirs:
            command = [*_COMMANDS[self._binding.code.language], "--socket", str(theirs.fileno())]
            try:
                self._process = await asyncio.create_subprocess_exec(
                    *command, stdin=DEVNULL, pass_fds=[theirs.fileno()]
                )
            except BaseException:
                ours.close()
                raise
        self._ended = asyncio.create_task(self._process.wait(), name="worker")
        try:
            await asyncio.get_running_loop().create_unix_connection(lambda: self._line, sock=ours)
            self.send([Hello(wires.VERSION, [self._binding.dump()])])
            await self._greeted()
        except BaseException:
            self.kill()
            raise

    async def _greeted(self) -> None:
        gone = asyncio.create_task(self.wait())
        either: set[asyncio.Future[Any]] = {self._greeting, gone}
        try:
            await asyncio.wait(either, timeout=READY_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
        step = self._binding.step
        if self._greeting.done():
            match self._greeting.result():
                case Refusal(message=reason):
                    raise errors.StepInvalid(reason)
                case Welcome(version=version) if version != wires.VERSION:
                    raise errors.StepInvalid(
                        f"{step}: expected a worker that speaks version {wires.VERSION}, found {version}"
                    )
        elif self._ended.done():
            raise errors.StepInvalid(f"{step}: expected a worker that loads its handler, found one that {self.fate}")
        else:
            raise errors.StepInvalid(
                f"{step}: expected a worker that is ready within {READY_SECONDS:g} s, found one that is not"
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def fate(self) -> str:
        """How it ended: the end of a sentence about it."""
        code = self._process.returncode
        if code is None:
            return "runs"
        if code >= 0:
            return f"ended with exit code {code}"
        try:
            return f"was ended by {signal.Signals(-code).name}"
        except ValueError:
            return f"was ended by signal {-code}"

    async def wait(self) -> None:
        """Until the process is gone, and what it said before has been heard."""
        await asyncio.shield(self._ended)
        # A process that a handler has forked may keep the socket open
        await asyncio.wait({self._unheard}, timeout=LAST_WORDS)
        self._line.close()

    def send(self, frames: Sequence[ToWorker]) -> None:
        for frame in frames:
            self._line.send(wires.encode(frame))

    def kill(self) -> None:
        """End it now. It has nothing to bring into order: what it was asked for is committed by the runtime or by
        nobody."""
        self._line.close()
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    def _lost(self) -> None:
        """Nobody can speak to it again, should it live."""
        self._unheard.set_result(None)
        self.kill()

    def _read(self, messages: list[Any]) -> None:
        frames: list[Call | End] = []
        for message in messages:
            match wires.decode_for_runtime(message):
                case Welcome() | Refusal() as answer:
                    if self._greeting.done():
                        raise errors.WireInvalid("expected one answer to hello, found another one")
                    self._greeting.set_result(answer)
                case Chunk():
                    raise errors.WireInvalid("expected a body within the end of its execution, found a chunk of it")
                case frame:
                    frames.append(frame)
        if frames:
            self._received(self, frames)
