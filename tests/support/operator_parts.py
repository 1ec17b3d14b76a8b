"""Parts of the operator for a Step that has no others beside it, no App and no ConfigMaps on which it is restarted."""

from __future__ import annotations

from typing import Any

from bema.contract.bindings import AppStream, Binding
from bema_operator import brokers, caches, contents, kube, metrics, reconciles
from bema_operator.brokers import Broker
from bema_operator.facts import Key, Subscription
from bema_operator.settings import Settings

NOW = "2026-02-02T00:00:00Z"


async def _nobody(step: str) -> bool:
    return False


ALONE = brokers.Others(adopters=(), rivals=(), exists=_nobody)


async def ensure(
    broker: Broker,
    key: Key,
    binding: Binding,
    *,
    stream: AppStream | None = None,
    discards: frozenset[str] = frozenset(),
) -> Subscription:
    """Ask the operator's side of the broker for a Step's place; `stream`: by default as the Binding has it."""
    return await broker.ensure(key, binding, stream=stream or binding.stream, discards=discards, others=ALONE)


def reconciler(
    settings: Settings, cache: caches.Cache, api: kube.Kube, broker: Broker, measures: metrics.Metrics
) -> reconciles.Reconciler:
    """One for which time stands still."""
    clocks: dict[str, Any] = {"clock": lambda: 0.0, "time": lambda: NOW}
    found = contents.Contents(api, settings.namespace, look_at=lambda key: None, hear=lambda: None)
    return reconciles.Reconciler(settings, cache, api, broker, contents=found, measures=measures, **clocks)
