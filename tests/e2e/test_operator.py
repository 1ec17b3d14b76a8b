"""The operator in a real cluster, from its image, with exactly the rights of `deploy/rbac.yaml`."""

from __future__ import annotations

import json
import urllib.request
from typing import Any

import pytest
import yaml

from bema.contract import names
from tests.support import diffs, operators, waits
from tests.support.spaces import API, CRON, EVENT, Space, step
from tools import installs
from tools.cluster import errors, paths
from tools.cluster.clusters import Cluster
from tools.kubernetes import Kubernetes

pytestmark = pytest.mark.e2e

REPAIR_SECONDS = 2.0


def operator_restarts(cluster: Kubernetes) -> int:
    """How often the operator's container has ended by itself and was started again."""
    selector = "-l=app.kubernetes.io/name=bema-operator"
    found = json.loads(cluster.kubectl("-n", installs.SYSTEM, "get", "pods", selector, "-o", "json"))["items"]
    return max((c["restartCount"] for pod in found for c in pod["status"].get("containerStatuses", ())), default=0)


def writes(space: Space) -> list[str]:
    """What the operator has asked the API server to write in a namespace, as `patch steps orders`."""
    found = []
    if not isinstance(space.cluster, Cluster):
        pytest.skip("needs the audit log of the API server, which a cluster of kind's does not write")
    with space.cluster.audit_log.open() as lines:
        for line in lines:
            if f"/namespaces/{space.name}/" in line and ":bema-operator" in line:
                event = json.loads(line)
                if event["verb"] not in ("get", "list", "watch") and event["stage"] == "ResponseComplete":
                    found.append(f"{event['verb']} {event['objectRef']['resource']} {event['objectRef']['name']}")
    return found


def test_a_step_becomes_ready_and_answers_at_its_url(space: Space) -> None:
    space.apply(step("orders", EVENT, API))
    space.wait_ready("orders")
    assert space.children("orders") == ["ConfigMap", "Deployment", "NetworkPolicy", "Service"]
    status = (space.get("step", "orders") or {})["status"]
    assert status["url"] == f"http://orders.{space.name}.svc"
    assert (status["replicas"], status["readyReplicas"], status["type"]) == (1, 1, "event,api")
    address = space.kubectl("get", "service", "orders", "-o", "jsonpath={.spec.clusterIP}")
    request = urllib.request.Request(
        f"http://{address}/orders", data=b"{}", headers={"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert json.load(answer) == {"version": 1}


def test_edited_code_rolls_the_pods(space: Space) -> None:
    space.apply(step("orders", EVENT))
    space.wait_ready("orders")
    before = {pod["metadata"]["name"] for pod in space.all("pods")}
    space.apply(step("orders", EVENT, version=2))
    space.wait_ready("orders")

    def replaced() -> bool:
        return not before & {pod["metadata"]["name"] for pod in space.all("pods")}

    waits.until_sync(replaced, "the old pods to be gone", timeout=60)


def test_a_change_of_what_a_config_map_holds_replaces_the_pods_that_ask_for_it(space: Space) -> None:
    def settings(**data: str) -> dict[str, Any]:
        return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings"}, "data": data}

    def pods(name: str) -> set[str]:
        found = json.loads(space.kubectl("get", "pods", "-l", f"{names.LABEL_STEP}={name}", "-o", "json"))["items"]
        return {pod["metadata"]["name"] for pod in found if "deletionTimestamp" not in pod["metadata"]}

    def replaced(what: str) -> set[str]:
        before = held[-1]
        waits.until_sync(lambda: bool(found := pods("asks")) and not found & before, f"pods after {what}", timeout=60)
        space.wait_ready("asks")
        held.append(pods("asks"))
        return held[-1]

    pod = {"envFrom": [{"configMapRef": {"name": "settings", "optional": True}}]}
    space.apply(
        step("asks", EVENT, pod=pod, restartOn={"configMaps": ["settings", "other"]}), step("not", EVENT, pod=pod)
    )
    for name in ("asks", "not"):
        space.wait_ready(name)
    held, others = [pods("asks")], pods("not")
    space.apply(settings(a="1"))
    replaced("it came")
    space.apply(settings(a="2"))
    last = replaced("it changed")
    [running] = last
    assert space.kubectl("exec", running, "--", "printenv", "a").strip() == "2"
    generation = (space.get("deployment", "asks") or {})["metadata"]["generation"]
    space.kubectl("label", "configmap", "settings", "team=shop")
    space.apply({**settings(b="1"), "metadata": {"name": "nobody-names-it"}})
    # What is written later is seen later: when this has had its effect, that would have had its own.
    space.kubectl("delete", "configmap", "settings")
    replaced("it went")
    assert (space.get("deployment", "asks") or {})["metadata"]["generation"] == generation + 1
    assert pods("not") == others
    operators.restart(space.cluster)
    space.apply(step("after", EVENT, replicas=0))
    space.wait_ready("after")
    assert pods("asks") == held[-1], "a new operator finds what it knew"
    space.apply(settings(a="3"))
    replaced("it came back")


def test_a_drained_node_takes_one_pod_of_a_step_at_a_time(space: Space) -> None:
    def evict(name: str) -> None:
        eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name, "namespace": space.name}}
        path = f"/api/v1/namespaces/{space.name}/pods/{name}/eviction"
        space.cluster.kubectl("create", "--raw", path, "-f", "-", input=json.dumps(eviction))

    space.apply(step("orders", EVENT, replicas=2))
    space.wait_ready("orders")

    def one_may_go() -> bool:
        found = space.get("poddisruptionbudget", "orders") or {}
        return bool(found.get("status", {}).get("disruptionsAllowed") == 1)

    waits.until_sync(one_may_go, "the budget to be counted", timeout=30)
    first, second = (pod["metadata"]["name"] for pod in space.all("pods"))
    evict(first)
    with pytest.raises(errors.CommandFailed, match="would violate the pod's disruption budget"):
        evict(second)
    space.kubectl("patch", "step", "orders", "--type=merge", "-p", '{"spec": {"replicas": 1}}')
    waits.until_sync(lambda: not space.all("poddisruptionbudgets"), "the budget of one pod to be gone", timeout=30)


