"""A runtime process: its parts made, joined, and taken down in order."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import Coroutine, Sequence
from typing import Any

from bema.contract import errors, names
from bema.contract.bindings import Binding, Listen
from bema.ports import connections
from bema_runtime import crons, engines, memories, servers
from bema_runtime.commits import RunOutcome
from bema_runtime.engines import Engine
from bema_runtime.invokers import EXIT_STUCK
from bema_runtime.isolations import Invokers
from bema_runtime.metrics import Metrics

log = logging.getLogger(__name__)

EXIT_STOPPED = 75
EXIT_REPLACED = 76
LINGER = 2.0
"""How long an api Step goes on serving after SIGTERM, in seconds: until no proxy sends to it any more."""


class Process:
    """One runtime. Its Bindings are of one app."""

    def __init__(self, bindings: Sequence[Binding]) -> None:
        if len({binding.stream.name for binding in bindings}) != 1:
            raise errors.StepInvalid("expected Bindings of one app, found several")
        self._bindings = bindings
        self._metrics = Metrics()
        self._units = engines.units_of(bindings, self._metrics)
        self._invoker = Invokers(bindings)
        self._connection: connections.Connection | None = None
        self._engine: Engine | None = None
        self._stop = asyncio.Event()
        self._deadline = 0.0
        self._servers: list[servers.Serving] = []
        self._api: servers.Serving | None = None

    def _problems(self) -> list[str]:
        return [*self._engine.problems, *self._invoker.problems] if self._engine else ["starting"]

    def _notes(self) -> list[str]:
        return self._engine.notes if self._engine else []

    async def serve(self) -> int:
        """Work until SIGTERM or SIGINT; the exit code."""
        return await self._until_stopped(self._work(), stopped=0, patience=0)

    async def once(self) -> int:
        """Make one cron run, the one that the Job is for; 0 when it ended well, 1 when it failed for good, another
        number when it was stopped before: Kubernetes takes 0 for a tick that was done."""
        return await self._until_stopped(self._run_job(), stopped=EXIT_STOPPED, patience=self._drain_seconds)

    @property
    def _drain_seconds(self) -> float:
        return self._bindings[0].drain_seconds

    async def _until_stopped(self, work: Coroutine[Any, Any, int], *, stopped: int, patience: float) -> int:
        """The code of `work`, or `stopped` when it was told to stop and did not end within `patience` seconds."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        working = asyncio.create_task(work, name="work")
        stopping = asyncio.create_task(self._stop.wait(), name="stop")
        await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
        self._deadline = loop.time() + self._drain_seconds
        try:
            await asyncio.wait({working}, timeout=patience)
            if working.done():
                return working.result()
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)
            return stopped
        finally:
            stopping.cancel()
            await self._close()

    async def _work(self) -> int:
        engine = await self._open()
        http = next((binding.http for binding in self._bindings if binding.http is not None), None)
        if http is not None:
            self._api = self._listen(servers.ApiApp(engine, self._units).app, http)
        tickers = [
            crons.Ticker(engine, unit, cron).run()
            for unit in self._units
            for cron in unit.binding.crons
            if not unit.binding.suspended
        ]
        steps = ", ".join(binding.step for binding in self._bindings)
        log.info("Ready: %s", steps, extra={"app": self._bindings[0].app})
        await asyncio.gather(self._stop.wait(), *tickers)
        return 0

    async def _run_job(self) -> int:
        engine = await self._open()
        unit = self._units[0]
        if len(self._units) != 1 or len(unit.binding.crons) != 1:
            raise errors.StepInvalid("--once: expected one Binding with one cron trigger")
        run = crons.run_of_job(unit, unit.binding.crons[0], os.environ.get(names.ENV_JOB_NAME, ""), time.time())
        match await crons.run_to_end(engine, run):
            case RunOutcome.OK:
                return 0
            case RunOutcome.DEAD:
                return 1
            case None:
                return EXIT_STOPPED

    async def _open(self) -> Engine:
        """Health first: the first probe then waits instead of failing while handlers are imported."""
        first = self._bindings[0]
        self._servers.append(self._listen(servers.probes(self._problems, self._notes), first.health))
        self._servers.append(self._listen(servers.metrics_app(self._metrics), first.metrics))
        self._connection = await connections.connect(
            first.broker.urls,
            name=f"bema-runtime {first.app} {' '.join(binding.step for binding in self._bindings)}"[:200],
            credentials_file=first.broker.credentials_file,
        )
        engine = Engine(
            self._connection,
            self._units,
            self._invoker,
            self._metrics,
            on_stuck=_give_up_process,
            on_replaced=_begin_anew,
        )
        await self._invoker.start(engine)
        memories.settle()
        self._engine = engine
        await engine.start()
        return engine

    def _listen(self, app: Any, listen: Listen) -> servers.Serving:
        return servers.Serving(app, servers.listening_socket(listen))

    @property
    def _left(self) -> float:
        """Seconds of the drain that are left: all parts of a process share them."""
        return max(0.0, self._deadline - asyncio.get_running_loop().time())

    async def _close(self) -> None:
        if self._engine is not None:
            await self._engine.stop_pulling(self._left)
        if self._api is not None:
            inherited = any(binding.http is not None and binding.http.fd is not None for binding in self._bindings)
            await asyncio.sleep(0 if inherited else min(LINGER, self._left))
            await self._api.stop(self._left)
        if self._engine is not None:
            await self._engine.drain(self._left)
            await self._engine.close()
        if self._connection is not None:
            await self._connection.close()
        for server in self._servers:
            await server.stop(0.5)
        if self._engine is not None:
            self._invoker.close()


def _give_up_process() -> None:
    """A handler that cannot be stopped: leave at once, so that its event is delivered to somebody else."""
    os._exit(EXIT_STUCK)


def _begin_anew() -> None:
    """The stream is another one: leave at once, before anything of the one before is written or acknowledged in it."""
    os._exit(EXIT_REPLACED)
