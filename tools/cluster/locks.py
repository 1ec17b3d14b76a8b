"""One change at a time: a lock per cluster, and one for what clusters have in common. A lock dies with its holder."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from tools.cluster import paths, waits

_held: list[int] = []


def inherited() -> tuple[int, ...]:
    """The locks that this process holds, for programs that it runs: when it is killed, a program that is still at work
    keeps the lock until it has ended, and nobody cleans up before."""
    return tuple(_held)


@contextmanager
def cluster(layout: paths.Layout, *, seconds: float = 180) -> Iterator[None]:
    """Hold the cluster's lock. Raises `errors.TimedOut` when another process keeps it."""
    with held(layout.lock, f"another process to finish with cluster {layout.name}", seconds):
        yield


@contextmanager
def addresses(root: Path, *, seconds: float = 60) -> Iterator[None]:
    """Hold the lock under which addresses are chosen and links are made."""
    with held(root / "addresses.lock", "another process to choose its addresses", seconds):
        yield


@contextmanager
def held(path: Path, what: str, seconds: float) -> Iterator[None]:
    """Hold the lock in the file `path`; `what` says what is being waited for. Raises `errors.TimedOut`."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with path.open("a+") as file:
        waits.until(lambda: _taken(file), what=f"{what} (lock: {path})", seconds=seconds)
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        _held.append(file.fileno())
        try:
            yield
        finally:
            _held.remove(file.fileno())


def _taken(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
