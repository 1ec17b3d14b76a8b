"""Where things are kept: a cache that survives clusters, and a folder per cluster. Both outside the repository."""

import os
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
GO_SOURCES = Path(__file__).resolve().parent / "go"
ADDON_SOURCES = Path(__file__).resolve().parent / "addons"


def cache() -> Path:
    """The folder for what is costly to make: `$BEMA_CACHE`, else `~/.cache/bema`."""
    chosen = os.environ.get("BEMA_CACHE")
    return Path(chosen).absolute() if chosen else Path.home() / ".cache" / "bema"


def clusters_root() -> Path:
    """The folder of all clusters of this machine: `$BEMA_CLUSTERS`, else a fixed one, so that `down` always finds them.

    overlayfs must work on it, which rules out most tmpfs and every overlayfs.
    """
    return Path(os.environ.get("BEMA_CLUSTERS") or "/var/tmp/bema-clusters").absolute()


@dataclass(frozen=True)
class Programs:
    """The folders of what was built."""

    base: Path
    """Kubernetes, etcd, CoreDNS, kubectl and the pause program."""
    addons: Path
    """What is ours beside them."""


@dataclass(frozen=True)
class Layout:
    """The files of one cluster. The journal and the lock lie beside the folder, so that they outlive it."""

    root: Path
    name: str

    @property
    def folder(self) -> Path:
        """Everything else that belongs to the cluster; removed as a whole."""
        return self.root / self.name

    @property
    def journal(self) -> Path:
        return self.root / f"{self.name}.journal"

    @property
    def lock(self) -> Path:
        return self.root / f"{self.name}.lock"

    @property
    def certificates(self) -> Path:
        return self.folder / "pki"

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return self.folder / "kubeconfig"

    def component_kubeconfig(self, user: str) -> Path:
        return self.folder / f"{user}.kubeconfig"

    def node(self, index: int) -> Path:
        return self.folder / f"n{index}"

    def logs(self, index: int) -> Path:
        return self.node(index) / "logs"

    def containerd_socket(self, index: int) -> Path:
        return self.node(index) / "containerd.sock"

    def components(self, index: int) -> Path:
        """What the node's init last said about its components, as JSON."""
        return self.node(index) / "components.json"

    def enforcing(self, index: int) -> Path:
        """Holds, once the node's policies are enforced, the pid inside the box of who enforces them."""
        return self.node(index) / "enforcing"

    def volumes(self, index: int) -> Path:
        """The data of the claims that are bound on this node."""
        return self.node(index) / "volumes"


def layout(name: str) -> Layout:
    """The layout of the cluster `name` on this machine."""
    return Layout(clusters_root(), name)
