"""Prometheus metrics, per Step. Names end in their unit."""

from __future__ import annotations

from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_LABELS = ("app", "step")
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900)
_SIZES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


class Metrics:
    """All metrics of a process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.runs = Counter(
            "bema_runs",
            "Ended runs, by kind of trigger and outcome",
            registry=self.registry,
            labelnames=(*_LABELS, "kind", "outcome"),
        )
        self.seconds = Histogram(
            "bema_attempt_seconds",
            "Time of one execution of a handler",
            _LABELS,
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.retries = Counter(
            "bema_retries", "Attempts that failed and will be made again", _LABELS, registry=self.registry
        )
        self.dead_letters = Counter("bema_dead_letters", "Runs that failed for good", _LABELS, registry=self.registry)
        self.conflicts = Counter(
            "bema_conflicts",
            "Runs executed again because what they had read was changed",
            _LABELS,
            registry=self.registry,
        )
        self.in_flight = Gauge("bema_runs_in_flight", "Runs in hand", _LABELS, registry=self.registry)
        self.commit_runs = Histogram(
            "bema_commit_runs", "Runs in one atomic batch", buckets=_SIZES, registry=self.registry
        )
        self.commit_messages = Histogram(
            "bema_commit_messages", "Messages in one atomic batch", buckets=_SIZES, registry=self.registry
        )
        self.hot_keys = Counter(
            "bema_hot_key_conflicts",
            "Conflicts by state group",
            registry=self.registry,
            labelnames=("app", "group"),
        )

    def of(self, app: str, step: str) -> StepMetrics:
        labels = (app, step)
        return StepMetrics(
            app=app,
            step=step,
            runs=self.runs,
            ok={kind: self.runs.labels(*labels, kind, "ok") for kind in ("api", "event", "cron")},
            seconds=self.seconds.labels(*labels),
            retries=self.retries.labels(*labels),
            dead_letters=self.dead_letters.labels(*labels),
            conflicts=self.conflicts.labels(*labels),
            in_flight=self.in_flight.labels(*labels),
        )


@dataclass(frozen=True, slots=True)
class StepMetrics:
    """The metrics of one Step, labels bound."""

    app: str
    step: str
    runs: Counter
    ok: dict[str, Counter]
    seconds: Histogram
    retries: Counter
    dead_letters: Counter
    conflicts: Counter
    in_flight: Gauge

    def ended(self, kind: str, outcome: str) -> None:
        self.runs.labels(self.app, self.step, kind, outcome).inc()
