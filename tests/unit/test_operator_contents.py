"""Digests of ConfigMaps: read once, read again after a change, and never believed when something was missed."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any

import pytest

from bema_operator import contents, kinds, kube, plans
from bema_operator.contents import Contents
from bema_operator.facts import Key
from bema_operator.settings import Settings
from tests.support import waits

A, B = Key("shop", "a"), Key("shop", "b")


class Api:
    """ConfigMaps by name, and a watch that says what it is told to."""

    def __init__(self) -> None:
        self.maps: dict[str, dict[str, Any]] = {}
        self.reads: Counter[str] = Counter()
        self.during: Callable[[], None] = lambda: None
        """What happens while a ConfigMap is read."""
        self.lists = 0
        self.watches: list[str] = []
        self.events: asyncio.Queue[dict[str, Any] | kube.KubeError | None] = asyncio.Queue()

    async def find(self, kind: kinds.Kind, namespace: str, name: str) -> dict[str, Any] | None:
        self.reads[name] += 1
        found = self.maps.get(name)
        self.during()
        return found

    async def version(self, kind: kinds.Kind, namespace: str | None = None) -> str:
        assert kind is kinds.CONFIG_MAP
        self.lists += 1
        return f"list {self.lists}"

    async def lines(
        self, path: str, query: Mapping[str, str], *, silence: float | None, only_metadata: bool
    ) -> AsyncGenerator[bytes]:
        assert (path, only_metadata) == ("/api/v1/configmaps", True)
        self.watches.append(query["resourceVersion"])
        while (event := await self.events.get()) is not None:
            if isinstance(event, kube.KubeError):
                raise event
            yield json.dumps(event).encode()

    def tell(self, name: str, version: str = "1", what: str = "MODIFIED", namespace: str = "shop") -> None:
        metadata = {"namespace": namespace, "name": name, "resourceVersion": version}
        self.events.put_nowait({"type": what, "object": {"metadata": metadata}})


class Timers:
    """A clock that is set by hand, and what is to be done when."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.waiting: dict[Timer, Callable[[], None]] = {}

    def later(self, seconds: float, act: Callable[[], None]) -> Timer:
        timer = Timer(self, self.now + seconds)
        self.waiting[timer] = act
        return timer

    def pass_(self, seconds: float) -> None:
        self.now += seconds
        for timer in [timer for timer in self.waiting if timer.due <= self.now]:
            self.waiting.pop(timer)()


class Timer:
    def __init__(self, timers: Timers, due: float) -> None:
        self._timers = timers
        self.due = due

    def cancel(self) -> None:
        self._timers.waiting.pop(self, None)


class World:
    def __init__(self) -> None:
        self.api: Any = Api()
        self.looked: list[Key] = []
        self.heard = 0
        self.timers = Timers()
        self.contents = Contents(
            self.api,
            None,
            look_at=self.looked.append,
            hear=self._hear,
            clock=lambda: self.timers.now,
            later=self.timers.later,
        )

    def _hear(self) -> None:
        self.heard += 1

    async def watched(self) -> asyncio.Task[None]:
        task = asyncio.create_task(self.contents.run())
        await waits.until(lambda: self.api.watches, "the watch")
        self.timers.pass_(contents.QUIET)
        return task

    async def told(self, name: str, what: str = "MODIFIED") -> None:
        """Until the watch has brought a change of a ConfigMap."""
        before = self.heard
        self.api.tell(name, what=what)
        await waits.until(lambda: self.heard > before, "the change")


@pytest.fixture
def world() -> World:
    return World()


async def test_nothing_is_read_or_watched_for_steps_that_name_nothing(world: World) -> None:
    task = asyncio.create_task(world.contents.run())
    assert await world.contents.digest(A, [], 1) == ""
    for _ in range(5):
        # Turns of the loop, in which a watch would begin.
        await asyncio.sleep(0)
    assert (world.api.reads, world.api.lists, world.heard) == (Counter(), 0, 0)
    task.cancel()


async def test_a_config_map_is_read_once_however_many_steps_name_it(world: World) -> None:
    world.api.maps["settings"] = {"data": {"a": "1"}}
    keys = [Key("shop", f"step-{number}") for number in range(100)]
    found = {await world.contents.digest(key, ["settings"], 1) for key in keys for _ in range(2)}
    assert len(found) == 1
    assert world.api.reads == {"settings": 1}


async def test_the_data_counts_and_nothing_else(world: World) -> None:
    async def digest(found: dict[str, Any] | None) -> str:
        fresh = World()
        if found is not None:
            fresh.api.maps["settings"] = found
        return await fresh.contents.digest(A, ["settings"], 1)

    one = await digest({"metadata": {"labels": {"a": "b"}}, "data": {"a": "1", "b": "2"}})
    assert await digest({"metadata": {"resourceVersion": "9"}, "data": {"b": "2", "a": "1"}}) == one
    others = [
        await digest(None),
        await digest({}),
        await digest({"data": {"a": "1"}}),
        await digest({"data": {"a": "1", "b": "3"}}),
        await digest({"binaryData": {"a": "1", "b": "2"}}),
    ]
    assert len({one, *others}) == 6
    assert await digest({"data": None}) == await digest({})


