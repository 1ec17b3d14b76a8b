"""Orphaned consumers: removed on positive evidence only. The API server and the broker are stand-ins with a script."""

from typing import Any

import pytest

from bema.ports.admin import ConsumerState, StreamState
from bema_operator import brokers, caches, kinds, kube, metrics, sweeps
from bema_operator.settings import Settings

STATE = ConsumerState(pending=2, unacked=1, metadata={"bema.dev/step": "gone"})
STRANGER = ConsumerState(pending=0, unacked=0, metadata={})
NAMESPACE = {"metadata": {"uid": "n-uid"}}
THERE = {"metadata": {"uid": "s-uid"}}


class Api(kube.Kube):
    """Answers by path, or raises what is scripted for it."""

    def __init__(self, answers: dict[tuple[str, str], Any]) -> None:
        self.answers = answers
        self.asked: list[tuple[str, str]] = []

    async def get(self, kind: kinds.Kind, name: str, namespace: str | None = None) -> Any:
        self.asked.append((kind.name, name))
        answer = self.answers[kind.name, name]
        if isinstance(answer, Exception):
            raise answer
        return answer


class Broker:
    """One app with two consumers, to which nothing was written since a time."""

    def __init__(self, uid: str = "n-uid", written: str = "0001-01-01T00:00:00Z") -> None:
        self.uid = uid
        self.written = written
        self.deleted: list[tuple[str, str]] = []
        self.streams_deleted: list[str] = []

    async def apps(self) -> list[brokers.App]:
        consumers = {"gone": STATE, "foreign": STRANGER}
        created = "1970-01-01T00:01:00.123456789Z"
        state = StreamState(created, messages=3, bytes=300, last=3, last_time=self.written, replicas=1, metadata={})
        return [brokers.App("BEMA-shop", "shop", self.uid, consumers, state)]

    async def delete_silent_stream(self, app: brokers.App) -> bool:
        self.streams_deleted.append(app.stream)
        return True

    async def delete_consumer(self, stream: str, durable: str) -> None:
        self.deleted.append((stream, durable))


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


GONE = {("Namespace", "shop"): NAMESPACE, ("Step", "gone"): kube.Gone("steps.bema.dev gone not found")}


async def swept(
    answers: dict[tuple[str, str], Any],
    *,
    broker: Broker | None = None,
    cache: caches.Cache | None = None,
    namespace: str | None = None,
    time: float = 0,
) -> list[tuple[str, str]]:
    """What is removed by a sweep now, one soon, and one after the grace."""
    broker = broker or Broker()
    clock: Any = Clock()
    api: Any = Api(answers)
    orphans = sweeps.Orphans(
        Settings(orphan_grace_seconds=100, orphan_stream_grace_seconds=1000, namespace=namespace),
        cache or caches.Cache(),
        api,
        broker,  # type: ignore[arg-type]
        measures=metrics.Metrics(),
        clock=clock,
        time=lambda: time,
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
        pytest.param({**GONE, ("Step", "gone"): THERE}, Broker(), id="the Step is there"),
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


NO_NAMESPACE = {("Namespace", "shop"): kube.Gone("namespaces shop not found")}


async def test_the_stream_of_a_namespace_that_is_gone_is_removed_once_nobody_looks_after_it() -> None:
    broker = Broker()
    await swept(NO_NAMESPACE, broker=broker, time=60 + 1001)
    assert set(broker.streams_deleted) == {"BEMA-shop"}
    assert broker.deleted == []


@pytest.mark.parametrize(
    ("answers", "time", "written", "namespace"),
    [
        pytest.param(NO_NAMESPACE, 60 + 999, "0001-01-01T00:00:00Z", None, id="it was made not long ago"),
        pytest.param(NO_NAMESPACE, 5000, "1970-01-01T01:10:00Z", None, id="somebody's janitor wrote to it"),
        pytest.param(GONE, 5000, "0001-01-01T00:00:00Z", None, id="the namespace is there"),
        pytest.param(
            {("Namespace", "shop"): kube.Refused("forbidden")}, 5000, "0001-01-01T00:00:00Z", None, id="refused"
        ),
        pytest.param(NO_NAMESPACE, 5000, "0001-01-01T00:00:00Z", "other", id="we serve another namespace"),
    ],
)
async def test_without_evidence_no_stream_is_removed(
    answers: dict[tuple[str, str], Any], time: float, written: str, namespace: str | None
) -> None:
    broker = Broker(written=written)
    await swept(answers, broker=broker, namespace=namespace, time=time)
    assert broker.streams_deleted == []


async def counted(answers: dict[tuple[str, str], Any], *, cache: caches.Cache | None = None) -> dict[str, float | None]:
    """What is said to wait for its removal after one sweep."""
    measures = metrics.Metrics()
    broker: Any = Broker()
    api: Any = Api(answers)
    orphans = sweeps.Orphans(
        Settings(), cache or caches.Cache(), api, broker, measures=measures, clock=lambda: 0, time=lambda: 60
    )
    await orphans.sweep()
    value = measures.registry.get_sample_value
    return {kind: value("bema_operator_orphans", {"kind": kind}) for kind in ("consumers", "streams")}


async def test_what_waits_for_its_removal_is_counted() -> None:
    assert await counted(GONE) == {"consumers": 1, "streams": 0}
    assert await counted(NO_NAMESPACE) == {"consumers": 0, "streams": 1}
    assert await counted({**GONE, ("Step", "gone"): THERE}) == {"consumers": 0, "streams": 0}


@pytest.mark.parametrize(
    "answers",
    [
        pytest.param(GONE, id="one that is there"),
        pytest.param(NO_NAMESPACE, id="one that is gone"),
    ],
)
async def test_a_namespace_is_asked_for_once_in_a_sweep(answers: dict[tuple[str, str], Any]) -> None:
    """For the stream of one of whose Steps nobody knows and to which nobody has written for long."""
    api, broker = Api(answers), Broker()
    orphans = sweeps.Orphans(
        Settings(),
        caches.Cache(),
        api,
        broker,  # type: ignore[arg-type]
        measures=metrics.Metrics(),
        clock=lambda: 0,
        time=lambda: 60 + Settings().orphan_stream_grace_seconds,
    )
    for sweep in (1, 2):
        await orphans.sweep()
        assert api.asked.count(("Namespace", "shop")) == sweep
