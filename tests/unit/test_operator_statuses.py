"""From facts to a status, compared whole or by condition."""

from typing import Any

import pytest

from bema.contract.statuses import Reason
from bema_operator import schemas, statuses
from bema_operator.facts import Facts, Problem, Subscription
from tests.support.step_facts import API, BEFORE, DONE, EVENT, NOW, OVERDUE, deployed, live, manifest, spec, subject


def conditions(facts: Facts) -> dict[str, tuple[str, str, str]]:
    found = statuses.status(facts, NOW).conditions
    return {str(item.type): (str(item.status), str(item.reason), item.message) for item in found}


def condition(type_: str, status: str, reason: str, message: str) -> dict[str, Any]:
    return {
        "type": type_,
        "status": status,
        "reason": reason,
        "message": message,
        "observedGeneration": 3,
        "lastTransitionTime": NOW,
    }


def test_a_step_that_is_ready() -> None:
    assert statuses.status(deployed(DONE), NOW).dump() == {
        "observedGeneration": 3,
        "conditions": [
            condition("Ready", "True", "Available", "2 pods of 2 ready."),
            condition("Progressing", "False", "Reconciled", ""),
            condition("WorkloadReady", "True", "Available", "2 pods of 2 ready."),
            condition("SubscriptionReady", "True", "Subscribed", "The consumer hears order.created, order.paid."),
        ],
        "replicas": 2,
        "readyReplicas": 2,
        "selector": "bema.dev/app=shop,bema.dev/step=a",
        "url": "http://a.shop.svc",
        "backlog": 7,
        "type": "event,api",
        "trigger": "order.created +2",
    }


def test_a_noop_is_ready() -> None:
    found = statuses.status(Facts(subject=subject(), spec=spec()), NOW).dump()
    assert found == {
        "observedGeneration": 3,
        "conditions": [
            condition("Ready", "True", "NoWorkload", "A noop: nothing runs."),
            condition("Progressing", "False", "Reconciled", ""),
            condition("WorkloadReady", "True", "NoWorkload", "A noop: nothing runs."),
            condition("SubscriptionReady", "True", "NoSubscription", "A noop hears no events."),
        ],
        "selector": "bema.dev/app=shop,bema.dev/step=a",
        "type": "noop",
    }


QUOTA = 'pods "a-1" is forbidden: exceeded quota: small, requested: pods=1, used: pods=1, limited: pods=1'
SECURITY = 'pods "a-1" is forbidden: violates PodSecurity "restricted:latest": hostPath volumes'


def failing(message: str) -> dict[str, Any]:
    return {
        **DONE,
        "availableReplicas": 0,
        "conditions": [{"type": "ReplicaFailure", "status": "True", "message": message}],
    }


