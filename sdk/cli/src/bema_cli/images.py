"""The runtime image: what Python finds inside it (the closure of the runtime's own requirements), and how to build
one with more in it."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from importlib import metadata
from pathlib import PurePosixPath

from packaging.requirements import Requirement

RUNTIME = "bema-runtime"


@functools.cache
def modules() -> frozenset[str]:
    """Top-level names that can be imported there, beside the standard library."""
    seen: set[tuple[str, str]] = set()
    waiting = [(RUNTIME, "")]
    found: set[str] = set()
    while waiting:
        name, extra = waiting.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            # A requirement for another platform.
            continue
        found |= _top_levels(name, distribution)
        for line in distribution.requires or []:
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                waiting += [(requirement.name, ""), *((requirement.name, extra) for extra in requirement.extras)]
    return frozenset(found)


def _top_levels(name: str, distribution: metadata.Distribution) -> set[str]:
    """The modules of a distribution. One that is installed for editing lists no files: then its name must do."""
    names = {name.replace("-", "_").lower()}
    for file in distribution.files or []:
        path = PurePosixPath(file)
        if path.suffix in (".py", ".so", ".pyd") and not path.parts[0].endswith((".dist-info", ".data")):
            names.add(path.parts[0].split(".")[0])
    return {found for found in names if found.isidentifier()}


def advice(*, packages: Sequence[str], places: Sequence[str]) -> str:
    """How to build an image with some packages, named as they are imported or installed, and the app's files:
    `places` are folders and files of the app."""
    # The runtime image has no pip: one that lasts for a line installs into the runtime's own environment.
    pip = "python3 -m venv /tmp/pip && /tmp/pip/bin/pip --python /opt/bema/bin/python install"
    known = metadata.packages_distributions()
    wanted = sorted({known.get(package, [package])[0] for package in packages})
    install = ["USER root", f"RUN {pip} {' '.join(wanted)} && rm -rf /tmp/pip", "USER 10001:10001"] if wanted else []
    lines = [
        f"FROM {RUNTIME}:{metadata.version(RUNTIME)}",
        *install,
        *(f"COPY {place} /app/{place}" for place in places),
    ]
    dockerfile = "\n".join(f"    {line}" for line in lines)
    return (
        f"An image of your own, by a Dockerfile such as\n{dockerfile}\nand then\n"
        "    docker build -t IMAGE . && docker push IMAGE\n"
        "    bema check --image IMAGE && bema render . --image IMAGE | kubectl apply -f -"
    )
