"""A bad week: two operators by mistake, a CRD of another age, servers that are gone, an operator that dies between any
two of its writes, a cluster built anew. Where no pod is needed, the operator is a process of the test."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml

from bema.clusters import watches
from bema.contract import names
from bema.ports import connections
from bema.ports.jetstream import JetStream
from bema_operator import leases, status_writes
from tests.support import api_proxies, operators, waits
from tests.support.operators import Stage
from tests.support.spaces import API, EVENT, Space, step
from tools import installs
from tools.cluster import paths
from tools.cluster.clusters import Cluster
from tools.kubernetes import Kubernetes

pytestmark = pytest.mark.e2e

NUMBERS = itertools.count(1)
RUN = format(int(time.time()) % 36**4, "x")
LEASE = f"--lease-namespace={installs.SYSTEM}"


def new_space(cluster: Kubernetes) -> Space:
    name = f"fault-{RUN}-{next(NUMBERS)}"
    cluster.kubectl("create", "namespace", name)
    return Space(cluster, name)


@pytest.fixture(scope="module")
def played(installed: Kubernetes, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """The operators of these tests are processes of theirs."""
    if not isinstance(installed, Cluster):
        pytest.skip("needs the certificates of the API server, which a cluster of kind's keeps to itself")
    with operators.stage(installed, tmp_path_factory.mktemp("stage")) as found:
        yield found


@pytest.fixture
def space(played: Stage) -> Iterator[Space]:
    found = new_space(played.cluster)
    yield found
    found.cluster.kubectl("delete", "namespace", found.name, "--wait=false")


def holder(cluster: Kubernetes) -> str:
    """Who the Lease says acts."""
    return cluster.kubectl("-n", installs.SYSTEM, "get", "lease", names.LEASE, "-o=jsonpath={.spec.holderIdentity}")


CRD = paths.REPOSITORY / "crds" / "steps.yaml"


@contextlib.contextmanager
def other_crd(cluster: Kubernetes, edit: Callable[[dict[str, Any]], None], version: str) -> Iterator[None]:
    """Another version of the CRD, edited in its schema, until the end of the block."""
    document = yaml.safe_load(CRD.read_text("utf-8"))
    document["metadata"]["annotations"] = {names.ANNOTATION_VERSION: version, names.ANNOTATION_SCHEMA: "other"}
    edit(document["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"])
    put = ("apply", "--server-side", "--force-conflicts", "-f")
    cluster.kubectl(*put, "-", input=yaml.safe_dump(document))
    try:
        yield
    finally:
        cluster.kubectl(*put, str(CRD))


def test_of_two_operators_one_acts_and_the_other_says_which(played: Stage, space: Space) -> None:
    with (
        played.operator("first", LEASE, "--lease-holder=first") as first,
        played.operator("second", LEASE, "--lease-holder=second", is_ready=False) as second,
    ):
        waits_for = "the Lease bema-system/bema-operator is held by first, which acts; this operator, second, waits"
        waits.until_sync(lambda: second.problems() == [waits_for], "the second to wait", timeout=15)
        assert second.problems("livez") == []
        assert waits_for.removeprefix("the ") in second.last_words(), "the name as it is, to be copied"
        space.apply(step("orders", EVENT, replicas=0))
        space.wait_ready("orders")
        assert "Made" not in second.last_words()
        # One that was told to end lets the other begin at once.
        first.stop()
        began = time.monotonic()
        second.wait_ready(leases.LOOK_PAUSE + 8)
        print(f"\ntaken over after a release in {time.monotonic() - began:.1f} s")
        assert holder(played.cluster) == "second"
        space.apply(step("more", EVENT, replicas=0))
        space.wait_ready("more")


def test_the_place_of_an_operator_that_died_is_taken_after_the_lease_is_over(played: Stage, space: Space) -> None:
    with (
        played.operator("first", LEASE, "--lease-holder=first") as first,
        played.operator("second", LEASE, "--lease-holder=second", is_ready=False) as second,
    ):
        waits.until_sync(lambda: bool(second.problems()), "the second to wait", timeout=15)
        began = time.monotonic()
        first.kill()
        first.wait_exit(5)
        # The same operator started again, as a container in its pod is, goes on at once.
        first.start()
        first.wait_ready(10)
        print(f"\nback after a crash in {time.monotonic() - began:.1f} s")
        assert holder(played.cluster) == "first"
        began = time.monotonic()
        first.kill()
        second.wait_ready(leases.DURATION + leases.RENEW_PAUSE + 10)
        seconds = time.monotonic() - began
        print(f"taken over from the dead in {seconds:.1f} s")
        assert seconds > leases.PATIENCE, "the first might have been at work still"
        space.apply(step("orders", EVENT, replicas=0))
        space.wait_ready("orders")


def test_an_operator_that_loses_its_lease_stops_at_once(played: Stage, space: Space) -> None:
    with played.operator("first", LEASE, "--lease-holder=first") as first:
        before = played.proxy.lease_calls
        spec = {"holderIdentity": "somebody-else", "leaseDurationSeconds": 15}
        change = ("patch", "lease", names.LEASE, "--type=merge", "-p", json.dumps({"spec": spec}))
        played.cluster.kubectl("-n", installs.SYSTEM, *change)
        assert first.wait_exit(leases.RENEW_PAUSE + 5) == 71
        assert played.proxy.lease_calls - before <= 3
        space.apply(step("orders", EVENT, replicas=0))
        # Started again, it waits for who it believes to act.
        first.start()
        waits.until_sync(lambda: "somebody-else" in str(first.problems()), "the first to wait", timeout=10)
        assert space.get("deployment", "orders") is None
        first.wait_ready(leases.DURATION + 10)
        space.wait_ready("orders")


def test_a_paused_operator_begins_nothing_when_it_wakes_up(played: Stage, space: Space) -> None:
    """As when its node was suspended: by then another one may act."""
    with played.operator("first", LEASE, "--lease-holder=first") as first:
        os.kill(first.pid, signal.SIGSTOP)
        with played.operator("second", LEASE, "--lease-holder=second", is_ready=False) as second:
            second.wait_ready(leases.DURATION + leases.RENEW_PAUSE + 15)
            space.apply(step("orders", EVENT, replicas=0))
            space.wait_ready("orders")
            before = list(played.proxy.writes)
            os.kill(first.pid, signal.SIGCONT)
            assert first.wait_exit(leases.RENEW_PAUSE + 10) == 71
            assert played.proxy.writes == before


def test_a_crd_that_is_older_than_the_operator_is_named_and_costs_no_status(played: Stage, space: Space) -> None:
    def edit(properties: dict[str, Any]) -> None:
        for name in ("streamCreated", "trigger"):
            del properties["status"]["properties"][name]

    advice = "kubectl apply --server-side -f crds/"
    with contextlib.ExitStack() as older:
        older.enter_context(other_crd(played.cluster, edit, "0.0.9"))
        with played.operator("older", "--backlog-seconds=1") as operator:
            space.apply(step("orders", EVENT, replicas=0))
            space.wait_ready("orders")
            message = space.condition("orders")["message"]
            assert "The CRD is older than the operator" in message
            assert advice in message
            assert operator.last_words().count(advice) == 2, "once for each field"
            before = len(played.proxy.writes)
            space.apply(step("more", EVENT, replicas=0))
            space.wait_ready("more")
            assert len(played.proxy.writes) - before < 10, played.proxy.writes[before:]
            # Somebody does what the advice says. Nothing needs to be started anew
            older.close()
            waits.until_sync(
                lambda: advice not in space.condition("orders")["message"],
                "the status to be whole",
                timeout=status_writes.AGAIN + 20,
            )
            assert (space.get("step", "orders") or {})["status"]["trigger"] == "order.created"


def test_a_step_of_a_newer_crd_is_refused_by_name_and_what_runs_is_left(played: Stage, space: Space) -> None:
    def edit(properties: dict[str, Any]) -> None:
        properties["spec"]["properties"]["teleport"] = {"type": "string"}

    with other_crd(played.cluster, edit, "9.9.9"), played.operator("newer"):
        space.apply(step("old", EVENT, replicas=0))
        space.wait_ready("old")
        before = space.get("deployment", "old") or {}
        space.apply(step("old", EVENT, replicas=0, teleport="fast"), step("new", EVENT, teleport="fast"))
        for name in ("old", "new"):
            assert "teleport" in space.wait_reason(name, "InvalidSpec")
        assert space.children("new") == []
        assert (space.get("deployment", "old") or {})["metadata"]["resourceVersion"] == before["metadata"][
            "resourceVersion"
        ]
        space.apply(step("old", EVENT, replicas=0))
        space.wait_ready("old")


def many(count: int, **spec: Any) -> list[dict[str, Any]]:
    """Steps that hear requests and events, each with a path of its own."""
    apis = ({"api": {"method": "POST", "path": f"/orders/{number}"}} for number in range(count))
    return [step(f"s{number}", api, EVENT, **spec) for number, api in enumerate(apis)]


def unready(space: Space) -> list[str]:
    """Steps that are not Ready, and why."""
    found = []
    for item in space.all("steps"):
        ready = next((c for c in item.get("status", {}).get("conditions", ()) if c["type"] == "Ready"), {})
        if ready.get("status") != "True":
            found.append(f"{item['metadata']['name']}: {ready.get('reason')} {ready.get('message')}")
    return found


def wait_all_ready(space: Space, count: int, seconds: float) -> None:
    def are_ready() -> bool:
        return len(space.all("steps")) == count and not unready(space)

    def why() -> str:
        return " ".join(unready(space)[:5])

    waits.until_sync(are_ready, f"{count} Steps to be Ready", timeout=seconds, explain=why)


def test_a_namespace_with_fifty_steps_is_gone_in_seconds_while_nats_is_away(played: Stage) -> None:
    space = new_space(played.cluster)
    with played.operator("fifty") as operator:
        space.apply(*many(50, replicas=0))
        wait_all_ready(space, 50, 120)
        played.nats.stop(signal.SIGKILL)
        try:
            began = time.monotonic()
            played.cluster.kubectl("delete", "namespace", space.name, "--wait=true", seconds=90)
            seconds = time.monotonic() - began
        finally:
            played.nats.start()
        print(f"PRINT a namespace with 50 Steps was gone in {seconds:.1f} s without NATS")
        assert seconds < 30
        assert operator.exit_code() is None


def test_two_hundred_steps_at_once_are_ready_and_then_gone(played: Stage, space: Space) -> None:
    count = 200
    with played.operator("crowd") as operator:
        began = time.monotonic()
        space.apply(*many(count, suspend=True))
        applied = time.monotonic() - began
        wait_all_ready(space, count, 240)
        ready = time.monotonic() - began
        assert len(space.all("deployments")) == len(space.all("services")) == count
        began = time.monotonic()
        space.kubectl("delete", "steps", "--all", "--wait=false")

        def are_gone() -> bool:
            maps = [item for item in space.all("configmaps") if names.LABEL_STEP in item["metadata"].get("labels", {})]
            return not maps and not space.all("deployments,services,networkpolicies,steps")

        waits.until_sync(are_gone, "all children to be gone", timeout=240)
        gone = time.monotonic() - began
        print(f"PRINT {count} Steps: applied in {applied:.1f} s, all Ready after {ready:.1f} s, gone in {gone:.1f} s")
        assert "Could not reconcile" not in operator.last_words()


def test_an_api_server_that_is_away_for_half_a_minute_costs_nothing(played: Stage, space: Space) -> None:
    with played.operator("api-away", LEASE, "--lease-holder=steady") as operator:
        space.apply(*many(3, replicas=0))
        wait_all_ready(space, 3, 60)
        kept = (space.get("deployment", "s2") or {})["metadata"]["resourceVersion"]
        played.proxy.go_away()
        # Meanwhile others go on: one Step is edited, a child of another is deleted.
        space.apply(*many(1, replicas=0, version=2))
        space.kubectl("delete", "deployment", "s1")
        over = time.monotonic() + 30
        waits.until_sync(lambda: time.monotonic() > over or operator.exit_code() is not None, "30 s", timeout=40)
        assert operator.exit_code() is None
        assert operator.problems("livez") == []
        assert holder(played.cluster) == "steady"
        played.proxy.come_back()
        began = time.monotonic()
        waits.until_sync(lambda: space.get("deployment", "s1") is not None, "the child to be made again", timeout=60)
        wait_all_ready(space, 3, 60)
        space.wait_ready("s0")
        print(f"PRINT in order {time.monotonic() - began:.1f} s after the API server was back")
        assert (space.get("deployment", "s2") or {})["metadata"]["resourceVersion"] == kept


def test_watches_that_fall_silent_are_begun_anew(played: Stage, space: Space) -> None:
    with played.operator("deaf"):
        space.apply(step("orders", EVENT, replicas=0))
        space.wait_ready("orders")
        assert played.proxy.silence() >= 7
        began = time.monotonic()
        space.kubectl("delete", "deployment", "orders")
        space.apply(step("more", EVENT, replicas=0))
        space.wait_ready("more", watches.SILENCE_SECONDS + 20)
        waits.until_sync(lambda: space.get("deployment", "orders") is not None, "the child to be back", timeout=30)
        print(f"PRINT in order {time.monotonic() - began:.1f} s after the watches fell silent")


WHOLE = ["ConfigMap", "Deployment", "NetworkPolicy", "PodDisruptionBudget", "Service"]
NO_PODS = {
    "apiVersion": "v1",
    "kind": "ResourceQuota",
    "metadata": {"name": "no-pods"},
    "spec": {"hard": {"pods": "0"}},
}


def killed_at(played: Stage, operator: operators.Operator, number: int, *, is_before: bool) -> Space | None:
    """A Step whose operator is killed at its write of a number, brought in order by the next; None when there were
    fewer writes."""
    space = new_space(played.cluster)
    space.apply(NO_PODS)
    ambush = api_proxies.Ambush(number, is_before, operator.kill, f"/namespaces/{space.name}/")
    played.proxy.ambush = ambush
    space.apply(step("orders", EVENT, API, replicas=2))

    def is_over() -> bool:
        return operator.exit_code() is not None or is_settled(space)

    waits.until_sync(is_over, f"the operator to die at write {number}", timeout=30, explain=operator.last_words)
    played.proxy.ambush = None
    if operator.exit_code() is None:
        assert ambush.seen < number
        return None
    assert operator.exit_code() == -signal.SIGKILL
    operator.start()
    waits.until_sync(lambda: is_settled(space), f"order after a death at write {number}", timeout=30)
    return space


def is_settled(space: Space) -> bool:
    """Whether the Step has all its children, once, and says that the quota keeps its pods away."""
    return (
        space.children("orders") == WHOLE
        and space.condition("orders").get("reason") == "QuotaExceeded"
        and space.condition("orders", "SubscriptionReady").get("status") == "True"
    )


def test_an_operator_that_is_killed_at_any_of_its_writes_is_made_up_for_by_the_next(played: Stage) -> None:
    """Dead after a write and dead before the one that follows are the same to whoever comes next."""
    spaces = []
    with played.operator("killed") as operator:
        spaces.append(killed_at(played, operator, 1, is_before=True))
        for number in range(1, 20):
            spaces.append(killed_at(played, operator, number, is_before=False))
            if spaces[-1] is None:
                break
        done = [space for space in spaces if space is not None]
        print(f"PRINT killed {len(done)} times: before the first and after each write of a reconcile")
        assert spaces[-1] is None
        assert len(done) > len(WHOLE) + 1, "each child, and the status"
        # All are as they should be: another operator finds nothing to write.
        before = len(played.proxy.writes)
        operator.stop()
        operator.start()
        last = new_space(played.cluster)
        last.apply(step("last", EVENT, replicas=0))
        last.wait_ready("last")
        new = [write for write in played.proxy.writes[before:] if any(f"/{space.name}/" in write for space in done)]
        assert new == []
    for space in [*done, last]:
        played.cluster.kubectl("delete", "namespace", space.name, "--wait=false")


def test_a_cluster_that_was_built_anew_takes_nothing_over_and_sweeps_nothing(played: Stage) -> None:
    """The same names, other uids: another cluster's namespaces, as far as anybody can tell."""
    back, gone = old = [new_space(played.cluster), new_space(played.cluster)]
    with played.operator("before"):
        for space in old:
            space.apply(step("orders", EVENT, replicas=0))
            space.wait_ready("orders")
    before = asyncio.run(streams(played))
    for space in old:
        played.cluster.kubectl("delete", "namespace", space.name, "--wait=true", seconds=90)
    played.cluster.kubectl("create", "namespace", back.name)
    with played.operator("after", "--orphan-grace-seconds=1", "--janitor-seconds=1") as operator:
        back.apply(step("orders", EVENT, replicas=0))
        message = back.wait_reason("orders", "AppStreamOwned")
        assert f"kubectl annotate namespace {back.name} {names.ANNOTATION_ADOPT_STREAM}=" in message
        over = time.monotonic() + 6
        waits.until_sync(lambda: time.monotonic() > over, "ten sweeps, half a second apart", timeout=10)
        after = asyncio.run(streams(played))
        for space in (back, gone):
            stream = names.stream(space.name)
            assert after[stream] == before[stream] == ["orders"]
        assert "Removed" not in operator.last_words()
    played.cluster.kubectl("delete", "namespace", back.name, "--wait=false")


