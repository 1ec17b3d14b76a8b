"""`python -m bench.scale [--steps N …] [--rounds N] [--minutes N]`: the operator beside thousands of Steps, on a real
etcd, API server and NATS without anything else.

Two things are measured: how long it takes until all children of new Steps are applied and their statuses written,
beside a bare loop that makes the same writes with the same client at the same concurrency; and what an operator costs
that has nothing to do: requests by the API server's audit log, CPU, memory. What the controllers of Kubernetes would
write, that every Deployment is rolled out, is written by the benchmark. Half of the Steps hear events, half serve HTTP.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import json
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bema.clusters import watches
from bema.contract import names
from bema_operator import kinds, kube, metrics, plans, settings
from bench.measures import Measure, Round, cpu_seconds, measure
from tests.support import brokers
from tools import ports
from tools.cluster import paths, planes

PER_NAMESPACE = 50
AGENT = "bema-scale"
OPERATOR_AGENT = "bema-operator"
"""How the user agent of the operator begins."""
WORKERS = settings.Settings().workers
PATIENCE = 1800.0

CODE = "def handler(event, ctx):\n    return None\n"

Object = dict[str, Any]


class World:
    """A control plane with the CRDs, a NATS, and a client."""

    def __init__(self, folder: Path, plane: planes.Plane, nats: brokers.NatsServer, api: kube.Kube) -> None:
        self.folder = folder
        self.plane = plane
        self.nats = nats
        self.api = api
        self.created: list[Object] = []
        """Steps as the API server answered."""
        self.namespaces: dict[str, str] = {}
        """Names and uids."""

    def settings(self) -> settings.Settings:
        return settings.Settings(nats_urls=(self.nats.url,), memory_streams=True)

    async def make_namespaces(self, count: int) -> None:
        """As many as so many Steps need."""

        async def make(name: str) -> None:
            body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
            made = await self.api.call("POST", kinds.NAMESPACE.path(None), body=body)
            self.namespaces[name] = made["metadata"]["uid"]

        await at_once(make, [_namespace(index) for index in range(0, count, PER_NAMESPACE)])

    async def create(self, count: int) -> None:
        """Create Steps, as many at once as the operator works on."""

        async def make(index: int) -> None:
            body = step(index)
            made = await self.api.call("POST", kinds.STEP.path(body["metadata"]["namespace"]), body=body)
            self.created.append(made)

        await at_once(make, range(count))

    async def roll_out(self) -> None:
        """Say of every Deployment what its controller would: as many pods as wanted, all of the latest template."""

        async def say(found: Object) -> None:
            metadata, wanted = found["metadata"], found["spec"]["replicas"]
            counts = dict.fromkeys(("replicas", "updatedReplicas", "readyReplicas", "availableReplicas"), wanted)
            body = {**found, "status": {**counts, "observedGeneration": metadata["generation"]}}
            path = kinds.DEPLOYMENT.path(metadata["namespace"], metadata["name"], "status")
            await self.api.call("PUT", path, body=body)

        await at_once(say, await self.api.list(kinds.DEPLOYMENT))

    async def until_reported(self, count: int, version: str) -> None:
        """Until so many Steps have a status, as a watch tells: it is written when all of their children are there."""
        reported: set[str] = set()
        async with asyncio.timeout(PATIENCE):
            while len(reported) < count:
                events = watches.follow(self.api.lines, kinds.STEP, None, version)
                async with contextlib.aclosing(events) as news:
                    async for event in news:
                        version = event.version
                        if event.object.get("status", {}).get("observedGeneration") == 1:
                            reported.add(event.object["metadata"]["uid"])
                        if len(reported) == count:
                            return

    async def until_settled(self, operator: Operator) -> None:
        """Until every Step is Ready, and its backlog known where it hears events."""
        deadline = time.monotonic() + PATIENCE
        while left := [item for item in await self.api.list(kinds.STEP) if not _is_settled(item)]:
            if time.monotonic() > deadline:
                raise AssertionError(f"{len(left)} Steps are not Ready: {left[0]}\n{operator.last_words()}")
            await asyncio.sleep(1)

    def restart_api(self) -> None:
        """Kill the API server and start it again."""
        self.plane.stop("apiserver", signal.SIGKILL)
        self.plane.start("apiserver")
        self.plane.wait()

    async def versions(self) -> dict[tuple[str, str, str], str]:
        """The resource version of each Step and each child."""
        found: dict[tuple[str, str, str], str] = {}
        for kind in (kinds.STEP, *kinds.CHILDREN):
            query = {} if kind is kinds.STEP else {"labelSelector": names.LABEL_STEP}
            for item in await self.api.list(kind, None, **query):
                place = item["metadata"]
                found[kind.name, place["namespace"], place["name"]] = place["resourceVersion"]
        return found

    def requests(self, since: int = 0) -> Requests:
        """What the operator has asked since a size of the audit log."""
        counts: collections.Counter[tuple[str, str]] = collections.Counter()
        with self.plane.audit.open("rb") as log:
            log.seek(since)
            for line in log.read().splitlines():
                entry = json.loads(line)
                # A watch is noted at its begin and at its end.
                if entry["userAgent"].startswith(OPERATOR_AGENT) and entry["stage"] == "ResponseComplete":
                    resource = entry.get("objectRef", {}).get("resource", "")
                    counts[entry["verb"], resource] += 1
        return Requests(dict(counts))

    @contextlib.asynccontextmanager
    async def operator(self, *more: str) -> AsyncIterator[Operator]:
        """An operator as a process of its own, filled and connected. `more` are arguments of its command line."""
        health, measured = ports.free(), ports.free()
        arguments = ["--kubeconfig", str(self.plane.kubeconfig), "--nats-urls", self.nats.url, "--memory-streams"]
        arguments += [
            "--health-port",
            str(health),
            "--metrics-port",
            str(measured),
            "--health-host",
            "127.0.0.1",
            *more,
        ]
        with (self.folder / "operator.log").open("ab") as log:
            process = subprocess.Popen([sys.executable, "-m", "bema_operator", *arguments], stdout=log, stderr=log)
        operator = Operator(process, health, measured, self.folder / "operator.log")
        try:
            await until(operator.is_ready, "the operator to be ready", operator.last_words)
            yield operator
        finally:
            process.terminate()
            process.wait(30)


@dataclass(frozen=True, slots=True)
class Requests:
    """Answered requests by verb and resource."""

    counts: dict[tuple[str, str], int]

    @property
    def writes(self) -> int:
        return sum(self.counts.values()) - self.reads

    @property
    def reads(self) -> int:
        return sum(count for (verb, _), count in self.counts.items() if verb in ("get", "list", "watch"))


@dataclass(frozen=True, slots=True)
class Operator:
    """A running operator."""

    process: subprocess.Popen[bytes]
    health: int
    measured: int
    log: Path

    def is_ready(self) -> bool:
        if self.process.poll() is not None:
            raise AssertionError(f"the operator ended with code {self.process.returncode}\n{self.last_words()}")
        with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{self.health}/readyz", timeout=2):
            return True
        return False

    def figures(self) -> dict[str, float]:
        """What it measures, by name with labels."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.measured}/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[:1] != "#")}

    def is_idle(self, statuses: int) -> bool:
        """Whether so many statuses were written, and nothing is in line."""
        found = self.figures()
        written = found.get('bema_operator_writes_total{kind="Step",verb="status"}', 0)
        return written >= statuses and not found["bema_operator_queue_length"]

    def memory(self) -> tuple[float, float]:
        """Resident memory now and at its peak, in MiB."""
        lines = dict(
            line.split(":", 1) for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines() if line
        )
        now, peak = (int(lines[name].split()[0]) / 1024 for name in ("VmRSS", "VmHWM"))
        return now, peak

    def last_words(self) -> str:
        return "\n".join(self.log.read_text("utf-8", "replace").splitlines()[-20:])


