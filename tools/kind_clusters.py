"""A cluster of kind's, where Docker and kind are: the same door as `tools.cluster.clusters`.

Its kubeconfig is a file of its own, whatever the user's says, and it carries an identity that is checked before
anything is changed. This machine gets a route to its Services, which takes Linux and root.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

from tools.cluster import commands, errors, kubectls, manifests, paths, stages

CONFIG = paths.REPOSITORY / "kind-config.yaml"
PROGRAMS = ("docker", "kind", "kubectl", "ip")
CREATE_SECONDS = 600
"""The first time, a node's image is loaded from the network."""


@dataclass(frozen=True)
class KindCluster:
    """A cluster that this process made."""

    name: str
    identity: str
    """Drawn at random; also in the ConfigMap kube-system/bema-cluster."""
    folder: Path

    @property
    def kubeconfig(self) -> Path:
        return self.folder / "kubeconfig"

    @property
    def host_ip(self) -> str:
        """The gateway of kind's network: containers reach the machine there."""
        found = commands.run(commands_of(self)["gateways"]).split()
        return next(address for address in found if ":" not in address)

    def kubectl(self, *arguments: str, input: str | None = None, seconds: float = 60) -> str:
        """Run kubectl against this cluster and return what it printed. Raises `errors.CommandFailed`."""
        own = [f"--kubeconfig={self.kubeconfig}", f"--cache-dir={self.folder}/kubectl-cache"]
        return commands.run(["kubectl", *own, *arguments], input=input, seconds=seconds, env=kubectls.environment())

    def load(self, archive: Path) -> None:
        commands.run(["kind", "load", "image-archive", archive, "--name", self.name], seconds=300)

    def verify(self) -> None:
        """Raise `errors.WrongCluster` unless the server behind the kubeconfig is this cluster."""
        try:
            found = self.kubectl(
                *("--namespace=kube-system", "get", "configmap", manifests.IDENTITY, "-o=jsonpath={.data.identity}")
            )
        except errors.CommandFailed as failed:
            raise errors.WrongCluster(f"{self.kubeconfig} does not say which cluster it is: {failed}") from failed
        if found != self.identity:
            raise errors.WrongCluster(
                f"{self.kubeconfig} leads to cluster {found!r}, and was made for {self.identity!r}"
            )

    def dump_logs(self, lines: int = 40) -> str:
        """Pods, and the last events; raises nothing."""
        try:
            pods = self.kubectl("get", "pods", "--all-namespaces", "-o=wide")
            events = self.kubectl("get", "events", "--all-namespaces", "--sort-by=.lastTimestamp")
        except errors.ClusterError as failed:
            return str(failed)
        return "\n".join([pods, *events.splitlines()[-lines:]])


def commands_of(cluster: KindCluster) -> Mapping[str, list[str | Path]]:
    """What is run for a cluster, by what it is for."""
    own: list[str | Path] = ["--name", cluster.name, "--kubeconfig", cluster.kubeconfig]
    node = f"{cluster.name}-control-plane"
    services = yaml.safe_load(CONFIG.read_text("utf-8"))["networking"]["serviceSubnet"]
    return {
        "create": ["kind", "create", "cluster", *own, "--config", CONFIG, "--wait", "180s"],
        "delete": ["kind", "delete", "cluster", *own],
        "address": ["docker", "inspect", node, "--format", "{{.NetworkSettings.Networks.kind.IPAddress}}"],
        "gateways": ["docker", "network", "inspect", "kind", "--format", "{{range .IPAM.Config}}{{.Gateway}} {{end}}"],
        "route": ["ip", "route", "add", services, "via"],
        "unroute": ["ip", "route", "del", services, "via"],
    }


@contextmanager
def running(name: str, *, identity: str | None = None) -> Iterator[KindCluster]:
    """A new cluster for the time of the block; its identity is drawn unless it is given.

    Raises `errors.CannotRunHere` where there can be none, and `errors.Refused` when there is one of this name: it is
    not ours to change, or to delete.
    """
    check_machine()
    if name in commands.run(["kind", "get", "clusters"]).split():
        raise errors.Refused(
            f"expected no kind cluster named {name}, found one; if nobody needs it: kind delete cluster --name {name}"
        )
    folder = paths.clusters_root() / f"kind-{name}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    cluster = KindCluster(name, identity or secrets.token_hex(8), folder)
    steps = commands_of(cluster)
    with stages.stage(f"kind cluster {name}"):
        # Where this fails, kind cleans up by itself; what has the name then may be somebody else's.
        commands.run(steps["create"], seconds=CREATE_SECONDS)
    try:
        cluster.kubectl(
            *("--namespace=kube-system", "create", "configmap", manifests.IDENTITY),
            f"--from-literal=identity={cluster.identity}",
        )
        cluster.verify()
        with _route(steps):
            yield cluster
    finally:
        commands.run(steps["delete"], seconds=120)
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _route(steps: Mapping[str, list[str | Path]]) -> Iterator[None]:
    """A route from this machine to the Services."""
    address = commands.run(steps["address"]).strip()
    commands.run([*steps["route"], address])
    try:
        yield
    finally:
        commands.attempt([*steps["unroute"], address])


def check_machine() -> None:
    """Raise `errors.CannotRunHere` unless kind can make a cluster here."""
    for program in PROGRAMS:
        if shutil.which(program) is None:
            raise errors.CannotRunHere(f"expected {', '.join(PROGRAMS)} on this machine, found no {program}")
    asked = commands.attempt(["docker", "info", "--format", "{{.ServerVersion}}"])
    if asked.returncode:
        raise errors.CannotRunHere(f"expected a Docker that runs, found: {asked.stderr.strip().splitlines()[-1]}")
