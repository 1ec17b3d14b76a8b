"""The orders app in a namespace of a cluster: rendered, applied, looked at, struck. Everything through kubectl."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools import installs
from tools.demo.errors import DemoError
from tools.installs import SYSTEM
from tools.kubernetes import Kubernetes

CONFIG_MAP = "orders"
API_STEP = "create-order"


@dataclass(frozen=True)
class KubeApp:
    """An app of a namespace that is ours alone."""

    cluster: Kubernetes
    namespace: str

    def create(self, folder: Path, *, image: str | None, payment_url: str) -> None:
        """Make the namespace, with Pod Security at its strictest, and apply the app: `bema render | kubectl apply`."""
        self.cluster.kubectl("create", "namespace", self.namespace)
        restricted = "pod-security.kubernetes.io/enforce=restricted"
        self.cluster.kubectl("label", "namespace", self.namespace, restricted)
        installs.let_in(self.cluster, self.namespace)
        self._kubectl("create", "configmap", CONFIG_MAP, f"--from-literal=PAYMENT_URL={payment_url}")
        self._kubectl("apply", "-f", "-", input=_render(folder, image))

    def wait_ready(self, seconds: int = 180) -> None:
        """Return when every Step is Ready."""
        self._kubectl("wait", "--for=condition=Ready", "step", "--all", f"--timeout={seconds}s", seconds=seconds + 10)

    def delete(self) -> None:
        self.cluster.kubectl("delete", "namespace", self.namespace, "--wait=false")

    @property
    def url(self) -> str:
        """Where the Step that takes orders answers: its Service's ClusterIP, to which this machine has a route."""
        return f"http://{self._cluster_ip(self.namespace, API_STEP)}"

    @property
    def nats_url(self) -> str:
        return f"nats://{self._cluster_ip(SYSTEM, 'nats')}:4222"

    def deployments(self) -> list[str]:
        """The Steps that have a Deployment, after a look at whether each Step has what it should have.

        Raises `DemoError` unless a Step with a cron trigger is a CronJob, a noop nothing, and any other a Deployment.
        """
        expected: dict[str, str] = {}
        for step in self._items("step"):
            kinds = [kind for trigger in step["spec"].get("triggers", []) for kind in trigger]
            if kinds:
                expected[step["metadata"]["name"]] = "CronJob" if kinds == ["cron"] else "Deployment"
        found = {item["metadata"]["name"]: item["kind"] for item in self._items("deployment,cronjob")}
        if found != expected:
            raise DemoError(f"expected each Step as {expected}, found {found}")
        return sorted(name for name, kind in expected.items() if kind == "Deployment")

    def delete_pods_of(self, step: str) -> list[str]:
        """Delete a Step's pods by force; their names."""
        return self._delete_pods(self.namespace, f"bema.dev/step={step}")

    def delete_nats(self) -> list[str]:
        """Delete the broker's pod by force; its name."""
        return self._delete_pods(SYSTEM, "app.kubernetes.io/name=nats")

    def report_by_hand(self, job: str = "report-by-hand") -> str:
        """Run the nightly report now, as an operator would; what its pod logged."""
        self._kubectl("create", "job", "--from=cronjob/nightly-report", job)
        self._kubectl("wait", "--for=condition=Complete", f"job/{job}", "--timeout=60s", seconds=70)
        return self._kubectl("logs", f"job/{job}")

    def describe(self) -> str:
        """What there is, for a failure's message."""
        return self._kubectl("get", "steps,pods", "-o", "wide")

    def _delete_pods(self, namespace: str, selector: str) -> list[str]:
        forced = ("--force", "--grace-period=0", "--wait=false")
        return self.cluster.kubectl("-n", namespace, "delete", "pod", "-l", selector, *forced, "-o", "name").split()

    def _items(self, kind: str) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = json.loads(self._kubectl("get", kind, "-o", "json"))["items"]
        return items

    def _cluster_ip(self, namespace: str, service: str) -> str:
        return self.cluster.kubectl("-n", namespace, "get", "service", service, "-o", "jsonpath={.spec.clusterIP}")

    def _kubectl(self, *arguments: str, input: str | None = None, seconds: float = 60) -> str:
        return self.cluster.kubectl("-n", self.namespace, *arguments, input=input, seconds=seconds)


def _render(folder: Path, image: str | None) -> str:
    command: Sequence[str] = (sys.executable, "-m", "bema_cli", "render", str(folder))
    if image is not None:
        command = (*command, "--image", image)
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ, check=False)
    if done.returncode:
        raise DemoError(f"`bema render` ended with code {done.returncode}: {done.stderr or done.stdout}")
    return done.stdout
