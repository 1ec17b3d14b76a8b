"""Reads the logs of a Step's pods: all that there is, in order, and then what is added, in pods that come and go."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from bema.clusters import kinds
from bema.clusters.errors import Gone, Refused, Unavailable
from bema_cli import cluster_watches, log_lines, sights, step_pods
from bema_cli.clusters import Cluster
from bema_cli.log_lines import Choice, Line, Position
from bema_cli.sights import Change, Complete, Lost

AT_ONCE = 8
"""Logs that are read at the same time, before following them."""
PAUSE = 0.5
"""Seconds before a log is asked for again that ended, or could not be had, while its container runs."""
CANNOT_BE_HAD = 400
"""The API server's code for a log of a container that does not run yet, or of none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Whose log, and how much of it."""

    namespace: str
    step: str
    choice: Choice = field(default_factory=Choice)
    tail: int | None = None
    previous: bool = False


@dataclass(frozen=True, slots=True)
class Note:
    """Something about the pods that is not in their logs."""

    text: str
    level: str = "info"


Told = Line | Note
Tell = Callable[[Told], None]


@dataclass(slots=True)
class _Pod:
    """A pod that is followed."""

    object: dict[str, Any]
    position: Position = field(default_factory=Position)
    removed: bool = False
    news: asyncio.Event = field(default_factory=asyncio.Event)


class _End(Enum):
    """How the answer to a request for a log ended."""

    WHOLE = "whole"
    LOST = "lost"
    """Something may be missing."""
    GONE = "gone"
    """The pod is not there any more."""


async def read(cluster: Cluster, request: Request, tell: Tell) -> None:
    """Tell all that there is, in the order of time."""
    found = await cluster.listed(kinds.POD, request.namespace, labelSelector=step_pods.selector(request.step))
    pods = [_Pod(item) for item in found.items]
    if not pods:
        tell(Note(f"Step {request.step} has no pod now, so there is no log"))
    for line in await _there(cluster, request, pods, tell):
        tell(line)


async def _there(cluster: Cluster, request: Request, pods: list[_Pod], tell: Tell) -> list[Line]:
    """What the pods' logs hold now, merged; each pod's position is then behind it."""
    readable = []
    for pod in pods:
        if request.previous and not step_pods.has_previous(pod.object):
            tell(Note(f"pod {step_pods.name(pod.object)} was not started again: it has no log from before"))
        elif step_pods.started(pod.object) is None:
            tell(Note(f"pod {step_pods.name(pod.object)} has no log yet: {step_pods.waiting(pod.object)}"))
        else:
            readable.append(pod)
    turns = asyncio.Semaphore(AT_ONCE)

    async def one(pod: _Pod) -> list[Line]:
        async with turns:
            try:
                return [line async for line in _lines(cluster, request, pod, tell, follow=False)]
            except (Gone, Refused) as error:
                if isinstance(error, Refused) and error.code != CANNOT_BE_HAD:
                    raise
                tell(Note(f"pod {step_pods.name(pod.object)}: {error}"))
                return []

    logs = await asyncio.gather(*(one(pod) for pod in readable))
    return list(log_lines.last(log_lines.merged(logs), request.tail))


async def _lines(
    cluster: Cluster, request: Request, pod: _Pod, tell: Tell, *, follow: bool
) -> AsyncGenerator[Line, None]:
    """The wanted lines behind a pod's position, which moves on."""
    query = {"container": step_pods.CONTAINER, "timestamps": "true"}
    since = max(pod.position.at, request.choice.since)
    if since:
        query["sinceTime"] = log_lines.since_time(since)
    if follow:
        query["follow"] = "true"
    elif request.tail is not None and not request.choice.needs_records:
        query["tailLines"] = str(request.tail)
    if request.previous:
        query["previous"] = "true"
    pod.position.rewind()
    name = step_pods.name(pod.object)
    async with contextlib.aclosing(cluster.lines(step_pods.log_path(pod.object), query)) as found:
        async for data in found:
            line = log_lines.parse(name, data)
            if line is None:
                # The kubelet says so in place of a log that it has removed just now.
                tell(Note(f"pod {name}: {data.decode('utf-8', 'replace')}", "warning"))
            elif pod.position.passes(line) and request.choice.takes(line):
                yield line


