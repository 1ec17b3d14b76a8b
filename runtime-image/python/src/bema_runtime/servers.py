"""HTTP of a runtime: the api Steps on one port, health and metrics on theirs. All on the engine's loop, so that a
handler that blocks stops no answer to others."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import re
import socket
import time
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from typing import Any

import orjson
import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from bema.contract import frames, names, retentions, triggers
from bema.contract.bindings import BoundApi, Listen
from bema.contract.frames import End, Outcome
from bema.contract.triggers import Kind
from bema_runtime import traces
from bema_runtime.committers import Abandoned, Committed, Conflicted, Full, Overtaken, Result, Unfit
from bema_runtime.engines import Engine
from bema_runtime.metrics import Metrics
from bema_runtime.runs import Run, Unit

log = logging.getLogger(__name__)


UNREAD_SECONDS = 0.1
"""How long an accepted connection may take to be read, in seconds."""


class _Server(uvicorn.Server):
    """Leaves signals to the process."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


class Serving:
    """A server that runs."""

    def __init__(self, app: Any, listening: socket.socket) -> None:
        config = uvicorn.Config(
            app,
            http="httptools",
            ws="none",
            loop="none",
            lifespan="off",
            access_log=False,
            log_config=None,
            server_header=False,
            timeout_keep_alive=60,
            timeout_graceful_shutdown=60,
        )
        self._server = _Server(config)
        self._task = asyncio.create_task(self._server.serve(sockets=[listening]), name="http")

    async def stop(self, seconds: float) -> None:
        """Take no more requests, let those in hand end. Listening ends first: a connection that was accepted but not
        read yet would be cut off with its request in it."""
        for listener in getattr(self._server, "servers", ()):
            listener.close()
        await asyncio.sleep(min(UNREAD_SECONDS, seconds))
        self._server.should_exit = True
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.shield(self._task), seconds)
        self._server.force_exit = True
        await self._task


def listening_socket(listen: Listen) -> socket.socket:
    """A listening socket, or the inherited one. Raises `OSError` when the port is taken."""
    if listen.fd is not None:
        return socket.socket(fileno=listen.fd)
    family = socket.AF_INET6 if ":" in listen.host else socket.AF_INET
    opened = socket.socket(family, socket.SOCK_STREAM)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        opened.bind((listen.host, listen.port))
    except OSError as error:
        opened.close()
        raise OSError(error.errno, f"cannot listen on {listen.host}:{listen.port}: {error.strerror}") from error
    opened.listen(2048)
    return opened