@contextlib.asynccontextmanager
async def world() -> AsyncIterator[World]:
    """A world of its own, gone afterwards."""
    with (
        tempfile.TemporaryDirectory(prefix="bema-scale-") as text,
        planes.running(Path(text) / "plane") as plane,
        brokers.running(Path(text) / "nats") as nats,
    ):
        plane.kubectl("apply", "--server-side", "-f", str(paths.REPOSITORY / "crds"))
        plane.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
        found = await kube.access(str(plane.kubeconfig))
        api = kube.Kube(found, metrics.Metrics(), agent=AGENT)
        try:
            yield World(Path(text), plane, nats, api)
        finally:
            await api.close()


def step(index: int) -> Object:
    """The index-th Step, with code inline."""
    triggers: list[Object] = [{"event": {"topics": [f"topic-{index}"]}}]
    if index % 2:
        triggers = [{"api": {"method": "GET", "path": f"/things/{index}"}}]
    entrypoint = "steps/thing_step.py"
    return {
        "apiVersion": kinds.STEP.api_version,
        "kind": "Step",
        "metadata": {"name": f"thing-{index}", "namespace": _namespace(index)},
        "spec": {"triggers": triggers, "code": {"entrypoint": entrypoint, "inline": {entrypoint: CODE}}},
    }


