"""What `bema dev` keeps beside an app: the folder `.bema`, its lock, and the record of what runs.

The lock belongs to the process that holds it and dies with it. The record says where everything listens, and names
the children, so that the next start can end what a killed one left behind.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from bema.contract import errors
from bema.contract.models import Model
from bema_cli import processes
from bema_cli.processes import Identity


class AlreadyRunning(errors.BemaError):
    """Another `bema dev` holds the folder."""


class NoWorkspace(errors.BemaError):
    """The app's folder takes no `.bema`."""


class NotRunning(errors.BemaError):
    """No `bema dev` runs in the folder."""


class Process(Model):
    """A process, in a record."""

    pid: int
    started: str

    @classmethod
    def of(cls, identity: Identity) -> Process:
        return cls(pid=identity.pid, started=identity.started)

    @property
    def identity(self) -> Identity:
        return Identity(self.pid, self.started)


class Record(Model):
    """What runs in a folder."""

    app: str
    supervisor: Process
    children: list[Process] = []
    nats: str = ""
    url: str | None = None
    """Where the api Steps answer; None when there are none."""
    metrics: str | None = None


class Workspace:
    """The folder `.bema` of an app."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = folder / ".bema"
        self.run = self.root / "run"
        """Lives as long as one `bema dev`."""
        self.bindings = self.root / "bindings"
        self.store = self.root / "nats"
        """What `--persist` keeps."""
        self.log = self.root / "nats.log"
        self._lock = self.root / "dev.lock"
        self._record = self.root / "dev.json"

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Hold the folder, with what a killed `bema dev` left behind cleared away. Raises `AlreadyRunning` or
        `NoWorkspace`."""
        try:
            self.root.mkdir(exist_ok=True)
            (self.root / ".gitignore").write_text("*\n")
        except OSError as error:
            raise NoWorkspace(
                f"expected a folder {self.root} to write to, found none and cannot make one: {error.strerror}"
            ) from error
        with self._lock.open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise AlreadyRunning(self._running()) from error
            self._clear()
            try:
                yield
            finally:
                self._clear()

    def _running(self) -> str:
        record = self.record()
        if record is None:
            return f"`bema dev` is already starting in {self.folder}"
        where = ", ".join([f"pid {record.supervisor.pid}", *([record.url] if record.url else [])])
        return f"`bema dev` already runs in {self.folder} ({where}); stop it there with Ctrl-C"

    def _clear(self) -> None:
        record = self.record()
        for child in record.children if record else []:
            processes.kill(child.identity)
        for folder in (self.run, self.bindings):
            shutil.rmtree(folder, ignore_errors=True)
        self._record.unlink(missing_ok=True)

    def record(self) -> Record | None:
        """What the record says, whether that still runs or not."""
        try:
            return Record.model_validate_json(self._record.read_bytes())
        except (OSError, ValidationError):
            return None

    def running(self) -> Record:
        """What runs here now. Raises `NotRunning`."""
        record = self.record()
        if record is None or not processes.is_alive(record.supervisor.identity):
            raise NotRunning(
                f"expected `bema dev` to run in {self.folder}, found none; start it there, name its folder with "
                "--dir, or name a server with --nats URL --app NAME; `bema emit`, `state` and `dlq` work on `bema dev` "
                "for now, not on a cluster"
            )
        return record

    def write(self, record: Record) -> None:
        """Replace the record."""
        draft = self._record.with_suffix(".draft")
        draft.write_text(record.model_dump_json(indent=2) + "\n")
        os.replace(draft, self._record)
