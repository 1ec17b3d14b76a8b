"""A TCP proxy in front of a server: it can cut connections, at a chosen moment too, swallow a question, hold what is
sent, and be slow, each direction for itself."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

Decide = Callable[[bytes], bool]


class Way:
    """One direction. What is held is not lost: it arrives late, as over a network that is back."""

    def __init__(self) -> None:
        self.delay = 0.0
        """Seconds that every piece takes longer."""
        self._open = asyncio.Event()
        self._open.set()

    def hold(self) -> None:
        self._open.clear()

    def let_go(self) -> None:
        self._open.set()

    async def through(self) -> None:
        """Return when a piece may go on."""
        if self.delay:
            await asyncio.sleep(self.delay)
        await self._open.wait()


class Proxy:
    """Forwards bytes. While armed, cuts the connection around a piece from the client for which `matches` holds:
    before the server gets it, or after the server has got it and before the client hears the answer."""

    def __init__(self, target_port: int, host: str = "127.0.0.1") -> None:
        self._target = (host, target_port)
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_cut = False
        self.up = Way()
        """From the client to the server."""
        self.down = Way()
        self.port = 0
        self.matches: Decide | None = None
        self.cut_before = False
        self.cuts = 0
        self._swallows: Decide = lambda piece: False
        self.swallowed = 0

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut_at(self, marker: bytes, *, before: bool, times: int = 1) -> None:
        """Cut the next `times` connections at a piece that contains `marker`."""
        self.cut_before = before
        left = self.cuts + times
        self.matches = lambda piece: marker in piece and self.cuts < left

    def swallow(self, marker: bytes, *, times: int = 1) -> None:
        """The next pieces from the client that contain `marker` never arrive. The client writes a request in one."""
        left = self.swallowed + times
        self._swallows = lambda piece: marker in piece and self.swallowed < left

    def cut(self) -> None:
        """Break all connections, and every new one until `mend`."""
        self._is_cut = True
        for task in list(self._tasks):
            task.cancel()

    def mend(self) -> None:
        """The network is as it should be."""
        self._is_cut = False
        for way in (self.up, self.down):
            way.delay = 0.0
            way.let_go()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            if self._is_cut:
                raise ConnectionResetError("cut")
            up_reader, up_writer = await asyncio.open_connection(*self._target)
        except (OSError, asyncio.CancelledError):
            self._tasks.discard(task)
            writer.close()
            return
        silent = asyncio.Event()
        down = asyncio.create_task(self._down(up_reader, writer, silent))
        ends = (writer, up_writer)
        try:
            await self._up(reader, up_writer, silent)
        except (OSError, asyncio.CancelledError):
            for end in ends:
                end.transport.abort()
        finally:
            # Closed before anything is waited for: a second cancellation must not leave one open
            down.cancel()
            for end in ends:
                end.close()
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await asyncio.gather(down, *(end.wait_closed() for end in ends), return_exceptions=True)
            self._tasks.discard(task)

    async def _up(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, silent: asyncio.Event) -> None:
        while piece := await reader.read(1 << 20):
            if self._swallows(piece):
                self.swallowed += 1
                continue
            hit = self.matches is not None and self.matches(piece)
            if hit:
                self.cuts += 1
                if self.cut_before:
                    return
                silent.set()
            await self.up.through()
            writer.write(piece)
            await writer.drain()
            if hit:
                # The server stores what it has got before it answers a later PING on the same connection
                await asyncio.sleep(0.3)
                return

    async def _down(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, silent: asyncio.Event) -> None:
        while piece := await reader.read(1 << 20):
            if silent.is_set():
                continue
            await self.down.through()
            writer.write(piece)
            await writer.drain()
        writer.close()
