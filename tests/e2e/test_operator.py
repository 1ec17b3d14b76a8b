"""The operator in a real cluster, from its image, with exactly the rights of `deploy/rbac.yaml`."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from bema.contract import names
from bema.ports import connections
from bema.ports.jetstream import JetStream
from tests.support import diffs, waits
from tests.support.spaces import API, CRON, EVENT, Space, step
from tools import installs
from tools.cluster import errors, paths
from tools.cluster.clusters import Cluster
from tools.kubernetes import Kubernetes

pytestmark = pytest.mark.e2e

NUMBERS = itertools.count(1)
RUN = format(int(time.time()) % 36**4, "x")
REPAIR_SECONDS = 2.0


@pytest.fixture
def space(installed: Kubernetes) -> Iterator[Space]:
    name = f"op-{RUN}-{next(NUMBERS)}"
    installed.kubectl("create", "namespace", name)
    installed.kubectl("label", "namespace", name, "pod-security.kubernetes.io/enforce=restricted")
    installs.let_in(installed, name)
    yield Space(installed, name)
    installed.kubectl("delete", "namespace", name, "--wait=false")


def restart_operator(cluster: Kubernetes) -> None:
    where = ("-n", installs.SYSTEM)
    cluster.kubectl(*where, "rollout", "restart", "deployment/bema-operator")
    cluster.kubectl(*where, "rollout", "status", "deployment/bema-operator", "--timeout=60s", seconds=70)


def operator_restarts(cluster: Kubernetes) -> int:
    """How often the operator's container has ended by itself and was started again."""
    selector = "-l=app.kubernetes.io/name=bema-operator"
    found = json.loads(cluster.kubectl("-n", installs.SYSTEM, "get", "pods", selector, "-o", "json"))["items"]
    return max((c["restartCount"] for pod in found for c in pod["status"].get("containerStatuses", ())), default=0)


def operator_log(cluster: Kubernetes) -> str:
    return cluster.kubectl("-n", installs.SYSTEM, "logs", "deployment/bema-operator")


def consumer(space: Space, name: str) -> dict[str, Any] | None:
    """The Step's consumer as the server has it."""

    async def ask() -> dict[str, Any] | None:
        connection = await connections.connect([installs.nats_url(space.cluster)], name="test", wait=10)
        try:
            found = await JetStream(connection).api(f"CONSUMER.LIST.{names.stream(space.name)}")
            return next((item for item in found["consumers"] or [] if item["name"] == name), None)
        finally:
            await connection.close()

    return asyncio.run(ask())


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


def publish(space: Space, topic: str, count: int) -> None:
    async def send() -> None:
        connection = await connections.connect([installs.nats_url(space.cluster)], name="test", wait=10)
        try:
            for number in range(count):
                subject = names.event(names.root(space.name), topic)
                await connection.request(subject, json.dumps(number).encode())
        finally:
            await connection.close()

    asyncio.run(send())


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
    restart_operator(space.cluster)
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
    space.apply(step("orders", EVENT, API, suspend=False))
    space.wait_ready("orders")
    wanted = wanted_parts(space)
    for what, command in DRIFTS.items():
        space.kubectl(*command)
        waits.until_sync(lambda: wanted_parts(space) == wanted, f"repair of {what}", timeout=REPAIR_SECONDS)


def test_a_deleted_step_keeps_its_place_in_the_stream(space: Space) -> None:
    manifest = step("orders", EVENT, replicas=0)
    space.apply(manifest)
    space.wait_ready("orders")
    publish(space, "order.created", 3)

    def backlog() -> bool:
        return bool((space.get("step", "orders") or {}).get("status", {}).get("backlog") == 3)

    waits.until_sync(backlog, "a backlog of 3 in the status", timeout=30)
    before = consumer(space, "orders")
    space.kubectl("delete", "step", "orders")
    waits.until_sync(lambda: space.children("orders") == [], "the children to be gone", timeout=10)
    assert consumer(space, "orders") is not None
    space.apply(manifest)
    space.wait_ready("orders")
    after = consumer(space, "orders")
    assert before is not None
    assert after is not None
    assert (after["created"], after["num_pending"]) == (before["created"], 3)
    uid = (space.get("step", "orders") or {})["metadata"]["uid"]
    assert after["config"]["metadata"][names.METADATA_STEP_UID] == uid


HOLDS = """
import asyncio
config = {"triggers": [{"event": {"topics": ["order.created"]}}]}

async def handler(number, ctx):
    while number == 0 and ctx.step == "old":
        await asyncio.sleep(0.05)
    await ctx.state.append("seen", str(number), ctx.step)
"""


