"""Finding and ending the processes of a box, by the mark in their environment: pids are reused, marks are not."""

import contextlib
import os
import signal
from collections.abc import Iterable
from pathlib import Path

from tools.cluster import waits


def marked(mark: str) -> list[int]:
    """The pids of the living processes that carry the mark in their environment. Payloads of pods do not carry it."""
    return [pid for pid in _all() if _carries(pid, mark)]


def init_of(mark: str) -> int | None:
    """The host's pid of the first process inside the box with this mark: pid 1 of a pid namespace below ours."""
    for pid in marked(mark):
        inner = _inner_pids(pid)
        if len(inner) == 2 and inner[1] == 1:
            return pid
    return None


def kill(marks: Iterable[str], *, seconds: float = 20) -> int:
    """End everything with these marks, with all that lives in their pid namespaces. How many were found.

    Raises `errors.TimedOut` when something does not die.
    """
    wanted = list(marks)
    count = 0
    for mark in wanted:
        found = marked(mark)
        count += len(found)
        # With a pid namespace's first process dies everything in it, pods included, and nothing can be started there.
        first = init_of(mark)
        for pid in [first, *found] if first is not None else found:
            _kill_one(pid, mark)
    waits.until(
        lambda: not any(marked(mark) for mark in wanted), what="the cluster's processes to end", seconds=seconds
    )
    return count


def _kill_one(pid: int, mark: str) -> None:
    with contextlib.suppress(ProcessLookupError):
        handle = os.pidfd_open(pid)
        try:
            # The handle is held first: what is checked and what is killed are the same process.
            if _carries(pid, mark):
                signal.pidfd_send_signal(handle, signal.SIGKILL)
        finally:
            os.close(handle)


def _all() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _carries(pid: int, mark: str) -> bool:
    try:
        return mark.encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return False


def _inner_pids(pid: int) -> list[int]:
    """The pids of a process, from our namespace inwards."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return []
    for line in lines:
        if line.startswith("NSpid:"):
            return [int(part) for part in line.split()[1:]]
    return []
