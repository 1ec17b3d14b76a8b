"""Orphaned consumers: removed on positive evidence only. The API server and the broker are stand-ins with a script."""

from typing import Any

import pytest

from bema.ports.admin import ConsumerState
from bema_operator import brokers, caches, kinds, kube, metrics, sweeps
from bema_operator.settings import Settings

STATE = ConsumerState(pending=2, unacked=1, metadata={"bema.dev/step": "gone"})
STRANGER = ConsumerState(pending=0, unacked=0, metadata={})
NAMESPACE = {"metadata": {"uid": "n-uid"}}


class Api:
    """Answers by path, or raises what is scripted for it."""

    def __init__(self, answers: dict[tuple[str, str], Any]) -> None:
        self.answers = answers

    async def get(self, kind: kinds.Kind, name: str, namespace: str | None = None) -> Any:
        answer = self.answers[kind.name, name]
        if isinstance(answer, Exception):
            raise answer
        return answer


class Broker:
    """One app with two consumers."""

    def __init__(self, uid: str = "n-uid") -> None:
        self.uid = uid
        self.deleted: list[tuple[str, str]] = []

    async def apps(self) -> list[brokers.App]:
        return [brokers.App("BEMA-shop", "shop", self.uid, {"gone": STATE, "foreign": STRANGER})]

    async def delete_consumer(self, stream: str, durable: str) -> None:
        self.deleted.append((stream, durable))


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


GONE = {("Namespace", "shop"): NAMESPACE, ("Step", "gone"): kube.Gone("steps.bema.dev gone not found")}


async def swept(
    answers: dict[tuple[str, str], Any], *, broker: Broker | None = None, cache: caches.Cache | None = None
) -> list[tuple[str, str]]:
    """What is removed by a sweep now, one soon, and one after the grace."""
    broker = broker or Broker()
    clock: Any = Clock()
    api: Any = Api(answers)
    orphans = sweeps.Orphans(
        Settings(orphan_grace_seconds=100),
        cache or caches.Cache(),
        api,
        broker,  # type: ignore[arg-type]
        measures=metrics.Metrics(),
        clock=clock,
    )
    for clock.now in (0, 99, 101):
        try:
            await orphans.sweep()
        except kube.KubeError:
            continue
        if clock.now < 100:
            assert broker.deleted == []
    return broker.deleted


async def test_the_consumer_of_a_step_that_stays_gone_is_removed_and_no_other() -> None:
    assert await swept(GONE) == [("BEMA-shop", "gone")]


@pytest.mark.parametrize(
    ("answers", "broker"),
    [
        pytest.param({**GONE, ("Step", "gone"): {}}, Broker(), id="the Step is there"),
        pytest.param({**GONE, ("Step", "gone"): kube.Refused("forbidden")}, Broker(), id="the answer is refused"),
        pytest.param({**GONE, ("Step", "gone"): kube.Unavailable("404 page not found")}, Broker(), id="no CRD"),
        pytest.param({**GONE, ("Namespace", "shop"): kube.Gone("")}, Broker(), id="the namespace is gone"),
        pytest.param(GONE, Broker(uid="of another cluster"), id="the stream is of another namespace"),
    ],
)
async def test_without_evidence_nothing_is_removed(answers: dict[tuple[str, str], Any], broker: Broker) -> None:
    assert await swept(answers, broker=broker) == []


async def test_a_step_that_we_know_is_not_asked_for() -> None:
    cache = caches.Cache()
    cache.put(kinds.STEP, {"metadata": {"name": "gone", "namespace": "shop", "resourceVersion": "1"}})
    assert await swept({}, cache=cache) == []