def test_a_second_apply_and_a_diff_change_nothing(space: Space) -> None:
    manifest = step("orders", EVENT, API)
    space.apply(manifest)
    space.wait_ready("orders")
    before = space.get("step", "orders") or {}
    diffs.until_nothing_differs(space.kubectl, "-f", "-", input=yaml.safe_dump(manifest))
    space.apply(manifest)
    after = space.get("step", "orders") or {}
    assert after["metadata"]["generation"] == before["metadata"]["generation"]
    assert after["spec"] == before["spec"]
    # With the server-side apply that GitOps tools use, too, and no conflict.
    space.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", input=yaml.safe_dump(manifest))
    again = space.kubectl("apply", "--server-side", "-f", "-", input=yaml.safe_dump(manifest))
    assert "serverside-applied" in again
    diffs.until_nothing_differs(space.kubectl, "--server-side", "-f", "-", input=yaml.safe_dump(manifest))
    # Nobody but the user has a part in it. kubectl does not show of its own accord who has.
    shown = json.loads(space.kubectl("get", "step", "orders", "--show-managed-fields", "-o", "json"))
    managers = {entry["manager"] for entry in shown["metadata"]["managedFields"] if "subresource" not in entry}
    assert {manager.partition("-")[0] for manager in managers} == {"kubectl"}


def test_a_server_side_diff_shows_nothing_after_a_reconcile(space: Space) -> None:
    manifest = yaml.safe_dump(step("orders", EVENT, API))
    space.kubectl("apply", "--server-side", "-f", "-", input=manifest)
    space.wait_ready("orders")
    diffs.until_nothing_differs(space.kubectl, "--server-side", "-f", "-", input=manifest)
    diffs.until_nothing_differs(
        space.kubectl, "--server-side", "--field-manager=argocd-controller", "-f", "-", input=manifest
    )


DRIFTS: dict[str, tuple[str, ...]] = {
    "another image": ("set", "image", "deployment/orders", "step=other"),
    "a lost selector label": ("label", "deployment/orders", f"{names.LABEL_STEP}-"),
    "a changed label": ("label", "--overwrite", "deployment/orders", "app.kubernetes.io/part-of=other"),
    "more replicas": ("scale", "deployment/orders", "--replicas=3"),
    "a lost variable": ("set", "env", "deployment/orders", "HOME-"),
    "a deleted Deployment": ("delete", "deployment/orders"),
    "a deleted Service": ("delete", "service/orders"),
}


def wanted_parts(space: Space) -> tuple[Any, ...]:
    deployment, service = space.get("deployment", "orders"), space.get("service", "orders")
    if deployment is None or service is None:
        return ()
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    metadata = deployment["metadata"]
    return deployment["spec"]["replicas"], container["image"], container.get("env"), metadata["labels"]


