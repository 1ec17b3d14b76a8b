"""Whoever waits for a Step sees the truth: Argo CD by our script, Flux and Helm by kstatus' rules, `kubectl wait`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import yaml
from lupa import lua51

from bema.contract import crds
from bema.contract.statuses import Reason
from bema_operator import ownership, statuses
from bema_operator.facts import Facts, Key, Problem, Subscription
from tests.support import kstatuses
from tests.support.kstatuses import Result
from tests.support.step_facts import (
    API,
    DEPLOYMENT,
    DONE,
    EVENT,
    NOW,
    OVERDUE,
    contested,
    deployed,
    live,
    manifest,
    spec,
    subject,
)
from tools import argocd

HEALTHY, PROGRESSING, DEGRADED, SUSPENDED = "Healthy", "Progressing", "Degraded", "Suspended"
MEANS = {
    HEALTHY: Result.CURRENT,
    SUSPENDED: Result.CURRENT,
    PROGRESSING: Result.IN_PROGRESS,
    DEGRADED: Result.FAILED,
}
CRON: dict[str, Any] = {"cron": {"schedule": "@daily"}}
ROLLED_OUT = {"type": "Progressing", "status": "True", "reason": "NewReplicaSetAvailable"}
ROLLING = {"type": "Progressing", "status": "True", "reason": "ReplicaSetUpdated"}


def down(*conditions: dict[str, Any]) -> dict[str, Any]:
    """The status of a Deployment none of whose pods is ready."""
    return {**DONE, "readyReplicas": 0, "availableReplicas": 0, "conditions": list(conditions)}


def refusing(message: str) -> dict[str, Any]:
    return {"type": "ReplicaFailure", "status": "True", "message": message}


def waiting(reason: str) -> list[dict[str, Any]]:
    status = {"containerStatuses": [{"name": "step", "state": {"waiting": {"reason": reason}}}]}
    return [{"metadata": {"name": "a-1"}, "status": status}]


def alone(kind: str, status: dict[str, Any], replicas: int = 2, **changes: Any) -> Facts:
    wanted = manifest(kind, replicas)
    return deployed({}, wanted=[wanted], children=[live(wanted, status)], **changes)


def unsubscribed(reason: Reason, **changes: Any) -> Facts:
    return deployed(DONE, subscription=Subscription(Problem(reason, "as NATS says")), **changes)


UNSCHEDULABLE = [
    {
        "metadata": {"name": "a-1"},
        "status": {"conditions": [{"type": "PodScheduled", "reason": "Unschedulable", "message": "0/1 nodes"}]},
    }
]
UNREADY = [
    {
        "metadata": {"name": "a-1"},
        "status": {"containerStatuses": [{"name": "step", "state": {"running": {}}, "ready": False}]},
    }
]
LOST = deployed(
    DONE,
    subject=subject({"streamCreated": "2026-01-01T00:00:00Z"}),
    subscription=Subscription(created="2026-02-01T12:00:00Z"),
)
ZERO = {"observedGeneration": 5}

NEWER = ownership.stamp({**manifest("Deployment"), "spec": {"replicas": 2, "minReadySeconds": 1}})
SITUATIONS: list[tuple[str, Facts, str]] = [
    ("all pods are ready", deployed(DONE), HEALTHY),
    ("a noop", Facts(subject=subject(), spec=spec()), HEALTHY),
    ("a schedule", alone("CronJob", {}, spec=spec(CRON)), HEALTHY),
    ("an api Step without events", deployed(DONE, spec=spec(API)), HEALTHY),
    ("scaled to zero by hand", alone("Deployment", ZERO, 0, spec=spec(EVENT, replicas=0)), HEALTHY),
    ("the broker lost its data yesterday", LOST, HEALTHY),
    ("its new pods have to wait", deployed(DONE, wanted=[NEWER], ahead=[Key("shop", "b")]), HEALTHY),
    ("suspended", alone("Deployment", ZERO, 0, spec=spec(EVENT, suspend=True)), SUSPENDED),
    ("a suspended schedule", alone("CronJob", {}, spec=spec(CRON, suspend=True)), SUSPENDED),
    ("objects are still to be applied", deployed({}, children=[]), PROGRESSING),
    ("Kubernetes has not seen the template", deployed({**DONE, "observedGeneration": 4}), PROGRESSING),
    ("old pods are still there", deployed({**DONE, "replicas": 3}), PROGRESSING),
    ("the broker was not asked yet", deployed(DONE, subscription=None), PROGRESSING),
    ("the broker is away", unsubscribed(Reason.BROKER_UNAVAILABLE), PROGRESSING),
    (
        "events wait on a topic that was removed",
        unsubscribed(Reason.BACKLOG_ON_REMOVED_TOPIC, children=[]),
        PROGRESSING,
    ),
    ("the Step is still there whose place it takes", unsubscribed(Reason.ADOPTION_WAITS, children=[]), PROGRESSING),
    ("no broker and no workload", unsubscribed(Reason.BROKER_UNAVAILABLE, children=[]), PROGRESSING),
    (
        "the broker is away, and pods that ran crash",
        unsubscribed(Reason.BROKER_UNAVAILABLE).with_(
            children=[live(DEPLOYMENT, down(ROLLED_OUT))], pods=waiting("CrashLoopBackOff")
        ),
        PROGRESSING,
    ),
    ("new pods crash", deployed(down(ROLLING), pods=waiting("CrashLoopBackOff")), PROGRESSING),
    ("a quota refuses a new pod", deployed(down(ROLLING, refusing("exceeded quota"))), PROGRESSING),
    ("a pod that ran waits for a node", deployed(down(ROLLED_OUT), pods=UNSCHEDULABLE), PROGRESSING),
    ("a pod that ran is not ready", deployed(down(ROLLED_OUT), pods=UNREADY), PROGRESSING),
    (
        "a new template, while what ran before had crashed",
        deployed({**down(ROLLED_OUT), "observedGeneration": 4}, pods=waiting("CrashLoopBackOff")),
        PROGRESSING,
    ),
    ("the deadline of a rollout is over", deployed(OVERDUE), DEGRADED),
    ("pods that ran crash", deployed(down(ROLLED_OUT), pods=waiting("CrashLoopBackOff")), DEGRADED),
    ("the image of pods that ran is gone", deployed(down(ROLLED_OUT), pods=waiting("ImagePullBackOff")), DEGRADED),
    ("a quota refuses a pod again", deployed(down(ROLLED_OUT, refusing("exceeded quota"))), DEGRADED),
    ("security refuses a pod again", deployed(down(ROLLED_OUT, refusing("violates PodSecurity"))), DEGRADED),
    ("an object is refused", deployed({}, refused=Problem(Reason.APPLY_REFUSED, "no such field")), DEGRADED),
    ("two say how many pods there are", contested(), DEGRADED),
    ("a name is taken", deployed({}, children=[], taken=["Service shop/a"]), DEGRADED),
    ("the stream is somebody else's", unsubscribed(Reason.APP_STREAM_OWNED, children=[]), DEGRADED),
    ("the consumer is refused, pods run", unsubscribed(Reason.BROKER_REFUSED), DEGRADED),
    ("the broker is too old", unsubscribed(Reason.BROKER_TOO_OLD, children=[]), DEGRADED),
    ("the spec contradicts itself", Facts(subject=subject(), spec=None, invalid="spec: x"), DEGRADED),
    ("the App asks for more copies than there are servers", unsubscribed(Reason.TOO_FEW_SERVERS), DEGRADED),
    ("another Step has taken over its place", unsubscribed(Reason.TAKEN_OVER, children=[]), DEGRADED),
    ("the App is not acted on", deployed(DONE, held="hosts: not yet"), DEGRADED),
    ("a field that is not supported", deployed(DONE, unsupported=["scaling: not yet"]), DEGRADED),
]
CASES = [pytest.param(facts, health, id=name) for name, facts, health in SITUATIONS]


def step(facts: Facts, *, generation: int = 3) -> dict[str, Any]:
    """The Step as the API server has it once the operator has reported."""
    return {
        "apiVersion": "bema.dev/v1alpha1",
        "kind": "Step",
        "metadata": {"name": "a", "namespace": "shop", "generation": generation},
        "status": statuses.status(facts, NOW).dump(),
    }


Health = Callable[[dict[str, Any]], tuple[str, str]]


@pytest.fixture(scope="module")
def argo() -> Health:
    """The script as Argo CD runs it: Lua 5.1, with the object as the global `obj`."""

    def health(item: dict[str, Any]) -> tuple[str, str]:
        lua = lua51.LuaRuntime(register_eval=False)
        lua.globals().obj = lua.table_from(item, recursive=True)
        found = lua.execute(argocd.SCRIPT.read_text("utf-8"))
        return found.status, found.message

    return health


@pytest.mark.parametrize(("facts", "health"), CASES)
def test_argo_cd_kstatus_and_kubectl_wait_agree(argo: Health, facts: Facts, health: str) -> None:
    item = step(facts)
    ready = item["status"]["conditions"][0]
    assert argo(item)[0] == health
    assert kstatuses.compute(item) is MEANS[health]
    assert (ready["type"], ready["status"] == "True") == ("Ready", MEANS[health] is Result.CURRENT)


@pytest.mark.parametrize(("facts", "health"), CASES)
def test_the_status_of_an_old_generation_says_nothing(argo: Health, facts: Facts, health: str) -> None:
    item = step(facts, generation=4)
    assert argo(item) == (PROGRESSING, "The operator has not looked at this generation yet.")
    assert kstatuses.compute(item) is Result.IN_PROGRESS


def test_a_new_step_is_not_taken_for_one_that_is_done(argo: Health) -> None:
    default = crds.crd(crds.STEP)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"]["default"]
    item = {"metadata": {"generation": 1}, "status": default}
    assert argo(item)[0] == PROGRESSING
    assert kstatuses.compute(item) is Result.IN_PROGRESS
    # Without the CRD's default it would be, which no script can help:
    assert argo({"metadata": {"generation": 1}})[0] == PROGRESSING
    assert kstatuses.compute({"metadata": {"generation": 1}}) is Result.CURRENT


@pytest.mark.parametrize(("facts", "health"), CASES)
def test_progressing_says_whether_it_may_come_by_itself(facts: Facts, health: str) -> None:
    """`Progressing=True` never stands beside a Step that is done, nor beside one for which somebody has to act."""
    found = {item["type"]: item for item in step(facts)["status"]["conditions"]}
    if found["Progressing"]["status"] == "True":
        assert health == PROGRESSING
    assert ("Stalled" in found) is (health == DEGRADED)


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        pytest.param({}, False, id="without a status"),
        pytest.param({"observedGeneration": -1}, False, id="with the CRD's default"),
        pytest.param({"observedGeneration": 1}, True, id="with a status of ours"),
    ],
)
def test_whether_a_step_was_reconciled(status: dict[str, Any], *, expected: bool) -> None:
    assert subject(status).was_reconciled is expected


def test_the_message_is_the_operators(argo: Health) -> None:
    facts = deployed({}, refused=Problem(Reason.APPLY_REFUSED, "no such field"))
    assert argo(step(facts)) == (DEGRADED, "ApplyRefused: no such field")
    assert argo(step(deployed(DONE))) == (HEALTHY, "2 pods of 2 ready.")


def test_a_status_of_another_version_is_waited_for(argo: Health) -> None:
    item = {"metadata": {"generation": 1}, "status": {"observedGeneration": 1, "conditions": []}}
    assert argo(item) == (PROGRESSING, "The operator has not said yet whether it is ready.")


def test_every_reason_is_in_a_situation() -> None:
    found = {item["reason"] for _, facts, _ in SITUATIONS for item in step(facts)["status"]["conditions"]}
    assert found == set(Reason)


def test_the_patch_for_argo_cd_holds_the_script() -> None:
    patch = yaml.safe_load((argocd.SCRIPT.parent / "argocd-cm.yaml").read_text("utf-8"))
    script = argocd.SCRIPT.read_text("utf-8")
    assert patch == {
        "data": {f"resource.customizations.health.bema.dev_{kind}": script for kind in ("Step", "App")},
    }


def test_a_healthy_deployment_is_what_the_others_differ_from() -> None:
    """The situations are about one Deployment; were its stamp wrong, they would all be about that."""
    assert deployed(DONE, wanted=[DEPLOYMENT]).differing == []
