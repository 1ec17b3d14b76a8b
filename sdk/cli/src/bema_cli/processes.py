"""Child processes that do not outlive their parent, and what can be proven about processes by their pid."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_LINUX = sys.platform == "linux"
_LIBC = ctypes.CDLL(None, use_errno=True) if _LINUX else None
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True)
class Identity:
    """A process, not to be mistaken for a later one with the same pid."""

    pid: int
    started: str
    """When the system says it started, in the system's own form."""


class Child:
    """A running child in a process group of its own: Ctrl-C in the terminal reaches only its parent."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.pid = process.pid
        self.identity = identify(process.pid)

    @property
    def stdout(self) -> asyncio.StreamReader:
        assert self._process.stdout is not None
        return self._process.stdout

    @property
    def stderr(self) -> asyncio.StreamReader:
        assert self._process.stderr is not None
        return self._process.stderr

    @property
    def returncode(self) -> int | None:
        """None while it runs; negative: the signal that ended it."""
        return self._process.returncode

    async def wait(self) -> int:
        return await self._process.wait()

    async def communicate(self) -> tuple[bytes, bytes]:
        return await self._process.communicate()

    async def stop(self, *, seconds: float, ask: signal.Signals = signal.SIGTERM) -> int:
        """Ask it to end, kill it after `seconds`, and kill whatever it left behind; its exit code."""
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(ask)
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._process.wait(), seconds)
        self.kill()
        return await self._process.wait()

    def kill(self) -> None:
        """End it and everything that it started in its group, now."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)


async def start(
    command: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: Path,
    descriptors: Sequence[int] = (),
    capture_errors: bool = False,
    at_parents_death: signal.Signals = signal.SIGKILL,
) -> Child:
    """Start a child whose output is a pipe. Where the system can do it (Linux), it gets a signal when this process
    dies, however it dies."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE if capture_errors else subprocess.STDOUT,
        env=dict(env),
        cwd=cwd,
        pass_fds=tuple(descriptors),
        process_group=0,
        preexec_fn=_tether(at_parents_death),
    )
    return Child(process)


def _tether(death: signal.Signals) -> Callable[[], None] | None:
    libc, parent = _LIBC, os.getpid()
    if libc is None:
        return None

    def in_child() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, int(death))
        if os.getppid() != parent:
            os._exit(1)

    return in_child


def identify(pid: int) -> Identity:
    """Who a pid is now. `started` is empty for nobody."""
    if _LINUX:
        try:
            # The command, in parentheses, may hold anything; the start time is the 20th field after it.
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return Identity(pid, "")
        return Identity(pid, "" if fields[0] == "Z" else f"{_boot()}/{fields[19]}")
    answer = subprocess.run(["/bin/ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return Identity(pid, answer.stdout.strip())


def _boot() -> str:
    """Start times count from the boot, so that they mean something only together with it."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def is_alive(identity: Identity) -> bool:
    """Whether this very process still runs."""
    return bool(identity.started) and identify(identity.pid).started == identity.started


def kill(identity: Identity) -> bool:
    """End this very process and its group, if it still runs. Whether it did."""
    if not is_alive(identity):
        return False
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(identity.pid, signal.SIGKILL)
    return True


def ending(returncode: int | None) -> str:
    """How a process ended, in words."""
    if returncode is None:
        return "still running"
    if returncode < 0:
        return f"signal {signal.Signals(-returncode).name}" if -returncode in _SIGNALS else f"signal {-returncode}"
    return f"exit code {returncode}"


_SIGNALS = frozenset(int(item) for item in signal.Signals)
