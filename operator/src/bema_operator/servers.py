"""The operator's own HTTP: `/livez` and `/readyz` on one port, `/metrics` on another."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable

from aiohttp import web

log = logging.getLogger(__name__)

Check = Callable[[], list[str]]
"""What is wrong, as sentences; empty when nothing is."""


@contextlib.asynccontextmanager
async def health(host: str, port: int, *, alive: Check, ready: Check) -> AsyncIterator[int]:
    """Serve the probes. Gives the port, which is another one than asked for when that was 0."""
    routes = [web.get("/livez", _probe(alive)), web.get("/readyz", _probe(ready))]
    async with _serve(host, port, routes) as bound:
        yield bound


@contextlib.asynccontextmanager
async def measures(host: str, port: int, text: Callable[[], bytes]) -> AsyncIterator[int]:
    """Serve what is measured."""

    async def answer(_: web.Request) -> web.Response:
        return web.Response(body=text(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    async with _serve(host, port, [web.get("/metrics", answer)]) as bound:
        yield bound


def _probe(check: Check) -> Callable[[web.Request], Awaitable[web.Response]]:
    said: list[str] = []

    async def answer(_: web.Request) -> web.Response:
        problems = check()
        if problems and problems != said:
            log.warning("Not healthy: %s", "; ".join(problems))
        said[:] = problems
        return web.json_response({"problems": problems}, status=503 if problems else 200)

    return answer


@contextlib.asynccontextmanager
async def _serve(host: str, port: int, routes: list[web.RouteDef]) -> AsyncIterator[int]:
    app = web.Application()
    app.add_routes(routes)
    runner = web.AppRunner(app, handle_signals=False, access_log=None, shutdown_timeout=1)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()
