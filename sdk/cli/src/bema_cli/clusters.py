"""A cluster, with the rights of whoever types: found by its kubeconfig, asked over `bema.clusters`.

Imported by commands when they run: the Kubernetes client takes its time to load, and `bema dev` needs none.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Any

from bema.clusters import calls
from bema.clusters.calls import Answer, Listed
from bema.clusters.errors import KubeError
from bema.clusters.kinds import Kind
from bema.contract import versions
from bema_cli import refusals
from bema_cli.kubeconfigs import Place

AGENT = f"bema-cli/{versions.VERSION}"
TIMEOUT = 10.0
"""How long one answer may take, in seconds: somebody waits at a terminal."""


class Cluster:
    """One API server as one user."""

    def __init__(self, place: Place, client: calls.Client) -> None:
        self.place = place
        self._client = client

    async def close(self) -> None:
        await self._client.close()

    async def log_in_again(self) -> None:
        """Credentials as they are now: those from before may have expired."""
        before, self._client = self._client, await _client(self.place)
        await before.close()

    async def listed(self, kind: Kind, namespace: str | None, **query: str) -> Listed:
        """All objects of a kind; no namespace: of all of them."""
        return await self._client.listed(kind, namespace, **query)

    async def get(self, kind: Kind, name: str, namespace: str | None = None) -> dict[str, Any]:
        return await self._client.get(kind, name, namespace)

    async def ask(self, path: str) -> Answer:
        return await self._client.ask("GET", path)

    async def create(self, kind: Kind, body: Mapping[str, Any]) -> Any:
        """Have a review made: nothing is kept of it."""
        manifest = {"apiVersion": kind.api_version, "kind": kind.name, **body}
        return await self._client.call("POST", kind.path(), body=manifest)

    def lines(
        self, path: str, query: Mapping[str, str], *, silence: float | None = None
    ) -> AsyncGenerator[bytes, None]:
        return self._client.lines(path, query, silence=silence)


@contextlib.asynccontextmanager
async def connected(place: Place) -> AsyncIterator[Cluster]:
    """The cluster of a place. What it refuses inside is raised as a `ClusterRefused` that says what to do."""
    try:
        cluster = Cluster(place, await _client(place))
        try:
            yield cluster
        finally:
            await cluster.close()
    except KubeError as error:
        raise refusals.ClusterRefused(refusals.words(error, place)) from error


async def _client(place: Place) -> calls.Client:
    access = calls.in_cluster() if place.config is None else await calls.from_config(place.config)
    return calls.Client(access, agent=AGENT, timeout=TIMEOUT, pauses=())
