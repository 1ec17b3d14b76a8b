"""Three real nats-servers as one cluster, for streams of three replicas."""

from __future__ import annotations

import contextlib
import json
import signal
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import nats
import nats.errors
from nats.aio.client import Client

from tests.support import waits
from tests.support.brokers import NatsServer
from tools import ports

PATIENCE = 60.0
"""Seconds that an election may take on a busy machine."""


class Cluster:
    """Servers on loopback that find each other by routes. Clients hear of no server but those that they were given:
    a proxy in front of one would be passed by otherwise."""

    def __init__(
        self, folder: Path, *, size: int = 3, settings: Sequence[str] = (), program: Path | None = None
    ) -> None:
        """`settings` are lines for the configuration of each server."""
        self.folder = folder
        self.program = program
        self.routes = [ports.free() for _ in range(size)]
        self.nodes = [self._node(number, settings) for number in range(size)]

    def _node(self, number: int, settings: Sequence[str]) -> NatsServer:
        folder = self.folder / f"n{number}"
        folder.mkdir(parents=True, exist_ok=True)
        routes = [f'"nats-route://127.0.0.1:{port}"' for port in self.routes]
        lines = [
            f'server_name: "n{number}"',
            "cluster {",
            '  name: "tests"',
            f'  listen: "127.0.0.1:{self.routes[number]}"',
            "  no_advertise: true",
            f"  routes: [{', '.join(route for other, route in enumerate(routes) if other != number)}]",
            "}",
            *settings,
        ]
        file = folder / "server.conf"
        file.write_text("\n".join(lines) + "\n")
        return NatsServer(folder, more=["-c", str(file)], program=self.program)

    @property
    def urls(self) -> list[str]:
        return [node.url for node in self.nodes]

    def start(self) -> None:
        """Start all of them, and wait until they have a leader and follow it."""
        for node in self.nodes:
            node.launch()
        for node in self.nodes:
            node.wait(PATIENCE)

    def stop(self) -> None:
        for node in self.nodes:
            node.stop(signal.SIGKILL)

    def last_words(self) -> str:
        return "\n".join(node.last_words() for node in self.nodes)

    def node(self, name: str) -> NatsServer:
        return self.nodes[int(name.removeprefix("n"))]

    async def leader(self, stream: str) -> NatsServer | None:
        """The server that leads a stream; None while nobody does, or nobody answers."""
        info = await self._ask(f"$JS.API.STREAM.INFO.{stream}")
        name = (info.get("cluster") or {}).get("leader") or ""
        return self.node(name) if name else None

    async def wait_leader(self, stream: str, *, other_than: NatsServer | None = None) -> NatsServer:
        """A stream's leader, once it has one; another one than before, if that is asked for."""

        async def found() -> NatsServer | None:
            leader = await self.leader(stream)
            return leader if leader is not None and leader.is_running and leader is not other_than else None

        leader: NatsServer = await waits.until(
            found, f"a leader of {stream}", timeout=PATIENCE, explain=self.last_words
        )
        return leader

    async def wait_current(self, stream: str) -> None:
        """Until a stream has a leader, and every server has all that the leader has."""

        async def current() -> bool:
            cluster = (await self._ask(f"$JS.API.STREAM.INFO.{stream}")).get("cluster") or {}
            followers = cluster.get("replicas") or []
            return (
                bool(cluster.get("leader"))
                and len(followers) == len(self.nodes) - 1
                and all(follower["current"] and not follower.get("offline") for follower in followers)
            )

        await waits.until(current, f"all replicas of {stream}", timeout=PATIENCE, explain=self.last_words)

    async def step_down(self, stream: str) -> None:
        """Ask a stream's leader to leave it to another."""
        await self._ask(f"$JS.API.STREAM.LEADER.STEPDOWN.{stream}")

    async def _ask(self, subject: str) -> dict[str, Any]:
        """What the first server that answers says, over a connection of its own: the one before may be stopped."""
        for node in self.nodes:
            if node.is_running:
                with contextlib.suppress(nats.errors.Error, TimeoutError, OSError):
                    async with _client(node.url) as client:
                        answer = await client.request(subject, b"", timeout=2)
                        found = json.loads(answer.data)
                        if "error" not in found:
                            return dict(found)
        return {}


@contextlib.asynccontextmanager
async def _client(url: str) -> AsyncIterator[Client]:
    async def quiet(_: Exception) -> None:
        """Servers that go away are what this is for."""

    client = await nats.connect(url, allow_reconnect=False, connect_timeout=1, error_cb=quiet)
    try:
        yield client
    finally:
        await client.close()


@contextlib.contextmanager
def running(folder: Path, *, program: Path | None = None) -> Iterator[Cluster]:
    cluster = Cluster(folder, program=program)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
