"""A real Kubernetes for all e2e tests, and its logs where one of them fails."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tools.cluster import clusters


@pytest.fixture(scope="session")
def cluster() -> Iterator[clusters.Cluster]:
    """A cluster of this session's own, checked to be the one that it started."""
    with clusters.running(os.environ.get("BEMA_E2E_CLUSTER") or "e2e") as running:
        running.verify()
        yield running


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """A machine that nobody can see must tell what happened: events, pods and component logs go into the report."""
    report = yield
    running = getattr(item, "funcargs", {}).get("cluster")
    if report.failed and isinstance(running, clusters.Cluster):  # type: ignore[attr-defined]
        report.sections.append(("the cluster", running.dump_logs()))  # type: ignore[attr-defined]
    return report