async def streams(played: Stage) -> dict[str, list[str]]:
    """The streams of NATS, and the consumers of each."""
    connection = await connections.connect([played.nats.url], name="test", wait=10)
    try:
        js = JetStream(connection)
        found = (await js.api("STREAM.NAMES"))["streams"] or []
        listed = {name: (await js.api(f"CONSUMER.LIST.{name}"))["consumers"] or [] for name in found}
        return {name: sorted(item["name"] for item in consumers) for name, consumers in listed.items()}
    finally:
        await connection.close()


LIMITS = {
    "apiVersion": "v1",
    "kind": "LimitRange",
    "metadata": {"name": "small"},
    "spec": {"limits": [{"type": "Container", "max": {"memory": "100Mi"}}]},
}
HOST = "Object{spec: Object.spec{hostNetwork: true}}"


def injector(space: Space, step: str) -> list[dict[str, Any]]:
    """What gives the pods of a Step the network of their node, as some mesh might."""
    api, name = "admissionregistration.k8s.io/v1beta1", f"mesh-of-{space.name}"
    pods = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}
    is_of_step = f"object.metadata.?labels['{names.LABEL_STEP}'].orValue('') == '{step}'"
    spec = {
        "matchConstraints": {"resourceRules": [pods]},
        "matchConditions": [{"name": "step", "expression": is_of_step}],
        "reinvocationPolicy": "Never",
        "mutations": [{"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": HOST}}],
    }
    here = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": space.name}}}
    return [
        {"apiVersion": api, "kind": "MutatingAdmissionPolicy", "metadata": {"name": name}, "spec": spec},
        {
            "apiVersion": api,
            "kind": "MutatingAdmissionPolicyBinding",
            "metadata": {"name": name},
            "spec": {"policyName": name, "matchResources": here},
        },
    ]


