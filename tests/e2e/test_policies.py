"""Who reaches a Step's pods where the cluster's network enforces NetworkPolicies, and who does without them.

Each of the callers below is a pod that tries to connect to every port of a Step's pod, and to its Service. A policy
lets packets vanish, so what it forbids ends in a time-out; a port that nobody listens on would be refused at once.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from bema.contract import names
from tests.support import waits
from tests.support.spaces import API, EVENT, Space, step
from tools import installs
from tools.cluster import components
from tools.cluster.clusters import Cluster
from tools.kubernetes import Kubernetes

pytestmark = pytest.mark.e2e

RUN = format(int(time.time()) % 36**4, "x")
PORTS = {"http": names.PORT_HTTP, "health": names.PORT_HEALTH, "metrics": names.PORT_METRICS}
OPEN, LOST = "open", "lost"
CALL = """
import concurrent.futures, json, socket, sys

def call(place):
    try:
        socket.create_connection(place, timeout=2).close()
    except TimeoutError:
        return "lost"
    except OSError as error:
        return str(error)
    return "open"

places = {name: tuple(place) for name, place in json.loads(sys.argv[1]).items()}
with concurrent.futures.ThreadPoolExecutor() as pool:
    print(json.dumps(dict(zip(places, pool.map(call, places.values())))))
"""


def caller(name: str) -> dict[str, Any]:
    """A pod that waits to be told whom to call."""
    container = {
        "name": "caller",
        "image": "localhost/bema-runtime:dev",
        "command": ["python3", "-c", "import time; time.sleep(3600)"],
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    spec = {
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 0,
        "securityContext": {"runAsNonRoot": True, "runAsUser": 10001, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container],
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}


@dataclass(frozen=True)
class World:
    """A namespace with a Step, and callers there and elsewhere."""

    app: Space
    clients: Space
    strangers: Space

    def pod(self) -> dict[str, Any]:
        """The one pod of the Step."""
        listed = self.app.kubectl("get", "pods", "-l", f"{names.LABEL_STEP}=orders", "-o", "json")
        staying = [pod for pod in json.loads(listed)["items"] if not pod["metadata"].get("deletionTimestamp")]
        [found] = staying
        return dict(found)

    def reached(self, space: Space) -> dict[str, str]:
        """What a caller gets from each port of the Step's pod, and from its Service."""
        found = self.pod()
        service = self.app.get("service", "orders") or {}
        places = {name: (found["status"]["podIP"], port) for name, port in PORTS.items()}
        places["service"] = (service["spec"]["clusterIP"], 80)
        answer = space.kubectl("exec", "caller", "--", "python3", "-c", CALL, json.dumps(places))
        return dict(json.loads(answer))

    def nats(self, space: Space) -> dict[str, str]:
        """What a caller gets from NATS."""
        cluster = self.app.cluster
        where = ("-n", installs.SYSTEM, "get", "pod", "nats-0", "-o", "jsonpath={.status.podIP}")
        address = cluster.kubectl(*where)
        places = {"client": (address, 4222), "monitor": (address, 8222)}
        answer = space.kubectl("exec", "caller", "--", "python3", "-c", CALL, json.dumps(places))
        return dict(json.loads(answer))


@pytest.fixture(scope="module")
def world(installed: Kubernetes) -> Iterator[World]:
    found = {name: Space(installed, f"{name}-{RUN}") for name in ("app", "clients", "strangers")}
    for space in found.values():
        installed.kubectl("create", "namespace", space.name)
    installed.kubectl("label", "namespace", found["clients"].name, f"{names.LABEL_CLIENTS}=true")
    installed.kubectl("label", "namespace", found["strangers"].name, f"{names.LABEL_CLIENTS}=false")
    for space in found.values():
        space.apply(caller("caller"))
    found["app"].apply(step("orders", API, EVENT))
    found["app"].wait_ready("orders")
    for space in found.values():
        space.kubectl("wait", "--for=condition=Ready", "pod/caller", "--timeout=60s")
    yield World(**found)
    for space in found.values():
        installed.kubectl("delete", "namespace", space.name, "--wait=false")