WORKLOADS: list[tuple[str, Facts, tuple[str, str, str], tuple[str, str]]] = [
    (
        "Kubernetes has not seen the latest template",
        deployed({**DONE, "observedGeneration": 4}),
        ("False", "RollingOut", "Kubernetes has not yet seen the new pod template."),
        ("True", "RollingOut"),
    ),
    (
        "old pods are still there",
        deployed({**DONE, "replicas": 3}),
        (
            "False",
            "RollingOut",
            "2 of 2 pods are up to date, 2 available; 1 pod of an older generation to end.",
        ),
        ("True", "RollingOut"),
    ),
    (
        "pods are not available",
        deployed({**DONE, "availableReplicas": 1}),
        ("False", "RollingOut", "2 of 2 pods are up to date, 1 available."),
        ("True", "RollingOut"),
    ),
    (
        "the deadline is over",
        deployed(OVERDUE),
        ("False", "WorkloadUnavailable", "too slow"),
        ("False", "WorkloadUnavailable"),
    ),
    ("a quota refuses a pod", deployed(failing(QUOTA)), ("False", "QuotaExceeded", QUOTA), ("True", "RollingOut")),
    (
        "the namespace's security level refuses a pod",
        deployed(failing(SECURITY)),
        ("False", "PodSecurityRefused", SECURITY),
        ("True", "RollingOut"),
    ),
    (
        "the API server refuses the Deployment",
        deployed({}, children=[], refused=Problem(Reason.APPLY_REFUSED, "no such field")),
        ("False", "ApplyRefused", "no such field"),
        ("False", "ApplyRefused"),
    ),
    (
        "a name is taken",
        deployed({}, children=[], taken=["Service shop/a"]),
        (
            "False",
            "NameTaken",
            "Service shop/a exists and was not made for this Step: expected an object that the Step controls; "
            "rename the Step, or delete the object.",
        ),
        ("False", "NameTaken"),
    ),
    (
        "zero pods by hand",
        deployed(
            {"observedGeneration": 5},
            spec=spec(EVENT, API, replicas=0),
            wanted=[zero := manifest("Deployment", 0)],
            children=[live(zero, {"observedGeneration": 5})],
        ),
        ("True", "ScaledToZero", "spec.replicas is 0: no pod runs, events wait, requests are not answered."),
        ("False", "Reconciled"),
    ),
    (
        "a suspended Step",
        deployed(
            {},
            spec=spec(EVENT, suspend=True),
            wanted=[zero],
            children=[live(zero, {"observedGeneration": 5})],
        ),
        ("True", "Suspended", "spec.suspend is true: no pod runs, events wait."),
        ("False", "Reconciled"),
    ),
    (
        "a CronJob",
        deployed(
            {},
            spec=spec({"cron": {"schedule": "@daily"}}),
            wanted=[cron := manifest("CronJob")],
            children=[live(cron, {})],
        ),
        ("True", "Scheduled", "The CronJob starts a run at the next tick."),
        ("False", "Reconciled"),
    ),
]


@pytest.mark.parametrize(
    ("facts", "workload", "progressing"), [case[1:] for case in WORKLOADS], ids=[case[0] for case in WORKLOADS]
)
def test_the_workload(facts: Facts, workload: tuple[str, str, str], progressing: tuple[str, str]) -> None:
    found = conditions(facts)
    assert found["WorkloadReady"] == workload
    assert found["Progressing"][:2] == progressing
    assert found["Ready"] == workload


def pod(created: str = "1", **status: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": "a-1", "creationTimestamp": created},
        "spec": {"nodeName": "n3"},
        "status": status,
    }


def waiting(reason: str, message: str | None = None, **more: Any) -> dict[str, Any]:
    state = {"waiting": {"reason": reason, **({"message": message} if message else {})}}
    return pod(containerStatuses=[{"name": "step", "state": state, **more}])


LAST = {"exitCode": 1, "reason": "Error", "message": "cannot import x\n"}
ENDED: dict[str, Any] = {"lastState": {"terminated": LAST}}
UNSCHEDULED = pod(conditions=[{"type": "PodScheduled", "reason": "Unschedulable", "message": "0/1 nodes"}])


@pytest.mark.parametrize(
    ("pods", "reason", "message"),
    [
        pytest.param(
            [waiting("ImagePullBackOff", 'Back-off pulling image "x"')],
            "ImagePullFailed",
            'container step of pod a-1: Back-off pulling image "x".',
            id="an image that cannot be pulled",
        ),
        pytest.param(
            [waiting("CreateContainerConfigError", "image will run as root")],
            "WorkloadUnavailable",
            "container step of pod a-1: image will run as root.",
            id="an image that wants root",
        ),
        pytest.param(
            [waiting("CrashLoopBackOff", "back-off 10s", **ENDED)],
            "CrashLoop",
            "container step of pod a-1: back-off 10s. It ended before with exit code 1 (Error). cannot import x",
            id="a crash loop, with its last words",
        ),
        pytest.param([UNSCHEDULED], "Unschedulable", "0/1 nodes", id="no node takes it"),
        pytest.param(
            [pod(containerStatuses=[{"name": "step", "state": {"running": {}}, "ready": False}])],
            "WorkloadUnavailable",
            "container step of pod a-1 runs but is not ready; see its log.",
            id="it runs and is not ready",
        ),
        pytest.param(
            [
                pod(
                    conditions=[{"type": "Ready", "status": "False"}],
                    containerStatuses=[{"name": "step", "state": {"running": {}}, "ready": True}],
                )
            ],
            "WorkloadUnavailable",
            "node n3 does not answer for pod a-1; unless it comes back, another pod takes its place.",
            id="its node is lost",
        ),
        pytest.param(
            [UNSCHEDULED, waiting("ErrImagePull")],
            "ImagePullFailed",
            "container step of pod a-1: ErrImagePull.",
            id="the worst of several",
        ),
        pytest.param(
            [waiting("ContainerCreating")],
            "RollingOut",
            "2 of 2 pods are up to date, 0 available. Pod a-1 waits for its containers to be made; "
            "`kubectl describe pod a-1` says why.",
            id="a volume that is missing, perhaps",
        ),
        pytest.param([pod()], "RollingOut", "2 of 2 pods are up to date, 0 available.", id="nothing yet"),
    ],
)
def test_what_the_pods_say(pods: list[dict[str, Any]], reason: str, message: str) -> None:
    found = conditions(deployed({**DONE, "availableReplicas": 0}, pods=pods))
    assert found["WorkloadReady"] == ("False", reason, message)


