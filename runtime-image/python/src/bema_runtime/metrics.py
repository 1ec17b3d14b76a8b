"""Prometheus metrics, per Step. Names end in their unit.

Counted in plain numbers, since only the engine's thread counts and every event does; turned into Prometheus' families
when somebody scrapes.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from bema.contract.retentions import Level, Quota

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900)
_SIZES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
_LABELS = ("app", "step")


class Histogram:
    """Observations by upper bound."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def add_to(self, family: HistogramMetricFamily, labels: tuple[str, ...]) -> None:
        names = [*(str(float(bound)) for bound in self._bounds), "+Inf"]
        family.add_metric(labels, list(zip(names, accumulate(self._counts), strict=True)), self._sum)


class StepMetrics:
    """What is counted of one Step."""

    def __init__(self, app: str, step: str) -> None:
        self.app = app
        self.step = step
        self.runs: Counter[tuple[str, str]] = Counter()
        """Ended runs, by kind of trigger and outcome."""
        self.seconds = Histogram(_SECONDS)
        self.retries = 0
        self.dead_letters = 0
        self.conflicts = 0
        self.in_flight: Callable[[], int] = lambda: 0
        self.partitions: Callable[[], int] | None = None
        """Partitions that this process pulls, of an ordered Step."""


class Metrics(Collector):
    """All metrics of a process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.commit_runs = Histogram(_SIZES)
        self.commit_messages = Histogram(_SIZES)
        self.hot_keys: Counter[tuple[str, str]] = Counter()
        """Conflicts, by app and state group."""
        self.storage: dict[str, Callable[[], Quota]] = {}
        """How full the storage is, by app."""
        self._steps: list[StepMetrics] = []
        self.registry.register(self)

    def of(self, app: str, step: str) -> StepMetrics:
        metrics = StepMetrics(app, step)
        self._steps.append(metrics)
        return metrics

    def collect(self) -> Iterator[Metric]:
        runs = CounterMetricFamily("bema_runs", "Ended runs", labels=(*_LABELS, "kind", "outcome"))
        seconds = HistogramMetricFamily("bema_attempt_seconds", "Time of one execution of a handler", labels=_LABELS)
        for step in self._steps:
            for (kind, outcome), count in step.runs.items():
                runs.add_metric((step.app, step.step, kind, outcome), count)
            step.seconds.add_to(seconds, (step.app, step.step))
        yield runs
        yield seconds
        yield self._counter("bema_retries", "Attempts that failed and are made again", lambda step: step.retries)
        yield self._counter("bema_dead_letters", "Runs that failed for good", lambda step: step.dead_letters)
        text = "Runs executed again because what they had read was changed"
        yield self._counter("bema_conflicts", text, lambda step: step.conflicts)
        yield self._in_flight()
        yield self._partitions()
        yield from self._commits()
        hot = CounterMetricFamily("bema_hot_key_conflicts", "Conflicts by state group", labels=("app", "group"))
        for (app, group), count in self.hot_keys.items():
            hot.add_metric((app, group), count)
        yield hot
        yield from self._storage()

    def describe(self) -> Iterable[Metric]:
        """Nothing is known before the first scrape."""
        return ()

    def _counter(self, name: str, text: str, count: Callable[[StepMetrics], int]) -> Metric:
        family = CounterMetricFamily(name, text, labels=_LABELS)
        for step in self._steps:
            family.add_metric((step.app, step.step), count(step))
        return family

    def _in_flight(self) -> Metric:
        family = GaugeMetricFamily("bema_runs_in_flight", "Runs in hand", labels=_LABELS)
        for step in self._steps:
            family.add_metric((step.app, step.step), step.in_flight())
        return family

    def _storage(self) -> Iterator[Metric]:
        ratio = GaugeMetricFamily("bema_app_storage_ratio", "Used share of the app's storage", labels=("app",))
        level = GaugeMetricFamily(
            "bema_app_storage_level", "0: room; 1: no events are added from outside; 2: events wait", labels=("app",)
        )
        for app, quota in self.storage.items():
            ratio.add_metric((app,), quota().share)
            level.add_metric((app,), list(Level).index(quota().level))
        yield ratio
        yield level

    def _partitions(self) -> Metric:
        family = GaugeMetricFamily("bema_partitions", "Partitions of an ordered Step that are pulled", labels=_LABELS)
        for step in self._steps:
            if step.partitions is not None:
                family.add_metric((step.app, step.step), step.partitions())
        return family

    def _commits(self) -> Iterator[Metric]:
        runs = HistogramMetricFamily("bema_commit_runs", "Runs in one atomic batch", labels=())
        self.commit_runs.add_to(runs, ())
        yield runs
        messages = HistogramMetricFamily("bema_commit_messages", "Messages in one atomic batch", labels=())
        self.commit_messages.add_to(messages, ())
        yield messages