@pytest.fixture
def enforced(installed: Kubernetes) -> Iterator[None]:
    """Policies are enforced, by an agent that says so, from the beginning to the end of a test."""
    if not isinstance(installed, Cluster):
        yield  # kind's own network enforces them
        return
    assert installed.problems() == []
    before = installed.starts(components.POLICIES)
    yield
    assert installed.problems() == []
    assert installed.starts(components.POLICIES) == before, "the agent that enforces policies has died meanwhile"


ADMITTED = {"http": OPEN, "health": LOST, "metrics": OPEN, "service": OPEN}
EVERYTHING = dict.fromkeys(ADMITTED, OPEN)
NOTHING = dict.fromkeys(ADMITTED, LOST)


@pytest.mark.usefixtures("enforced")
def test_only_the_own_namespace_and_clients_reach_a_step_and_only_its_requests_and_metrics(world: World) -> None:
    assert world.reached(world.app) == ADMITTED
    assert world.reached(world.clients) == ADMITTED
    assert world.reached(world.strangers) == NOTHING


@pytest.mark.usefixtures("enforced")
def test_the_label_of_a_namespace_lets_its_pods_in_and_keeps_them_out(world: World) -> None:
    label = ("label", "--overwrite", "namespace", world.strangers.name)
    world.app.cluster.kubectl(*label, f"{names.LABEL_CLIENTS}=true")
    try:
        waits.until_sync(lambda: world.reached(world.strangers) == ADMITTED, "the strangers to be let in", timeout=15)
    finally:
        world.app.cluster.kubectl(*label, f"{names.LABEL_CLIENTS}=false")
    waits.until_sync(lambda: world.reached(world.strangers) == NOTHING, "the strangers to be kept out", timeout=15)


@pytest.mark.usefixtures("enforced")
def test_an_app_opens_more_with_a_policy_of_its_own(world: World) -> None:
    more = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "more"},
        "spec": {
            "podSelector": {"matchLabels": {names.LABEL_STEP: "orders"}},
            "policyTypes": ["Ingress"],
            "ingress": [{"ports": [{"port": names.PORT_HTTP}]}],
        },
    }
    world.app.apply(more)
    opened = {**NOTHING, "http": OPEN, "service": OPEN}
    try:
        waits.until_sync(lambda: world.reached(world.strangers) == opened, "the port to be open to all", timeout=15)
    finally:
        world.app.kubectl("delete", "networkpolicy", "more")
    waits.until_sync(lambda: world.reached(world.strangers) == NOTHING, "the port to be closed", timeout=15)


@pytest.mark.usefixtures("enforced")
def test_the_kubelets_probes_reach_a_port_that_nobody_else_may_ask(world: World) -> None:
    """A pod whose probes do not arrive would never be Ready."""
    before = world.pod()["metadata"]
    world.app.kubectl("delete", "pod", before["name"])
    world.app.wait_ready("orders")
    assert world.pod()["metadata"]["uid"] != before["uid"]
    assert world.reached(world.app)["health"] == LOST


@pytest.mark.usefixtures("enforced")
def test_nothing_keeps_a_pod_from_nats(world: World) -> None:
    assert world.nats(world.strangers) == {"client": OPEN, "monitor": OPEN}


@pytest.mark.usefixtures("enforced")
def test_without_the_policies_everybody_reaches_everything(world: World) -> None:
    """Nothing but the policies keeps anybody out, in all the tests above."""
    where = ("-n", installs.SYSTEM)
    change = (*where, "set", "env", "deployment/bema-operator")
    status = (*where, "rollout", "status", "deployment/bema-operator", "--timeout=60s")
    world.app.cluster.kubectl(*change, "BEMA_NETWORK_POLICIES=false")
    try:
        world.app.cluster.kubectl(*status, seconds=70)
        waits.until_sync(lambda: world.app.get("networkpolicy", "orders") is None, "the policy to be gone", timeout=30)
        for space in (world.strangers, world.clients, world.app):
            waits.until_sync(lambda s=space: world.reached(s) == EVERYTHING, "everything to be open", timeout=15)
    finally:
        world.app.cluster.kubectl(*change, "BEMA_NETWORK_POLICIES-")
        world.app.cluster.kubectl(*status, seconds=70)
    waits.until_sync(lambda: world.reached(world.strangers) == NOTHING, "the strangers to be kept out", timeout=30)
