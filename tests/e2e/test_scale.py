"""The operator as a process beside a control plane and nothing else: what it writes, asks and notices."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from bema.clusters import watches
from bema.clusters.errors import Expired
from bema.contract import names
from bema_operator import kinds
from bench import scale
from tests.support import waits

COUNT = 20
PATIENCE = 60.0


@asynccontextmanager
async def served(count: int) -> AsyncIterator[tuple[scale.World, scale.Operator]]:
    """Steps that are there and rolled out, and the operator that did it."""
    async with scale.world() as place:
        await place.make_namespaces(count)
        async with place.operator() as operator:
            await place.create(count)
            await scale.until(lambda: operator.is_idle(count), "every status", operator.last_words)
            await place.roll_out()
            await place.until_settled(operator)
            yield place, operator


async def test_the_benchmark_runs_and_a_start_rewrites_nothing() -> None:
    said: list[str] = []
    rest = await scale.settle(COUNT, 2, said.append)
    assert (rest.rewritten, rest.writes) == (0, 0), said
    [first, last] = await scale.compare(COUNT, 1, said.append)
    print("\n".join([*said, f"{first.measure}: {first.ratio:.2f}", f"{last.measure}: {last.ratio:.2f}"]))


async def test_what_happens_while_nobody_hears_is_noticed_afterwards() -> None:
    """The API server is another process afterwards: it has forgotten every place in its history before its start."""
    async with served(2) as (place, operator):
        gone, kept = (scale.step(index)["metadata"] for index in (0, 1))
        operator.process.send_signal(signal.SIGSTOP)
        try:
            # What was sent before would still be read.
            await asyncio.to_thread(place.restart_api)
            await place.api.call("DELETE", kinds.STEP.path(gone["namespace"], gone["name"]))
            await place.api.call("DELETE", kinds.SERVICE.path(kept["namespace"], kept["name"]))
            await asyncio.to_thread(place.restart_api)
        finally:
            operator.process.send_signal(signal.SIGCONT)

        async def is_noticed() -> bool:
            steps = operator.figures()["bema_operator_steps"]
            return steps == 1 and await exists(place, kinds.SERVICE, kept)

        await waits.until(is_noticed, "one Step to be forgotten and one Service made again", timeout=PATIENCE)
        assert not await exists(place, kinds.STEP, gone)


async def test_an_upgrade_replaces_the_pods_of_ten_steps_at_a_time() -> None:
    async with served(14) as (place, operator):
        operator.process.terminate()
        await asyncio.to_thread(operator.process.wait, PATIENCE)
        async with place.operator("--runtime-image", "newer:1"):
            waiting = await upgraded(place, 10)
            ready, progressing = waiting[0]["status"]["conditions"][:2]
            assert (ready["status"], progressing["status"], progressing["reason"]) == ("True", "False", "RolloutQueued")
            in_front = progressing["message"].removeprefix("New pods follow, after those of ").rstrip(".").split(", ")
            assert len(in_front) == 10
            # What a person changes does not wait.
            name, namespace = (waiting[0]["metadata"][key] for key in ("name", "namespace"))
            path = kinds.STEP.path(namespace, name)
            merge = "application/merge-patch+json"
            await place.api.call("PATCH", path, body={"spec": {"timeoutSeconds": 7}}, content_type=merge)
            await upgraded(place, 11)
            await place.roll_out()
            await upgraded(place, 14)


async def upgraded(place: scale.World, count: int) -> list[scale.Object]:
    """Wait until so many Deployments have the new image and every other Step says that it waits; those Steps."""

    async def waiting() -> list[scale.Object] | None:
        found = await place.api.list(kinds.DEPLOYMENT, None, labelSelector=names.LABEL_STEP)
        old = {item["metadata"]["name"] for item in found if images(item) != ["newer:1"]}
        steps = await place.api.list(kinds.STEP)
        queued = [item for item in steps if item["status"]["conditions"][1]["reason"] == "RolloutQueued"]
        is_so = len(found) - len(old) == count and {item["metadata"]["name"] for item in queued} == old
        return [*queued, *steps] if is_so else None

    return list(await waits.until(waiting, f"{count} Deployments to be upgraded", timeout=PATIENCE))


async def test_a_field_that_somebody_edits_is_repaired_within_two_seconds() -> None:
    async with served(1) as (place, _):
        metadata = scale.step(0)["metadata"]
        path = kinds.DEPLOYMENT.path(metadata["namespace"], metadata["name"])
        edit = {"spec": {"template": {"spec": {"containers": [{"name": "step", "image": "elsewhere:1"}]}}}}
        content_type = "application/strategic-merge-patch+json"
        before = await place.api.call("GET", path)
        edited = await place.api.call("PATCH", path, body=edit, content_type=content_type)
        began = time.monotonic()
        assert images(edited) != images(before)

        async def is_repaired() -> bool:
            return images(await place.api.call("GET", path)) == images(before)

        await waits.until(is_repaired, "the image to be the Step's again", timeout=2)
        print(f"repaired after {(time.monotonic() - began) * 1000:.0f} ms")


async def test_a_name_that_is_somebody_elses_is_left_alone() -> None:
    async with scale.world() as place:
        await place.make_namespaces(1)
        metadata = scale.step(1)["metadata"]
        ports = [{"port": 80}]
        service = {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": metadata,
            "spec": {"selector": {"app": "legacy"}, "ports": ports},
        }
        made = await place.api.call("POST", kinds.SERVICE.path(metadata["namespace"]), body=service)
        async with place.operator():
            await place.api.call("POST", kinds.STEP.path(metadata["namespace"]), body=scale.step(1))

            async def says_so() -> bool:
                found = await place.api.get(kinds.STEP, metadata["name"], metadata["namespace"])
                return "was not made for this Step" in str(found.get("status"))

            await waits.until(says_so, "the Step to say whose name it is", timeout=PATIENCE)
        found = await place.api.get(kinds.SERVICE, metadata["name"], metadata["namespace"])
        assert found["metadata"]["resourceVersion"] == made["metadata"]["resourceVersion"]


async def test_a_watch_tells_every_change_and_says_when_its_place_is_forgotten() -> None:
    async with scale.world() as place:
        listed = await place.api.listed(kinds.CONFIG_MAP, "default")
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"x": "1"}}
        path = kinds.CONFIG_MAP.path("default")
        await place.api.call("POST", path, body=body)
        await place.api.call("PUT", f"{path}/a", body={**body, "data": {"x": "2"}})
        await place.api.call("DELETE", f"{path}/a")
        events = watches.follow(place.api.lines, kinds.CONFIG_MAP, "default", listed.version)
        async with asyncio.timeout(PATIENCE):
            told = [(await anext(events)).type.value for _ in range(3)]
        assert told == ["ADDED", "MODIFIED", "DELETED"]
        await asyncio.to_thread(place.restart_api)
        with pytest.raises(Expired, match="too old resource version"):
            await anext(watches.follow(place.api.lines, kinds.CONFIG_MAP, "default", listed.version))


async def exists(place: scale.World, kind: kinds.Kind, metadata: scale.Object) -> bool:
    return await place.api.uid(kind, metadata["name"], metadata["namespace"]) is not None


def images(found: scale.Object) -> list[str]:
    return [container["image"] for container in found["spec"]["template"]["spec"]["containers"]]