def _namespace(index: int) -> str:
    return f"app-{index // PER_NAMESPACE}"


def _is_settled(found: Object) -> bool:
    status = found.get("status", {})
    is_ready = bool(status) and status["conditions"][0]["status"] == "True"
    return is_ready and ("backlog" in status or "api" in found["spec"]["triggers"][0])


async def at_once(act: Callable[[Any], Awaitable[None]], items: Iterable[Any]) -> None:
    """Act on every item, as many at once as the operator has workers."""
    waiting = iter(items)

    async def work() -> None:
        for item in waiting:
            await act(item)

    async with asyncio.TaskGroup() as group:
        for _ in range(WORKERS):
            group.create_task(work())


async def until(probe: Callable[[], bool], what: str, explain: Callable[[], str]) -> None:
    """Raises after a quarter of an hour."""
    deadline = time.monotonic() + PATIENCE
    while not await asyncio.to_thread(probe):
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {PATIENCE:g} s for {what}\n{explain()}")
        await asyncio.sleep(0.05)


@dataclass(frozen=True, slots=True)
class Arrival:
    """Steps that became what they ask for."""

    total: float
    """Seconds from the first create to the last write."""
    rest: float
    """Seconds from the last create to the last write."""
    cpu: float
    """CPU seconds of the process that made the writes."""
    status: Object
    """One of the statuses that were written."""


async def arrive(count: int) -> Arrival:
    """The product: Steps are created beside a running operator."""
    async with world() as place:
        await place.make_namespaces(count)
        async with place.operator() as operator:
            version = (await place.api.listed(kinds.STEP)).version
            before, began = cpu_seconds(operator.process.pid), time.monotonic()
            reported = asyncio.create_task(place.until_reported(count, version))
            await place.create(count)
            created = time.monotonic()
            await reported
            ended, cpu = time.monotonic(), cpu_seconds(operator.process.pid) - before
            first = step(0)["metadata"]
            found = await place.api.get(kinds.STEP, first["name"], first["namespace"])
            await _check_children(place, count)
            return Arrival(ended - began, ended - created, cpu, found["status"])


async def _check_children(place: World, count: int) -> None:
    found = await place.api.list(kinds.DEPLOYMENT, None, labelSelector=names.LABEL_STEP)
    steps = await place.api.list(kinds.STEP)
    reported = sum(1 for item in steps if item.get("status", {}).get("observedGeneration") == 1)
    if (len(found), reported) != (count, count):
        raise AssertionError(f"expected {count} Deployments and statuses, found {len(found)} and {reported}")


async def write_bare(count: int, status: Object) -> Arrival:
    """The baseline: the same children and statuses, written by a loop that only writes."""
    async with world() as place:
        await place.make_namespaces(count)
        began = time.monotonic()
        await place.create(count)
        created, before = time.monotonic(), time.process_time()
        options = place.settings()
        planned = [
            (item["metadata"], plans.plan(item, place.namespaces[item["metadata"]["namespace"]], options).wanted)
            for item in place.created
        ]
        # What is written is known beforehand: only the writes are measured.
        planning = time.monotonic() - created

        async def write(item: tuple[Object, Iterable[Object]]) -> None:
            metadata, wanted = item
            for manifest in wanted:
                await place.api.apply(kinds.of(manifest["apiVersion"], manifest["kind"]), dict(manifest))
            await place.api.apply_status(kinds.STEP, metadata["namespace"], metadata["name"], metadata["uid"], status)

        await at_once(write, planned)
        ended = time.monotonic()
        cpu = time.process_time() - before
        return Arrival(ended - began - planning, ended - created - planning, cpu, status)


async def compare(count: int, rounds: int, say: Callable[[str], None]) -> list[Measure]:
    """Rounds of product and baseline in turn."""
    products: list[Arrival] = []
    bares: list[Arrival] = []
    for number in range(rounds):
        products.append(await arrive(count))
        bares.append(await write_bare(count, products[-1].status))
        say(
            f"round {number + 1}: {products[-1].total:.1f} s, {products[-1].rest:.1f} s after the last create; "
            f"bare {bares[-1].total:.1f} s, {bares[-1].rest:.1f} s"
        )
    found: list[Measure] = []
    spans: dict[str, Callable[[Arrival], float]] = {"first": lambda one: one.total, "last": lambda one: one.rest}
    for name, seconds in spans.items():
        product, bare = ([Round(seconds(one), one.cpu / count) for one in side] for side in (products, bares))
        found.append(measure(f"{count} Steps, since the {name} create", "s", "≤ 1.5", product, bare))
    return found


