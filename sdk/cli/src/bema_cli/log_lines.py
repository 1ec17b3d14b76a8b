"""Lines that pods have logged: read, chosen and brought in order. Pure.

Each comes with the time at which the node wrote it down, which orders lines of all pods, JSON or not.
"""

from __future__ import annotations

import datetime
import heapq
import json
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

NANOS = 1_000_000_000

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")

_STAMP = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:]{8})(?:\.([0-9]{1,9}))?(Z|[+-][0-9]{2}:[0-9]{2})")


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a pod's log."""

    pod: str
    at: int
    """When the node wrote it down, in nanoseconds since 1970."""
    text: str
    record: Mapping[str, Any] | None
    """What it says, where it is a record of the runtime: an object with a message."""

    @property
    def time(self) -> str:
        """`at` in RFC 3339, to the millisecond."""
        return rfc3339(self.at)


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Which lines are wanted."""

    trace: str | None = None
    """Of this trace: its id, or the end of it."""
    level: str | None = None
    """Of this level or a higher one."""
    since: int = 0
    """Written down at this time or later, in nanoseconds since 1970."""

    @property
    def needs_records(self) -> bool:
        """Whether lines are left out by what they say, so that nobody but us can count them."""
        return self.trace is not None or self.level is not None

    def takes(self, line: Line) -> bool:
        if line.at < self.since:
            return False
        if not self.needs_records:
            return True
        if line.record is None:
            return False
        if self.trace is not None and not str(line.record.get("trace", "")).endswith(self.trace):
            return False
        return self.level is None or _number(line.record.get("level")) >= _number(self.level)


def _number(level: Any) -> int:
    return logging.getLevelNamesMapping().get(str(level).upper(), 0)


@dataclass(slots=True)
class Position:
    """How far a pod's log was read. A log is read again from a whole second on; what was read before is left out."""

    at: int = 0
    """The time of the last line, in nanoseconds since 1970."""
    count: int = 0
    """How many lines of that very time were read."""
    _again: int = 0
    """How many lines of that time have come again since `rewind`."""

    def rewind(self) -> None:
        """The log is read again."""
        self._again = 0

    def passes(self, line: Line) -> bool:
        """Whether the line is a new one; if so, the position moves on."""
        if line.at < self.at:
            return False
        if line.at == self.at and self._again < self.count:
            self._again += 1
            return False
        self.count = self.count + 1 if line.at == self.at else 1
        self._again = self.count
        self.at = line.at
        return True


def parse(pod: str, data: bytes) -> Line | None:
    """A line as the API server gives it with `timestamps`; None when it comes without its time."""
    stamp, _, text = data.decode("utf-8", "replace").partition(" ")
    at = nanos(stamp)
    return None if at is None else Line(pod, at, text, _record(text))


def _record(text: str) -> Mapping[str, Any] | None:
    if not text.startswith("{"):
        return None
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, dict) and "message" in found else None


def nanos(stamp: str) -> int | None:
    """RFC 3339 with up to nine decimals, in nanoseconds since 1970."""
    found = _STAMP.fullmatch(stamp)
    if found is None:
        return None
    whole = datetime.datetime.fromisoformat(found[1] + found[3])
    return int(whole.timestamp()) * NANOS + int((found[2] or "").ljust(9, "0"))


def rfc3339(at: int) -> str:
    moment = datetime.datetime.fromtimestamp(at // NANOS, datetime.UTC).replace(microsecond=at % NANOS // 1000)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def since_time(at: int) -> str:
    """A time as the API server takes it: in whole seconds, before rather than after."""
    return datetime.datetime.fromtimestamp(at // NANOS, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def merged(logs: Iterable[Sequence[Line]]) -> list[Line]:
    """Lines of all pods in the order of their times; those of one pod stay as they were written."""
    return list(heapq.merge(*logs, key=lambda line: line.at))


def last(lines: Sequence[Line], count: int | None) -> Sequence[Line]:
    """The last `count` lines; None for all."""
    return lines if count is None else lines[max(0, len(lines) - count) :]


def plain(line: Line) -> dict[str, Any]:
    """For programs: the record itself, or the text, with the pod that said it."""
    if line.record is not None:
        return {"pod": line.pod, **{key: value for key, value in line.record.items() if key != "pod"}}
    return {"pod": line.pod, "time": line.time, "text": line.text}
