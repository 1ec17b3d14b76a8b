"""A control plane alone: etcd and the API server on loopback, for what needs no pods. No root, no network of its own.

Nothing schedules, runs or collects here: what controllers would write, whoever uses it has to write.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import trustme
import yaml

from tools import ports
from tools.cluster import api_clients, builds, certificates, commands, configs, errors, kubectls, waits

_DEADLINE = 60
"""Seconds for each part to answer."""


class Plane:
    """Servers in a folder. Their addresses stay the same over restarts."""

    def __init__(self, folder: Path, programs: Path) -> None:
        self.folder = folder
        self.programs = programs
        self.kubeconfig = folder / "kubeconfig"
        self.audit = folder / "audit.log"
        """One JSON object a line for each request that was answered; watches twice."""
        self._ports = {name: ports.free() for name in ("etcd", "peer", "api")}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self._ports['api']}"

    @property
    def port(self) -> int:
        """Of the API server, on 127.0.0.1."""
        return self._ports["api"]

    def pid(self, name: str) -> int:
        """Of `etcd` or `apiserver`."""
        return self._processes[name].pid

    def prepare(self) -> None:
        """Certificates and files."""
        pki = self.folder / "pki"
        pki.mkdir(parents=True, mode=0o700)
        authority = trustme.CA()
        authority.cert_pem.write_to_path(pki / "ca.crt")
        for name in ("apiserver", "service-accounts"):
            certificates.write_pair(authority.issue_cert("127.0.0.1", common_name=name), pki / name)
        admin = authority.issue_cert("localhost", common_name="admin", organization_name="system:masters")
        certificates.write_pair(admin, pki / "admin")
        document = certificates.kubeconfig(
            name="bema-plane",
            server=self.url,
            authority=authority.cert_pem.bytes(),
            certificate=(pki / "admin.crt").read_bytes(),
            key=(pki / "admin.key").read_bytes(),
        )
        self.kubeconfig.touch(mode=0o600)
        self.kubeconfig.write_text(yaml.safe_dump(document))
        (self.folder / "audit.yaml").write_text(yaml.safe_dump(configs.AUDIT_POLICY))

    def start(self, name: str) -> None:
        """Start `etcd` or `apiserver`; `wait` tells when they answer."""
        argv = {"etcd": self._etcd, "apiserver": self._api_server}[name]()
        with (self.folder / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def wait(self) -> None:
        """Raises `errors.TimedOut` with the end of its log when the API server does not answer."""
        try:
            waits.until(self._is_ready, what=f"the API server on {self.url}", seconds=_DEADLINE)
        except errors.TimedOut as error:
            error.add_note(self.last_words())
            raise

    def stop(self, name: str, how: signal.Signals = signal.SIGTERM) -> None:
        """End one of them, if it runs."""
        process = self._processes.pop(name, None)
        if process is not None:
            process.send_signal(how)
            process.wait(_DEADLINE)

    def api(self) -> api_clients.Api:
        """A client with all rights."""
        pki = self.folder / "pki"
        return api_clients.Api(self.url, pki / "ca.crt", pki / "admin.crt", pki / "admin.key")

    def kubectl(self, *arguments: str, input: str | None = None, seconds: float = 60) -> str:
        """Run kubectl against this API server and return what it printed. Raises `errors.CommandFailed`."""
        command = kubectls.command(self.kubeconfig, *arguments)
        return commands.run(command, input=input, seconds=seconds, env=kubectls.environment())

    def last_words(self, lines: int = 20) -> str:
        """The ends of the logs."""
        logs = sorted(self.folder.glob("*.log"))
        ends = ((log, log.read_text("utf-8", "replace").splitlines()[-lines:]) for log in logs if log != self.audit)
        return "\n".join(f"--- {log}\n" + "\n".join(end) for log, end in ends)

    def _is_ready(self) -> bool:
        for name, process in self._processes.items():
            if process.poll() is not None:
                raise errors.ClusterError(f"{name} ended with code {process.returncode}\n{self.last_words()}")
        try:
            self.api().get("/readyz", seconds=2)
        except api_clients.ApiError:
            return False
        return True

    def _etcd(self) -> list[str]:
        client, peer = (f"http://127.0.0.1:{self._ports[name]}" for name in ("etcd", "peer"))
        return [
            f"{self.programs}/etcd",
            f"--data-dir={self.folder}/etcd",
            "--unsafe-no-fsync",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
        ]

    def _api_server(self) -> list[str]:
        pki = self.folder / "pki"
        return [
            f"{self.programs}/kube-apiserver",
            f"--etcd-servers=http://127.0.0.1:{self._ports['etcd']}",
            "--bind-address=127.0.0.1",
            f"--secure-port={self.port}",
            # Its own Service would have to name an address that is not loopback's.
            "--endpoint-reconciler-type=none",
            f"--client-ca-file={pki}/ca.crt",
            f"--tls-cert-file={pki}/apiserver.crt",
            f"--tls-private-key-file={pki}/apiserver.key",
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
            f"--service-account-key-file={pki}/service-accounts.key",
            f"--service-account-signing-key-file={pki}/service-accounts.key",
            "--service-cluster-ip-range=10.96.0.0/16",
            "--authorization-mode=RBAC",
            f"--audit-policy-file={self.folder}/audit.yaml",
            f"--audit-log-path={self.audit}",
            "--audit-log-format=json",
        ]


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Plane]:
    """A control plane that is up, and gone afterwards. `folder` must not exist, or be empty."""
    plane = Plane(folder, builds.build().base)
    plane.prepare()
    try:
        plane.start("etcd")
        plane.start("apiserver")
        plane.wait()
        yield plane
    finally:
        plane.stop("apiserver", signal.SIGKILL)
        plane.stop("etcd", signal.SIGKILL)