def test_a_pod_that_the_namespaces_level_refuses_is_said_in_the_words_of_the_api_server(
    played: Stage, space: Space
) -> None:
    mesh = yaml.safe_dump_all(injector(space, "meshed"))
    space.kubectl("label", "namespace", space.name, "pod-security.kubernetes.io/enforce=restricted")
    played.cluster.kubectl("apply", "-f", "-", input=mesh)
    try:
        with played.operator("meshed"):

            def refused() -> bool:
                """The API server takes a new policy in within a second or so: until then, pods pass."""
                space.apply(step("meshed", EVENT))
                found = space.condition("meshed", "WorkloadReady")
                if found.get("reason") == "PodSecurityRefused":
                    return True
                space.kubectl("delete", "pods", f"-l={names.LABEL_STEP}=meshed", "--wait=false")
                return False

            waits.until_sync(refused, "the pod to be refused", timeout=60)
            message = space.wait_reason("meshed", "PodSecurityRefused")
            assert 'violates PodSecurity "restricted:latest": host namespaces (hostNetwork=true)' in message
            assert "PodSecurityRefused" in space.kubectl("describe", "step", "meshed").partition("Events:")[2]
    finally:
        played.cluster.kubectl("delete", "-f", "-", input=mesh)


HUNGRY = """
config = {"triggers": [{"event": {"topics": ["order.created"]}}]}
food = b"x" * (1 << 30)
"""


