"""The orders app as an image of its own, built on the runtime's image with its requirements."""

from __future__ import annotations

import shutil
from pathlib import Path

from tools.cluster import paths, stages
from tools.images import bases, builders, engines, wheels
from tools.images.builders import Built
from tools.kubernetes import Kubernetes

ORDERS_IMAGE = "localhost/orders:dev"


def orders_image(cluster: Kubernetes, runtime: Built, app: Path) -> str:
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
