"""Bema in a test cluster, from the repository's own manifests: `crds/` and `deploy/`, with other images only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import yaml

ROOT = Path(__file__).parents[2]
NAMESPACE = "bema-system"


class Cluster(Protocol):
    """What is needed of a test cluster."""

    def kubectl(self, *arguments: str, input: str | None = None, seconds: float = 60) -> str: ...


@dataclass(frozen=True)
class Images:
    """References of images that every node has."""

    operator: str
    runtime: str
    nats: str


def manifests(images: Images) -> list[dict[str, Any]]:
    """Everything in `deploy/`, with these images."""
    found = [
        document
        for path in sorted((ROOT / "deploy").glob("*.yaml"))
        for document in yaml.safe_load_all(path.read_text())
    ]
    for manifest in found:
        name = (manifest["kind"], manifest["metadata"]["name"])
        if name == ("Deployment", "bema-operator"):
            [container] = manifest["spec"]["template"]["spec"]["containers"]
            container["image"] = images.operator
            _set(container, "BEMA_RUNTIME_IMAGE", images.runtime)
        if name == ("StatefulSet", "nats"):
            [container] = manifest["spec"]["template"]["spec"]["containers"]
            container["image"] = images.nats
    return found


def _set(container: dict[str, Any], name: str, value: str) -> None:
    [variable] = [item for item in container["env"] if item["name"] == name]
    variable["value"] = value


def install(cluster: Cluster, images: Images) -> None:
    """Apply everything and wait until it runs."""
    cluster.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(ROOT / "crds"))
    cluster.kubectl("wait", "--for=condition=Established", "crd/steps.bema.dev", "--timeout=30s")
    cluster.kubectl("apply", "-f", "-", input=yaml.safe_dump_all(manifests(images)))
    for workload in ("statefulset/nats", "deployment/bema-operator"):
        cluster.kubectl("-n", NAMESPACE, "rollout", "status", workload, "--timeout=120s", seconds=130)


def nats_url(cluster: Cluster) -> str:
    """The cluster's NATS, from the host."""
    address = cluster.kubectl("-n", NAMESPACE, "get", "service", "nats", "-o", "jsonpath={.spec.clusterIP}")
    return f"nats://{address}:4222"
