"""A node's box: its namespaces, and the ways in."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tools.cluster import commands, components, configs, errors, names, paths, processes, waits

_NAMESPACES = ("--mount", "--pid", "--fork", "--net", "--uts", "--ipc", "--mount-proc", "--kill-child")


@dataclass(frozen=True)
class ComponentStatus:
    """What a node's init says about one component."""

    name: str
    running: bool
    starts: int
    last_exit: int | None
    """The exit code of its last end; negative is a signal."""
    pid: int | None
    """Inside the box."""


def start(node: configs.Node, script: components.Script) -> int:
    """Start the box; the host's pid of its init, which then waits for its cable."""
    path = node.folder / "init.json"
    path.write_text(json.dumps(script.as_json(), indent=1))
    temporary = node.folder / "tmp"
    temporary.mkdir()
    mark = names.mark(node.identity, node.index)
    key, value = mark.split("=")
    # Nothing of the caller's environment: a proxy or a Go setting of a person is not part of the cluster.
    system_path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    environment = {"PATH": system_path, "HOME": str(node.folder), "TMPDIR": str(temporary), key: value}
    log = node.layout.logs(node.index) / "init.log"
    with log.open("a") as output:
        # Its own session and no parent of ours: it is nobody's zombie when it ends.
        subprocess.run(
            ["setsid", "--fork", "unshare", *_NAMESPACES, sys.executable, "-m", "tools.cluster.inits", path],
            cwd=paths.REPOSITORY,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            check=True,
        )
    return waits.until(lambda: _in_own_network(mark), what=f"the box of {node.name} to start (log: {log})", seconds=10)


def pid(identity: str, index: int) -> int | None:
    """The host's pid of the box's init; None when the box is not running."""
    return processes.init_of(names.mark(identity, index))


def enter(identity: str, index: int) -> list[str]:
    """The words to put before a command so that it runs inside the box, where its mounts are."""
    first = pid(identity, index)
    if first is None:
        raise errors.CommandFailed(f"node {names.node(index)} is not running; see `python -m tools.cluster status`")
    return ["nsenter", "--target", str(first), "--mount", "--pid", "--net", "--"]


def run(identity: str, index: int, *argv: str | Path, seconds: float = 60) -> str:
    """Run a command inside the box, and return its standard output."""
    return commands.run([*enter(identity, index), *argv], seconds=seconds)


def statuses(layout: paths.Layout, index: int) -> list[ComponentStatus]:
    """What the box's init last reported, component by component; empty before its first report."""
    try:
        reported = json.loads(layout.components(index).read_text())
    except FileNotFoundError:
        return []
    return [
        ComponentStatus(name, one["pid"] is not None, one["starts"], one["last_exit"], one["pid"])
        for name, one in reported.items()
    ]


def _in_own_network(mark: str) -> int | None:
    """The init's pid once its network namespace is another than ours: only then may a cable be put into it."""
    first = processes.init_of(mark)
    if first is None:
        return None
    try:
        return first if os.readlink(f"/proc/{first}/ns/net") != os.readlink("/proc/self/ns/net") else None
    except FileNotFoundError:
        return None
