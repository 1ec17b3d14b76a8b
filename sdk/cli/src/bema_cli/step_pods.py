"""The pods of a Step, as far as their logs are concerned. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bema.clusters import kinds
from bema.contract import names, pods

CONTAINER = pods.CONTAINER
"""The container of a Step's pod that runs its code."""

Object = Mapping[str, Any]


def selector(step: str) -> str:
    """Of all pods of a Step: of its Deployment and of the Jobs of its CronJob."""
    return f"{names.LABEL_STEP}={step}"


def log_path(pod: Object) -> str:
    return kinds.POD.path(pod["metadata"]["namespace"], pod["metadata"]["name"], "log")


def name(pod: Object) -> str:
    return str(pod["metadata"]["name"])


def _status(pod: Object) -> Mapping[str, Any]:
    found = (pod.get("status") or {}).get("containerStatuses") or ()
    return next((item for item in found if item.get("name") == CONTAINER), {})


def started(pod: Object) -> str | None:
    """The id of the container that runs, or ran last, and so has a log; None before it first runs."""
    return str(_status(pod).get("containerID") or "") or None


def runs(pod: Object) -> bool:
    return "running" in (_status(pod).get("state") or {})


def has_previous(pod: Object) -> bool:
    return "terminated" in (_status(pod).get("lastState") or {})


def waiting(pod: Object) -> str:
    """Why there is no log yet, in the kubelet's or the scheduler's word."""
    found = (_status(pod).get("state") or {}).get("waiting") or {}
    if found:
        return str(found.get("reason", "waiting"))
    conditions = (pod.get("status") or {}).get("conditions") or ()
    refused: Mapping[str, Any] = next(
        (item for item in conditions if item.get("status") == "False" and item.get("reason")), {}
    )
    return str(refused.get("reason") or (pod.get("status") or {}).get("phase") or "waiting")