def probes(problems: Callable[[], list[str]], notes: Callable[[], list[str]] = list) -> Starlette:
    """`/livez`: the engine's loop answers. `/readyz`: 503 with the reasons while there are some; else `ok`, and what
    else is worth knowing."""

    async def live(request: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def ready(request: Request) -> Response:
        found = problems()
        return PlainTextResponse("\n".join(found or ["ok", *notes()]) + "\n", status_code=503 if found else 200)

    return Starlette(routes=[Route("/livez", live), Route("/readyz", ready)])


def metrics_app(metrics: Metrics) -> Starlette:
    async def scrape(request: Request) -> Response:
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    return Starlette(routes=[Route("/metrics", scrape)])


def problem(
    status: int, title: str, *, detail: str = "", headers: Mapping[str, str] | None = None, **more: Any
) -> Response:
    """An error as `application/problem+json` (RFC 9457)."""
    body = {"type": "about:blank", "title": title, "status": status, **({"detail": detail} if detail else {}), **more}
    return Response(
        orjson.dumps(body), status_code=status, media_type="application/problem+json", headers=dict(headers or {})
    )


class ApiApp:
    """The api Steps of a process as one ASGI app."""

    def __init__(self, engine: Engine, units: Sequence[Unit]) -> None:
        self._engine = engine
        self._in_flight: dict[str, int] = {}
        paths: dict[str, dict[str, tuple[Unit, BoundApi]]] = {}
        for unit in units:
            for api in unit.binding.apis:
                paths.setdefault(api.path, {}).setdefault(api.method, (unit, api))
        routes = [
            Route(path, self._endpoint(methods), methods=list(methods))
            for path, methods in sorted(paths.items(), key=lambda item: _specificity(item[0]))
        ]
        self.app = Starlette(routes=routes, exception_handlers={HTTPException: _http_problem})

    def _endpoint(self, methods: Mapping[str, tuple[Unit, BoundApi]]) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            unit, api = methods.get(request.method) or methods["GET"]
            return await self._admit(unit, api, request)

        return endpoint

    async def _admit(self, unit: Unit, api: BoundApi, request: Request) -> Response:
        step = unit.binding.step
        if unit.binding.suspended:
            return problem(503, "Suspended", detail=f"{step} is suspended")
        count = self._in_flight.get(step, 0)
        if count >= unit.binding.concurrency:
            return problem(503, "Too many requests at once", headers={"Retry-After": "1"})
        self._in_flight[step] = count + 1
        try:
            try:
                seconds = unit.binding.timeout_seconds[Kind.API]
                body = await asyncio.wait_for(_read_body(request, api.max_body_bytes), seconds)
            except TimeoutError:
                return problem(408, "Timeout", detail=f"the body did not come within {seconds:g} s")
            except ClientDisconnect:
                return problem(400, "Disconnected")
            if body is None:
                limit = api.max_body_bytes
                return problem(413, "Body too large", detail=f"expected at most {limit} bytes")
            return await self._run(_new_run(unit, api, request, body))
        finally:
            self._in_flight[step] -= 1

    async def _run(self, run: Run) -> Response:
        work = asyncio.create_task(self._engine.execute(run))
        run.until = time.monotonic() + run.timeout
        # A heartbeat moves it
        while not work.done() and (left := run.until - time.monotonic()) > 0:
            await asyncio.wait({work}, timeout=left)
        if not work.done():
            self._engine.cancel(run, f"timeout after {run.timeout:g} s")
            work.add_done_callback(lambda task: task.cancelled() or task.exception())
            _count(run, "timeout")
            return problem(504, "Timeout", detail=f"no answer within {run.timeout:g} s", trace=run.trace_id)
        end, result = work.result()
        return _answer(run, end, result)


def _new_run(unit: Unit, api: BoundApi, request: Request, body: bytes) -> Run:
    return Run(
        unit=unit,
        kind=Kind.API,
        id=names.new_id(int(time.time() * 1000), random.getrandbits(80)),
        attempt=1,
        trigger=api.trigger,
        trace_id=traces.trace_of(request.headers.get("traceparent")),
        data=body,
        request=frames.HttpRequest(
            method=request.method,
            path=request.url.path,
            path_params={name: str(value) for name, value in request.path_params.items()},
            query=tuple(request.query_params.multi_items()),
            headers=tuple(request.headers.items()),
        ),
    )


async def _read_body(request: Request, limit: int) -> bytes | None:
    """The body, or None when there is more than `limit` bytes of it."""
    declared = request.headers.get("content-length", "0")
    if declared.isdigit() and int(declared) > limit:
        return None
    chunks = bytearray()
    async for chunk in request.stream():
        chunks += chunk
        if len(chunks) > limit:
            return None
    return bytes(chunks)


def _specificity(path: str) -> list[tuple[bool, int, str]]:
    """Literal parts before parameters, and more of a literal before less of it: `/files/latest`, then
    `/files/{id}.json`, then `/files/{id}`."""
    return [("{" in part, -len(re.sub(r"\{.*?\}", "", part)), part) for part in path.split("/")]


async def _http_problem(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    return problem(error.status_code, str(error.detail), headers=error.headers)


def _count(run: Run, outcome: str) -> None:
    if outcome == "ok":
        run.unit.metrics.runs[Kind.API, "ok"] += 1
    else:
        run.unit.metrics.runs[Kind.API, outcome] += 1


def _answer(run: Run, end: End, result: Result | None) -> Response:
    match end.outcome:
        case Outcome.OK:
            return _committed(run, end, result)
        case Outcome.SKIPPED:
            _count(run, "skipped")
            detail = "the request is not one that this endpoint acts on"
            return problem(422, "Condition not met", detail=detail, trace=run.trace_id)
        case Outcome.INVALID | Outcome.FAILED:
            return _failed(run, end.failure or frames.Failure("Error", ""))
        case Outcome.CANCELLED if run.cancelled or run.given_up:
            _count(run, "timeout")
            return problem(504, "Timeout", detail=f"no answer within {run.timeout:g} s", trace=run.trace_id)
        case Outcome.CANCELLED:
            _count(run, "abandoned")
            detail = "the process stops and the request took no effect; ask again"
            return problem(503, "Stopping", detail=detail, headers={"Retry-After": "1"}, trace=run.trace_id)


def _committed(run: Run, end: End, result: Result | None) -> Response:
    match result:
        case None | Committed() | Overtaken():
            _count(run, "ok")
            answer = end.response or frames.HttpResponse(204, (), b"")
            response = Response(answer.body, status_code=answer.status)
            for name, value in answer.headers:
                response.headers.append(name, value)
            return response
        case Conflicted():
            _count(run, "conflict")
            detail = "what the request read was changed by others, again and again; nothing was written"
            return problem(503, "Too much contention", detail=detail, headers={"Retry-After": "1"}, trace=run.trace_id)
        case Unfit(reason=reason):
            log.error("Cannot commit: %s", reason, extra=run.log_fields)
            _count(run, "failed")
            return problem(500, "Internal error", trace=run.trace_id)
        case Full(reason=reason):
            _count(run, "full")
            later = {"Retry-After": f"{retentions.SWEEP_SECONDS:.0f}"}
            return problem(503, "App storage full", detail=reason, headers=later, trace=run.trace_id)
        case Abandoned():
            _count(run, "abandoned")
            detail = "whether the request took effect is not known; ask again with the same data"
            return problem(503, "Stopping", detail=detail, headers={"Retry-After": "1"}, trace=run.trace_id)


def _failed(run: Run, failure: frames.Failure) -> Response:
    status = failure.http_status
    if failure.type == "Invalid" and status is not None:
        _count(run, "invalid")
        title = "Malformed JSON" if status == 400 else "Invalid request"
        return problem(status, title, detail=failure.message, errors=list(failure.details), trace=run.trace_id)
    if status is not None:
        _count(run, "ok" if status < 500 else "failed")
        return problem(status, failure.message or "Error", headers=failure.http_headers, trace=run.trace_id)
    _count(run, "failed")
    log.error(
        "The handler failed: %s: %s",
        failure.type,
        failure.message,
        extra={**run.log_fields, "error": failure.traceback},
    )
    return problem(500, "Internal error", trace=run.trace_id)


def endpoints(units: Sequence[Unit]) -> list[str]:
    """What is served, as `POST /orders`."""
    return [f"{api.method} {triggers.normal_path(api.path)}" for unit in units for api in unit.binding.apis]
