"""Whose the number of a Step's pods is: the Step's, where it says one, else an autoscaler's or a person's."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support import waits
from tests.support.spaces import EVENT, Space, step

pytestmark = pytest.mark.e2e


def autoscaler(name: str, target: dict[str, str], least: int) -> dict[str, Any]:
    """One that knows nothing about load, and so only keeps to its bounds."""
    metric = {
        "type": "Resource",
        "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}},
    }
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": name},
        "spec": {"scaleTargetRef": target, "minReplicas": least, "maxReplicas": 5, "metrics": [metric]},
    }


def replicas(space: Space, name: str) -> int:
    found = space.get("deployment", name) or {"spec": {}}
    return int(found["spec"].get("replicas", -1))


def wait_pods(space: Space, name: str, number: int) -> None:
    """Until the Step says of the generation that it has that it runs so many pods, all of them ready."""
    said = f"{number} pods of {number} ready." if number > 1 else f"{number} pod of {number} ready."
    waits.until_sync(
        lambda: (replicas(space, name), space.condition(name, "WorkloadReady").get("message")) == (number, said),
        f"{number} pods of {name}",
        timeout=60,
        explain=lambda: f"{replicas(space, name)} replicas; {space.condition(name, 'WorkloadReady')}",
    )


def mended(space: Space, name: str) -> None:
    """Have the operator look at a Step's Deployment, and write to it: a label that somebody changed is put right."""
    label = "app.kubernetes.io/part-of"

    def labelled() -> str:
        return str((space.get("deployment", name) or {})["metadata"]["labels"].get(label))

    before = labelled()
    space.kubectl("label", "--overwrite", f"deployment/{name}", f"{label}=other")
    waits.until_sync(lambda: labelled() == before, "the label to be put right", timeout=10)


def test_the_pods_that_an_autoscaler_or_a_person_asks_for_are_left_alone(space: Space) -> None:
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "orders"}
    space.apply(step("orders", EVENT))
    wait_pods(space, "orders", 1)
    space.apply(autoscaler("orders", target, 2))
    wait_pods(space, "orders", 2)
    mended(space, "orders")
    assert replicas(space, "orders") == 2
    space.kubectl("scale", "deployment/orders", "--replicas=3")
    wait_pods(space, "orders", 3)
    mended(space, "orders")
    space.apply(step("orders", EVENT, version=2))
    wait_pods(space, "orders", 3)

    assert "PodDisruptionBudget" in space.children("orders")

    # Both say a number: they do not fight for ever
    space.apply(step("orders", EVENT, version=2, replicas=1))
    message = space.wait_reason("orders", "ReplicasContested", "WorkloadReady")
    assert message.startswith("The Step says 1, and kube-controller-manager has set 2 replicas")
    generation = (space.get("deployment", "orders") or {})["metadata"]["generation"]
    mended(space, "orders")
    assert (space.get("deployment", "orders") or {})["metadata"]["generation"] == generation

    space.kubectl("delete", "horizontalpodautoscaler", "orders")
    space.kubectl("delete", "step", "orders")
    waits.until_sync(lambda: space.children("orders") == [], "the children to be gone", timeout=20)
    space.apply(step("orders", EVENT, replicas=1))
    wait_pods(space, "orders", 1)
    space.kubectl("scale", "deployment/orders", "--replicas=2")
    wait_pods(space, "orders", 1)


def test_that_no_pod_runs_is_the_steps_alone_to_say(space: Space) -> None:
    space.apply(step("orders", EVENT))
    wait_pods(space, "orders", 1)
    space.kubectl("scale", "deployment/orders", "--replicas=2")
    wait_pods(space, "orders", 2)
    space.kubectl("scale", "deployment/orders", "--replicas=0")
    wait_pods(space, "orders", 1)
    space.kubectl("scale", "deployment/orders", "--replicas=2")
    wait_pods(space, "orders", 2)
    space.apply(step("orders", EVENT, suspend=True))
    space.wait_reason("orders", "Suspended", "WorkloadReady")
    space.apply(step("orders", EVENT))
    wait_pods(space, "orders", 1)


def test_an_autoscaler_may_scale_the_step_itself(space: Space) -> None:
    space.apply(step("orders", EVENT, replicas=1))
    space.apply(autoscaler("orders", {"apiVersion": "bema.dev/v1alpha1", "kind": "Step", "name": "orders"}, 2))
    wait_pods(space, "orders", 2)
    assert (space.get("step", "orders") or {})["spec"]["replicas"] == 2
