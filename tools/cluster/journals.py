"""The record of what a cluster made on the machine, written before each thing is made.

Each entry carries enough to recognise the thing later without having seen its creation end: a link by a MAC address
drawn beforehand, a box by an environment entry, a cgroup by a name that holds the cluster's identity. So a crash
between the record and the deed, or between the deed and anything after it, leaves nothing that `down` cannot judge.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from tools.cluster import errors


@dataclass(frozen=True)
class Header:
    """The first line: which cluster this is."""

    name: str
    identity: str
    block: str
    nodes: int


@dataclass(frozen=True)
class Link:
    """A network link of the host. Ours if name and MAC address agree."""

    name: str
    mac: str


@dataclass(frozen=True)
class Route:
    """A route of the host's main table, through the cluster's own bridge."""

    network: str
    via: str
    device: str


@dataclass(frozen=True)
class Cgroup:
    """A cgroup, relative to each hierarchy's root."""

    name: str


@dataclass(frozen=True)
class Box:
    """The processes of a node. Ours if their environment has this entry."""

    mark: str


@dataclass(frozen=True)
class Folder:
    """The cluster's folder."""

    path: str


Entry = Link | Route | Cgroup | Box | Folder
_KINDS: dict[str, type[Entry]] = {kind.__name__: kind for kind in (Link, Route, Cgroup, Box, Folder)}


class Journal:
    """An append-only file of JSON lines; a torn last line is a thing that was never made."""

    def __init__(self, path: Path, header: Header, entries: list[Entry]) -> None:
        self.path = path
        self.header = header
        self._entries = entries

    @classmethod
    def create(cls, path: Path, header: Header) -> "Journal":
        """Start a journal. Raises `errors.Refused` when there is one already."""
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        draft = _draft(path)
        draft.write_text(json.dumps(asdict(header)) + "\n")
        try:
            # A hard link appears whole or not at all, and never over an existing file.
            os.link(draft, path)
        except FileExistsError as exists:
            raise errors.Refused(f"{path} exists: cluster {header.name} was not taken down") from exists
        finally:
            draft.unlink()
        return cls(path, header, [])

    @classmethod
    def read(cls, path: Path) -> "Journal | None":
        """The journal at `path`, or None when there is none."""
        try:
            lines = path.read_text().split("\n")
        except FileNotFoundError:
            return None
        header = Header(**json.loads(lines[0]))
        # What follows the last line end was being written when its writer died.
        return cls(path, header, [_parsed(line) for line in lines[1:-1]])

    def record(self, entry: Entry) -> None:
        """Write the entry down; only then may the thing be made."""
        line = json.dumps({"kind": type(entry).__name__, **asdict(entry)})
        with self.path.open("a") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())
        self._entries.append(entry)

    def newest_first(self) -> Iterator[Entry]:
        """The entries in the order in which to undo them."""
        return reversed(self._entries)

    def remove(self) -> None:
        """Forget the cluster; the last act of `down`."""
        self.path.unlink()


def discard_draft(path: Path) -> None:
    """Remove what a writer left that died before its journal existed. The caller holds the cluster's lock."""
    _draft(path).unlink(missing_ok=True)


def _draft(path: Path) -> Path:
    return path.with_name(f"{path.name}.draft")


def _parsed(line: str) -> Entry:
    fields = json.loads(line)
    return _KINDS[fields.pop("kind")](**fields)
