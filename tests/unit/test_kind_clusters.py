"""kind's clusters: which commands are run, and what is refused. The programs are scripts that write down how they were
called; that kind itself does what it is told can only be seen where Docker is."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import yaml

from tools import kind_clusters
from tools.cluster import errors, paths
from tools.kind_clusters import KindCluster

SCRIPT = """#!/bin/sh
printf '%s' "$(basename "$0")" >> {log}
for word in "$@"; do printf ' %s' "'$word'" >> {log}; done
echo >> {log}
case "$(basename "$0") $*" in
{answers}
esac
"""
Machine = Callable[..., Path]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Make programs that answer as told by the beginning of their command lines; the log of their calls."""

    def make(**answers: str) -> Path:
        log = tmp_path / "calls"
        log.touch()
        programs = tmp_path / "bin"
        programs.mkdir()
        cases = "\n".join(f'"{shape}"*) {answer} ;;' for shape, answer in answers.items())
        for name in kind_clusters.PROGRAMS:
            (programs / name).write_text(SCRIPT.format(log=log, answers=cases.replace("\\", "")))
            (programs / name).chmod(0o755)
        monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
        monkeypatch.setenv("BEMA_CLUSTERS", str(tmp_path / "clusters"))
        monkeypatch.setenv("KUBECONFIG", "/of/the/user")
        return log

    return make


def calls(log: Path) -> list[str]:
    return [shlex.join(shlex.split(line)) for line in log.read_text().splitlines()]


def running() -> AbstractContextManager[KindCluster]:
    return kind_clusters.running("bema-e2e", identity="1234")


ADDRESS = {"docker inspect": "echo 172.18.0.2"}


def test_a_cluster_is_made_checked_and_deleted(machine: Machine, tmp_path: Path) -> None:
    log = machine(**{"kubectl": "printf 1234", **ADDRESS})
    folder = tmp_path / "clusters/kind-bema-e2e"
    config = paths.REPOSITORY / "kind-config.yaml"
    with running() as cluster:
        assert (cluster.kubeconfig, cluster.identity) == (folder / "kubeconfig", "1234")
        log.write_text(log.read_text() + "# in use\n")
        cluster.load(Path("/image.tar"))
        assert cluster.kubectl("get", "pods") == "1234"
    kube = f"kubectl --kubeconfig={folder}/kubeconfig --cache-dir={folder}/kubectl-cache"
    own = f"--name bema-e2e --kubeconfig {folder}/kubeconfig"
    assert calls(log) == [
        "docker info --format '{{.ServerVersion}}'",
        "kind get clusters",
        f"kind create cluster {own} --config {config} --wait 180s",
        f"{kube} --namespace=kube-system create configmap bema-cluster --from-literal=identity=1234",
        f"{kube} --namespace=kube-system get configmap bema-cluster '-o=jsonpath={{.data.identity}}'",
        "docker inspect bema-e2e-control-plane --format '{{.NetworkSettings.Networks.kind.IPAddress}}'",
        "ip route add 10.253.0.0/16 via 172.18.0.2",
        "'#' in use",
        "kind load image-archive /image.tar --name bema-e2e",
        f"{kube} get pods",
        "ip route del 10.253.0.0/16 via 172.18.0.2",
        f"kind delete cluster {own}",
    ]
    assert not folder.exists()


def test_a_cluster_of_this_name_that_is_there_is_left_alone(machine: Machine) -> None:
    log = machine(**{"kind get clusters": "echo other; echo bema-e2e"})
    with pytest.raises(errors.Refused, match="expected no kind cluster named bema-e2e, found one"), running():
        pass
    assert [call.split()[:2] for call in calls(log)] == [["docker", "info"], ["kind", "get"]]


def test_a_cluster_that_could_not_be_made_is_not_deleted(machine: Machine) -> None:
    log = machine(**{"kind create": "exit 1"})
    with pytest.raises(errors.CommandFailed, match="kind create cluster"), running():
        pass
    assert [call for call in calls(log) if "delete" in call] == []


def test_another_cluster_behind_the_kubeconfig_is_noticed(machine: Machine) -> None:
    log = machine(kubectl="printf abcd")
    with pytest.raises(errors.WrongCluster, match="leads to cluster 'abcd', and was made for '1234'"), running():
        pass
    assert [call for call in calls(log) if call.startswith("ip ")] == []
    assert calls(log)[-1].startswith("kind delete cluster --name bema-e2e ")


def test_what_is_missing_is_named(machine: Machine, tmp_path: Path) -> None:
    machine(**{"docker info": "echo 'Cannot connect to the Docker daemon' >&2; exit 1"})
    with pytest.raises(errors.CannotRunHere, match="found: Cannot connect to the Docker daemon"):
        kind_clusters.check_machine()
    (tmp_path / "bin/kind").unlink()
    with pytest.raises(errors.CannotRunHere, match="expected docker, kind, kubectl, ip on this machine, found no kind"):
        kind_clusters.check_machine()


def test_the_machine_as_pods_see_it_is_an_ipv4_address(machine: Machine, tmp_path: Path) -> None:
    machine(**{"docker network": "echo 'fc00:f853:ccd:e793::1 172.18.0.1 '"})
    assert KindCluster("bema-e2e", "1234", tmp_path).host_ip == "172.18.0.1"


def test_the_configuration_keeps_clear_of_docker_and_of_our_own_clusters() -> None:
    networking = yaml.safe_load(kind_clusters.CONFIG.read_text("utf-8"))["networking"]
    assert networking == {"ipFamily": "ipv4", "podSubnet": "10.252.0.0/16", "serviceSubnet": "10.253.0.0/16"}
