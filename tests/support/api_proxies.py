"""A proxy between an operator and the API server. It counts what is written, kills the operator before or after the
write of a given number, lets the watches that are open fall silent, and is gone for a while."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
from aiohttp import web
from yarl import URL

_HOP = {"connection", "content-length", "host", "keep-alive", "transfer-encoding"}
_READS = ("GET", "HEAD")
_BESIDE = ("/leases", "/events")
"""What is written beside the objects of a Step."""


@dataclass
class Ambush:
    """What is to happen at a write."""

    number: int
    """The write's number, from 1."""
    is_before: bool
    """Whether the API server never gets it; else it has answered, and nobody hears that."""
    strike: Callable[[], None]
    within: str
    """Of the writes whose path holds this."""
    seen: int = 0


@dataclass(eq=False)
class _Stream:
    """One answer on its way."""

    is_silent: bool = False
    done: asyncio.Event = field(default_factory=asyncio.Event)


class ApiProxy:
    """Plain HTTP on loopback, over TLS to the API server. What clients present goes through as it is."""

    def __init__(self, server: str, authority: Path) -> None:
        self._server = server
        self._authority = authority
        self._streams: set[_Stream] = set()
        self._loop = asyncio.new_event_loop()
        self._is_gone = False
        self.port = 0
        self.writes: list[str] = []
        """Method and path of each write, in order."""
        self.lease_calls = 0
        self.ambush: Ambush | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def silence(self) -> int:
        """The watches that are open hear nothing more, and are not told. How many there were."""
        watches = list(self._streams)
        for stream in watches:
            stream.is_silent = True
        return len(watches)

    def go_away(self) -> None:
        """Nobody answers any more; what was open is cut."""
        self._is_gone = True
        self._loop.call_soon_threadsafe(lambda: [stream.done.set() for stream in self._streams])

    def come_back(self) -> None:
        self._is_gone = False

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        if self._is_gone:
            return self._cut(request)
        is_write = request.method not in _READS and not any(word in request.path for word in _BESIDE)
        self.lease_calls += "/leases" in request.path
        ambush = None
        if is_write:
            self.writes.append(f"{request.method} {request.path}")
            if self.ambush is not None and self.ambush.within in request.path:
                self.ambush.seen += 1
                ambush = self.ambush if self.ambush.seen == self.ambush.number else None
        if ambush is not None and ambush.is_before:
            ambush.strike()
            return self._cut(request)
        return await self._forward(request, ambush)

    async def _forward(self, request: web.Request, ambush: Ambush | None) -> web.StreamResponse:
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _HOP}
        url = URL(f"{self._server}{request.raw_path}", encoded=True)
        # A body that is none would get a content type, which the API server refuses.
        data = await request.read() or None
        async with self._session.request(request.method, url, headers=headers, data=data) as answer:
            if ambush is not None:
                await answer.read()
                ambush.strike()
                return self._cut(request)
            kept = {name: value for name, value in answer.headers.items() if name.lower() not in _HOP}
            response = web.StreamResponse(status=answer.status, headers=kept)
            await response.prepare(request)
            await self._relay(request, answer, response)
            return response

    async def _relay(self, request: web.Request, answer: aiohttp.ClientResponse, response: web.StreamResponse) -> None:
        stream = _Stream()
        self._streams.add(stream)
        ended = asyncio.create_task(stream.done.wait())
        try:
            while True:
                piece = asyncio.create_task(answer.content.readany())
                await asyncio.wait({piece, ended}, return_when=asyncio.FIRST_COMPLETED)
                if ended.done():
                    piece.cancel()
                    self._cut(request)
                    return
                if stream.is_silent:
                    await ended
                elif not piece.result():
                    return
                else:
                    await response.write(piece.result())
        finally:
            ended.cancel()
            self._streams.discard(stream)

    def _cut(self, request: web.Request) -> web.Response:
        if request.transport is not None:
            request.transport.abort()
        return web.Response()

    def _run(self, started: threading.Event, stopped: asyncio.Event) -> None:
        async def serve() -> None:
            context = ssl.create_default_context(cafile=str(self._authority))
            connector = aiohttp.TCPConnector(ssl=context, limit=0)
            app = web.Application(client_max_size=1 << 24)
            app.router.add_route("*", "/{path:.*}", self._handle)
            no_limit = aiohttp.ClientTimeout(total=None)
            runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
            async with aiohttp.ClientSession(
                connector=connector, auto_decompress=False, timeout=no_limit
            ) as self._session:
                await runner.setup()
                await web.TCPSite(runner, "127.0.0.1", 0).start()
                self.port = int(runner.addresses[0][1])
                started.set()
                await stopped.wait()
                for stream in self._streams:
                    stream.done.set()
                await runner.cleanup()

        asyncio.set_event_loop(self._loop)
        with contextlib.closing(self._loop):
            self._loop.run_until_complete(serve())


@contextlib.contextmanager
def running(server: str, authority: Path) -> Iterator[ApiProxy]:
    """A proxy in a thread of its own."""
    proxy = ApiProxy(server, authority)
    started, stopped = threading.Event(), asyncio.Event()
    thread = threading.Thread(target=proxy._run, args=(started, stopped), daemon=True)
    thread.start()
    assert started.wait(10), "waited 10 s for the proxy to listen"
    try:
        yield proxy
    finally:
        proxy._loop.call_soon_threadsafe(stopped.set)
        thread.join(10)