async def test_which_config_map_holds_what_counts(world: World) -> None:
    world.api.maps |= {"a": {"data": {"x": "1"}}, "b": {"data": {"x": "2"}}}
    before = await world.contents.digest(A, ["a", "b"], 1)
    assert await world.contents.digest(B, ["b", "a"], 1) == before
    other = World()
    other.api.maps |= {"b": {"data": {"x": "1"}}, "a": {"data": {"x": "2"}}}
    assert await other.contents.digest(A, ["a", "b"], 1) != before


async def test_a_change_is_read_by_the_steps_that_name_it_and_by_no_other(world: World) -> None:
    world.api.maps |= {"settings": {"data": {"a": "1"}}, "other": {}}
    before = await world.contents.digest(A, ["settings"], 1)
    await world.contents.digest(B, ["other"], 1)
    task = await world.watched()
    assert sorted(world.looked) == [A, B], "nobody knows what has happened before the watch"
    for key, name in ((A, "settings"), (B, "other")):
        await world.contents.digest(key, [name], 1)
    world.looked.clear()
    reads = dict(world.api.reads)
    world.api.maps["settings"] = {"data": {"a": "2"}}
    world.api.tell("settings", namespace="elsewhere")
    world.api.tell("unknown")
    world.api.tell("settings")
    await waits.until(lambda: world.timers.waiting, "the change")
    world.timers.pass_(contents.QUIET)
    assert world.looked == [A]
    after = await world.contents.digest(A, ["settings"], 1)
    assert after != before
    assert await world.contents.digest(B, ["other"], 1)
    assert world.api.reads == {"settings": reads["settings"] + 1, "other": reads["other"]}
    task.cancel()


async def test_what_changes_while_it_is_read_is_read_again(world: World) -> None:
    world.api.maps["settings"] = {"data": {"a": "1"}}

    def change() -> None:
        world.api.during = lambda: None
        world.api.maps["settings"] = {"data": {"a": "2"}}
        world.contents._heard(("shop", "settings"))
        world.timers.pass_(contents.QUIET)

    world.api.during = change
    first = await world.contents.digest(A, ["settings"], 1)
    assert world.looked == [A]
    second = await world.contents.digest(A, ["settings"], 1)
    assert first != second
    assert world.api.reads == {"settings": 2}


async def test_a_watch_goes_on_where_the_one_before_ended_and_begins_anew_where_it_cannot(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contents, "PAUSE", 0.0)
    await world.contents.digest(A, ["settings"], 1)
    task = await world.watched()
    world.looked.clear()
    world.api.tell("x", "7", "BOOKMARK")
    world.api.events.put_nowait(None)
    await waits.until(lambda: len(world.api.watches) == 2, "the second watch")
    assert (world.api.watches, world.looked) == (["list 1", "7"], [])
    world.api.events.put_nowait({"type": "ERROR", "object": {"code": 410, "message": "too old"}})
    await waits.until(lambda: len(world.api.watches) == 3, "the third watch")
    world.timers.pass_(contents.QUIET)
    world.api.events.put_nowait(kube.Unavailable("gone"))
    await waits.until(lambda: len(world.api.watches) == 4, "the fourth watch")
    world.timers.pass_(contents.QUIET)
    assert world.api.watches == ["list 1", "7", "list 2", "list 3"]
    assert world.looked == [A, A]
    task.cancel()


async def test_quick_changes_are_one_look_when_they_are_over(world: World) -> None:
    world.api.maps["settings"] = {"data": {"a": "1"}}
    task = asyncio.create_task(world.contents.run())
    before = await world.contents.digest(A, ["settings"], 1)
    await waits.until(lambda: world.api.watches, "the watch")
    world.timers.pass_(contents.QUIET)
    assert await world.contents.digest(A, ["settings"], 1) == before
    world.looked.clear()
    reads = world.api.reads["settings"]
    for number in range(5):
        world.api.maps["settings"] = {"data": {"a": f"between {number}"}}
        await world.told("settings")
        world.timers.pass_(contents.QUIET - 0.5)
        assert await world.contents.digest(A, ["settings"], 1) == before, "what it held at rest"
    # Gone, and there again with what it held: nothing has changed.
    await world.told("settings", "DELETED")
    world.api.maps["settings"] = {"data": {"a": "1"}}
    assert (world.looked, world.api.reads["settings"]) == ([], reads)
    world.timers.pass_(contents.QUIET)
    assert world.looked == [A]
    assert await world.contents.digest(A, ["settings"], 1) == before
    assert (world.api.reads["settings"], world.timers.waiting) == (reads + 1, {})
    task.cancel()


