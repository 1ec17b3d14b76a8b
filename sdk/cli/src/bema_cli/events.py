"""What happens in `bema dev`, for whoever follows it: a person at a terminal, or a program that reads JSON lines."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Running:
    """A Step that runs, or a noop that is drawn."""

    name: str
    file: str
    endpoints: Sequence[tuple[str, str]] = ()
    """Method and URL."""
    topics: Sequence[str] = ()
    schedules: Sequence[str] = ()
    groups: Sequence[str] = ()
    """Groups of the state that it watches."""


@dataclass(frozen=True, slots=True)
class Ready:
    """A worker takes requests and events."""

    app: str
    worker: int
    """Its pid."""
    reason: str
    """`start`, `reload`, or `restart` after its predecessor died."""
    seconds: float
    url: str | None
    metrics: str
    nats: str
    steps: Sequence[Running]


@dataclass(frozen=True, slots=True)
class Idle:
    """There is nothing to run; it goes on when files change."""

    text: str


@dataclass(frozen=True, slots=True)
class Reload:
    """A worker is about to be replaced."""

    files: Sequence[str]
    """Step files that changed, or whose modules did; `.env`."""


@dataclass(frozen=True, slots=True)
class Problems:
    """What is wrong in the folder now; empty when nothing is any more."""

    problems: Sequence[Mapping[str, Any]]
    """Each with file, line and message."""


@dataclass(frozen=True, slots=True)
class Note:
    """Something worth a line."""

    text: str
    level: str = "info"
    """`info` or `warning`."""


@dataclass(frozen=True, slots=True)
class WorkerExit:
    """The worker ended without being told to."""

    worker: int
    ending: str
    """Exit code or signal, in words."""
    restart_seconds: float


@dataclass(frozen=True, slots=True)
class Log:
    """A record that a worker logged."""

    record: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Output:
    """A line that a worker wrote and that is no record."""

    text: str


@dataclass(frozen=True, slots=True)
class Stopping:
    """Asked to stop: the worker drains."""


@dataclass(frozen=True, slots=True)
class Stopped:
    """Nothing runs any more."""


Event = Ready | Idle | Reload | Problems | Note | WorkerExit | Log | Output | Stopping | Stopped


def heard(line: str) -> Log | Output:
    """What a line of a worker's output is."""
    try:
        record = json.loads(line)
    except ValueError:
        return Output(line)
    if isinstance(record, dict) and {"time", "level", "message"} <= record.keys():
        return Log(record)
    return Output(line)


def plain(event: Event) -> dict[str, Any]:
    """An event as JSON-ready values, its name first: `worker-exit` for `WorkerExit`."""
    return {"event": name_of(type(event)), **dataclasses.asdict(event)}


def name_of(event: type[Event]) -> str:
    """How JSON names a type of event."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", event.__name__).lower()
