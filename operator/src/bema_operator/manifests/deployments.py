"""The Deployment of a Step with api or event triggers."""

from __future__ import annotations

from bema.contract import names
from bema_operator import kinds
from bema_operator.manifests import parts, pods
from bema_operator.manifests.parts import Manifest, Order

HISTORY = 3
"""ReplicaSets kept for rollbacks; as many ConfigMaps are kept."""


def deployment(order: Order) -> Manifest:
    binding = order.binding
    return {
        **parts.head(kinds.DEPLOYMENT, names.workload(binding.step), binding),
        "spec": {
            "replicas": order.step.spec.pods,
            "revisionHistoryLimit": HISTORY,
            "selector": {"matchLabels": parts.selector(binding.step, binding.app)},
            "template": pods.deployment_pod(order),
        },
    }