async def test_changes_that_do_not_end_are_looked_at_all_the_same(world: World) -> None:
    await world.contents.digest(A, ["settings"], 1)
    for _ in range(10):
        world.contents._heard(("shop", "settings"))
        world.timers.pass_(1.0)
    assert (world.looked, contents.LONGEST) == ([A], 10.0)
    world.contents._heard(("shop", "settings"))
    world.timers.pass_(contents.QUIET - 0.1)
    assert world.looked == [A], "the next ones are gathered again"
    world.timers.pass_(0.1)
    assert world.looked == [A, A]


async def test_a_look_that_waits_outlives_its_watch(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contents, "BREATH", 0.0)
    await world.contents.digest(A, ["settings"], 1)
    task = await world.watched()
    world.looked.clear()
    await world.told("settings")
    world.api.events.put_nowait(None)
    await waits.until(lambda: len(world.api.watches) == 2, "the second watch")
    task.cancel()
    assert world.looked == []
    world.timers.pass_(contents.QUIET)
    assert world.looked == [A]


async def test_what_is_changed_together_with_its_step_is_one_rollout(world: World) -> None:
    world.api.maps["settings"] = {"data": {"a": "1"}}
    before = await world.contents.digest(A, ["settings"], 1)
    world.api.maps["settings"] = {"data": {"a": "2"}}
    world.contents._heard(("shop", "settings"))
    assert await world.contents.digest(A, ["settings"], 1) == before
    after = await world.contents.digest(A, ["settings"], 2)
    assert after != before
    world.timers.pass_(contents.LONGEST)
    assert await world.contents.digest(A, ["settings"], 2) == after
    assert world.api.reads == {"settings": 2}


async def test_nothing_waits_for_what_nobody_names_any_more(world: World) -> None:
    await world.contents.digest(A, ["settings"], 1)
    world.contents._heard(("shop", "settings"))
    world.contents.forget(A)
    assert (world.timers.waiting, world.contents._generations) == ({}, {})


async def test_it_is_the_loop_that_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contents, "QUIET", 0.0)
    api: Any = Api()
    looked: list[Key] = []
    found = Contents(api, None, look_at=looked.append, hear=lambda: None)
    await found.digest(A, ["settings"], 1)
    found._heard(("shop", "settings"))
    assert looked == []
    await waits.until(lambda: looked, "the look")


class Enough(Exception):
    """So many pauses were made."""


async def test_where_every_watch_ends_at_once_there_is_a_pause_after_each(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []

    async def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 5:
            raise Enough

    await world.contents.digest(A, ["settings"], 1)
    for _ in range(5):
        world.api.events.put_nowait(None)
    monkeypatch.setattr(contents.asyncio, "sleep", pause)
    with pytest.raises(Enough):
        async with asyncio.timeout(5):
            await world.contents.run()
    assert (len(world.api.watches), pauses) == (5, [contents.BREATH] * 5)


async def test_whatever_comes_of_the_watch_is_heard(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contents, "PAUSE", 0.0)
    await world.contents.digest(A, ["settings"], 1)
    task = await world.watched()

    async def heard_after(event: dict[str, Any] | kube.KubeError | None) -> bool:
        before = world.heard
        world.api.events.put_nowait(event)
        await waits.until(lambda: world.heard > before, f"to hear of {event!r}")
        return True

    bookmark = {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "7"}}}
    for event in (bookmark, None, kube.Unavailable("gone")):
        assert await heard_after(event)
    task.cancel()


async def test_what_nobody_names_any_more_is_forgotten(world: World) -> None:
    await world.contents.digest(A, ["one", "two"], 1)
    await world.contents.digest(B, ["two"], 1)
    await world.contents.digest(A, ["two"], 1)
    world.contents.forget(B)
    assert world.contents._digests.keys() == {("shop", "two")}
    assert await world.contents.digest(A, [], 1) == ""
    assert world.contents._digests == {}
    await world.contents.digest(A, ["one"], 1)
    assert world.api.reads == {"one": 2, "two": 1}


def stored(**spec: Any) -> dict[str, Any]:
    body = {"triggers": [{"event": {"topics": ["a"]}}], "code": {"entrypoint": "a.py", "image": "i"}, **spec}
    metadata = {"name": "a", "namespace": "shop", "uid": "u", "generation": 1, "creationTimestamp": ""}
    return {"metadata": metadata, "spec": body}


def template(found: dict[str, Any], held: str) -> dict[str, Any]:
    plan = plans.plan(found, "n", Settings(), contents=held)
    [deployment] = [item for item in plan.wanted if item["kind"] == "Deployment"]
    pod: dict[str, Any] = deployment["spec"]["template"]
    return pod


def test_the_digest_is_on_the_pods() -> None:
    named = stored(restartOn={"configMaps": ["b", "a"]})
    assert plans.restarts_on(named) == ["a", "b"]
    assert plans.restarts_on(stored()) == plans.restarts_on({"spec": None}) == []
    found = template(named, "d1")
    assert found["metadata"]["annotations"]["bema.dev/contents"] == "d1"
    assert template(named, "d2") != found
    assert "bema.dev/contents" not in template(stored(), "")["metadata"]["annotations"]
