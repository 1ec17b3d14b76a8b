"""The components' logs, and everything else that explains a failure, as text."""

import shutil
from pathlib import Path

from tools.cluster import commands, errors, kubectls, names, paths, records


def files(record: records.Record) -> dict[str, Path]:
    """Every log of the cluster: `apiserver`, or `n2/kubelet` on further nodes → its file."""
    found = {}
    for index in record.indexes:
        for path in sorted(record.layout.logs(index).glob("*.log")):
            found[path.stem if index == 1 else f"{names.node(index)}/{path.stem}"] = path
    return found


def tail(path: Path, lines: int) -> str:
    """The last lines of a file, without reading a large one whole."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - lines * 400))
        return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])


def tails(record: records.Record, *, lines: int = 40) -> str:
    """The last lines of every component's log; of the audit log only its place, it is for programs."""
    parts = []
    for name, path in files(record).items():
        parts.append(f"=== {name} ({path})")
        if name != "audit":
            parts.append(tail(path, lines))
    return "\n".join(parts)


def keep(record: records.Record) -> Path:
    """Copy the logs to where they outlive the cluster, over those of an earlier failure; the folder."""
    target = paths.cache() / "cluster" / "failed" / record.name
    shutil.rmtree(target, ignore_errors=True)
    for index in record.indexes:
        if record.layout.logs(index).is_dir():
            shutil.copytree(record.layout.logs(index), target / names.node(index))
    return target


def dump(record: records.Record, *, lines: int = 40) -> str:
    """What one wants to see when a test fails: nodes, pods, events, pod logs, component logs.

    It raises nothing: what cannot be had is said in its place.
    """
    parts = [
        _asked(record, "get", "nodes,pods,pvc,pv", "--all-namespaces", "--output=wide"),
        _asked(record, "get", "events", "--all-namespaces", "--sort-by=.lastTimestamp"),
        *_of_pods(record, lines),
        tails(record, lines=lines),
    ]
    return "\n".join(parts)


def _of_pods(record: records.Record, lines: int) -> list[str]:
    where = "jsonpath={range .items[*]}{.metadata.namespace} {.metadata.name}{'\\n'}{end}"
    try:
        answer = _kubectl(record, "get", "pods", "--all-namespaces", f"--output={where}")
    except errors.ClusterError as failed:
        return [f"no pod logs: {failed}"]
    parts = []
    for line in answer.splitlines():
        namespace, _, pod = line.partition(" ")
        options = ("--all-containers", "--prefix", f"--tail={lines}", "--ignore-errors")
        parts.append(_asked(record, "logs", f"--namespace={namespace}", pod, *options))
    return parts


def _asked(record: records.Record, *arguments: str) -> str:
    try:
        answer = _kubectl(record, *arguments)
    except errors.ClusterError as failed:
        answer = f"{failed}"
    return f"=== kubectl {' '.join(arguments)}\n{answer.rstrip()}"


def _kubectl(record: records.Record, *arguments: str) -> str:
    timeout = "--request-timeout=10s"
    return commands.run(
        kubectls.command(record.layout.kubeconfig, *arguments, timeout), env=kubectls.environment(), seconds=20
    )
