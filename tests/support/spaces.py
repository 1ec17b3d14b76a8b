"""A namespace of a real cluster, what is asked of it there, and Steps to apply."""

from __future__ import annotations

import json
from typing import Any

import yaml

from bema.contract import names
from tests.support import waits
from tools.kubernetes import Kubernetes

CODE = """
config = {{"triggers": {triggers}}}

async def handler(input, ctx):
    return {{"version": {version}}}
"""
EVENT = {"event": {"topics": ["order.created"]}}
API = {"api": {"method": "POST", "path": "/orders"}}
CRON = {"cron": {"schedule": "0 2 * * *", "timeZone": "Europe/Paris"}}


def step(name: str, *triggers: dict[str, Any], version: int = 1, **spec: Any) -> dict[str, Any]:
    text = CODE.format(triggers=list(triggers), version=version)
    code = {"language": "python", "entrypoint": "a_step.py", "inline": {"a_step.py": text}}
    body = {"triggers": list(triggers), "code": code} if triggers else {}
    return {
        "apiVersion": "bema.dev/v1alpha1",
        "kind": "Step",
        "metadata": {"name": name},
        "spec": {**body, **spec},
    }


class Space:
    """One namespace, which enforces the restricted Pod Security Standard."""

    def __init__(self, cluster: Kubernetes, name: str) -> None:
        self.cluster = cluster
        self.name = name

    def kubectl(self, *arguments: str, input: str | None = None) -> str:
        return self.cluster.kubectl("--namespace", self.name, *arguments, input=input)

    def apply(self, *manifests: dict[str, Any]) -> str:
        return self.kubectl("apply", "-f", "-", input=yaml.safe_dump_all(manifests))

    def get(self, kind: str, name: str) -> dict[str, Any] | None:
        text = self.kubectl("get", kind, name, "--ignore-not-found", "-o", "json")
        found: dict[str, Any] | None = json.loads(text) if text else None
        return found

    def all(self, kind: str) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = json.loads(self.kubectl("get", kind, "-o", "json"))["items"]
        return items

    def children(self, name: str) -> list[str]:
        selector = f"{names.LABEL_STEP}={name}"
        kinds = "deployments,services,configmaps,cronjobs,networkpolicies,poddisruptionbudgets"
        found = json.loads(self.kubectl("get", kinds, "-l", selector, "-o", "json"))["items"]
        return sorted(item["kind"] for item in found)

    def condition(self, name: str, type_: str = "Ready", *, kind: str = "step") -> dict[str, Any]:
        """A condition of this generation, or nothing."""
        found = self.get(kind, name) or {"metadata": {}}
        for item in found.get("status", {}).get("conditions", ()):
            if item["type"] == type_ and item["observedGeneration"] == found["metadata"]["generation"]:
                return dict(item)
        return {}

    def wait_ready(self, name: str, seconds: float = 60) -> None:
        last: dict[str, Any] = {}

        def is_ready() -> bool:
            nonlocal last
            last = self.condition(name)
            return last.get("status") == "True"

        waits.until_sync(is_ready, f"step {name} to be Ready", timeout=seconds, explain=lambda: str(last))

    def wait_reason(
        self, name: str, reason: str, type_: str = "Ready", seconds: float = 60, *, kind: str = "step"
    ) -> str:
        """Until a condition of this generation has a reason, and its message."""
        last: dict[str, Any] = {}

        def message() -> str:
            nonlocal last
            last = self.condition(name, type_, kind=kind)
            return last["message"] or "-" if last.get("reason") == reason else ""

        what = f"{type_} of {kind} {name} to say {reason}"
        return waits.until_sync(message, what, timeout=seconds, explain=lambda: str(last))
