"""Statuses are written when they say something else, also where the CRD is older than the operator."""

from __future__ import annotations

from typing import Any

import pytest

from bema.contract.statuses import AppStatus, Condition, ConditionStatus, ConditionType, Reason, StepStatus
from bema_operator import caches, events, kinds, kube, plans, status_writes
from bema_operator.facts import Subject

NOW = "2026-02-02T00:00:00Z"
READY = Condition(
    type=ConditionType.READY,
    status=ConditionStatus.FALSE,
    reason=Reason.NOT_SUPPORTED,
    message="No.",
    last_transition_time=NOW,
)
APP = AppStatus(observed_generation=1, conditions=[READY], steps=2, storage="1Mi of 1Gi (0%)")
STEP = StepStatus(observed_generation=1, conditions=[READY], replicas=1, url="http://a.shop.svc")
STATUSES = [pytest.param(kinds.APP, APP, "storage", id="an App"), pytest.param(kinds.STEP, STEP, "url", id="a Step")]


class Api:
    """Stores one object, of whose status its CRD knows all fields but some."""

    def __init__(self, kind: kinds.Kind) -> None:
        self.unknown: set[str] = set()
        self.fails: kube.KubeError | None = None
        self.asked = 0
        self.told: list[str] = []
        self._kind = kind
        self.stored: dict[str, Any] = {
            "metadata": {
                "name": "app",
                "namespace": "shop",
                "uid": "u",
                "generation": 1,
                "resourceVersion": "1",
                "creationTimestamp": "",
            },
            "spec": {},
        }

    @property
    def status(self) -> dict[str, Any]:
        return dict(self.stored["status"])

    async def apply_status(self, kind: kinds.Kind, namespace: str, name: str, uid: str, status: Any) -> Any:
        assert (kind, namespace, name, uid) == (self._kind, "shop", "app", "u")
        self.asked += 1
        if self.fails is not None:
            raise self.fails
        for field in sorted(self.unknown & status.keys()):
            raise kube.Refused(f"failed to create typed patch object: .status.{field}: field not declared in schema")
        metadata = {**self.stored["metadata"], "resourceVersion": str(self.asked + 1)}
        self.stored = {**self.stored, "metadata": metadata, "status": status}
        return self.stored

    async def create(self, kind: kinds.Kind, manifest: Any) -> None:
        self.told.append(manifest["reason"])


class World:
    def __init__(self, kind: kinds.Kind) -> None:
        self.now = 1000.0
        self.api: Any = Api(kind)
        self.cache = caches.Cache()
        told = events.Events(self.api, clock=lambda: self.now, time=lambda: NOW)
        self.writer = status_writes.Writer(self.api, self.cache, told, clock=lambda: self.now)
        self._kind = kind

    @property
    def subject(self) -> Subject:
        return plans.subject(self.api.stored, self._kind)

    async def write(self, status: AppStatus | StepStatus) -> int:
        """After how many requests it is written."""
        before: int = self.api.asked
        await self.writer.write(self.subject, status)
        asked: int = self.api.asked
        return asked - before


@pytest.mark.parametrize(("kind", "status", "field"), STATUSES)
async def test_it_is_written_when_it_differs_and_told_when_it_begins(
    kind: kinds.Kind, status: AppStatus | StepStatus, field: str
) -> None:
    world = World(kind)
    assert [await world.write(status), await world.write(status)] == [1, 0]
    assert world.api.status == status.dump()
    assert world.api.told == ["NotSupported"]
    assert await world.write(status.model_copy(update={field: "other"})) == 1
    assert world.api.told == ["NotSupported"]


@pytest.mark.parametrize(("kind", "status", "field"), STATUSES)
async def test_a_crd_that_is_older_gets_what_it_knows(
    kind: kinds.Kind, status: AppStatus | StepStatus, field: str, caplog: pytest.LogCaptureFixture
) -> None:
    world = World(kind)
    world.api.unknown = {field}
    assert [await world.write(status), await world.write(status)] == [2, 0]
    assert status.dump().keys() - world.api.status.keys() == {field}
    advice = (
        f"The CRD is older than the operator and does not know status.{field}: kubectl apply --server-side -f crds/"
    )
    assert world.api.status["conditions"][0]["message"] == f"No. {advice}"
    assert world.writer.leaves_out
    world.now += status_writes.AGAIN
    assert await world.write(status) == 2, "tried again, in vain"
    assert caplog.messages == [advice], "said once"
    world.api.unknown = set()
    assert await world.write(status) == 0
    world.now += status_writes.AGAIN
    assert await world.write(status) == 1
    assert world.api.status == status.dump()
    assert not world.writer.leaves_out


async def test_what_was_deleted_or_made_again_meanwhile_is_left_to_its_event() -> None:
    for error in (kube.Gone("gone"), kube.Conflict("another uid")):
        world = World(kinds.APP)
        world.api.fails = error
        await world.writer.write(world.subject, APP)
        assert (world.cache.app("shop"), world.api.told) == (None, [])


async def test_what_is_refused_for_another_reason_is_raised() -> None:
    world = World(kinds.APP)
    world.api.fails = kube.Refused("forbidden")
    with pytest.raises(kube.Refused, match="forbidden"):
        await world.writer.write(world.subject, APP)


@pytest.mark.parametrize(
    "edit", [{"generation": 2}, {"annotations": {"bema.dev/discard-backlog": "a"}}], ids=["its spec", "an annotation"]
)
@pytest.mark.parametrize(("kind", "status"), [(kinds.APP, APP), (kinds.STEP, STEP)], ids=["an App", "a Step"])
async def test_what_somebody_has_edited_meanwhile_is_news_when_the_watch_tells_it(
    kind: kinds.Kind, status: AppStatus | StepStatus, edit: dict[str, Any]
) -> None:
    world = World(kind)
    known = world.subject
    stored = world.api.stored
    world.api.stored = {**stored, "metadata": {**stored["metadata"], **edit}}
    await world.writer.write(known, status)
    assert world.api.status == status.dump()
    assert world.cache.put(kind, world.api.stored) is not None
    await world.writer.write(world.subject, status.model_copy(update={"observed_generation": 2}))
    assert world.cache.put(kind, world.api.stored) is None, "what we have written ourselves is none"
