"""A watch of the API server that goes on: it connects again, and lists again where its place was forgotten."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator

from bema.clusters import watches
from bema.clusters.errors import Expired, KubeError, Unavailable
from bema.clusters.kinds import Kind
from bema_cli.clusters import Cluster
from bema_cli.sights import Complete, Lost, News, Sight

PAUSES = (0.5, 1.0, 2.0, 5.0)
"""Seconds before the first, second, … try to reach an API server that does not answer; the last one for ever."""

UNAUTHORIZED = 401


async def watch(cluster: Cluster, kind: Kind, namespace: str | None, **query: str) -> AsyncGenerator[News, None]:
    """News of all objects of a kind, without end. After a `Lost` comes a `Complete` once all is known again.

    Raises `KubeError` when they cannot be listed at all, and `Refused` when the right is taken away later.
    """
    sight = Sight()
    async for news in _list(cluster, sight, kind, namespace, query):
        yield news
    failures = 0
    while True:
        try:
            if not sight.version:
                async for news in _list(cluster, sight, kind, namespace, query):
                    yield news
            async with contextlib.aclosing(_follow(cluster, sight, kind, namespace, query)) as changes:
                async for change in changes:
                    failures = 0
                    yield change
            failures = 0
            # Also where something ends every watch as soon as it has begun.
            await asyncio.sleep(PAUSES[0])
        except Expired:
            sight.version = ""
            await asyncio.sleep(PAUSES[0])
        except Unavailable as error:
            sight.version = ""
            yield Lost(str(error))
            await asyncio.sleep(PAUSES[min(failures, len(PAUSES) - 1)])
            failures += 1
            if error.code == UNAUTHORIZED:
                with contextlib.suppress(KubeError):
                    await cluster.log_in_again()


async def _list(
    cluster: Cluster, sight: Sight, kind: Kind, namespace: str | None, query: dict[str, str]
) -> AsyncGenerator[News, None]:
    found = await cluster.listed(kind, namespace, **query)
    for change in sight.list(found.items, found.version):
        yield change
    yield Complete()


async def _follow(
    cluster: Cluster, sight: Sight, kind: Kind, namespace: str | None, query: dict[str, str]
) -> AsyncGenerator[News, None]:
    """One watch request, until the API server ends it. Whatever it tells says that it is there again."""
    events = watches.follow(cluster.lines, kind, namespace, sight.version, **query)
    async with contextlib.aclosing(events) as news:
        async for event in news:
            change = sight.take(event)
            if change is not None:
                yield change
