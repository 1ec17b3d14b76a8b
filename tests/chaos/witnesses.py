"""What handlers wrote when they were begun: which run, in which process, when. To find out what a fault has hit; the
checker does not read it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RECENT = 20.0
MOST = 200
"""Runs that are looked at for one blow."""


@dataclass(frozen=True, slots=True)
class Begun:
    """One execution of a handler."""

    step: str
    run: str
    attempt: int
    pid: int
    at: float
    """On the machine's monotonic clock."""

    @property
    def place(self) -> tuple[str, str]:
        return self.step, self.run


class Witnesses:
    """Follows the file in which handlers write."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.begun: list[Begun] = []
        self._read = 0
        self._rest = b""

    def look(self) -> list[Begun]:
        """All executions so far."""
        if self.file.exists():
            with self.file.open("rb") as stream:
                stream.seek(self._read)
                piece = stream.read()
            self._read += len(piece)
            *whole, self._rest = (self._rest + piece).split(b"\n")
            self.begun += [_begun(json.loads(line)) for line in whole]
        return self.begun

    def latest(self, pid: int | None = None) -> float:
        """When the last handler was begun, in a process or in any."""
        return max((item.at for item in self.look()[-2000:] if pid in (None, item.pid)), default=0.0)

    def before(self, at: float, pid: int | None = None, *, since: float | None = None) -> list[Begun]:
        """The latest executions begun before a moment, one for each run."""
        since = at - RECENT if since is None else since
        chosen = [item for item in self.look() if since <= item.at < at and pid in (None, item.pid)]
        return list({item.place: item for item in chosen}.values())[-MOST:]

    def again(self, places: set[tuple[str, str]], at: float) -> int:
        """How many of these runs were begun again after a moment."""
        return len({item.place for item in self.look() if item.at > at and item.place in places})


def _begun(line: Mapping[str, Any]) -> Begun:
    return Begun(str(line["step"]), str(line["run"]), int(line["attempt"]), int(line["pid"]), float(line["at"]))
