"""The history: what the outside did and saw, as JSON lines, in the order in which it happened.

Three kinds of lines: a user's (`invoke`, then one of `ok`, `fail` and `unknown`), a fault's (`fault`), and the plan's
(`plan`), which says what the bank was like. Times are seconds of this machine's monotonic clock, which every process
shares.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Line = Mapping[str, Any]


class Recorder:
    """Appends to a history's file; each line is there for readers at once."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._stream = file.open("a", buffering=1, encoding="utf-8")

    def add(self, kind: str, process: str, **more: object) -> None:
        self._stream.write(json.dumps({"type": kind, "process": process, "at": time.monotonic(), **more}) + "\n")

    def close(self) -> None:
        self._stream.close()


def read(file: Path) -> list[Line]:
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


@dataclass(slots=True)
class Asked:
    """A transfer, and what its user knows of it after all times it was sent."""

    data: Mapping[str, Any]
    poison: bool
    order: str | None
    """The key within which transfers have to be applied in the order in which they were stored; None: in any."""
    invoked: int = 0
    oks: list[int] = field(default_factory=list)
    """Where in the stream, for each time it was stored."""
    fails: int = 0

    @property
    def acknowledged(self) -> bool:
        return bool(self.oks)

    @property
    def refused(self) -> bool:
        """Each time the broker said no: it cannot have happened. Anything else may have."""
        return self.invoked == self.fails


def asked(lines: Iterable[Line]) -> dict[str, Asked]:
    """The transfers of a history, by their ids."""
    found: dict[str, Asked] = {}
    for line in lines:
        match line["type"]:
            case "invoke":
                new = Asked(line["data"], bool(line.get("poison")), line.get("order"))
                found.setdefault(line["id"], new).invoked += 1
            case "ok":
                found[line["id"]].oks.append(int(line["sequence"]))
            case "fail":
                found[line["id"]].fails += 1
    return found


def faults(lines: Iterable[Line]) -> dict[str, list[Line]]:
    """The faults of a history, by their names."""
    found: dict[str, list[Line]] = defaultdict(list)
    for line in lines:
        if line["type"] == "fault":
            found[line["name"]].append(line)
    return found


def plan(lines: Iterable[Line]) -> Line:
    """What the bank was like."""
    return next(line for line in lines if line["type"] == "plan")
