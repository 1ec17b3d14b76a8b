"""The door for tests and tools: clusters that are up, and what a caller can do with them.

with clusters.running("dev") as cluster:
    cluster.verify()
    cluster.kubectl("get", "pods", "-A")
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path

from tools.cluster import (
    boxes,
    commands,
    creations,
    errors,
    healths,
    images,
    kubectls,
    logs,
    names,
    processes,
    records,
    removals,
)


@dataclass(frozen=True)
class Cluster:
    """A cluster that was up and well when this object was made."""

    record: records.Record

    @property
    def name(self) -> str:
        return self.record.name

    @property
    def identity(self) -> str:
        """Drawn at random for each `up`; also in the ConfigMap kube-system/bema-cluster."""
        return self.record.identity

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return self.record.layout.kubeconfig

    @property
    def api_url(self) -> str:
        return self.record.plan.api_url

    @property
    def service_cidr(self) -> str:
        """ClusterIPs; the host has a route to them."""
        return str(self.record.plan.services)

    @property
    def pod_cidr(self) -> str:
        """The pods' addresses on all nodes; the host has a route to each node's part."""
        return str(self.record.plan.pods)

    @property
    def host_ip(self) -> str:
        """The machine's address as pods see it: for servers that a test runs outside the cluster."""
        return str(self.record.plan.host)

    @property
    def audit_log(self) -> Path:
        """One JSON object a line, a line a request: `userAgent`, `verb`, `objectRef`, `responseStatus.code`."""
        return self.record.layout.logs(1) / "audit.log"

    def kubectl(self, *arguments: str, input: str | None = None, seconds: float = 60) -> str:
        """Run kubectl against this cluster and return what it printed. Raises `errors.CommandFailed`."""
        command = kubectls.command(self.record.layout.kubeconfig, *arguments)
        return commands.run(command, input=input, seconds=seconds, env=kubectls.environment())

    def load(self, archive: Path) -> list[str]:
        """Import an image archive (OCI or Docker) on every node; the names of its images."""

        def load(index: int) -> list[str]:
            return images.load(self.record.layout, self.record.identity, index, archive)

        with ThreadPoolExecutor() as pool:
            loaded = list(pool.map(load, self.record.indexes))
        return loaded[0]

    def verify(self) -> None:
        """Raise `errors.WrongCluster` unless the server behind the kubeconfig is this cluster.

        Call it before a test changes anything.
        """
        healths.check_identity(self.record)

    def problems(self) -> list[str]:
        """What is wrong with it, a sentence each."""
        return healths.problems(self.record)

    def starts(self, component: str) -> int:
        """How often a component was started, on all nodes together: one that has died was started again."""
        found = (boxes.statuses(self.record.layout, index) for index in self.record.indexes)
        return sum(status.starts for node in found for status in node if status.name == component)

    def log(self, component: str) -> Path:
        """The log of a component: `apiserver`, `kubelet`, `provisioner`, …"""
        return logs.files(self.record)[component]

    def lose(self, index: int) -> None:
        """End a node at once and for good, as a power cut does: the first process of its box, and all in it.

        Not the first node, whose end is that of the cluster.
        """
        if index not in self.record.indexes[1:]:
            raise errors.Refused(f"expected one of nodes 2 to {self.record.nodes} to lose, found {index}")
        processes.kill([names.mark(self.identity, index)])

    def dump_logs(self, lines: int = 40) -> str:
        """Nodes, pods, events, pod logs and the ends of the components' logs; raises nothing."""
        return logs.dump(self.record, lines=lines)


def up(name: str = "dev", *, nodes: int | None = None, block: IPv4Network | None = None) -> Cluster:
    """The cluster `name`, brought up unless it is up already. See `creations.up` for what it raises."""
    return Cluster(creations.up(name, nodes=nodes, block=block))


def down(name: str = "dev") -> bool:
    """Take the cluster down without residue; whether there was anything to take down."""
    return removals.down(name)


def get(name: str = "dev") -> Cluster:
    """The cluster that is up under this name. Raises `errors.ClusterError` when none is."""
    record = records.find(name)
    if record is None or not healths.is_alive(record):
        raise errors.ClusterError(f"cluster {name} is not up; type: python -m tools.cluster up --name {name}")
    return Cluster(record)


@contextmanager
def running(name: str = "dev", *, nodes: int | None = None) -> Iterator[Cluster]:
    """The cluster for the time of the block. One that was up before stays up; one made here is taken down."""
    record = records.find(name)
    was_up = record is not None and healths.is_alive(record)
    cluster = up(name, nodes=nodes)
    try:
        yield cluster
    finally:
        if not was_up:
            down(name)
