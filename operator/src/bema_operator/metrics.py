"""What the operator measures about itself, for Prometheus."""

from __future__ import annotations

import math
from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from bema_operator.settings import VERSION

_SECONDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30)


class Metrics:
    """One process's measures, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.reconciles = Histogram(
            "bema_operator_reconcile_seconds", "Time of a reconcile", registry=self.registry, buckets=_SECONDS
        )
        self.errors = Counter(
            "bema_operator_reconcile_errors", "Reconciles that failed, by error", ["error"], registry=self.registry
        )
        self.queue = Gauge("bema_operator_queue_length", "Steps in line", registry=self.registry)
        self.queue_age = Gauge("bema_operator_queue_age_seconds", "Age of the queue's head", registry=self.registry)
        self.writes = Counter(
            "bema_operator_writes", "Writes to the Kubernetes API", ["kind", "verb"], registry=self.registry
        )
        self.steps = Gauge("bema_operator_steps", "Steps that the operator knows", registry=self.registry)
        self._info = Gauge("bema_operator_info", "1, with the operator's version", ["version"], registry=self.registry)
        self._info.labels(VERSION).set(1)
        self.broker = Gauge("bema_operator_broker_connected", "1 while NATS is connected", registry=self.registry)
        self._broker_info = Gauge(
            "bema_operator_broker_info",
            "1, with the version of the NATS that is connected, or was last",
            ["version"],
            registry=self.registry,
        )
        self.skew = Gauge(
            "bema_operator_broker_clock_skew_seconds",
            "How far the clock of NATS is ahead of the operator's; NaN before it was compared",
            registry=self.registry,
        )
        self.skew.set(math.nan)
        self.orphans = Gauge(
            "bema_operator_orphans",
            "What waits for its removal: consumers of Steps, and streams of namespaces, that are gone",
            ["kind"],
            registry=self.registry,
        )
        self.swept = Counter("bema_operator_consumers_swept", "Orphaned consumers removed", registry=self.registry)
        self.streams_swept = Counter(
            "bema_operator_streams_swept", "Streams of removed namespaces removed", registry=self.registry
        )
        self.streams_lost = Counter(
            "bema_operator_streams_lost",
            "Streams that were found to be others than Steps had been subscribed to",
            ["app"],
            registry=self.registry,
        )
        self.purged = Counter(
            "bema_operator_purged_messages",
            "Messages removed from apps' streams, by what they were",
            ["app", "what"],
            registry=self.registry,
        )
        self.timers = Counter(
            "bema_operator_stuck_timers", "Overdue timers that were set again", ["app"], registry=self.registry
        )
        self.leftovers = Counter(
            "bema_operator_leftover_timers",
            "Timers that had fired, were there again, and were removed",
            ["app"],
            registry=self.registry,
        )
        self.storage = Gauge(
            "bema_operator_app_storage_ratio", "Used share of an app's storage", ["app"], registry=self.registry
        )

    def broker_version(self, version: Sequence[int]) -> None:
        """Which nats-server is connected."""
        self._broker_info.clear()
        self._broker_info.labels(".".join(map(str, version))).set(1)

    def text(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self.registry)
