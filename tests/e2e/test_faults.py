"""A bad week: two operators by mistake, a CRD of another age, servers that are gone, an operator that dies between any
two of its writes, a cluster built anew. Where no pod is needed, the operator is a process of the test."""

from __future__ import annotations

import itertools
import json
import os
import signal
import time
from collections.abc import Iterator

import pytest

from bema.contract import names
from bema_operator import leases
from tests.support import operators, waits
from tests.support.operators import Stage
from tests.support.spaces import EVENT, Space, step
from tools import installs
from tools.cluster.clusters import Cluster
from tools.kubernetes import Kubernetes

pytestmark = pytest.mark.e2e

NUMBERS = itertools.count(1)
RUN = format(int(time.time()) % 36**4, "x")
LEASE = f"--lease-namespace={installs.SYSTEM}"


def new_space(cluster: Kubernetes) -> Space:
    name = f"fault-{RUN}-{next(NUMBERS)}"
    cluster.kubectl("create", "namespace", name)
    return Space(cluster, name)


@pytest.fixture(scope="module")
def played(installed: Kubernetes, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """The operators of these tests are processes of theirs."""
    if not isinstance(installed, Cluster):
        pytest.skip("needs the certificates of the API server, which a cluster of kind's keeps to itself")
    with operators.stage(installed, tmp_path_factory.mktemp("stage")) as found:
        yield found


@pytest.fixture
def space(played: Stage) -> Iterator[Space]:
    found = new_space(played.cluster)
    yield found
    found.cluster.kubectl("delete", "namespace", found.name, "--wait=false")


def holder(cluster: Kubernetes) -> str:
    """Who the Lease says acts."""
    return cluster.kubectl("-n", installs.SYSTEM, "get", "lease", names.LEASE, "-o=jsonpath={.spec.holderIdentity}")


def test_of_two_operators_one_acts_and_the_other_says_which(played: Stage, space: Space) -> None:
    with (
        played.operator("first", LEASE, "--lease-holder=first") as first,
        played.operator("second", LEASE, "--lease-holder=second", is_ready=False) as second,
    ):
        waits_for = "first holds the Lease bema-system/bema-operator, and acts; this operator, second, waits"
        waits.until_sync(lambda: second.problems() == [waits_for], "the second to wait", timeout=15)
        assert second.problems("livez") == []
        assert waits_for in second.last_words()
        space.apply(step("orders", EVENT, replicas=0))
        space.wait_ready("orders")
        assert "Made" not in second.last_words()
        # One that was told to end lets the other begin at once.
        first.stop()
        began = time.monotonic()
        second.wait_ready(leases.LOOK_PAUSE + 8)
        print(f"\ntaken over after a release in {time.monotonic() - began:.1f} s")
        assert holder(played.cluster) == "second"
        space.apply(step("more", EVENT, replicas=0))
        space.wait_ready("more")


def test_the_place_of_an_operator_that_died_is_taken_after_the_lease_is_over(played: Stage, space: Space) -> None:
    with (
        played.operator("first", LEASE, "--lease-holder=first") as first,
        played.operator("second", LEASE, "--lease-holder=second", is_ready=False) as second,
    ):
        waits.until_sync(lambda: bool(second.problems()), "the second to wait", timeout=15)
        began = time.monotonic()
        first.kill()
        first.wait_exit(5)
        # The same operator started again, as a container in its pod is, goes on at once.
        first.start()
        first.wait_ready(10)
        print(f"\nback after a crash in {time.monotonic() - began:.1f} s")
        assert holder(played.cluster) == "first"
        began = time.monotonic()
        first.kill()
        second.wait_ready(leases.DURATION + leases.RENEW_PAUSE + 10)
        seconds = time.monotonic() - began
        print(f"taken over from the dead in {seconds:.1f} s")
        assert seconds > leases.PATIENCE, "the first might have been at work still"
        space.apply(step("orders", EVENT, replicas=0))
        space.wait_ready("orders")


def test_an_operator_that_loses_its_lease_stops_at_once(played: Stage, space: Space) -> None:
    with played.operator("first", LEASE, "--lease-holder=first") as first:
        before = played.proxy.lease_calls
        spec = {"holderIdentity": "somebody-else", "leaseDurationSeconds": 15}
        change = ("patch", "lease", names.LEASE, "--type=merge", "-p", json.dumps({"spec": spec}))
        played.cluster.kubectl("-n", installs.SYSTEM, *change)
        assert first.wait_exit(leases.RENEW_PAUSE + 5) == 71
        assert played.proxy.lease_calls - before <= 3
        space.apply(step("orders", EVENT, replicas=0))
        # Started again, it waits for who it believes to act.
        first.start()
        waits.until_sync(lambda: "somebody-else" in str(first.problems()), "the first to wait", timeout=10)
        assert space.get("deployment", "orders") is None
        first.wait_ready(leases.DURATION + 10)
        space.wait_ready("orders")


def test_a_paused_operator_begins_nothing_when_it_wakes_up(played: Stage, space: Space) -> None:
    """As when its node was suspended: by then another one may act."""
    with played.operator("first", LEASE, "--lease-holder=first") as first:
        os.kill(first.pid, signal.SIGSTOP)
        with played.operator("second", LEASE, "--lease-holder=second", is_ready=False) as second:
            second.wait_ready(leases.DURATION + leases.RENEW_PAUSE + 15)
            space.apply(step("orders", EVENT, replicas=0))
            space.wait_ready("orders")
            before = list(played.proxy.writes)
            os.kill(first.pid, signal.SIGCONT)
            assert first.wait_exit(leases.RENEW_PAUSE + 10) == 71
            assert played.proxy.writes == before
