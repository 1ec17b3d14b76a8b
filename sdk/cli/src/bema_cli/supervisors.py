"""`bema dev`: a broker, one worker for all Steps, and the process that looks after them and never runs user code.

Everything that happens arrives as a message in one queue and is handled by one task, so that no two things change
what runs at the same time.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import assert_never

from bema.contract import bindings, errors, retentions
from bema.contract.bindings import Installation, Owner
from bema.contract.retentions import Retentions
from bema.discoveries import Problem
from bema.ports import admin, connections, subscriptions
from bema.ports.janitors import Janitor
from bema.ports.jetstream import JetStream
from bema_cli import brokers, checks, discovery, events, janitors, options, plans, processes, sockets, watches, workers
from bema_cli.brokers import Broker
from bema_cli.checks import Findings
from bema_cli.events import Event
from bema_cli.plans import Plan
from bema_cli.workers import Worker
from bema_cli.workspaces import Process, Record, Workspace

DRAIN_SECONDS = 5.0
FIRST_BACKOFF = 0.2
LAST_BACKOFF = 5.0
STEADY_SECONDS = 10.0
"""A worker that was ready for so long has not failed at once: the back-off begins anew."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What the command line says."""

    folder: Path
    app: str
    host: str = brokers.HOST
    port: int | None = None
    """None: the first free one from 3000 on."""
    persist: bool = False
    reload: bool = True


@dataclass(frozen=True, slots=True)
class _Changed:
    """Files that matter."""


@dataclass(frozen=True, slots=True)
class _WorkerEnded:
    worker: Worker
    code: int


@dataclass(frozen=True, slots=True)
class _WorkerReady:
    worker: Worker


@dataclass(frozen=True, slots=True)
class _Retry:
    number: int


@dataclass(frozen=True, slots=True)
class _BrokerEnded:
    code: int


_Message = _Changed | _WorkerEnded | _WorkerReady | _Retry | _BrokerEnded