async def follow(cluster: Cluster, request: Request, tell: Tell) -> None:
    """Tell what there is, and then what is added, without end. Raises `KubeError` when that is not allowed."""
    async with asyncio.TaskGroup() as group:
        following = _Following(cluster, request, tell, group)
        await following.run()


class _Following:
    """The pods that are followed, each by a task of its own."""

    def __init__(self, cluster: Cluster, request: Request, tell: Tell, group: asyncio.TaskGroup) -> None:
        self._cluster = cluster
        self._request = request
        self._tell = tell
        self._group = group
        self._pods: dict[str, _Pod] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._is_begun = False
        self._was_lost = False

    async def run(self) -> None:
        selector = step_pods.selector(self._request.step)
        news = cluster_watches.watch(self._cluster, kinds.POD, self._request.namespace, labelSelector=selector)
        async with contextlib.aclosing(news):
            async for item in news:
                match item:
                    case Change():
                        self._take(item)
                    case Lost():
                        self._was_lost = True
                        self._tell(Note(f"no news: {item.why}; trying again", "warning"))
                    case Complete() if not self._is_begun:
                        await self._begin()
                    case Complete():
                        self._again()

    async def _begin(self) -> None:
        """What there is, in the order of time; what is added later comes as it comes."""
        pods = list(self._pods.values())
        if not pods:
            self._tell(Note(f"Step {self._request.step} has no pod now; waiting for one"))
        for line in await _there(self._cluster, self._request, pods, self._tell):
            self._tell(line)
        self._is_begun = True
        for uid in self._pods:
            self._start(uid)

    def _take(self, change: Change) -> None:
        uid = change.object["metadata"]["uid"]
        pod = self._pods.get(uid)
        if pod is None:
            if change.what is sights.What.REMOVED:
                return
            pod = self._pods[uid] = _Pod(dict(change.object))
            if self._is_begun:
                self._tell(Note(f"pod {step_pods.name(pod.object)} came"))
                self._start(uid)
        pod.object = dict(change.object)
        pod.removed = change.what is sights.What.REMOVED
        pod.news.set()

    def _start(self, uid: str) -> None:
        self._tasks[uid] = self._group.create_task(self._follow(uid, self._pods[uid]))

    def _again(self) -> None:
        """A connection was lost, and others may hang without saying so."""
        if self._was_lost:
            self._was_lost = False
            for uid, task in list(self._tasks.items()):
                task.cancel()
                self._start(uid)

    async def _follow(self, uid: str, pod: _Pod) -> None:
        """One pod, through all restarts of its container, until it is removed."""
        done: str | None = None
        while True:
            container = step_pods.started(pod.object)
            if container is None or container == done:
                if pod.removed:
                    break
                pod.news.clear()
                await pod.news.wait()
                continue
            end = await self._stream(pod)
            if end is _End.GONE:
                break
            is_over = pod.removed or step_pods.started(pod.object) != container or not step_pods.runs(pod.object)
            if end is _End.WHOLE and is_over:
                done = container
            else:
                # Lost; or its end has not been told yet, or the kubelet has closed a connection.
                await asyncio.sleep(PAUSE)
        self._tell(Note(f"pod {step_pods.name(pod.object)} went"))
        del self._pods[uid], self._tasks[uid]

    async def _stream(self, pod: _Pod) -> _End:
        """One answer, until the server ends it."""
        try:
            async for line in _lines(self._cluster, self._request, pod, self._tell, follow=True):
                self._tell(line)
        except Gone:
            return _End.GONE
        except Refused as error:
            if error.code != CANNOT_BE_HAD:
                raise
        except Unavailable:
            # The watch of the pods says why, and it asks for new credentials if that is what it takes.
            return _End.LOST
        return _End.WHOLE


async def find(cluster: Cluster, namespace: str, step: str) -> list[str] | None:
    """None when the Step exists; else the names of those that do. Raises `KubeError`."""
    try:
        await cluster.get(kinds.STEP, step, namespace)
    except Gone:
        found = await cluster.listed(kinds.STEP, namespace)
        return sorted(str(item["metadata"]["name"]) for item in found.items)
    return None
