"""The NetworkPolicy of a Step: who may open connections to its pods. What they open themselves is not limited.

Network policies only ever add up: an app opens more with one of its own, and nothing could close what this one opens.
Probes come from the node, which no policy keeps out.
"""

from __future__ import annotations

from bema.contract import names
from bema_operator import kinds
from bema_operator.manifests import parts
from bema_operator.manifests.parts import Manifest, Order


def network_policy(order: Order) -> Manifest:
    binding = order.binding
    opened = [] if order.is_cron else [listen for listen in (binding.http, binding.metrics) if listen]
    ports = [{"port": listen.port, "protocol": "TCP"} for listen in opened]
    clients = [
        {"podSelector": {}},
        {"namespaceSelector": {"matchLabels": {names.LABEL_CLIENTS: "true"}}},
    ]
    return {
        **parts.head(kinds.NETWORK_POLICY, names.workload(binding.step), binding),
        "spec": parts.present(
            podSelector={"matchLabels": parts.selector(binding.step, binding.app)},
            policyTypes=["Ingress"],
            ingress=[{"from": clients, "ports": ports}] if ports else None,
        ),
    }
