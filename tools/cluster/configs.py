"""The configuration files of a node's components, as text. Pure: everything comes from the arguments."""

import json
import textwrap
from dataclasses import dataclass
from pathlib import Path

import yaml

from tools.cluster import addresses, names, paths

PAUSE_IMAGE = "bema.local/pause:1"


@dataclass(frozen=True)
class Node:
    """What the files of one node are made from."""

    layout: paths.Layout
    plan: addresses.Plan
    identity: str
    index: int
    count: int
    """How many nodes the cluster has."""

    @property
    def folder(self) -> Path:
        return self.layout.node(self.index)

    @property
    def name(self) -> str:
        return names.node(self.index)

    @property
    def cgroup(self) -> str:
        """The kubelet's cgroup root, relative to each hierarchy."""
        return f"{names.cgroup(self.layout.name, self.identity)}/{self.name}"

    @property
    def is_main(self) -> bool:
        """Whether the control plane runs in this node's box."""
        return self.index == 1


def files(node: Node, *, runc: str, cni: Path) -> dict[Path, str]:
    """Every configuration file of the node: path → content."""
    written = {
        node.folder / "containerd.toml": containerd(node, runc=runc, cni=cni),
        node.folder / "cni" / "10-bridge.conflist": json.dumps(network(node)),
        node.folder / "kubelet.yaml": yaml.safe_dump(kubelet(node)),
        node.folder / "proxy.yaml": yaml.safe_dump(proxy(node)),
        # The names of the outside world are not looked up in the cluster.
        node.folder / "resolv.conf": "nameserver 127.0.0.1\n",
    }
    if node.is_main:
        written[node.layout.folder / "Corefile"] = corefile(node)
        written[node.layout.folder / "audit.yaml"] = yaml.safe_dump(AUDIT_POLICY)
    return written


AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [{"level": "Metadata"}],
}


def containerd(node: Node, *, runc: str, cni: Path) -> str:
    # Its state is on the box's own /run. Where a process may not lower its oom score, its children may not either.
    # Security profiles would be loaded into the machine's kernel, and stay there.
    return textwrap.dedent(f"""\
        version = 2
        root = "{node.folder}/containerd"
        state = "/run/containerd-state"
        [grpc]
          address = "{node.layout.containerd_socket(node.index)}"
        [plugins."io.containerd.grpc.v1.cri"]
          sandbox_image = "{PAUSE_IMAGE}"
          restrict_oom_score_adj = true
          disable_apparmor = true
          [plugins."io.containerd.grpc.v1.cri".containerd]
            snapshotter = "overlayfs"
            default_runtime_name = "runc"
            [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
              runtime_type = "io.containerd.runc.v2"
              [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
                BinaryName = "{runc}"
          [plugins."io.containerd.grpc.v1.cri".cni]
            bin_dir = "{cni}"
            conf_dir = "{node.folder}/cni"
        """)


def network(node: Node) -> dict[str, object]:
    """The CNI network of the node's pods. Masquerading is one rule of the box: pods see each other's addresses."""
    bridge = {
        "type": "bridge",
        "bridge": "cni0",
        "isGateway": True,
        "ipMasq": False,
        "hairpinMode": True,
        "promiscMode": False,
        "ipam": {
            "type": "host-local",
            "ranges": [[{"subnet": str(node.plan.node_pods(node.index))}]],
            "routes": [{"dst": "0.0.0.0/0"}],
            "dataDir": f"{node.folder}/ipam",
        },
    }
    ports = {"type": "portmap", "capabilities": {"portMappings": True}}
    return {"cniVersion": "0.4.0", "name": "bema", "plugins": [bridge, ports]}


def kubelet(node: Node) -> dict[str, object]:
    pki = node.layout.certificates
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "failCgroupV1": False,
        "failSwapOn": False,
        "cgroupDriver": "cgroupfs",
        # A kubelet deletes the pod cgroups below its root that it does not know: a root of its own is a must.
        "cgroupRoot": f"/{node.cgroup}",
        "cgroupsPerQOS": True,
        "clusterDNS": [str(node.plan.dns)],
        "clusterDomain": "cluster.local",
        "resolvConf": f"{node.folder}/resolv.conf",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": f"{pki}/ca.crt"},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": f"{pki}/kubelet-{node.index}.crt",
        "tlsPrivateKeyFile": f"{pki}/kubelet-{node.index}.key",
        "containerRuntimeEndpoint": f"unix://{node.layout.containerd_socket(node.index)}",
        "volumePluginDir": f"{node.folder}/volumeplugins",
        "podLogsDir": f"{node.folder}/podlogs",
        # A full disk of the machine is no reason to evict a test's pods or to throw away its images.
        "imageGCHighThresholdPercent": 100,
        "evictionHard": {
            "nodefs.available": "0%",
            "nodefs.inodesFree": "0%",
            "imagefs.available": "0%",
            "memory.available": "50Mi",
        },
        "nodeStatusUpdateFrequency": "5s",
        "nodeStatusReportFrequency": "60s",
        "nodeLeaseDurationSeconds": 8,
        "syncFrequency": "10s",
        "maxPods": 200,
        "shutdownGracePeriod": "0s",
        "serializeImagePulls": False,
    }


def proxy(node: Node) -> dict[str, object]:
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "iptables",
        "clusterCIDR": str(node.plan.pods),
        "clientConnection": {"kubeconfig": str(node.layout.component_kubeconfig("proxy"))},
        # Zero leaves the machine's connection tracking table as it is.
        "conntrack": {"maxPerCore": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        "iptables": {"minSyncPeriod": "0s", "syncPeriod": "30s"},
        "hostnameOverride": node.name,
    }


def corefile(node: Node) -> str:
    return textwrap.dedent(f"""\
        .:53 {{
          bind {node.plan.node(1)}
          errors
          kubernetes cluster.local in-addr.arpa {{
            kubeconfig {node.layout.component_kubeconfig("coredns")}
          }}
          cache 5
        }}
        """)
