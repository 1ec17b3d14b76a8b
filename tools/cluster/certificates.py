"""The cluster's certificate authority, the certificates of every component, and their kubeconfigs.

Every component has an identity of its own, so what is refused to it here is refused to it in a real cluster.
"""

import base64
from pathlib import Path

import trustme
import yaml

from tools.cluster import addresses, names, paths

# The users of kubeconfigs on every cluster: file name → (common name, organisation).
USERS = {
    "controller-manager": ("system:kube-controller-manager", None),
    "scheduler": ("system:kube-scheduler", None),
    "proxy": ("system:kube-proxy", None),
    "coredns": ("bema:coredns", None),
    "netpol": ("bema:netpol", None),
}


def write(layout: paths.Layout, plan: addresses.Plan, nodes: int) -> None:
    """Make everything below the cluster's `pki` folder, and the kubeconfigs."""
    layout.certificates.mkdir(mode=0o700)
    authority = trustme.CA()
    authority.cert_pem.write_to_path(layout.certificates / "ca.crt")
    _write_servers(authority, layout, plan, nodes)
    for user, (common_name, organisation) in USERS.items():
        _write_user(authority, layout, plan, layout.component_kubeconfig(user), common_name, organisation)
    for index in range(1, nodes + 1):
        path = layout.component_kubeconfig(f"kubelet-{index}")
        _write_user(authority, layout, plan, path, f"system:node:{names.node(index)}", "system:nodes")
    _write_user(authority, layout, plan, layout.kubeconfig, "admin", "system:masters")
    # Our own client reads files, not kubeconfigs.
    admin = authority.issue_cert("localhost", common_name="admin", organization_name="system:masters")
    write_pair(admin, layout.certificates / "admin")
    write_pair(authority.issue_cert("localhost", common_name="bema:provisioner"), layout.certificates / "provisioner")


def _write_servers(authority: trustme.CA, layout: paths.Layout, plan: addresses.Plan, nodes: int) -> None:
    folder = layout.certificates
    service = ("kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local")
    api_server = authority.issue_cert(
        "127.0.0.1", "localhost", str(plan.node(1)), str(plan.api_service), *service, common_name="kube-apiserver"
    )
    write_pair(api_server, folder / "apiserver")
    client = authority.issue_cert("localhost", common_name="kubelet-client", organization_name="system:masters")
    write_pair(client, folder / "kubelet-client")
    write_pair(authority.issue_cert("localhost", common_name="front-proxy-client"), folder / "front-proxy")
    # Of this pair only the key is used: the API server accepts any private key for service account tokens.
    write_pair(authority.issue_cert("localhost", common_name="service-accounts"), folder / "service-accounts")
    for index in range(1, nodes + 1):
        node = names.node(index)
        serving = authority.issue_cert(str(plan.node(index)), node, "127.0.0.1", common_name=f"system:node:{node}")
        write_pair(serving, folder / f"kubelet-{index}")


def write_pair(certificate: trustme.LeafCert, stem: Path) -> None:
    """The key and the chain, as `stem.key` and `stem.crt`."""
    certificate.private_key_pem.write_to_path(stem.with_suffix(".key"))
    stem.with_suffix(".crt").write_bytes(b"".join(part.bytes() for part in certificate.cert_chain_pems))


def _write_user(
    authority: trustme.CA,
    layout: paths.Layout,
    plan: addresses.Plan,
    path: Path,
    common_name: str,
    organisation: str | None,
) -> None:
    certificate = authority.issue_cert("localhost", common_name=common_name, organization_name=organisation)
    chain = b"".join(part.bytes() for part in certificate.cert_chain_pems)
    document = kubeconfig(
        name=f"bema-{layout.name}",
        server=plan.api_url,
        authority=authority.cert_pem.bytes(),
        certificate=chain,
        key=certificate.private_key_pem.bytes(),
    )
    path.touch(mode=0o600)
    path.write_text(yaml.safe_dump(document))


def kubeconfig(*, name: str, server: str, authority: bytes, certificate: bytes, key: bytes) -> dict[str, object]:
    """A kubeconfig with one cluster, one user and one context, all called `name`."""
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": name,
        "clusters": [{"name": name, "cluster": {"server": server, "certificate-authority-data": _encoded(authority)}}],
        "users": [
            {
                "name": name,
                "user": {"client-certificate-data": _encoded(certificate), "client-key-data": _encoded(key)},
            }
        ],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
    }


def _encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()