def test_a_renamed_step_goes_on_from_the_place_of_the_one_that_it_was(space: Space) -> None:
    code = {"language": "python", "entrypoint": "a_step.py", "inline": {"a_step.py": HOLDS}}

    async def seen() -> dict[str, list[str]]:
        connection = await connections.connect([installs.nats_url(space.cluster)], name="test", wait=10)
        try:
            js, root = JetStream(connection), names.root(space.name)
            found = [stored async for stored in js.scan(names.stream(space.name), names.state_filter(root, "seen"))]
            return {names.state_of(root, stored.subject)[1]: json.loads(stored.data) for stored in found}
        finally:
            await connection.close()

    def wait_seen(*numbers: int) -> dict[str, list[str]]:
        wanted = set(map(str, numbers))
        waits.until_sync(
            lambda: set(asyncio.run(seen())) >= wanted,
            f"events {numbers}",
            timeout=60,
            explain=lambda: str(asyncio.run(seen())),
        )
        return asyncio.run(seen())

    space.apply(step("old", EVENT, code=code))
    space.wait_ready("old")
    publish(space, "order.created", 5)
    assert set(wait_seen(1, 2, 3, 4)) == {"1", "2", "3", "4"}, "event 0 is in hand, and holds the floor"

    # While the former one is there, nothing happens to either.
    space.apply(step("new", EVENT, code=code, adoptFrom="old"))
    message = space.wait_reason("new", "AdoptionWaits")
    assert message.startswith("The Step old, whose place this one takes over (adoptFrom), is still there.")
    assert space.condition("new", "Stalled") == {}
    assert (space.children("new"), consumer(space, "new")) == ([], None)
    assert space.condition("old")["status"] == "True"

    space.cluster.kubectl(*message.partition("kubectl ")[2].split())
    space.wait_ready("new")
    assert "It has taken over the place of old." in space.condition("new", "SubscriptionReady")["message"]
    assert consumer(space, "old") is None
    publish(space, "order.created", 1)
    found = wait_seen(0, 1, 2, 3, 4)
    waits.until_sync(
        lambda: (
            (consumer(space, "new") or {}).get("num_pending") == 0 == (consumer(space, "new") or {})["num_ack_pending"]
        ),
        "everything settled",
        timeout=30,
    )
    found = asyncio.run(seen())
    assert found == {"0": ["new", "new"], **{str(number): ["old"] for number in (1, 2, 3, 4)}}, "0 was sent twice"

    # Its name is not free: the stream would take the two for one.
    space.apply(step("old", EVENT, code=code))
    assert "The Step new has taken over the place of old" in space.wait_reason("old", "TakenOver")
    assert space.children("old") == []


def test_without_anybody_to_take_over_a_step_begins_as_it_says(space: Space) -> None:
    space.apply(step("new", EVENT, replicas=0, adoptFrom="nobody"))
    space.wait_ready("new")
    message = space.condition("new", "SubscriptionReady")["message"]
    assert message.endswith("There was no consumer of nobody to take over; it has a place of its own.")


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
    restart_operator(space.cluster)
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


def test_a_stream_that_vanishes_is_made_again(space: Space) -> None:
    space.apply(step("orders", API, replicas=0))
    space.wait_ready("orders")
    stream = names.stream(space.name)

    async def ask(endpoint: str) -> Any:
        connection = await connections.connect([installs.nats_url(space.cluster)], name="test", wait=10)
        try:
            return await JetStream(connection).api(endpoint)
        finally:
            await connection.close()

    asyncio.run(ask(f"STREAM.DELETE.{stream}"))
    waits.until_sync(
        # Null where there is none at all
        lambda: stream in (asyncio.run(ask("STREAM.NAMES"))["streams"] or ()),
        "the stream to be made again",
        timeout=30,
    )


def test_a_topic_is_not_taken_from_a_step_while_events_wait_on_it(space: Space) -> None:
    both = {"event": {"topics": ["order.created", "order.paid"]}}
    space.apply(step("orders", both, replicas=0))
    space.wait_ready("orders")
    publish(space, "order.paid", 3)
    space.apply(step("orders", EVENT, replicas=0, version=2))
    message = space.wait_reason("orders", "BacklogOnRemovedTopic", "SubscriptionReady")
    assert message.startswith("3 events wait on order.paid, which the Step is not to hear any more.")
    assert len(space.all("configmaps")) == 2, "the version before and kube-root-ca.crt"
    command = message.partition("kubectl ")[2].split()
    space.cluster.kubectl(*command)
    space.wait_ready("orders")
    found = consumer(space, "orders")
    assert found is not None
    assert not any("paid" in subject for subject in found["config"]["filter_subjects"])


def test_a_step_that_hears_no_events_keeps_no_empty_consumer(space: Space) -> None:
    space.apply(step("orders", EVENT, replicas=0))
    space.wait_ready("orders")
    assert consumer(space, "orders") is not None
    space.kubectl("replace", "-f", "-", input=yaml.safe_dump(step("orders")))
    space.wait_reason("orders", "NoWorkload")
    waits.until_sync(lambda: consumer(space, "orders") is None, "the consumer to be gone", timeout=10)
    publish(space, "order.created", 3)
    space.kubectl("replace", "-f", "-", input=yaml.safe_dump(step("orders", EVENT, replicas=0, deliverFrom="Now")))
    space.wait_ready("orders")
    assert (consumer(space, "orders") or {})["num_pending"] == 0