def test_drift_is_repaired(space: Space) -> None:
    space.apply(step("orders", EVENT, API, replicas=1))
    space.wait_ready("orders")
    wanted = wanted_parts(space)
    for what, command in DRIFTS.items():
        space.kubectl(*command)
        waits.until_sync(lambda: wanted_parts(space) == wanted, f"repair of {what}", timeout=REPAIR_SECONDS)


def test_what_this_version_does_not_do_is_refused_by_name(space: Space) -> None:
    space.apply(step("new", {"stream": {"stream": "orders"}}), step("old", EVENT, replicas=0))
    assert "triggers[0].stream" in space.wait_reason("new", "NotSupported")
    assert space.children("new") == []
    space.wait_ready("old")
    before = space.get("deployment", "old") or {}
    space.apply(step("old", EVENT, replicas=0, deletionPolicy="Drain"))
    assert "deletionPolicy: Drain" in space.wait_reason("old", "NotSupported")
    after = space.get("deployment", "old") or {}
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    assert after["spec"] == before["spec"]
    # Whoever waits hears that it has failed, until it is mended.
    assert space.condition("old", "Stalled")["message"] == space.condition("old")["message"]
    space.apply(step("old", EVENT, replicas=0))
    space.wait_ready("old")
    assert space.condition("old", "Stalled") == {}


def test_a_cron_step_is_a_cron_job_that_can_be_started_by_hand(space: Space) -> None:
    space.apply(step("nightly", CRON))
    space.wait_reason("nightly", "Scheduled")
    assert space.children("nightly") == ["ConfigMap", "CronJob", "NetworkPolicy"]
    space.kubectl("create", "job", "--from=cronjob/nightly", "by-hand")
    space.kubectl("wait", "--for=condition=Complete", "job/by-hand", "--timeout=50s")


def test_children_that_are_not_wanted_any_more_are_deleted(space: Space) -> None:
    space.apply(step("orders", EVENT, API, replicas=0))
    space.wait_ready("orders")
    space.apply(step("orders", EVENT, replicas=0))
    space.wait_ready("orders")
    waits.until_sync(lambda: space.get("service", "orders") is None, "the Service to be gone", timeout=10)
    space.apply(step("orders", CRON))
    space.wait_reason("orders", "Scheduled")
    waits.until_sync(lambda: space.get("deployment", "orders") is None, "the Deployment to be gone", timeout=10)
    for version in range(2, 6):
        space.apply(step("orders", CRON, version=version))
        space.wait_reason("orders", "Scheduled")
    waits.until_sync(
        lambda: space.children("orders") == ["ConfigMap"] * 3 + ["CronJob", "NetworkPolicy"],
        "three ConfigMaps to be left",
        timeout=10,
    )


def test_a_restart_of_the_operator_writes_nothing(space: Space) -> None:
    count = 20
    space.apply(*(step(f"s{number}", EVENT, API, replicas=0) for number in range(count)))
    for number in range(count):
        space.wait_ready(f"s{number}")

    def versions() -> dict[str, str]:
        found = json.loads(space.kubectl("get", "steps,deployments,services,configmaps,networkpolicies", "-o", "json"))[
            "items"
        ]
        return {item["metadata"]["uid"]: item["metadata"]["resourceVersion"] for item in found}

    def has_backlogs() -> bool:
        return all("backlog" in found["status"] for found in space.all("steps"))

    waits.until_sync(has_backlogs, "every backlog to be known", timeout=30)
    before = versions()
    asked = writes(space)
    assert "patch steps s0" in asked
    operators.restart(space.cluster)
    space.apply(step("last", EVENT, replicas=0))
    space.wait_ready("last")
    after = versions()
    assert {uid: after[uid] for uid in before} == before
    # A write that changes nothing leaves the version as it is, and costs the API server all the same.
    assert [what for what in writes(space) if " last" not in what] == asked


def test_a_name_that_is_taken_is_left_alone(space: Space) -> None:
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "orders"},
        "spec": {"selector": {"app": "mine"}, "ports": [{"port": 80, "targetPort": 9000}]},
    }
    space.apply(service)
    before = space.get("service", "orders")
    space.apply(step("orders", API))
    message = space.wait_reason("orders", "NameTaken")
    assert message.startswith(f"Service {space.name}/orders exists and was not made for this Step")
    assert space.get("service", "orders") == before


