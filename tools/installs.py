"""Bema on a test cluster: our images built and loaded, the CRD and `deploy/` applied."""

from __future__ import annotations

import json
from typing import Any

import yaml

from bema.contract import crds
from tools.cluster import paths, stages
from tools.images import catalogues
from tools.images.builders import Built
from tools.kubernetes import Kubernetes

SYSTEM = "bema-system"
ANNOTATION_ARCHIVE = "bema.dev/archive"
CRDS = tuple(f"crd/{kind.full_name}" for kind in crds.ALL)
IMAGES = ("runtime", "operator", "nats")

_CLIENTS = {
    "apiVersion": "networking.k8s.io/v1",
    "kind": "NetworkPolicy",
    "metadata": {"name": "clients-outside"},
    "spec": {"podSelector": {}, "policyTypes": ["Ingress"], "ingress": [{}]},
}


def install(cluster: Kubernetes) -> Built:
    """Bring up Bema, or what has changed of it; the runtime's image."""
    built = {name: catalogues.build(name) for name in IMAGES}
    with stages.stage("images into the cluster"):
        for image in built.values():
            cluster.load(image.archive)
    with stages.stage("CRD, operator and NATS"):
        cluster.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(paths.REPOSITORY / "crds"))
        cluster.kubectl(
            "apply", "-f", "-", input=json.dumps({"apiVersion": "v1", "kind": "List", "items": manifests(built)})
        )
        cluster.kubectl("wait", "--for=condition=Established", *CRDS, "--timeout=30s")
        for workload in ("statefulset/nats", "deployment/bema-operator"):
            cluster.kubectl("-n", SYSTEM, "rollout", "status", workload, "--timeout=120s", seconds=130)
    return built["runtime"]


def manifests(built: dict[str, Built]) -> list[dict[str, Any]]:
    """The objects of `deploy/`, namespace first, with the images that were built. An image's tag stays the same when
    its content changes, so the archive's name is noted on the pods: a new one replaces them."""
    text = "---\n".join(path.read_text() for path in sorted((paths.REPOSITORY / "deploy").glob("*.yaml")))
    for name, image in built.items():
        text = text.replace(f"bema-{name}:0.1.0", image.reference)
    items: list[dict[str, Any]] = [item for item in yaml.safe_load_all(text) if item]
    archives = " ".join(image.archive.name for image in built.values())
    for item in items:
        template = item.get("spec", {}).get("template")
        if template:
            template["metadata"].setdefault("annotations", {})[ANNOTATION_ARCHIVE] = archives
    return sorted(items, key=lambda item: item["kind"] != "Namespace")


def let_in(cluster: Kubernetes, namespace: str) -> None:
    """Let this machine reach the pods of a namespace, where the cluster's network enforces the Steps' policies."""
    cluster.kubectl("--namespace", namespace, "apply", "-f", "-", input=json.dumps(_CLIENTS))


def nats_url(cluster: Kubernetes) -> str:
    """The cluster's NATS, from the host."""
    address = cluster.kubectl("-n", SYSTEM, "get", "service", "nats", "-o", "jsonpath={.spec.clusterIP}")
    return f"nats://{address}:4222"
