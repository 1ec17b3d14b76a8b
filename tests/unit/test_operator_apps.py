"""What an App changes in the operator: in Steps' objects, in the janitor, and in its own status."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import pytest
from lupa import lua51

from bema.clusters.calls import Listed
from bema.contract import errors
from bema.contract.retentions import Quota
from bema.contract.statuses import Reason
from bema_operator import (
    app_statuses,
    apps,
    brokers,
    caches,
    janitors,
    kinds,
    kube,
    metrics,
    plans,
    scales,
    status_writes,
    watches,
)
from bema_operator.app_statuses import AppFacts
from bema_operator.facts import Key
from bema_operator.plans import AppPlan, Plan
from bema_operator.settings import Settings
from tests.support import kstatuses
from tests.support.kstatuses import Result
from tools import argocd

NOW = "2026-02-02T00:00:00Z"
SETTINGS = Settings(nats_urls=("nats://nats:4222",))
UNSUPPORTED = {"defaults": {"pod": {"serviceAccountName": "a"}}, "eventRetention": "7d"}


def metadata(name: str, generation: int = 1, **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "namespace": "shop",
        "uid": f"{name}-uid",
        "generation": generation,
        "resourceVersion": str(10 * generation),
        "creationTimestamp": "2026-01-01T00:00:00Z",
        **more,
    }


def app(generation: int = 1, **spec: Any) -> dict[str, Any]:
    return {"metadata": metadata("app", generation), "spec": spec}


def step(name: str = "charge", **spec: Any) -> dict[str, Any]:
    body = {"triggers": [{"event": {"topics": ["order"]}}], "code": {"entrypoint": "a.py", "image": "i"}, **spec}
    return {"metadata": metadata(name), "spec": body}


def planned(found: dict[str, Any], said: dict[str, Any] | None, settings: Settings = SETTINGS) -> Plan:
    return plans.plan(found, "n-uid", settings, plans.app_plan(said))


def pod_of(plan: Plan) -> dict[str, Any]:
    [deployment] = [item for item in plan.wanted if item["kind"] == "Deployment"]
    template: dict[str, Any] = deployment["spec"]["template"]
    return template


# What it does to Steps


def test_the_objects_of_a_step_without_an_app_are_what_they_were() -> None:
    """The digests of the version before there were Apps, when the API server wrote the defaults into the Step."""
    filled = {
        "retry": {"maxAttempts": 3, "backoff": "Exponential", "initialSeconds": 1, "maxSeconds": 300, "jitter": 0.2},
        "concurrency": 16,
    }
    bare, stored, empty = planned(step(), None), planned(step(**filled), None), planned(step(), app())
    assert bare.wanted == stored.wanted == empty.wanted
    applied = scales.settled(bare.wanted, [], bare.spec, yields=False)
    digests = [item["metadata"]["annotations"]["bema.dev/hash"] for item in applied]
    assert digests == BEFORE


BEFORE = ["d2ba64bc8f49aa2b", "b8de3143c041e6a6", "9815b273d4c2cf50"]


@pytest.mark.parametrize(
    "said",
    [
        pytest.param({"replicas": 3}, id="copies"),
        pytest.param(
            {"eventRetention": "7d", "deadLetterRetention": "1w", "storage": "5Gi"}, id="what the janitor does"
        ),
    ],
)
def test_what_is_of_no_concern_to_pods_rolls_none(said: dict[str, Any]) -> None:
    assert planned(step(), app(**said)).wanted == planned(step(), None).wanted


def test_a_step_that_would_mount_what_nobody_has_is_invalid_as_its_app_completes_it() -> None:
    mounts, volumes = [{"name": "v", "mountPath": "/v"}], [{"name": "v", "emptyDir": {}}]
    said = app(defaults={"pod": {"volumeMounts": mounts}})
    assert planned(step(), said).invalid == (
        "pod.volumeMounts: expected a volume of the Step or of its App's defaults, found 'v' at /v; there is none"
    )
    assert planned(step(pod={"volumes": volumes}), said).wanted


def test_the_stream_is_as_the_app_has_it() -> None:
    plan = planned(step(), app(replicas=3))
    assert plan.stream is not None
    assert plan.binding is not None
    assert (plan.stream.replicas, plan.binding.stream.replicas) == (3, 1)


def test_defaults_roll_the_steps_that_leave_something_to_them_and_no_others() -> None:
    defaults = {"concurrency": 4}
    silent, said = step(), step(concurrency=8)
    assert planned(silent, app(defaults=defaults)).wanted != planned(silent, None).wanted
    assert planned(said, app(defaults=defaults)).wanted == planned(said, None).wanted


def test_a_pod_has_what_its_app_says() -> None:
    pod = {"env": [{"name": "A", "value": "app"}], "nodeSelector": {"disk": "fast"}, "labels": {"team": "shop"}}
    template = pod_of(planned(step(pod={"nodeSelector": {"arch": "arm"}}), app(defaults={"pod": pod})))
    assert template["spec"]["nodeSelector"] == {"disk": "fast", "arch": "arm"}
    assert {"name": "A", "value": "app"} in template["spec"]["containers"][0]["env"]
    assert template["metadata"]["labels"]["team"] == "shop"


def test_steps_of_an_app_that_is_not_acted_on_are_left_as_they_are() -> None:
    plan = planned(step(), app(**UNSUPPORTED))
    assert (plan.binding, plan.wanted) == (None, ())
    assert plan.held == (
        "The App of this namespace is not acted on: defaults.pod.serviceAccountName is not supported by this version. "
        "Mend or delete it."
    )
    assert planned({**step(), "spec": {}}, app(**UNSUPPORTED)).held == "", "a noop has nothing to leave"


# What it does to the janitor


class Broker:
    """Has one app, and a janitor that says what it was told to keep."""

    def __init__(self) -> None:
        self.kept: list[Any] = []

    async def streams(self) -> list[Any]:
        return [brokers.App(stream="BEMA-shop", namespace="shop", namespace_uid="n-uid")]

    def janitor(self, stream: str, kept: Any, *, clock: Any) -> Any:
        return self

    def keep(self, kept: Any) -> None:
        self.kept.append((kept.storage_bytes, kept.events, kept.dead_letters))

    async def sweep(self) -> Any:
        raise errors.BrokerUnavailable("enough")


class Api:
    """Knows the namespace; takes statuses; lists what it is given."""

    def __init__(self, *answers: Any) -> None:
        self.statuses: list[Any] = []
        self.made: list[Any] = []
        self.answers = list(answers)
        self.stored: Any = None
        """The App, for statuses."""
        self.is_old = False
        """Whether the CRD of App knows nothing of the storage."""

    async def list(self, kind: kinds.Kind, namespace: str | None = None, **query: str) -> Any:
        assert kind is kinds.NAMESPACE
        return [{"metadata": {"name": "shop", "uid": "n-uid"}}]

    async def apply_status(self, kind: kinds.Kind, namespace: str, name: str, uid: str, status: Any) -> Any:
        assert kind is kinds.APP
        if self.is_old and "storage" in status:
            raise kube.Refused(".status.storage: field not declared in schema")
        self.statuses.append(status)
        found = self.stored["metadata"]
        later = {**found, "resourceVersion": str(int(found["resourceVersion"]) + 1)}
        return {**self.stored, "metadata": later, "status": status}

    async def create(self, kind: kinds.Kind, manifest: Any) -> None:
        self.made.append(manifest)

    async def pages(self, kind: kinds.Kind, namespace: str | None = None, **query: str) -> AsyncGenerator[Listed]:
        answer = self.answers.pop(0) if kind is kinds.APP and self.answers else []
        if isinstance(answer, Exception):
            raise answer
        yield Listed(answer, "1")


async def test_each_sweep_goes_by_what_the_app_says_then() -> None:
    broker: Any = Broker()
    api: Any = Api()
    said = app(storage="2Gi", eventRetention="1h", deadLetterRetention="2h")
    says = iter([None, said, app(**UNSUPPORTED), app(oops=1), None])
    found = janitors.Janitors(
        SETTINGS, api, broker, measures=metrics.Metrics(), app=lambda namespace: plans.app_plan(next(says))
    )
    for _ in range(5):
        await found.sweep()
    usual = (2**30, 86_400, 2_592_000)
    assert broker.kept == [usual, (2**31, 3600, 7200), (2**30, 604_800, 2_592_000), usual], "unread: nothing is swept"


# Its status


def subject_of(said: dict[str, Any]) -> Any:
    return plans.subject(said, kinds.APP)


def status(said: dict[str, Any], **facts: Any) -> dict[str, Any]:
    known = AppFacts(**{"subject": subject_of(said), "plan": plans.app_plan(said), "steps": 2, **facts})
    return app_statuses.status(known, NOW).dump()


def test_the_status_of_an_app_that_counts() -> None:
    quota = Quota(used=12_900_000, storage=2**30)
    assert status(app(3, storage="1Gi"), quota=quota) == {
        "observedGeneration": 3,
        "conditions": [
            {
                "type": "Ready",
                "status": "True",
                "reason": "Reconciled",
                "message": "What it says counts for all Steps of the namespace.",
                "observedGeneration": 3,
                "lastTransitionTime": NOW,
            }
        ],
        "steps": 2,
        "storage": "12.3Mi of 1Gi (1%)",
    }


SITUATIONS = [
    pytest.param(app(), {}, "", Result.CURRENT, "Healthy", id="well"),
    pytest.param(app(**UNSUPPORTED), {}, Reason.NOT_SUPPORTED, Result.FAILED, "Degraded", id="not supported"),
    pytest.param(app(oops=1), {}, Reason.INVALID_SPEC, Result.FAILED, "Degraded", id="of a later version"),
    pytest.param(
        app(replicas=3), {"shortfall": "too few"}, Reason.TOO_FEW_SERVERS, Result.FAILED, "Degraded", id="too few"
    ),
]


@pytest.mark.parametrize(("said", "facts", "reason", "result", "health"), SITUATIONS)
def test_whoever_waits_for_an_app_sees_the_truth(
    said: dict[str, Any], facts: dict[str, Any], reason: str, result: Result, health: str
) -> None:
    item = {**said, "status": status(said, **facts)}
    conditions = {found["type"]: found for found in item["status"]["conditions"]}
    assert conditions["Ready"]["reason"] == (reason or "Reconciled")
    assert ("Stalled" in conditions) is bool(reason)
    assert kstatuses.compute(item) is result
    assert kstatuses.compute({**item, "metadata": metadata("app", 2)}) is Result.IN_PROGRESS
    lua = lua51.LuaRuntime(register_eval=False)
    lua.globals().obj = lua.table_from(item, recursive=True)
    assert lua.execute(argocd.SCRIPT.read_text("utf-8")).status == health


def test_a_message_says_what_becomes_of_the_steps() -> None:
    [ready, _] = status(app(**UNSUPPORTED))["conditions"]
    assert ready["message"] == (
        "defaults.pod.serviceAccountName is not supported by this version. The Steps stay as they are; "
        "leave the field out."
    )
    [ready, _] = status(app(oops=1))["conditions"]
    assert ready["message"].startswith("spec: unknown key 'oops'; valid keys are eventRetention, ")
    assert ready["message"].endswith("The Steps stay as they are, and nothing is removed from the app's stream.")


# Looking at it


class World:
    """A cache, and what was asked of whom."""

    def __init__(self, *objects: tuple[kinds.Kind, dict[str, Any]]) -> None:
        self.api: Any = Api()
        self.cache = caches.Cache()
        self.looked: list[Key] = []
        for kind, found in objects:
            self.cache.put(kind, found)
        broker: Any = self
        self.apps = apps.Apps(
            SETTINGS, self.cache, self.api, broker, look_at=self.looked.append, clock=lambda: 0.0, time=lambda: NOW
        )

    def shortfall(self, namespace: str) -> str:
        return ""

    async def look(self) -> list[Key]:
        """The Steps that follow a look at the App."""
        self.looked.clear()
        self.api.stored = self.cache.app("shop")
        assert await self.apps.reconcile(Key("shop", "app")) is None
        return list(self.looked)


CHARGE, REFUND = Key("shop", "charge"), Key("shop", "refund")
STEPS = ((kinds.STEP, step()), (kinds.STEP, step("refund")))


async def test_steps_follow_a_change_of_their_app_and_nothing_else_of_it() -> None:
    elsewhere = {**step("other"), "metadata": {**metadata("other"), "namespace": "blog"}}
    world = World(*STEPS, (kinds.STEP, elsewhere))
    assert await world.look() == [], "there is none"
    world.cache.put(kinds.APP, app(1))
    assert await world.look() == [CHARGE, REFUND]
    assert await world.look() == [], "its own status is no news"
    world.cache.put(kinds.APP, app(3, storage="1Gi"))
    assert await world.look() == [CHARGE, REFUND]
    world.cache.drop(kinds.APP, app(4))
    assert await world.look() == [CHARGE, REFUND]
    assert await world.look() == []


async def test_what_was_there_when_the_process_began_is_no_change(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    world = World(*STEPS, (kinds.APP, app(1)))
    world.apps.note_all()
    assert await world.look() == []
    assert caplog.messages == []
    assert [found["steps"] for found in world.api.statuses] == [2]
    world.cache.put(kinds.APP, app(3))
    assert await world.look() == [CHARGE, REFUND]


async def test_a_status_is_written_when_it_says_something_else() -> None:
    world = World(*STEPS, (kinds.APP, app(1)))
    await world.look()
    await world.look()
    assert [found["steps"] for found in world.api.statuses] == [2]
    world.cache.drop(kinds.STEP, step("refund"))
    assert await world.look() == []
    assert [found["steps"] for found in world.api.statuses] == [2, 1]
    assert world.apps.note("shop", Quota(used=100, storage=1000))
    await world.look()
    assert not world.apps.note("shop", Quota(used=101, storage=1000)), "less than a percent is not worth a write"
    assert world.apps.note("shop", Quota(used=101, storage=2000))
    assert [found.get("storage") for found in world.api.statuses] == [None, None, "100 of 1Gi (0%)"]


async def test_a_new_limit_is_shown_with_the_generation_that_says_it() -> None:
    world = World((kinds.APP, app(1, storage="1Mi")))
    world.apps.note("shop", Quota(used=2**19, storage=2**20))
    await world.look()
    world.cache.put(kinds.APP, app(2, storage="2Mi"))
    await world.look()
    world.cache.put(kinds.APP, app(3, oops=1))
    await world.look()
    assert [(found["observedGeneration"], found["storage"]) for found in world.api.statuses] == [
        (1, "512Ki of 1Mi (50%)"),
        (2, "512Ki of 2Mi (25%)"),
        (3, "512Ki of 1Mi (50%)"),
    ], "of one that cannot be read nobody knows another limit"


async def test_what_was_measured_goes_with_the_app() -> None:
    world = World((kinds.APP, app(1)))
    world.apps.note_all()
    assert world.apps.note("shop", Quota(used=100, storage=1000))
    world.cache.drop(kinds.APP, app(2))
    await world.look()
    assert not world.apps.note("shop", Quota(used=100, storage=1000)), "of a namespace that is going"
    world.cache.put(kinds.APP, app(3))
    await world.look()
    assert world.apps.note("shop", Quota(used=100, storage=1000))
    await world.look()
    world.cache.put(kinds.APP, {"metadata": metadata("app", 4, uid="another"), "spec": {}})
    await world.look()
    assert [found.get("storage") for found in world.api.statuses] == [None, "100 of 1Gi (0%)", None]


async def test_a_crd_of_app_that_is_older_is_told_what_it_knows() -> None:
    world = World(*STEPS, (kinds.APP, app(1)))
    world.api.stored, world.api.is_old = app(1), True
    world.apps.note("shop", Quota(used=100, storage=1000))
    assert await world.apps.reconcile(Key("shop", "app")) == status_writes.AGAIN
    [written] = world.api.statuses
    assert (written["steps"], "storage" in written) == (2, False)
    assert "does not know status.storage" in written["conditions"][0]["message"]


async def test_an_app_that_is_not_acted_on_is_an_event() -> None:
    world = World((kinds.APP, app(1, **UNSUPPORTED)))
    await world.look()
    [made] = world.api.made
    assert (made["reason"], made["involvedObject"]["kind"], made["involvedObject"]["name"]) == (
        "NotSupported",
        "App",
        "app",
    )


# Where there are no Apps


async def fill(cache: caches.Cache, *answers: Any, monkeypatch: pytest.MonkeyPatch) -> int:
    """Fill a cache while the API server answers like this when it is asked for Apps; after how many pauses."""
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr(watches.asyncio, "sleep", sleep)
    api: Any = Api(*answers)
    await watches.Watches(SETTINGS, cache, api, news=lambda kind, key: None, clock=lambda: 0.0).fill()
    return len(pauses)


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(kube.Unavailable("404 page not found", 404), id="no CRD"),
        pytest.param(kube.Refused("forbidden", 403), id="no right"),
    ],
)
async def test_an_operator_goes_on_where_apps_are_not_served(
    answer: kube.KubeError, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cache = caches.Cache()
    await fill(cache, answer, answer, [app()], monkeypatch=monkeypatch)
    assert cache.app("shop") is None
    assert f"Apps are not served ({answer}); going on as if there were none" in caplog.messages


@pytest.mark.parametrize(
    "answers",
    [
        pytest.param([kube.Unavailable("404 page not found", 404)], id="an API server that has just started"),
        pytest.param([kube.Unavailable("nobody answers")] * 5, id="one that does not answer"),
    ],
)
async def test_one_answer_is_not_believed(answers: list[kube.KubeError], monkeypatch: pytest.MonkeyPatch) -> None:
    cache = caches.Cache()
    assert await fill(cache, *answers, [app()], monkeypatch=monkeypatch) == len(answers)
    assert cache.app("shop") is not None


def test_no_app_says_what_an_empty_one_says() -> None:
    assert plans.app_plan(None) == AppPlan()
    assert plans.app_plan(app()) == AppPlan(unsupported=[])
