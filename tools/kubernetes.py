"""What the demo and the e2e tests need of a cluster, whoever made it."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol


class Kubernetes(Protocol):
    """A cluster that is up. `tools.cluster` and `tools.kind_clusters` make such."""

    @property
    def name(self) -> str: ...

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig, written by whoever made the cluster."""

    @property
    def host_ip(self) -> str:
        """The machine's address as pods see it."""

    def kubectl(self, *arguments: str, input: str | None = None, seconds: float = 60) -> str:
        """Run kubectl against this cluster and return what it printed. Raises `errors.CommandFailed`."""

    def load(self, archive: Path) -> object:
        """Import an image archive (OCI or Docker) on every node."""

    def verify(self) -> None:
        """Raise `errors.WrongCluster` unless the server behind the kubeconfig is this cluster."""

    def dump_logs(self, lines: int = 40) -> str:
        """What a person would look at first after a failure; raises nothing."""