def test_a_pod_on_its_way_out_explains_nothing() -> None:
    leaving = waiting("CrashLoopBackOff")
    leaving["metadata"]["deletionTimestamp"] = NOW
    found = conditions(deployed({**DONE, "availableReplicas": 0}, pods=[leaving]))
    assert found["WorkloadReady"][1] == "RollingOut"


AWAY = Problem(Reason.BROKER_UNAVAILABLE, "no NATS")


def test_a_broker_that_is_away_is_what_to_know_first() -> None:
    found = conditions(deployed({**DONE, "availableReplicas": 0}, subscription=Subscription(AWAY)))
    assert found["Ready"] == ("False", "BrokerUnavailable", "no NATS")
    assert found["SubscriptionReady"] == ("False", "BrokerUnavailable", "no NATS")
    assert found["WorkloadReady"][1] == "RollingOut"


def test_without_a_broker_a_new_workload_waits() -> None:
    found = conditions(deployed({}, children=[], subscription=Subscription(AWAY)))
    assert found["WorkloadReady"] == ("False", "BrokerUnavailable", "no NATS")
    assert found["Progressing"] == ("False", "BrokerUnavailable", "no NATS")


def test_without_a_broker_a_workload_that_runs_is_left_as_it_is() -> None:
    seen = subject({"observedGeneration": 3})
    found = conditions(
        deployed(DONE, subject=seen, wanted=[manifest("Deployment", 5)], subscription=Subscription(AWAY))
    )
    assert found["Ready"] == ("False", "BrokerUnavailable", "no NATS")
    assert found["Progressing"] == (
        "False",
        "RolloutQueued",
        "Left as it was until NATS serves the Step again: Deployment a.",
    )
    assert "Stalled" not in found


def test_an_api_step_needs_no_consumer() -> None:
    found = conditions(deployed(DONE, spec=spec(API)))
    assert found["SubscriptionReady"] == (
        "True",
        "NoSubscription",
        "The Step has no event trigger; its app's stream exists.",
    )


@pytest.mark.parametrize(
    ("facts", "reason", "message"),
    [
        pytest.param(Facts(subject=subject(), spec=None, invalid="spec: x"), "InvalidSpec", "spec: x", id="invalid"),
        pytest.param(deployed(DONE, unsupported=["a no", "b no"]), "NotSupported", "a no; b no", id="not supported"),
    ],
)
def test_what_is_not_acted_on(facts: Facts, reason: str, message: str) -> None:
    found = conditions(facts)
    unknown = ("Unknown", reason, "Left as it was, because the Step is not acted on.")
    assert found == {
        "Ready": ("False", reason, message),
        "Progressing": ("False", reason, message),
        "WorkloadReady": unknown,
        "SubscriptionReady": unknown,
        "Stalled": ("True", reason, message),
    }