def test_why_a_pod_cannot_be_or_stay_is_said_in_the_words_of_who_refuses_it(played: Stage, space: Space) -> None:
    hungry = {"language": "python", "entrypoint": "a.py", "inline": {"a.py": HUNGRY}}
    small = {"resources": {"requests": {"memory": "64Mi"}, "limits": {"memory": "96Mi"}}}
    large = {"resources": {"requests": {"memory": "200Mi"}, "limits": {"memory": "200Mi"}}}
    # A NATS that pods can reach, too: they import no code before they are connected.
    nats = f"--nats-urls={installs.nats_url(played.cluster)}"
    image = ("--runtime-image=localhost/bema-runtime:dev", "--image-pull-policy=Never")
    with played.operator("refused", nats, *image):
        space.apply(
            LIMITS,
            step("large", EVENT, pod=large),
            step("nowhere", EVENT, pod={**small, "nodeSelector": {"moon": "dark"}}),
            step("hungry", EVENT, code=hungry, pod=small),
        )
        assert "maximum memory usage per Container is 100Mi" in space.wait_reason("large", "QuotaExceeded")
        assert "didn't match Pod's node affinity/selector" in space.wait_reason("nowhere", "Unschedulable")
        assert "exit code 137 (OOMKilled)" in space.wait_reason("hungry", "CrashLoop", seconds=90)