@dataclass(frozen=True, slots=True)
class Rest:
    """An operator with nothing to do."""

    steps: int
    seconds: float
    writes: int
    reads: int
    cpu: float
    """Share of one core."""
    memory: float
    """MiB, at the end."""
    peak: float
    """MiB, of the operator that was started beside all these Steps."""
    restart: float
    """Seconds until an operator that was started anew has looked at every Step."""
    rewritten: int
    """Objects that the start has changed."""

    def as_dict(self) -> dict[str, float]:
        return {name: getattr(self, name) for name in self.__slots__}


async def settle(count: int, seconds: float, say: Callable[[str], None]) -> Rest:
    """Create Steps, have them be rolled out, start the operator anew, and look at it while nothing happens."""
    async with world() as place:
        await place.make_namespaces(count)
        async with place.operator() as operator:
            await place.create(count)
            await until(lambda: operator.is_idle(count), "every status", operator.last_words)
            say(f"{count} Steps have their children; {operator.memory()[0]:.0f} MiB")
            await place.roll_out()
            await place.until_settled(operator)
        before, began = await place.versions(), time.monotonic()
        async with place.operator() as operator:
            await until(lambda: _has_looked(operator, count), "every Step to be looked at", operator.last_words)
            restart = time.monotonic() - began
            after = await place.versions()
            rewritten = sum(before.get(key) != version for key, version in after.items())
            say(f"started anew: {restart:.1f} s, {rewritten} of {len(after)} objects changed")
            size, cpu, start = place.plane.audit.stat().st_size, cpu_seconds(operator.process.pid), time.monotonic()
            await asyncio.sleep(seconds)  # what is measured is that nothing happens
            lasted = time.monotonic() - start
            used = (cpu_seconds(operator.process.pid) - cpu) / lasted
            asked = place.requests(size)
            now, peak = operator.memory()
            say(f"at rest: {asked.writes} writes, {asked.reads} reads, {used:.1%} of a core, {now:.0f} MiB")
            return Rest(count, lasted, asked.writes, asked.reads, used, now, peak, restart, rewritten)


def _has_looked(operator: Operator, count: int) -> bool:
    found = operator.figures()
    return found["bema_operator_reconcile_seconds_count"] >= count and not found["bema_operator_queue_length"]


def table(rests: list[Rest]) -> Table:
    found = Table(title="an operator with nothing to do")
    for column in ("Steps", "writes", "reads a minute", "CPU of a core", "memory", "peak", "start", "rewritten"):
        found.add_column(column, justify="right")
    for rest in rests:
        found.add_row(
            f"{rest.steps:,}",
            str(rest.writes),
            f"{rest.reads / rest.seconds * 60:.1f}",
            f"{rest.cpu:.1%}",
            f"{rest.memory:.0f} MiB",
            f"{rest.peak:.0f} MiB",
            f"{rest.restart:.1f} s",
            str(rest.rewritten),
        )
    return found


async def run(arguments: argparse.Namespace, console: Console) -> None:
    measures: list[Measure] = []
    if arguments.rounds:
        measures = await compare(arguments.compared, arguments.rounds, console.print)
        for one in measures:
            console.print(f"{one.measure}: {one.ratio:.2f} ({one.ratio_low:.2f}–{one.ratio_high:.2f}), goal {one.goal}")
    rests = [await settle(count, arguments.minutes * 60, console.print) for count in arguments.steps]
    console.print(table(rests))
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    found = {"arrival": [one.as_dict() for one in measures], "rest": [one.as_dict() for one in rests]}
    arguments.out.write_text(json.dumps(found, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.scale", description=__doc__)
    parser.add_argument("--steps", type=int, nargs="*", default=[1000, 5000, 10_000], help="sizes to rest at")
    parser.add_argument("--compared", type=int, default=1000, help="Steps of the comparison with a bare loop")
    parser.add_argument("--rounds", type=int, default=7, help="rounds of the comparison; 0: none")
    parser.add_argument("--minutes", type=float, default=5.0, help="how long to look at an operator at rest")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "out" / "scale.json")
    console = Console(width=None if sys.stdout.isatty() else 160)
    asyncio.run(run(parser.parse_args(), console))


if __name__ == "__main__":
    main()
