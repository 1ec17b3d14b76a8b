"""How the operator's parts are wired: what keeps it from acting, and what says that it is stuck."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from bema_operator import kinds, kube, leases, queues
from bema_operator.__main__ import STUCK_SECONDS, Operator
from bema_operator.facts import Key
from bema_operator.settings import Settings

KEY = Key("shop", "app")


class Broker:
    """Says that it is connected, and counts how often it is asked for anything."""

    is_connected = True

    def __init__(self) -> None:
        self.asked = 0

    async def look(self) -> None:
        self.asked += 1

    def shortfall(self, namespace: str) -> str:
        self.asked += 1
        return ""


@pytest.fixture
async def operator() -> AsyncIterator[Operator]:
    """One that waits for its Lease, of an API server that nobody asks for anything."""
    found = Operator(Settings(lease_namespace="bema-system"), kube.Access(host="http://127.0.0.1:9"))
    yield found
    await found.api.close()
    assert found.lease is not None
    await found.lease.close()


@pytest.mark.parametrize("act", ["_look_at_backlogs", "_clean", "_sweep"])
async def test_without_the_lease_nothing_is_begun_from_time_to_time(operator: Operator, act: str) -> None:
    broker: Any = Broker()
    operator.broker = broker
    with pytest.raises(leases.NotHeld):
        await getattr(operator, act)()
    assert broker.asked == 0


@pytest.mark.parametrize("workers", ["workers", "app_workers"])
async def test_without_the_lease_no_step_and_no_app_is_worked_on(operator: Operator, workers: str) -> None:
    broker: Any = Broker()
    operator.apps._broker = broker
    metadata = {"name": "app", "namespace": "shop", "uid": "u", "generation": 1, "resourceVersion": "1"}
    operator.cache.put(kinds.APP, {"metadata": {**metadata, "creationTimestamp": ""}})
    found: queues.Workers = getattr(operator, workers)
    found.add(KEY)
    await found.run_until_idle()
    assert found.queue.failures == {KEY: 1}, "it comes back"
    assert broker.asked == 0


@pytest.mark.parametrize(("workers", "what"), [("workers", "Steps"), ("app_workers", "Apps")])
async def test_a_queue_that_stands_still_is_named(operator: Operator, workers: str, what: str) -> None:
    now = 0.0
    operator._clock = lambda: now
    operator.is_filled = True
    found: queues.Workers = getattr(operator, workers)
    found.queue.add(KEY, 0)
    found.queue.take(0)
    now = STUCK_SECONDS
    assert operator.alive() == []
    now = STUCK_SECONDS + 1
    assert operator.alive() == [f"the queue of {what} has not moved for 301 s"]
