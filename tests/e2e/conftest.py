"""A real Kubernetes for all e2e tests, and its logs where one of them fails. `CLUSTER=kind` asks for one of kind's."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager

import pytest

from tests.support.spaces import Space
from tools import installs, kind_clusters
from tools.cluster import clusters
from tools.kubernetes import Kubernetes

KIND = os.environ.get("CLUSTER") == "kind"
NAME = os.environ.get("BEMA_E2E_CLUSTER") or "e2e"
"""The cluster's name: two worktrees of one machine do not share one."""
NUMBERS = itertools.count(1)
RUN = format(int(time.time()) % 36**4, "x")

collect_ignore = ["test_cluster.py", "test_nodes.py"] if KIND else []
"""What is about the clusters of `tools.cluster`."""


@pytest.fixture(scope="session")
def cluster() -> Iterator[Kubernetes]:
    """A cluster of this session's own, checked to be the one that it started."""
    made: AbstractContextManager[Kubernetes] = kind_clusters.running(f"bema-{NAME}") if KIND else clusters.running(NAME)
    with made as running:
        running.verify()
        yield running


@pytest.fixture(scope="module")
def installed(cluster: Kubernetes) -> Kubernetes:
    """The cluster with Bema on it, as `deploy/` says."""
    cluster.verify()
    installs.install(cluster)
    return cluster


@pytest.fixture
def space(installed: Kubernetes) -> Iterator[Space]:
    """A namespace of a test's own, which enforces the restricted Pod Security Standard."""
    name = f"op-{RUN}-{next(NUMBERS)}"
    installed.kubectl("create", "namespace", name)
    installed.kubectl("label", "namespace", name, "pod-security.kubernetes.io/enforce=restricted")
    installs.let_in(installed, name)
    yield Space(installed, name)
    installed.kubectl("delete", "namespace", name, "--wait=false")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """A machine that nobody can see must tell what happened: events, pods and component logs go into the report."""
    report = yield
    running = getattr(item, "funcargs", {}).get("cluster")
    if report.failed and running is not None:  # type: ignore[attr-defined]
        report.sections.append(("the cluster", running.dump_logs()))  # type: ignore[attr-defined]
    return report
