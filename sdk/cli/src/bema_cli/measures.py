"""What the operator measures about itself, read from Prometheus' text format. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

_SAMPLE = re.compile(r"(?P<name>[a-zA-Z_:][\w:]*)(?:\{(?P<labels>.*)\})? (?P<value>\S+)(?: \S+)?")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


@dataclass(frozen=True, slots=True)
class Sample:
    name: str
    labels: Mapping[str, str]
    value: float


@dataclass(frozen=True, slots=True)
class Measures:
    """The samples of one process at one moment."""

    samples: tuple[Sample, ...]

    def value(self, name: str, **labels: str) -> float | None:
        """A sample's value; None when there is none, or none yet."""
        for sample in self.samples:
            if sample.name == name and all(sample.labels.get(key) == value for key, value in labels.items()):
                return None if math.isnan(sample.value) else sample.value
        return None

    def label(self, name: str, label: str) -> str | None:
        """A label of the one sample of that name, such as the version in an info."""
        return next((sample.labels.get(label) for sample in self.samples if sample.name == name), None)

    def by(self, name: str, label: str) -> dict[str, float]:
        """The values of all samples of a name, by a label."""
        return {sample.labels.get(label, ""): sample.value for sample in self.samples if sample.name == name}


def parse(text: str) -> Measures:
    """Lines that are no samples are passed over."""
    found = []
    for line in text.splitlines():
        matched = None if line.startswith("#") else _SAMPLE.fullmatch(line.strip())
        if matched is None:
            continue
        try:
            value = float(matched["value"])
        except ValueError:
            continue
        labels = {key: re.sub(r"\\(.)", r"\1", text) for key, text in _LABEL.findall(matched["labels"] or "")}
        found.append(Sample(matched["name"], labels, value))
    return Measures(tuple(found))