def test_a_condition_keeps_its_time_while_its_status_stays() -> None:
    before = {
        "conditions": [
            {"type": "Ready", "status": "True", "lastTransitionTime": BEFORE},
            {"type": "Progressing", "status": "True", "lastTransitionTime": BEFORE},
        ]
    }
    found = statuses.status(deployed(DONE, subject=subject(before)), NOW)
    times = {str(item.type): item.last_transition_time for item in found.conditions}
    assert times == {"Ready": BEFORE, "Progressing": NOW, "WorkloadReady": NOW, "SubscriptionReady": NOW}


def test_a_long_message_is_cut() -> None:
    refused = Problem(Reason.APPLY_REFUSED, "x" * 5000)
    found = conditions(deployed({}, refused=refused))
    assert found["Ready"] == ("False", "ApplyRefused", "x" * 4095 + "…")


def test_what_an_old_crd_does_not_know_is_left_out_and_named() -> None:
    refused = (f".status.{name}: field not declared in schema" for name in ("trigger", "url", "conditions"))
    fields = schemas.undeclared(" ".join(refused))
    assert fields == {"trigger", "url"}
    status = statuses.status(deployed(DONE), NOW).dump()
    left = schemas.without(status, fields)
    assert status.keys() - left.keys() == fields & status.keys()
    ready, *others = left["conditions"]
    assert ready["message"].endswith(
        "The CRD is older than the operator and does not know status.trigger, status.url: "
        "kubectl apply --server-side -f crds/"
    )
    assert others == status["conditions"][1:]
    assert schemas.without(status, frozenset()) == status


def test_a_status_is_written_only_when_it_differs() -> None:
    facts = deployed(DONE)
    written = statuses.status(facts, BEFORE).dump()
    assert statuses.status(facts.with_(subject=subject(written)), NOW).dump() == written
    assert statuses.status(facts.with_(backlog=8, subject=subject(written)), NOW).dump() != written


@pytest.mark.parametrize(
    ("reason", "generation", "expected"),
    [
        pytest.param("ImagePullFailed", 3, True, id="it was, and we said why"),
        pytest.param("RollingOut", 3, False, id="it was being rolled out"),
        pytest.param("ImagePullFailed", 2, False, id="it was, of an older generation"),
    ],
)
def test_whether_it_was_unready_before(reason: str, generation: int, *, expected: bool) -> None:
    item = {"type": "WorkloadReady", "status": "False", "reason": reason, "observedGeneration": generation}
    assert statuses.was_unready(subject({"conditions": [item]})) is expected


FIRST, ANOTHER = "2026-01-01T00:00:00.123456789Z", "2026-02-01T12:00:00.5Z"


def seen(created: str, known: str | None = FIRST) -> Facts:
    status = {"streamCreated": known} if known else {}
    return deployed(DONE, subject=subject(status), subscription=Subscription(created=created))


@pytest.mark.parametrize(
    ("facts", "now", "reason", "remembered"),
    [
        pytest.param(seen(FIRST, None), NOW, Reason.SUBSCRIBED, FIRST, id="the first stream"),
        pytest.param(seen(FIRST), NOW, Reason.SUBSCRIBED, FIRST, id="the same stream"),
        pytest.param(seen(ANOTHER), NOW, Reason.BROKER_DATA_LOST, FIRST, id="another stream, for a day"),
        pytest.param(seen(ANOTHER), "2026-02-02T12:00:01Z", Reason.SUBSCRIBED, ANOTHER, id="another stream, later"),
        pytest.param(
            seen("").with_(subscription=Subscription(Problem(Reason.BROKER_UNAVAILABLE, "away"))),
            NOW,
            Reason.BROKER_UNAVAILABLE,
            FIRST,
            id="no broker",
        ),
    ],
)
def test_a_stream_that_took_the_place_of_another(facts: Facts, now: str, reason: Reason, remembered: str) -> None:
    status = statuses.status(facts, now)
    found = {str(item.type): item for item in status.conditions}["SubscriptionReady"]
    assert (found.reason, status.stream_created) == (reason, remembered)
    if reason is Reason.BROKER_DATA_LOST:
        assert found.status == "True"
        assert ANOTHER in found.message
        assert statuses.told_for(facts, now) == 12 * 3600 + 0.5
