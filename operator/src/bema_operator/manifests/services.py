"""The Service of a Step with api triggers: its address inside the cluster."""

from __future__ import annotations

from bema.contract import names
from bema_operator import kinds
from bema_operator.manifests import parts
from bema_operator.manifests.parts import Manifest, Order

PORT = 80


def service(order: Order) -> Manifest:
    binding = order.binding
    return {
        **parts.head(kinds.SERVICE, names.workload(binding.step), binding),
        "spec": {
            "type": "ClusterIP",
            "ports": [{"name": "http", "port": PORT, "protocol": "TCP", "targetPort": "http"}],
            "selector": parts.selector(binding.step, binding.app),
        },
    }


def url(step: str, namespace: str) -> str:
    return f"http://{names.workload(step)}.{namespace}.svc"
