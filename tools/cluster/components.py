"""The command lines of a node's components, and the script that its init follows. Pure."""

import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tools.cluster import addresses, configs, names, paths

# A kubelet writes these, and they are the machine's, not the box's: it gets files of its own to write to.
KERNEL_SETTINGS = {
    "/proc/sys/vm/overcommit_memory": "1\n",
    "/proc/sys/vm/panic_on_oom": "0\n",
    "/proc/sys/kernel/panic": "10\n",
    "/proc/sys/kernel/panic_on_oops": "1\n",
    "/proc/sys/kernel/keys/root_maxkeys": "1000000\n",
    "/proc/sys/kernel/keys/root_maxbytes": "25000000\n",
}
POLICIES = "netpol"
"""The component that enforces network policies."""
# A box has these for itself, in memory; everything large is in the cluster's folder.
OWN_FOLDERS = ("/run", "/var/lib", "/var/log")
_FIXED_FOLDERS = ("/run/lock", "/var/lib/kubelet", "/var/lib/cni", "/var/log/containers", "/var/log/pods")


@dataclass(frozen=True)
class Component:
    """A program that the init keeps running."""

    name: str
    argv: list[str]
    needs_api: bool = False
    """Whether it is started only when the API server is ready, which is faster than letting it fail and try again."""


@dataclass(frozen=True)
class Script:
    """What a node's init does, in this order: mounts, host name, wait for the cable, network, components."""

    hostname: str
    logs: str
    status: str
    """The file in which the init reports its components."""
    own_folders: list[str]
    """Paths that the box covers with empty file systems."""
    fixed_folders: list[str]
    """Folders to make in them."""
    kernel_settings: dict[str, str]
    network: list[list[str]]
    """Commands to run once the node's link is there."""
    ready_url: str
    authority: str
    components: list[Component] = field(default_factory=list)

    def as_json(self) -> dict[str, object]:
        return asdict(self)


def script(node: configs.Node, programs: paths.Programs) -> Script:
    """The script of one node's init."""
    return Script(
        hostname=node.name,
        logs=str(node.layout.logs(node.index)),
        status=str(node.layout.components(node.index)),
        own_folders=list(OWN_FOLDERS),
        fixed_folders=list(_FIXED_FOLDERS),
        kernel_settings=KERNEL_SETTINGS,
        network=network(node.plan, node.index, node.count),
        ready_url=f"{node.plan.api_url}/readyz",
        authority=f"{node.layout.certificates}/ca.crt",
        components=[*_control_plane(node, programs.base), *_node_agents(node, programs)],
    )


def network(plan: addresses.Plan, index: int, count: int) -> list[list[str]]:
    """The commands that set up the network inside a node's box."""
    others = [other for other in range(1, count + 1) if other != index]
    pods = str(plan.node_pods(index))
    return [
        ["ip", "link", "set", "lo", "up"],
        ["ip", "addr", "add", f"{plan.node(index)}/24", "dev", "eth0"],
        ["ip", "link", "set", "eth0", "up"],
        ["ip", "route", "add", "default", "via", str(plan.host)],
        *(["ip", "route", "add", str(plan.node_pods(other)), "via", str(plan.node(other))] for other in others),
        ["sysctl", "-qw", "net.ipv4.ip_forward=1"],
        # Without it, pods of one node that talk through a Service see answers from the wrong address.
        ["sysctl", "-qw", "net.bridge.bridge-nf-call-iptables=1"],
        ["iptables", "-t", "nat", "-A", "POSTROUTING", "-s", pods, "!", "-d", str(plan.pods), "-j", "MASQUERADE"],
    ]


def component_names(node: configs.Node) -> list[str]:
    nowhere = paths.Programs(Path(), Path())
    return [component.name for component in script(node, nowhere).components]


def _control_plane(node: configs.Node, programs: Path) -> list[Component]:
    if not node.is_main:
        return []
    return [
        Component("etcd", _etcd(node, programs)),
        Component("apiserver", _api_server(node, programs)),
        Component("controller-manager", _controller_manager(node, programs), needs_api=True),
        Component("scheduler", _scheduler(node, programs), needs_api=True),
        Component("coredns", [f"{programs}/coredns", "-conf", f"{node.layout.folder}/Corefile"], needs_api=True),
        Component("provisioner", _provisioner(node), needs_api=True),
    ]


def _node_agents(node: configs.Node, programs: paths.Programs) -> list[Component]:
    return [
        Component("containerd", ["containerd", "--config", f"{node.folder}/containerd.toml"]),
        Component("kubelet", _kubelet(node, programs.base), needs_api=True),
        Component("proxy", [f"{programs.base}/kube-proxy", f"--config={node.folder}/proxy.yaml"], needs_api=True),
        Component(POLICIES, _policies(node, programs.addons), needs_api=True),
    ]


def _etcd(node: configs.Node, programs: Path) -> list[str]:
    return [
        f"{programs}/etcd",
        f"--data-dir={node.folder}/etcd",
        "--unsafe-no-fsync",
        "--listen-client-urls=http://127.0.0.1:2379",
        "--advertise-client-urls=http://127.0.0.1:2379",
        "--listen-peer-urls=http://127.0.0.1:2380",
    ]