def test_what_an_orphaning_deletion_left_is_taken_over(space: Space) -> None:
    manifest = step("orders", API, replicas=0)
    space.apply(manifest)
    space.wait_ready("orders")
    before = {kind: (space.get(kind, "orders") or {})["metadata"]["uid"] for kind in ("deployment", "service")}
    space.kubectl("delete", "step", "orders", "--cascade=orphan")
    assert "Deployment" in space.children("orders")
    space.apply(manifest)
    space.wait_ready("orders")
    uid = (space.get("step", "orders") or {})["metadata"]["uid"]
    for kind, kept in before.items():
        found = (space.get(kind, "orders") or {})["metadata"]
        assert (found["uid"], [owner["uid"] for owner in found["ownerReferences"]]) == (kept, [uid])


def test_a_crd_that_was_deleted_and_made_again_is_served(space: Space) -> None:
    space.apply(step("before", EVENT, replicas=0))
    space.wait_ready("before")
    crds = str(paths.REPOSITORY / "crds")
    before = operator_restarts(space.cluster)
    space.kubectl("delete", "-f", crds, "--wait=true")
    try:
        waits.until_sync(
            lambda: "Cannot watch steps" in operators.log(space.cluster), "the operator to say what is gone", timeout=90
        )
    finally:
        space.kubectl("apply", "--server-side", "-f", crds)
        space.kubectl("wait", "--for=condition=Established", "crd/steps.bema.dev", "--timeout=30s")
    space.apply(step("after", EVENT, replicas=0))
    space.wait_ready("after", seconds=90)
    assert operator_restarts(space.cluster) == before


def test_a_quantity_that_cannot_be_one_is_said(space: Space) -> None:
    space.apply(step("orders", EVENT, pod={"resources": {"requests": {"cpu": "banana"}}}))
    assert "quantities must match" in space.wait_reason("orders", "ApplyRefused")


def test_last_words_are_in_the_status(space: Space) -> None:
    code = {"language": "python", "entrypoint": "a.py", "inline": {"a.py": "raise ValueError('no such luck')"}}
    space.apply(step("orders", EVENT, code=code))
    assert "no such luck" in space.wait_reason("orders", "CrashLoop", "WorkloadReady", seconds=90)


def test_the_kubelets_and_the_api_servers_own_words_are_in_the_status(space: Space) -> None:
    code = {"language": "python", "entrypoint": "a.py", "image": "localhost/there-is-no-such-image:1"}
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "small"},
        "spec": {"hard": {"pods": "1"}},
    }
    space.apply(quota, step("pull", EVENT, code=code))
    assert "there-is-no-such-image" in space.wait_reason("pull", "ImagePullFailed", "WorkloadReady")
    space.apply(step("quota", EVENT))
    assert "exceeded quota: small" in space.wait_reason("quota", "QuotaExceeded", "WorkloadReady")
    ours = [event for event in space.all("events") if event["reportingComponent"] == "bema-operator"]
    assert sorted((event["involvedObject"]["name"], event["reason"]) for event in ours) == [
        ("pull", "ImagePullFailed"),
        ("quota", "QuotaExceeded"),
    ]
    assert "there-is-no-such-image" in space.kubectl("describe", "step", "pull").partition("Events:")[2]


def test_the_operator_may_do_what_it_needs_and_nothing_else(installed: Kubernetes) -> None:
    account = f"system:serviceaccount:{installs.SYSTEM}:bema-operator"

    def may(verb: str, what: str) -> bool:
        try:
            return installed.kubectl("auth", "can-i", verb, what, "--as", account, "-n", "default").strip() == "yes"
        except errors.CommandFailed:
            return False

    for verb, what in (("get", "secrets"), ("update", "steps.bema.dev"), ("create", "pods"), ("watch", "namespaces")):
        assert not may(verb, what), f"{verb} {what}"
    for verb, what in (("list", "steps.bema.dev"), ("patch", "deployments.apps"), ("list", "namespaces")):
        assert may(verb, what), f"{verb} {what}"
    assert not may("get", f"leases/{names.LEASE}")
    where = ("-n", installs.SYSTEM)
    held = installed.kubectl(*where, "get", "lease", names.LEASE, "-o=jsonpath={.spec.holderIdentity}")
    assert held in installed.kubectl(*where, "get", "pods", "-o=name"), "the pod of the operator that acts"
    assert "forbidden" not in operators.log(installed)