class Supervisor:
    """One `bema dev`."""

    def __init__(self, settings: Settings, tell: Callable[[Event], None]) -> None:
        self._settings = settings
        self._tell = tell
        self._workspace = Workspace(settings.folder)
        self._messages: asyncio.Queue[_Message] = asyncio.Queue()
        self._http: socket.socket | None = None
        self._health = sockets.listen(brokers.HOST, 0)
        self._metrics = sockets.listen(brokers.HOST, 0)
        self._broker: Broker | None = None
        self._connection: connections.Connection | None = None
        self._watch: watches.Watch | None = None
        self._worker: Worker | None = None
        self._following: list[asyncio.Task[None]] = []
        self._following_broker: asyncio.Task[None] | None = None
        self._plan = plans.EMPTY
        self._running = plans.EMPTY
        self._problems: Sequence[Problem] = ()
        self._warned: set[str] = set()
        self._reason = "start"
        self._started_at = time.monotonic()
        self._ready_at: float | None = None
        self._failures = 0
        self._stops = 0
        self._stale = False
        self._working: asyncio.Task[None] | None = None
        self._cleaning: asyncio.Task[None] | None = None
        self._janitor: Janitor | None = None
        self._ensuring = asyncio.Lock()
        """Held while consumers are made or removed."""

    async def run(self) -> int:
        """Work until a signal says stop; the exit code. Raises `BemaError` for what keeps it from starting."""
        try:
            with self._workspace.held():
                await self._work_until_stopped()
        finally:
            for item in (self._http, self._health, self._metrics):
                if item is not None:
                    item.close()
        self._say(events.Stopped())
        return 0

    async def _work_until_stopped(self) -> None:
        self._working = asyncio.create_task(self._work(), name="supervisor")
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._stop)
        try:
            await asyncio.wait([self._working])
        finally:
            await self._close()
        if not self._working.cancelled():
            self._working.result()

    def _say(self, event: Event) -> None:
        try:
            self._tell(event)
        except (OSError, SystemExit):
            # Nobody is there to read it any more; rich makes a SystemExit of a broken pipe.
            if self._working is not None:
                self._working.cancel()

    def _stop(self) -> None:
        self._stops += 1
        if self._stops == 1 and self._working is not None:
            self._working.cancel()
            self._say(events.Stopping())
            return
        if self._worker is not None:
            self._worker.child.kill()
        if self._broker is not None:
            self._broker.child.kill()

    async def _work(self) -> None:
        if self._settings.port is not None:
            self._http = sockets.listen(self._settings.host, self._settings.port)
        self._broker = await brokers.start(self._workspace, persist=self._settings.persist)
        self._follow_broker(self._broker)
        self._connection = await connections.connect([self._broker.url], name="bema dev", wait=brokers.SECONDS)
        if self._settings.reload:
            self._watch = watches.Watch(self._settings.folder, self._changed)
            if not await self._watch.wait_watching():
                self._say(events.Note("this system cannot watch so many folders; looking at them now and then"))
        await self._refresh()
        self._cleaning = asyncio.create_task(self._cleaner(self._connection).run(self._say), name="janitor")
        while True:
            message = await self._messages.get()
            await self._handle(message)

    def _cleaner(self, connection: connections.Connection) -> janitors.Cleaner:
        stream = bindings.app_stream(Owner(namespace=self._settings.app), self._installation()).name
        js = JetStream(connection)
        self._janitor = Janitor(js, stream, self._retentions())
        return janitors.Cleaner(
            js,
            self._janitor,
            stream,
            steps=lambda: plans.names(self._plan),
            silent=lambda: plans.silent(self._plan),
            lock=self._ensuring,
        )

    def _retentions(self) -> Retentions:
        return retentions.of_installation(self._plan.app.over(self._installation()))

    async def _handle(self, message: _Message) -> None:
        match message:
            case _Changed():
                await self._refresh()
            case _WorkerReady(worker) if worker is self._worker:
                self._now_ready(worker)
            case _WorkerEnded(worker, code) if worker is self._worker:
                self._worker_ended(worker, code)
            case _Retry(number):
                if number == self._failures and self._worker is None:
                    await self._start("restart")
            case _BrokerEnded(code):
                await self._restart_broker(code)
            case _WorkerReady() | _WorkerEnded():
                # Of a worker that was replaced meanwhile.
                pass
            case _:
                assert_never(message)

    def _put(self, message: _Message) -> None:
        self._messages.put_nowait(message)

    def _changed(self) -> None:
        # Changes that come while the ones before wait are looked at together.
        if not self._stale:
            self._stale = True
            self._put(_Changed())

    async def _refresh(self) -> None:
        """Find out what there is to run, and make it run."""
        self._stale = False
        try:
            env = options.env_of(self._settings.folder)
        except errors.StepInvalid as error:
            # What runs goes on as it was.
            self._say(events.Problems([{"file": ".env", "line": None, "message": str(error)}]))
            return
        findings = checks.examine(await discovery.discover(self._settings.folder, env))
        findings = findings.with_problems(plans.refused(findings))
        self._show(findings)
        if findings.is_app_amiss:
            # What runs goes on as it was.
            return
        self._listen(bool(findings.endpoints))
        self._plan = plans.plan(
            findings, env, folder=self._settings.folder, app=self._settings.app, installation=self._installation()
        )
        self._warn(self._plan.warnings)
        if self._janitor is not None:
            self._janitor.keep(self._retentions())
        changed = plans.changes(self._running, self._plan)
        if not changed and (self._worker is not None or not self._plan.bindings):
            self._idle()
            return
        if self._running.prints:
            self._say(events.Reload(changed))
        self._failures = 0
        await self._start("reload" if self._running.prints else self._reason)

    def _show(self, findings: Findings) -> None:
        if list(findings.problems) != list(self._problems):
            self._problems = findings.problems
            plain = [{"file": item.file, "line": item.line, "message": item.message} for item in findings.problems]
            self._say(events.Problems(plain))
        self._warn(findings.warnings)

    def _warn(self, texts: Iterable[str]) -> None:
        for text in texts:
            if text not in self._warned:
                self._warned.add(text)
                self._say(events.Note(text, "warning"))

    def _idle(self) -> None:
        if self._worker is None and self._reason == "start":
            self._say(events.Idle("nothing to run yet; " + checks.NOTHING.replace("expected", "put", 1)))

    def _listen(self, has_api: bool) -> None:
        """Have a socket for requests while there are Steps that answer them."""
        wanted = self._settings.port
        if has_api and self._http is None:
            self._http = sockets.listen_from(self._settings.host, wanted or sockets.DEFAULT_PORT)
            port = sockets.port_of(self._http)
            if wanted is None and port != sockets.DEFAULT_PORT:
                self._say(events.Note(f"port {sockets.DEFAULT_PORT} is taken; using {port}"))
        elif not has_api and self._http is not None and wanted is None:
            self._http.close()
            self._http = None

    @property
    def _url(self) -> str | None:
        return sockets.url(self._settings.host, sockets.port_of(self._http)) if self._http else None

    @property
    def _metrics_url(self) -> str:
        return sockets.url(brokers.HOST, sockets.port_of(self._metrics)) + "/metrics"

    def _installation(self) -> Installation:
        assert self._broker is not None
        return Installation(
            broker=bindings.Broker(urls=[self._broker.url]),
            memory=not self._settings.persist,
            http=sockets.bound(self._http) if self._http else bindings.Listen(),
            health=sockets.bound(self._health),
            metrics=sockets.bound(self._metrics),
            folder=str(self._settings.folder),
            drain_seconds=DRAIN_SECONDS,
        )

    async def _start(self, reason: str) -> None:
        """Replace the worker, if there is one, by one that runs the plan."""
        self._started_at, self._ready_at, self._reason = time.monotonic(), None, reason
        await self._end_worker()
        self._running = await self._ensure(self._plan) if self._plan.bindings else self._plan
        if not self._running.bindings:
            self._record()
            self._say(events.Idle("nothing to run any more"))
            return
        order = workers.Order(
            bindings=self._write(self._running),
            env=self._plan.env,
            folder=self._settings.folder,
            descriptors=[item.fileno() for item in (self._http, self._health, self._metrics) if item is not None],
            health_port=sockets.port_of(self._health),
            drain_seconds=DRAIN_SECONDS,
        )
        self._worker = await workers.start(order, lambda line: self._say(events.heard(line)))
        self._record()
        self._follow(self._worker)

    async def _ensure(self, plan: Plan) -> Plan:
        """Make the app's stream and a consumer for each Step that hears events. Those of Steps that are gone stay: a
        Step that comes back goes on where it was. The plan without Steps whose place another one has taken over."""
        taken: dict[str, str] = {}
        assert self._connection is not None
        js = JetStream(self._connection)
        stream = bindings.app_stream(Owner(namespace=self._settings.app), self._installation())
        async with self._ensuring:
            await admin.ensure_stream(js, stream)
            for file, binding in plan.bindings.items():
                try:
                    await subscriptions.ensure(js, binding)
                except errors.PlaceTaken as error:
                    taken[file] = f"adoptFrom: {error}"
        if taken:
            found = [{"file": file, "line": None, "message": message} for file, message in taken.items()]
            self._say(events.Problems(found))
        return plan.without(taken.keys())

    def _write(self, plan: Plan) -> list[Path]:
        folder = self._workspace.bindings
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        files = []
        for binding in plan.bindings.values():
            file = folder / f"{binding.step}.json"
            file.write_text(binding.to_json(), "utf-8")
            files.append(file)
        return files

    def _record(self) -> None:
        children = [part.child for part in (self._broker, self._worker) if part is not None]
        assert self._broker is not None
        self._workspace.write(
            Record(
                app=self._settings.app,
                supervisor=Process.of(processes.identify(os.getpid())),
                children=[Process.of(child.identity) for child in children],
                nats=self._broker.url,
                url=self._url,
                metrics=self._metrics_url,
            )
        )

    def _follow(self, worker: Worker) -> None:
        async def until_ready() -> None:
            await worker.wait_ready()
            self._put(_WorkerReady(worker))

        async def until_ended() -> None:
            self._put(_WorkerEnded(worker, await worker.wait()))

        self._following = [asyncio.create_task(until_ready()), asyncio.create_task(until_ended())]

    def _follow_broker(self, broker: Broker) -> None:
        async def until_ended() -> None:
            self._put(_BrokerEnded(await broker.child.wait()))

        self._following_broker = asyncio.create_task(until_ended())
        self._record()

    def _now_ready(self, worker: Worker) -> None:
        assert self._broker is not None
        now = time.monotonic()
        self._ready_at = now
        self._say(
            events.Ready(
                app=self._settings.app,
                worker=worker.child.pid,
                reason=self._reason,
                seconds=round(now - self._started_at, 3),
                url=self._url,
                metrics=self._metrics_url,
                nats=self._broker.url,
                steps=[plans.running(found, self._url) for found in self._running.steps],
            )
        )

    def _worker_ended(self, worker: Worker, code: int) -> None:
        steady = self._ready_at is not None and time.monotonic() - self._ready_at > STEADY_SECONDS
        self._failures = 1 if steady else self._failures + 1
        delay = min(FIRST_BACKOFF * 2 ** (self._failures - 1), LAST_BACKOFF)
        self._worker = None
        worker.child.kill()
        self._say(events.WorkerExit(worker.child.pid, processes.ending(code), delay))
        asyncio.get_running_loop().call_later(delay, self._put, _Retry(self._failures))

    async def _restart_broker(self, code: int) -> None:
        """The worker and our own connection come back by themselves: the port stays."""
        assert self._broker is not None
        assert self._connection is not None
        lost = "" if self._settings.persist else "; events and state were in its memory and are lost"
        self._say(events.Note(f"nats-server ended ({processes.ending(code)}), another starts{lost}", "warning"))
        self._broker = await brokers.start(self._workspace, persist=self._settings.persist, port=self._broker.port)
        self._follow_broker(self._broker)
        await self._connection.wait_connected(brokers.SECONDS)
        await self._start("restart")

    async def _end_worker(self) -> None:
        for task in self._following:
            task.cancel()
        await asyncio.gather(*self._following, return_exceptions=True)
        self._following = []
        if self._worker is not None:
            await self._worker.stop()
        self._worker = None

    async def _close(self) -> None:
        if self._cleaning is not None:
            self._cleaning.cancel()
            await asyncio.gather(self._cleaning, return_exceptions=True)
        if self._watch is not None:
            await self._watch.stop()
        await self._end_worker()
        if self._connection is not None:
            await self._connection.close()
        if self._broker is not None and self._following_broker is not None:
            self._following_broker.cancel()
            await asyncio.gather(self._following_broker, return_exceptions=True)
            await self._broker.stop()