def test_a_crd_that_was_deleted_and_made_again_is_served(space: Space) -> None:
    space.apply(step("before", EVENT, replicas=0))
    space.wait_ready("before")
    crds = str(paths.REPOSITORY / "crds")
    before = operator_restarts(space.cluster)
    space.kubectl("delete", "-f", crds, "--wait=true")
    try:
        waits.until_sync(
            lambda: "Cannot watch steps" in operator_log(space.cluster), "the operator to say what is gone", timeout=90
        )
    finally:
        space.kubectl("apply", "--server-side", "-f", crds)
        space.kubectl("wait", "--for=condition=Established", "crd/steps.bema.dev", "--timeout=30s")
    space.apply(step("after", EVENT, replicas=0))
    space.wait_ready("after", seconds=90)
    assert operator_restarts(space.cluster) == before


def test_a_namespace_that_was_made_again_may_take_over_its_stream(space: Space) -> None:
    manifest = step("orders", EVENT, replicas=0)
    space.apply(manifest)
    space.wait_ready("orders")
    publish(space, "order.created", 3)
    space.cluster.kubectl("delete", "namespace", space.name, "--wait=true", seconds=90)
    space.cluster.kubectl("create", "namespace", space.name)
    space.apply(manifest)
    message = space.wait_reason("orders", "AppStreamOwned")
    command = message[message.index("kubectl annotate") : message.index("; or delete")]
    space.cluster.kubectl(*command.split()[1:])
    space.wait_ready("orders")
    assert (consumer(space, "orders") or {})["num_pending"] == 3


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


def test_the_consumer_of_a_step_that_is_gone_is_removed_after_its_grace(space: Space) -> None:
    where = ("-n", installs.SYSTEM)
    change = (*where, "set", "env", "deployment/bema-operator")
    space.cluster.kubectl(*change, "BEMA_ORPHAN_GRACE_SECONDS=3")
    space.cluster.kubectl(*where, "rollout", "status", "deployment/bema-operator", "--timeout=60s", seconds=70)
    try:
        space.apply(step("gone", EVENT, replicas=0), step("stays", EVENT, replicas=0))
        space.wait_ready("gone")
        space.wait_ready("stays")
        space.kubectl("delete", "step", "gone")
        waits.until_sync(lambda: consumer(space, "gone") is None, "the orphan to be removed", timeout=30)
        assert consumer(space, "stays") is not None
    finally:
        space.cluster.kubectl(*change, "BEMA_ORPHAN_GRACE_SECONDS-")
        restart_operator(space.cluster)


def test_the_stream_of_another_owner_is_not_touched(space: Space) -> None:
    stream = names.stream(space.name)
    theirs = {names.METADATA_NAMESPACE_UID: "another"}

    async def ask(endpoint: str, request: dict[str, Any]) -> Any:
        connection = await connections.connect([installs.nats_url(space.cluster)], name="test", wait=10)
        try:
            return await JetStream(connection).api(f"{endpoint}.{stream}", request)
        finally:
            await connection.close()

    config = {"name": stream, "subjects": [names.everything(names.root(space.name))], "metadata": theirs}
    asyncio.run(ask("STREAM.CREATE", config))
    space.apply(step("orders", EVENT, API))
    assert f"stream {stream} belongs to another owner" in space.wait_reason("orders", "AppStreamOwned")
    assert space.children("orders") == []
    found = asyncio.run(ask("STREAM.INFO", {}))
    assert found["config"]["metadata"][names.METADATA_NAMESPACE_UID] == "another"


def test_without_a_broker_what_runs_is_kept_and_what_is_new_waits(space: Space) -> None:
    where = ("-n", installs.SYSTEM)
    space.apply(step("old", EVENT, replicas=0))
    space.wait_ready("old")
    space.cluster.kubectl(*where, "scale", "statefulset/nats", "--replicas=0")
    try:
        space.cluster.kubectl(*where, "wait", "--for=delete", "pod/nats-0", "--timeout=60s", seconds=70)
        for type_ in ("SubscriptionReady", "Ready"):
            assert "does not answer" in space.wait_reason("old", "BrokerUnavailable", type_)
        restart_operator(space.cluster)
        space.apply(step("new", EVENT, replicas=0))
        assert "does not answer" in space.wait_reason("new", "BrokerUnavailable")
        space.wait_reason("old", "BrokerUnavailable", "SubscriptionReady")
        assert space.get("deployment", "new") is None
        assert space.get("deployment", "old") is not None
    finally:
        space.cluster.kubectl(*where, "scale", "statefulset/nats", "--replicas=1")
        space.cluster.kubectl(*where, "rollout", "status", "statefulset/nats", "--timeout=60s", seconds=70)
    for name in ("old", "new"):
        space.wait_ready(name)


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
    assert "forbidden" not in operator_log(installed)
