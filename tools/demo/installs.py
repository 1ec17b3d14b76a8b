"""Bema on a test cluster: our images built and loaded, the CRD and `deploy/` applied; and the orders image."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import yaml
from tools.cluster import paths, stages
from tools.cluster.clusters import Cluster
from tools.images import bases, builders, catalogues, engines, wheels
from tools.images.builders import Built

SYSTEM = "bema-system"
ORDERS_IMAGE = "localhost/orders:dev"
ANNOTATION_ARCHIVE = "bema.dev/archive"
IMAGES = ("runtime", "operator", "nats")


def install(cluster: Cluster) -> Built:
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
        cluster.kubectl("wait", "--for=condition=Established", "crd/steps.bema.dev", "--timeout=30s")
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


def orders_image(cluster: Cluster, runtime: Built, app: Path) -> str:
    """The orders app as an image on the runtime's, in the cluster; its name."""
    engine = engines.find()
    base = bases.ensure(engine)
    context = paths.REPOSITORY / "build" / "demo" / "orders-image"
    shutil.rmtree(context, ignore_errors=True)
    shutil.copytree(app, context, ignore=shutil.ignore_patterns(".bema", "__pycache__", "orders.txt"))
    requirements = [line for line in (app / "requirements.txt").read_text().splitlines() if line and line[0] != "#"]
    wheels.prepare(wheels.Request(requirements=requirements, python=base.python), context / "wheels")
    # The archive's name is no argument of the Dockerfile: it is there so that a new runtime makes a new image.
    arguments = {"RUNTIME": runtime.reference, "PIP_NO_INDEX": "1", "RUNTIME_ARCHIVE": runtime.archive.name}
    image = builders.build_on(
        base, engine, context / "Dockerfile", context=context, reference=ORDERS_IMAGE, arguments=arguments
    )
    with stages.stage("orders image into the cluster"):
        cluster.load(image.archive)
    return image.reference
