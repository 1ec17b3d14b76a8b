"""The cluster's cgroups, in every hierarchy of cgroup v1 or in the one of v2."""

import contextlib
import os
from pathlib import Path

from tools.cluster import errors, waits

ROOT = Path("/sys/fs/cgroup")
_V2_CONTROLLERS = ("cpuset", "cpu", "io", "memory", "pids")


def make(name: str, children: list[str]) -> None:
    """Make the cgroup and its children in every hierarchy. Raises `errors.Refused` when it exists."""
    for hierarchy in hierarchies():
        top = hierarchy / name
        if top.exists():
            raise errors.Refused(f"the cgroup {top} exists and was not made by this cluster")
        for path in (top, *(top / child for child in children)):
            path.mkdir()
            _prepare(hierarchy, path)


def remove(name: str) -> bool:
    """Remove the cgroup with everything below it, once its processes are gone; whether it was there.

    Raises `errors.TimedOut` when a process stays in it.
    """
    tops = [hierarchy / name for hierarchy in hierarchies() if (hierarchy / name).exists()]
    for top in tops:
        waits.until(lambda top=top: _removed(top), what=f"the cgroup {top} to be empty", seconds=10)  # type: ignore[misc]
    return bool(tops)


def hierarchies() -> list[Path]:
    """The mounted hierarchies, each once: v1 machines have links such as `cpu` → `cpu,cpuacct`."""
    if (ROOT / "cgroup.controllers").exists():
        return [ROOT]
    return sorted({path.resolve() for path in ROOT.iterdir() if path.is_dir()})


def _prepare(hierarchy: Path, path: Path) -> None:
    for setting in ("cpuset.cpus", "cpuset.mems"):
        # In v1 these start empty, and then no process may enter.
        if (path / setting).exists() and hierarchy != ROOT:
            (path / setting).write_text((path.parent / setting).read_text())
    if hierarchy == ROOT:
        offered = (path.parent / "cgroup.controllers").read_text().split()
        for controller in _V2_CONTROLLERS:
            if controller in offered:
                (path.parent / "cgroup.subtree_control").write_text(f"+{controller}")


def _removed(top: Path) -> bool:
    for folder, _, _ in os.walk(top, topdown=False):
        # Busy for a moment after its last process died.
        with contextlib.suppress(OSError):
            os.rmdir(folder)
    return not top.exists()
