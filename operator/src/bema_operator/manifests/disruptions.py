"""The PodDisruptionBudget of a Step with several pods: a drained node takes one of them at a time.

With one pod there is none (see `scales`): one that may be taken protects nothing.
"""

from __future__ import annotations

from bema.contract import names
from bema_operator import kinds
from bema_operator.manifests import parts
from bema_operator.manifests.parts import Manifest, Order


def budget(order: Order) -> Manifest:
    binding = order.binding
    return {
        **parts.head(kinds.DISRUPTION_BUDGET, names.workload(binding.step), binding),
        "spec": {
            "maxUnavailable": 1,
            "selector": {"matchLabels": parts.selector(binding.step, binding.app)},
            # A pod that is not ready serves nobody: it must not hold up a drain
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
        },
    }