def _api_server(node: configs.Node, programs: Path) -> list[str]:
    pki, folder = node.layout.certificates, node.layout.folder
    # Pods of a lost node move at once if they can move at all; on a single node, a slow moment costs nobody a pod.
    patience = 2 if node.count > 1 else 300
    return [
        f"{programs}/kube-apiserver",
        "--etcd-servers=http://127.0.0.1:2379",
        "--bind-address=0.0.0.0",
        f"--advertise-address={node.plan.node(1)}",
        "--secure-port=6443",
        f"--client-ca-file={pki}/ca.crt",
        f"--tls-cert-file={pki}/apiserver.crt",
        f"--tls-private-key-file={pki}/apiserver.key",
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
        f"--service-account-key-file={pki}/service-accounts.key",
        f"--service-account-signing-key-file={pki}/service-accounts.key",
        f"--service-cluster-ip-range={node.plan.services}",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--allow-privileged=true",
        # Somebody besides Bema changes pods, as the injector of a mesh does, but without a server of its own
        "--feature-gates=MutatingAdmissionPolicy=true",
        "--runtime-config=admissionregistration.k8s.io/v1beta1=true",
        f"--default-not-ready-toleration-seconds={patience}",
        f"--default-unreachable-toleration-seconds={patience}",
        f"--audit-policy-file={folder}/audit.yaml",
        f"--audit-log-path={node.layout.logs(1)}/audit.log",
        "--audit-log-format=json",
        f"--kubelet-certificate-authority={pki}/ca.crt",
        f"--kubelet-client-certificate={pki}/kubelet-client.crt",
        f"--kubelet-client-key={pki}/kubelet-client.key",
        "--kubelet-preferred-address-types=InternalIP",
        f"--requestheader-client-ca-file={pki}/ca.crt",
        "--requestheader-allowed-names=front-proxy-client",
        "--requestheader-username-headers=X-Remote-User",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        f"--proxy-client-cert-file={pki}/front-proxy.crt",
        f"--proxy-client-key-file={pki}/front-proxy.key",
        "--enable-aggregator-routing=true",
    ]


def _client(node: configs.Node, user: str) -> list[str]:
    path = node.layout.component_kubeconfig(user)
    return [f"--kubeconfig={path}", f"--authentication-kubeconfig={path}", f"--authorization-kubeconfig={path}"]


def _controller_manager(node: configs.Node, programs: Path) -> list[str]:
    return [
        f"{programs}/kube-controller-manager",
        *_client(node, "controller-manager"),
        f"--service-account-private-key-file={node.layout.certificates}/service-accounts.key",
        f"--root-ca-file={node.layout.certificates}/ca.crt",
        "--use-service-account-credentials=true",
        "--leader-elect=false",
        f"--cluster-cidr={node.plan.pods}",
        "--allocate-node-cidrs=false",
        # A lost node is noticed within seconds, and bulk loads do not wait for the controllers' own limits.
        "--node-monitor-period=1s",
        "--node-monitor-grace-period=8s",
        "--kube-api-qps=500",
        "--kube-api-burst=1000",
        "--concurrent-deployment-syncs=20",
        "--concurrent-replicaset-syncs=20",
        "--horizontal-pod-autoscaler-sync-period=2s",
        "--horizontal-pod-autoscaler-downscale-stabilization=15s",
        "--horizontal-pod-autoscaler-cpu-initialization-period=10s",
        "--horizontal-pod-autoscaler-initial-readiness-delay=5s",
    ]


def _scheduler(node: configs.Node, programs: Path) -> list[str]:
    limits = ["--kube-api-qps=1000", "--kube-api-burst=2000"]
    return [f"{programs}/kube-scheduler", *_client(node, "scheduler"), "--leader-elect=false", *limits]


def _provisioner(node: configs.Node) -> list[str]:
    pki = node.layout.certificates
    volumes = [f"--volumes={names.node(index)}={node.layout.volumes(index)}" for index in range(1, node.count + 1)]
    client = [f"--authority={pki}/ca.crt", f"--certificate={pki}/provisioner.crt", f"--key={pki}/provisioner.key"]
    server = f"--server={node.plan.api_url}"
    return [sys.executable, "-m", "tools.cluster.provisioners", server, *client, *volumes]


def _policies(node: configs.Node, programs: Path) -> list[str]:
    return [
        f"{programs}/netpol",
        f"--kubeconfig={node.layout.component_kubeconfig('netpol')}",
        f"--node={node.name}",
        f"--pods={node.plan.node_pods(node.index)}",
        f"--enforcing={node.layout.enforcing(node.index)}",
    ]


def _kubelet(node: configs.Node, programs: Path) -> list[str]:
    return [
        f"{programs}/kubelet",
        f"--config={node.folder}/kubelet.yaml",
        f"--kubeconfig={node.layout.component_kubeconfig(f'kubelet-{node.index}')}",
        f"--hostname-override={node.name}",
        f"--node-ip={node.plan.node(node.index)}",
        f"--root-dir={node.folder}/kubelet",
        f"--cert-dir={node.folder}/kubelet-pki",
    ]
