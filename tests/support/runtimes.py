"""Runtime processes for tests: Step sources on disk, Bindings as the platform would make them, real processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from bema import handlers
from bema.contract import bindings, envelopes, errors, names
from bema.contract.bindings import AppStream, Binding, Broker, Installation, Listen, Owner
from bema.contract.steps import Isolation, Step
from bema.ports import admin, connections, subscriptions
from bema.ports.jetstream import JetStream, Outgoing, Stored
from tests.support import waits
from tools import ports

NAMESPACE = "shop"


class App:
    """Steps in a folder, their stream and consumers, and runtime processes that execute them."""

    def __init__(self, nats_url: str | list[str], folder: Path, files: dict[str, str]) -> None:
        self.nats_urls = [nats_url] if isinstance(nats_url, str) else nats_url
        self.folder = folder
        self.root = names.root(NAMESPACE)
        self.stream = names.stream(NAMESPACE)
        self.bindings: list[Binding] = []
        self.workers: list[Worker] = []
        self.http_port = ports.free()
        for path, text in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text)

    async def start(
        self,
        *,
        workers: int = 1,
        deliver_from: str = "Beginning",
        memory: bool = False,
        drain_seconds: float = 5,
        nats_url: str | None = None,
        only: list[str] | None = None,
        wait: bool = True,
        replicas: int = 1,
        isolation: Isolation | None = None,
    ) -> None:
        self.connection = await connections.connect(self.nats_urls, name="test", wait=5)
        self.js = JetStream(self.connection)
        owner = Owner(namespace=NAMESPACE)
        for file in sorted(self.folder.rglob("*_step.py")):
            path = str(file.relative_to(self.folder))
            installation = Installation(
                broker=Broker(urls=[nats_url] if nats_url else self.nats_urls),
                replicas=replicas,
                memory=memory,
                http=Listen(host="127.0.0.1", port=self.http_port),
                health=Listen(host="127.0.0.1"),
                metrics=Listen(host="127.0.0.1"),
                folder=str(self.folder),
                drain_seconds=drain_seconds,
            )
            handler = handlers.load(self.folder, path)
            spec = handlers.spec_of(handler, {"entrypoint": path, "image": "none"})
            spec = spec.model_copy(update={"deliver_from": deliver_from, "isolation": isolation or spec.isolation})
            if spec.code is not None:
                self.bindings.append(bindings.bind(Step(name=handler.name, spec=spec), owner, installation))
        await self.ensure(bindings.app_stream(owner, installation))
        for _ in range(workers):
            self.spawn(only=only)
        if wait:
            for worker in self.workers:
                await worker.wait_ready()

    async def ensure(self, stream: AppStream) -> None:
        """Make the stream and the consumers, or bring them up to date, as the operator and `bema dev` do."""
        await admin.ensure_stream(self.js, stream)
        for binding in self.bindings:
            await subscriptions.ensure(self.js, binding)

    async def wait_ensured(self, stream: AppStream, what: str, *, timeout: float = 20) -> None:
        """The same, as soon as the broker is there for it."""

        async def ensured() -> bool:
            try:
                await self.ensure(stream)
            except errors.BrokerUnavailable:
                return False
            return True

        await waits.until(ensured, what, timeout=timeout)

    def spawn(
        self,
        *,
        only: list[str] | None = None,
        once: bool = False,
        env: dict[str, str] | None = None,
        urls: list[str] | None = None,
        module: str = "bema_runtime",
    ) -> Worker:
        """Start a worker: for some of the Steps, with a way of its own to the broker, or by another module."""
        chosen = [binding for binding in self.bindings if only is None or binding.step in only]
        if urls is not None:
            chosen = [binding.model_copy(update={"broker": Broker(urls=urls)}) for binding in chosen]
        worker = Worker(self.folder, len(self.workers), chosen, module=module, once=once, env=env)
        self.workers.append(worker)
        return worker

    @property
    def worker(self) -> Worker:
        return self.workers[-1]

    def binding(self, step: str) -> Binding:
        return next(binding for binding in self.bindings if binding.step == step)

    async def emit(self, topic: str, data: Any, *, id: str | None = None, key: str | None = None) -> str:
        """An event from outside, as a bare client would send it."""
        event_id = id or names.new_id(0, int.from_bytes(os.urandom(10), "big"))
        body = data if isinstance(data, bytes) else json.dumps(data).encode()
        event = envelopes.Event(event_id, topic, "/test", "2026-01-01T00:00:00Z", body, key)
        subject = names.event(self.root, topic, names.partition(key, bindings.PARTITIONS))
        await self.js.publish(Outgoing(subject, body, envelopes.encode(event)))
        return event_id

    async def state(self, group: str, key: str) -> Any:
        stored = await self.js.get_last(self.stream, names.state(self.root, group, key))
        return json.loads(stored.data) if stored is not None and stored.data else None

    async def messages(self, subject_filter: str) -> list[Stored]:
        return [stored async for stored in self.js.scan(self.stream, subject_filter)]

    async def dead_letters(self) -> list[Stored]:
        found = await self.messages(names.dead_letter_filter(self.root))
        return [stored for stored in found if envelopes.DELETED not in stored.headers]

    async def wait_dead(self, number: int, *, timeout: float = 20) -> dict[str | None, list[dict[str, Any]]]:
        """So many dead letters, by the ids of their events: the attempts of each."""

        async def all_dead() -> bool:
            return len(await self.dead_letters()) == number

        await waits.until(all_dead, f"{number} dead letters", timeout=timeout, explain=self.explain)
        return {
            envelopes.attribute(letter.headers, envelopes.ID): json.loads(letter.headers[envelopes.ERRORS])
            for letter in await self.dead_letters()
        }

    async def events(self, topic: str) -> list[Stored]:
        return await self.messages(names.event_filter(self.root, topic))

    async def wait_state(self, group: str, key: str, expected: Any, *, timeout: float = 20) -> None:
        async def reached() -> bool:
            return bool(await self.state(group, key) == expected)

        await waits.until(reached, f"state {group}/{key} = {expected!r}", timeout=timeout, explain=self.explain)

    async def wait_idle(self, *, timeout: float = 20) -> None:
        """Until every consumer has seen and settled all there is, and no timer is set."""

        async def settled() -> bool:
            if await self.messages(f"{self.root}.timer.>"):
                return False
            return all(state.backlog == 0 for state in (await admin.consumer_states(self.js, self.stream)).values())

        await waits.until(settled, "all consumers idle", timeout=timeout, explain=self.explain)

    def explain(self) -> str:
        return "\n".join(worker.output for worker in self.workers)

    def request(
        self, method: str, path: str, body: Any = None, *, headers: dict[str, str] | None = None
    ) -> tuple[int, Any, dict[str, str]]:
        """Status, body and headers of an HTTP request to the app."""
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.http_port}{path}", data, method=method)
        for name, value in {"content-type": "application/json", **(headers or {})}.items():
            request.add_header(name, value)
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return answer.status, _body(answer.read()), dict(answer.headers)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, _body(error.read()), dict(error.headers)

    async def close(self) -> None:
        for worker in self.workers:
            worker.stop(signal.SIGKILL)
        await self.connection.close()


def _body(data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        return data.decode(errors="replace")


class Worker:
    """One runtime process."""

    def __init__(
        self,
        folder: Path,
        number: int,
        chosen: list[Binding],
        *,
        module: str = "bema_runtime",
        once: bool = False,
        env: dict[str, str] | None = None,
    ) -> None:
        self.health = ports.free()
        self.metrics_port = ports.free()
        self.log = folder / f"worker-{number}.log"
        arguments = []
        for binding in chosen:
            own = binding.model_copy(
                update={
                    "health": Listen(host="127.0.0.1", port=self.health),
                    "metrics": Listen(host="127.0.0.1", port=self.metrics_port),
                }
            )
            file = folder / f"binding-{number}-{binding.step}.json"
            file.write_text(own.to_json())
            arguments += ["--binding", str(file)]
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments, *(["--once"] if once else [])],
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(env or {})},
            )

    @property
    def output(self) -> str:
        return self.log.read_text()

    @property
    def lines(self) -> list[dict[str, Any]]:
        """The log as objects; what is no JSON is left out."""
        found = []
        for line in self.output.splitlines():
            if line.startswith("{"):
                found.append(json.loads(line))
        return found

    def _get(self, port: int, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=2) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except OSError as error:
            return 0, str(error)

    def readiness(self) -> tuple[int, str]:
        return self._get(self.health, "/readyz")

    def metrics(self) -> dict[str, float]:
        """Samples by name and labels, as Prometheus writes them."""
        text = self._get(self.metrics_port, "/metrics")[1]
        return {
            line.rpartition(" ")[0]: float(line.rpartition(" ")[2])
            for line in text.splitlines()
            if line and not line.startswith("#")
        }

    async def wait_ready(self) -> None:
        await waits.until(
            lambda: self.readiness()[0] == 200, "the worker's readiness", timeout=40, explain=lambda: self.output
        )

    async def wait_exit(self, timeout: float = 15) -> int:
        await waits.until(
            lambda: self.process.poll() is not None, "the worker's exit", timeout=timeout, explain=lambda: self.output
        )
        return self.process.returncode

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        if self.process.poll() is None:
            self.process.send_signal(how)
            if how is signal.SIGKILL:
                self.process.wait(10)
