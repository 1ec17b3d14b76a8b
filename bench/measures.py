"""How figures are taken: rounds of product and baseline in turn, medians, spreads, and CPU seconds of processes."""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Round:
    """One round of either side."""

    value: float
    cpu_per_operation: float
    """CPU seconds of the process that did the work."""


@dataclass(frozen=True, slots=True)
class Measure:
    """A figure as it is reported."""

    measure: str
    value: float
    unit: str
    baseline: float
    ratio: float
    """Median of the ratios product / baseline, each of one pair of rounds."""
    goal: str
    ratio_low: float
    ratio_high: float
    cpu_us_per_operation: float
    baseline_cpu_us_per_operation: float
    rounds: int

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def measure(name: str, unit: str, goal: str, product: list[Round], baseline: list[Round]) -> Measure:
    """A figure from paired rounds."""
    ratios = sorted(p.value / b.value for p, b in zip(product, baseline, strict=True))
    return Measure(
        measure=name,
        value=statistics.median(r.value for r in product),
        unit=unit,
        baseline=statistics.median(r.value for r in baseline),
        ratio=statistics.median(ratios),
        goal=goal,
        ratio_low=ratios[0],
        ratio_high=ratios[-1],
        cpu_us_per_operation=statistics.median(r.cpu_per_operation for r in product) * 1e6,
        baseline_cpu_us_per_operation=statistics.median(r.cpu_per_operation for r in baseline) * 1e6,
        rounds=len(ratios),
    )


def cpu_seconds(pid: int) -> float:
    """CPU time of a process so far, user and system, of the threads that it has: in ns, where /proc/<pid>/stat counts
    whole hundredths of a second."""
    return sum(int(file.read_text().split()[0]) for file in Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1e9
