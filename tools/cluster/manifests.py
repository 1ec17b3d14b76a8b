"""The objects that make a bare API server a usable cluster: identity, DNS, a storage class, rights. Pure."""

from typing import Any

from tools.cluster import addresses, provisioners

Object = dict[str, Any]
IDENTITY = "bema-cluster"
"""The ConfigMap in kube-system that says which cluster this is, under the key `identity`."""


def all_objects(plan: addresses.Plan, name: str, identity: str) -> list[Object]:
    """Everything to create once the API server is ready."""
    return [identity_map(name, identity), *dns(plan), *coredns_access(), *policies_access(), *storage()]


def identity_map(name: str, identity: str) -> Object:
    meta = {"name": IDENTITY, "namespace": "kube-system"}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": {"name": name, "identity": identity}}


def dns(plan: addresses.Plan) -> list[Object]:
    """CoreDNS runs beside the pods, not in one: a Service without a selector leads to it."""
    ports = [
        {"name": name, "port": 53, "protocol": protocol} for name, protocol in (("dns", "UDP"), ("dns-tcp", "TCP"))
    ]
    meta = {"name": "kube-dns", "namespace": "kube-system"}
    slice_meta = {**meta, "name": "kube-dns-node", "labels": {"kubernetes.io/service-name": "kube-dns"}}
    return [
        {"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": {"clusterIP": str(plan.dns), "ports": ports}},
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "addressType": "IPv4",
            "metadata": slice_meta,
            "endpoints": [{"addresses": [str(plan.node(1))]}],
            "ports": ports,
        },
    ]


def coredns_access() -> list[Object]:
    rules = [
        {"apiGroups": [""], "resources": ["services", "pods", "namespaces"], "verbs": ["list", "watch"]},
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
    ]
    return _access("bema:coredns", rules)


def policies_access() -> list[Object]:
    """The rights of who enforces network policies."""
    rules = [
        {"apiGroups": [""], "resources": ["pods", "namespaces"], "verbs": ["list", "watch"]},
        {"apiGroups": ["networking.k8s.io"], "resources": ["networkpolicies"], "verbs": ["list", "watch"]},
    ]
    return _access("bema:netpol", rules)


def storage() -> list[Object]:
    """The default storage class, and the rights of its provisioner."""
    storage_class = {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {
            "name": provisioners.STORAGE_CLASS,
            "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
        },
        "provisioner": provisioners.PROVISIONER,
        "reclaimPolicy": "Delete",
        "volumeBindingMode": "WaitForFirstConsumer",
    }
    rules = [
        {"apiGroups": [""], "resources": ["persistentvolumeclaims"], "verbs": ["list", "watch"]},
        {"apiGroups": [""], "resources": ["persistentvolumes"], "verbs": ["list", "watch", "create", "delete"]},
    ]
    return [storage_class, *_access("bema:provisioner", rules)]


def _access(user: str, rules: list[Object]) -> list[Object]:
    """A cluster role and its binding, both called like the user."""
    api = "rbac.authorization.k8s.io"
    meta = {"name": user}
    return [
        {"apiVersion": f"{api}/v1", "kind": "ClusterRole", "metadata": meta, "rules": rules},
        {
            "apiVersion": f"{api}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": meta,
            "roleRef": {"apiGroup": api, "kind": "ClusterRole", "name": user},
            "subjects": [{"apiGroup": api, "kind": "User", "name": user}],
        },
    ]


_COLLECTIONS = {
    "ConfigMap": "/api/v1/namespaces/kube-system/configmaps",
    "Service": "/api/v1/namespaces/kube-system/services",
    "EndpointSlice": "/apis/discovery.k8s.io/v1/namespaces/kube-system/endpointslices",
    "StorageClass": "/apis/storage.k8s.io/v1/storageclasses",
    "ClusterRole": "/apis/rbac.authorization.k8s.io/v1/clusterroles",
    "ClusterRoleBinding": "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
}


def collection(item: Object) -> str:
    """The API path under which to create one of these objects."""
    return _COLLECTIONS[item["kind"]]
