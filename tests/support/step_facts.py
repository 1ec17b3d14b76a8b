"""Facts about a Step named `a` of generation 3, with a Deployment of two pods, as the operator gathers them."""

from __future__ import annotations

from typing import Any

from bema.contract import steps
from bema_operator import ownership, scales
from bema_operator.facts import Facts, Key, Subject, Subscription

NOW = "2026-02-02T00:00:00Z"
BEFORE = "2026-01-01T00:00:00Z"
CODE: dict[str, Any] = {"entrypoint": "a.py", "image": "i"}
EVENT: dict[str, Any] = {"event": {"topics": ["order.created", "order.paid"]}}
API: dict[str, Any] = {"api": {"method": "POST", "path": "/orders"}}


def subject(status: dict[str, Any] | None = None) -> Subject:
    return Subject(key=Key("shop", "a"), uid="u", generation=3, created="", deleting=False, status=status or {})


def spec(*triggers: dict[str, Any], **fields: Any) -> steps.StepSpec:
    code = {"code": CODE} if triggers else {}
    return steps.parse_spec({"triggers": list(triggers), **code, **fields}, where="test")


def manifest(kind: str, replicas: int = 2) -> dict[str, Any]:
    plain = {"apiVersion": "v1", "kind": kind, "metadata": {"name": "a"}, "spec": {"replicas": replicas}}
    return ownership.stamp(plain)


def live(wanted: dict[str, Any], status: dict[str, Any]) -> dict[str, Any]:
    fields: dict[str, Any] = {"f:metadata": {"f:annotations": {}}, "f:spec": {}}
    entry = {"manager": "bema-operator", "operation": "Apply", "fieldsV1": fields}
    metadata = {**wanted["metadata"], "generation": 5, "managedFields": [entry]}
    return {**wanted, "metadata": metadata, "status": status}


DONE: dict[str, Any] = {
    "observedGeneration": 5,
    "replicas": 2,
    "updatedReplicas": 2,
    "readyReplicas": 2,
    "availableReplicas": 2,
}
DEPLOYMENT = manifest("Deployment")


def deployed(status: dict[str, Any], **changes: Any) -> Facts:
    facts = Facts(
        subject=subject(),
        spec=spec(EVENT, API),
        wanted=[DEPLOYMENT],
        children=[live(DEPLOYMENT, status)],
        subscription=Subscription(),
        backlog=7,
    )
    return facts.with_(**changes)


def scaled(replicas: int, wanted: dict[str, Any] = DEPLOYMENT, *, subresource: str = "scale") -> dict[str, Any]:
    """The Deployment as an autoscaler has scaled it, with all of its pods there."""
    counts = dict.fromkeys(("replicas", "updatedReplicas", "readyReplicas", "availableReplicas"), replicas)
    found = live(wanted, {**DONE, **counts})
    fields = {"f:spec": {"f:replicas": {}}}
    entry = {"manager": "autoscaler", "operation": "Update", "subresource": subresource, "fieldsV1": fields}
    managed = [*found["metadata"]["managedFields"], entry]
    return {**found, "spec": {"replicas": replicas}, "metadata": {**found["metadata"], "managedFields": managed}}


def contested() -> Facts:
    """The Step says that there be one pod, an autoscaler has set five again and again."""
    own = spec(EVENT, API, replicas=1)
    [wanted] = scales.settled([DEPLOYMENT], [scaled(5)], own, yields=True)
    return deployed(DONE, spec=own, wanted=[wanted], children=[scaled(5, dict(wanted))])


OVERDUE: dict[str, Any] = {
    **DONE,
    "availableReplicas": 0,
    "conditions": [
        {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded", "message": "too slow"}
    ],
}
