"""The operator as a process of the test, with the rights that it has in a pod, through a proxy and to a NATS of the
test's own: what breaks between them, and when it dies, is then for the test to say."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from tests.support import api_proxies, brokers, waits
from tools import installs, ports
from tools.cluster.clusters import Cluster
from tools.kubernetes import Kubernetes


class Operator:
    """One operator; it may be started again."""

    def __init__(self, folder: Path, server: str, token: str, nats_url: str, *more: str) -> None:
        self.folder = folder
        self.log = folder / "operator.log"
        self.health = ports.free()
        kubeconfig = folder / "kubeconfig"
        folder.mkdir(parents=True, exist_ok=True)
        kubeconfig.write_text(yaml.safe_dump(_kubeconfig(server, token)))
        listen = ["--health-host=127.0.0.1", f"--health-port={self.health}", "--metrics-port=0"]
        where = [f"--kubeconfig={kubeconfig}", f"--nats-urls={nats_url}"]
        self._command = [sys.executable, "-m", "bema_operator", *where, *listen, "--text-logs", *more]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it, without waiting for anything."""
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(self._command, stdout=output, stderr=output)

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)

    def exit_code(self) -> int | None:
        """None while it runs."""
        assert self._process is not None
        return self._process.poll()

    def wait_exit(self, seconds: float) -> int:
        assert self._process is not None
        return self._process.wait(seconds)

    def wait_ready(self, seconds: float = 30) -> None:
        waits.until_sync(
            lambda: self.problems() == [], "the operator to be ready", timeout=seconds, explain=self.last_words
        )

    def problems(self, probe: str = "readyz") -> list[str] | None:
        """What a probe says; None when nobody answers."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.health}/{probe}", timeout=5) as answer:
                return list(json.load(answer)["problems"])
        except urllib.error.HTTPError as unwell:
            with unwell:
                return list(json.load(unwell)["problems"])
        except OSError:
            return None

    def last_words(self) -> str:
        return "\n".join(self.log.read_text("utf-8", "replace").splitlines()[-40:])

    def stop(self) -> None:
        """SIGTERM, as Kubernetes does, and SIGKILL when that takes too long."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(15)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(5)


def _kubeconfig(server: str, token: str) -> dict[str, Any]:
    one = {"name": "one"}
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "one",
        "clusters": [{**one, "cluster": {"server": server}}],
        "users": [{**one, "user": {"token": token}}],
        "contexts": [{**one, "context": {"cluster": "one", "user": "one"}}],
    }


class Stage:
    """A cluster whose own operator is away, a NATS of the test's own, and operators as processes."""

    def __init__(self, cluster: Cluster, folder: Path, proxy: api_proxies.ApiProxy, nats: brokers.NatsServer) -> None:
        self.cluster = cluster
        self.folder = folder
        self.proxy = proxy
        self.nats = nats
        where = ("-n", installs.SYSTEM)
        self._token = cluster.kubectl(*where, "create", "token", "bema-operator", "--duration=3h").strip()

    @contextlib.contextmanager
    def operator(self, name: str, *more: str, is_ready: bool = True) -> Iterator[Operator]:
        found = Operator(self.folder / name, self.proxy.url, self._token, self.nats.url, *more)
        found.start()
        try:
            if is_ready:
                found.wait_ready()
            yield found
        except BaseException:
            print(f"--- {found.log}\n{found.last_words()}")
            raise
        finally:
            found.stop()
            self.proxy.ambush = None
            self.proxy.come_back()


@contextlib.contextmanager
def stage(cluster: Cluster, folder: Path) -> Iterator[Stage]:
    """The cluster's own operator comes back in the end."""
    where = ("-n", installs.SYSTEM)
    cluster.kubectl(*where, "scale", "deployment/bema-operator", "--replicas=0")
    try:
        selector = "--selector=app.kubernetes.io/name=bema-operator"
        cluster.kubectl(*where, "wait", "--for=delete", "pod", selector, "--timeout=60s", seconds=70)
        authority = cluster.record.layout.certificates / "ca.crt"
        with api_proxies.running(cluster.api_url, authority) as proxy, brokers.running(folder / "nats") as nats:
            yield Stage(cluster, folder, proxy, nats)
    finally:
        cluster.kubectl(*where, "scale", "deployment/bema-operator", "--replicas=1")
        status = ("rollout", "status", "deployment/bema-operator", "--timeout=60s")
        cluster.kubectl(*where, *status, seconds=70)


def restart(cluster: Kubernetes) -> None:
    """Start the operator that is installed again, and wait until the new one is ready."""
    where = ("-n", installs.SYSTEM)
    cluster.kubectl(*where, "rollout", "restart", "deployment/bema-operator")
    cluster.kubectl(*where, "rollout", "status", "deployment/bema-operator", "--timeout=60s", seconds=70)


def log(cluster: Kubernetes) -> str:
    """What the operator that is installed has said."""
    return cluster.kubectl("-n", installs.SYSTEM, "logs", "deployment/bema-operator")
